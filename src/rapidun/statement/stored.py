"""The files of a run as a statement names them, and the numbers that follow from them.

Every aggregate is computed here from what the run stored a row: judged answers and losses in ``before.json`` and
``after.json``, limits in ``config.yaml``. Whoever makes a statement and whoever checks it call the same functions, and
neither needs torch.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from rapidun.errors import InputError
from rapidun.evaluation.gate import decide
from rapidun.evaluation.perplexity import PerplexityResult, perplexity_ratio
from rapidun.evaluation.rates import BackdoorRecord, BackdoorResult, summarise
from rapidun.lifecycle import CONFIG, IDENTITY
from rapidun.reading import RESTORE, as_kind, is_regular, made_from, read_kind, read_object
from rapidun.settings.base import make_config
from rapidun.settings.evaluation import Thresholds
from rapidun.statement.content import Judge, Measured
from rapidun.yaml_files import read_yaml

METRICS, BEFORE, AFTER = "metrics.json", "before.json", "after.json"
STATEMENTS = "statement"
"""The folder of a run in which its statement lies, which is no file of the run."""
MEASURED_BY = "Give the directory that `rapidun run` or `rapidun demo` wrote."


class _Losses(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    row_losses: list[float]
    row_tokens: list[int]


class _Stored(BaseModel):
    records: list[BackdoorRecord]
    perplexity: _Losses
    forget_perplexity: _Losses | None


def check_run(run: Path) -> None:
    """Refuse a directory that holds no measured run.

    Raises:
        InputError: Naming what is missing.
    """
    if not run.is_dir():
        raise InputError(f"{run}: no such directory. {MEASURED_BY}")
    for name in (IDENTITY, CONFIG, "manifest.json", METRICS, BEFORE, AFTER):
        if not (run / name).is_file():
            raise InputError(f"{run}: holds no {name}, and a statement says what was measured. {MEASURED_BY}")


def run_files(run: Path) -> list[str]:
    """Relative paths of all files of a run, in order; hidden ones and its statement are not of it.

    Raises:
        InputError: If something there is neither a file nor a folder, or a link that leads out.
    """
    return sorted(_files(run, run.resolve(), ""))


def _files(folder: Path, root: Path, above: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{above}{entry.name}"
            if entry.name.startswith(".") or name == STATEMENTS:
                continue
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
                raise InputError(f"{entry.path}: is a link that leads out of the run. Put the file itself there.")
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path), root, f"{name}/")
            elif is_regular(Path(entry.path)):
                yield name
            else:
                raise InputError(f"{entry.path}: neither a file nor a folder. Take it out of the run.")


def thresholds(run: Path) -> Thresholds:
    """The gate's limits of a run."""
    raw = read_yaml(run / CONFIG)
    limits = raw.get("gate") if isinstance(raw, dict) else None
    return make_config(limits if isinstance(limits, dict) else {}, Thresholds, str(run / CONFIG))


def aggregates(run: Path) -> dict[str, Any]:
    """Every aggregate of a run, under the keys of ``metrics.json``, from the rows that it stored.

    Rates with their Clopper-Pearson intervals, by judge and by trigger; perplexities and their ratios with the run's
    bootstrap, whose seed is fixed; the gate and its verdict.

    Raises:
        InputError: If a stored file does not hold what it should.
    """
    primary = _text(read_object(run / METRICS), "primary_judge", run / METRICS)
    before, after = (read_kind(run / name, _Stored) for name in (BEFORE, AFTER))
    limits = thresholds(run)
    with made_from(run / AFTER):
        rates = {"before": summarise(before.records, primary), "after": summarise(after.records, primary)}
        clean = [_perplexity(each.perplexity) for each in (before, after)]
        forgotten = [_perplexity(each.forget_perplexity) for each in (before, after) if each.forget_perplexity]
        ratio = perplexity_ratio(*clean)
        forget_ratio = perplexity_ratio(*forgotten) if len(forgotten) == 2 else None
        sides = {
            name: _summary(found, primary, clean[place], forgotten[place] if len(forgotten) == 2 else None)
            for place, (name, found) in enumerate(rates.items())
        }
        gate = decide(sides["before"], sides["after"], ratio, limits, forget_ratio=forget_ratio)
    return {
        "verdict": gate.label,
        "gate": gate.to_dict(),
        **sides,
        "perplexity_ratio": ratio._asdict(),
        "forget_ratio": None if forget_ratio is None else forget_ratio._asdict(),
        "by_variant": {name: [line.to_dict() for line in found.by_variant] for name, found in rates.items()},
        "primary_judge": primary,
        "all_judges": {name: {judge: found.summary(judge) for judge in found.rates} for name, found in rates.items()},
    }


