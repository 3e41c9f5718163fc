"""The forget rows of a run, read again from where they came and known by the run's own fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rapidun.data import BadRow, Rows, load_rows
from rapidun.errors import FingerprintError
from rapidun.jsonl import read_jsonl
from rapidun.lifecycle import CONFIG
from rapidun.pipeline.inputs import rows_fingerprint, sample_rows, without_rows
from rapidun.reading import RESTORE, as_kind
from rapidun.settings.base import make_config
from rapidun.settings.run import DataSettings

Row = Mapping[str, Any]


def forget_rows(run: Path, config: Mapping[str, Any], identity: Mapping[str, str], path: Path | None) -> Iterable[Row]:
    """The rows that were unlearned, as the run drew them from their file and without those that it left out.

    Args:
        run: Its directory.
        config: Its configuration.
        identity: What its results are of.
        path: The file, where it is no longer where the run read it.

    Raises:
        InputError: If the file is not there or cannot be read.
        FingerprintError: If its rows are others than the run's.
    """
    data = make_config(config.get("data") or {}, DataSettings, str(run / CONFIG))
    path = path or data.forget
    seed = config.get("seed")
    rows = load_rows(path, columns=data.columns or None, on_bad_row=data.on_bad_row)
    rows = sample_rows(rows, data.sample.get("forget"), seed if isinstance(seed, int) else 0, data.stratify)
    rows = _without_skipped(rows, run)
    mark = rows_fingerprint(rows)
    if mark != identity.get("rows forget"):
        raise FingerprintError(
            f"{path}: its forget rows have the fingerprint {mark[:16]}, those of the run "
            f"{str(identity.get('rows forget'))[:16]}. Name the file that the run read, as it was, by --forget."
        )
    return rows


def _without_skipped(rows: Rows, run: Path) -> Rows:
    """Without the rows that could not be tokenised, which the run lists with their lines."""
    path = run / "rows_skipped.jsonl"
    skipped = [
        BadRow(str(line.get("file")), as_kind(int, line.get("line"), path, RESTORE), str(line.get("reason")))
        for line in read_jsonl(path)
        if line.get("group") == "forget"
    ]
    return without_rows(rows, skipped)