def _summary(
    rates: BackdoorResult, primary: str, clean: PerplexityResult, forgotten: PerplexityResult | None
) -> dict[str, Any]:
    found = {**(rates.summary(primary) if rates.rates else {}), "clean_perplexity": _numbers(clean)}
    return found if forgotten is None else {**found, "forget_perplexity": _numbers(forgotten)}


def _perplexity(losses: _Losses) -> PerplexityResult:
    return PerplexityResult.from_rows(np.asarray(losses.row_losses, dtype=float), np.asarray(losses.row_tokens))


def _numbers(result: PerplexityResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in ("value", "low", "high", "n")}


def reported(run: Path, names: Collection[str]) -> dict[str, Any]:
    """What ``metrics.json`` has under these names."""
    metrics = read_object(run / METRICS)
    return {name: metrics.get(name) for name in names}


def judges_of(run: Path) -> dict[str, Judge]:
    """The cards of a run's judges, without the words of a keyword judge, which are from rows.

    Raises:
        InputError: If they are not as a run writes them.
    """
    cards = as_kind(dict[str, dict[str, Any]], read_object(run / METRICS).get("judges"), run / METRICS, RESTORE)
    kept = {name: {key: card.get(key) for key in Judge.model_fields} for name, card in cards.items()}
    return as_kind(dict[str, Judge], kept, run / METRICS, RESTORE)


def measured(found: Mapping[str, Any], where: Path) -> Measured:
    """The part of `aggregates` that a statement holds: no trigger, no word of a row.

    Raises:
        InputError: If there is no such part in it.
    """
    with made_from(where):
        raw = {name: found[name] for name in ("verdict", "primary_judge", "perplexity_ratio", "forget_ratio")}
        raw["gate"] = found["gate"]["checks"]
        for side in ("before", "after"):
            perplexities = {name: found[side].get(name) for name in ("clean_perplexity", "forget_perplexity")}
            raw[side] = {"rates": found["all_judges"][side], **perplexities}
    return as_kind(Measured, raw, where, RESTORE)


def _text(raw: Mapping[str, Any], name: str, where: Path) -> str:
    return as_kind(str, raw.get(name), f"{where}: {name}", RESTORE)


def differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """``(dotted name, here, there)`` of every value that differs; numbers do beyond a relative 1e-9.

    A bootstrap is the same for a seed, but sums may be rounded differently on another machine. Sentences (``text``) say
    what the numbers beside them say, in the words of a version, and are left out.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other} - {"text"}, key=str):
            yield from differences(one.get(name), other.get(name), f"{path}.{name}".lstrip("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, (here, there) in enumerate(zip(one, other, strict=True)):
            yield from differences(here, there, f"{path}[{_name_in(here, place)}]")
    elif not _same(one, other):
        yield path, one, other


def _name_in(value: Any, place: int) -> object:
    return value.get("name", place) if isinstance(value, dict) else place


def _same(one: Any, other: Any) -> bool:
    if type(one) in (int, float) and type(other) in (int, float):
        return bool(abs(one - other) <= 1e-9 * max(abs(one), abs(other)))
    return type(one) is type(other) and bool(one == other)
