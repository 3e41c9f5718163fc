"""`rapidun evaluate`: read and check, load, try, measure the model and what it is compared with, write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rapidun.errors import ConfigError, FingerprintError
from rapidun.evaluation.mitigations import REFERENCE, STAYS, mitigated_by
from rapidun.files import write_json
from rapidun.models import LoadedModel, adapter_fingerprint, tokenizer_fingerprint
from rapidun.models.adapter_files import CONFIG, check_adapter_directory
from rapidun.models.lora import adapter_disabled
from rapidun.models.sources import check_directory, is_gguf, is_local
from rapidun.pipeline.estimating import Piece, repeated
from rapidun.pipeline.inputs import RunModel, load_by, open_run_model, rows_fingerprint
from rapidun.pipeline.job import Job
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.suites.registry import SUITES, Suite
from rapidun.settings.plugins import plugin_marks
from rapidun.settings.run import MeasureConfig
from rapidun.text import json_line


def evaluate_only(
    config: MeasureConfig,
    out: Path,
    *,
    adapter: Path | None,
    overwrite: bool,
    reporter: Reporter,
    loaded: LoadedModel | None = None,
) -> dict[str, Any]:
    """Measure a model as it stands; writes ``metrics.json`` and every row's answer and numbers.

    Returns:
        What ``metrics.json`` holds.
    """
    check_reference(config, adapter)
    job = Job(config, out, reporter, resume=False, overwrite=overwrite, resumable=False)
    job.begin("Reading rows and model")
    suite = SUITES[config.evaluation.suite](config, reporter)
    if suite.stored is None:
        check_retained(config, borrowed=loaded is not None)
    run_model = open_run_model(config.model, config.data, reporter, adapter=adapter, loaded=loaded)
    run_model, mitigation = mitigated(config, run_model, reporter)
    groups = suite.rows(run_model)
    marks = {
        "model": run_model.loaded.fingerprint,
        "adapter": adapter_fingerprint(adapter) if adapter is not None else "none",
        "template": run_model.template.fingerprint,
        **({"mitigation": json_line(mitigation["mitigation"])} if mitigation else {}),
        **plugin_marks(config.plugins),
        **suite.marks(),
        **{f"rows {name}": rows_fingerprint(rows[0]) for name, rows in groups.items()},
    }
    skipped = {name: [bad for part in rows for bad in part.skipped] for name, rows in groups.items()}
    pieces = _pieces(suite, run_model, adapter)
    with job.claim(marks, lambda _: pieces, skipped=skipped, replayable=False) as directory:
        reporter.phase("evaluate", "Measuring the model")
        scores: dict[str, Any] = {"model": suite.score(run_model, {})}
        if _asks_before(suite, adapter):
            reporter.phase("before", "Measuring the model without the adapter")
            with adapter_disabled(run_model.loaded.model):
                scores["before"] = suite.score(run_model, scores)
        if config.retained is not None and suite.stored is None:
            del run_model
            reporter.phase("retained", "Measuring the retained model")
            other = open_retained(config, reporter)
            marks["retained model"] = other.loaded.fingerprint
            scores["retained"] = suite.score(other, scores)
        written = _checked(config.evaluation.suite, suite.write(scores, directory.path))
        found = {"suite": config.evaluation.suite, **written, **mitigation, "fingerprints": dict(marks)}
        write_json(directory / "metrics.json", found)
        return found


def _checked(name: str, written: dict[str, Any]) -> dict[str, Any]:
    """What a suite wrote, where it is JSON with values. Raises ConfigError."""
    if not isinstance(written, dict) or not isinstance(written.get("values"), dict):
        raise ConfigError(f"suite {name!r}: its write() must return {{'values': {{NAME: value, ...}}, ...}}.")
    try:
        json.dumps(written)
    except TypeError as error:
        raise ConfigError(f"suite {name!r}: its write() returns what is not JSON ({error}); see to_dict().") from error
    return written


def _asks_before(suite: Suite, adapter: Path | None) -> bool:
    """Whether the model without the adapter is what a suite compares with."""
    return suite.before and adapter is not None and suite.config.retained is None


def _pieces(suite: Suite, run_model: RunModel, adapter: Path | None) -> list[Piece]:
    """The long work on every model that is measured."""
    retained = suite.config.retained is not None and suite.stored is None
    times = 1 + _asks_before(suite, adapter) + retained
    return [repeated(piece, times, piece.title) if times > 1 else piece for piece in suite.pieces(run_model)]


def check_reference(config: MeasureConfig, adapter: Path | None) -> None:
    """Find out before a model is loaded whether there is a reference.

    Raises:
        ConfigError: If none is given, and the model has no adapter that could be left out.
    """
    if config.mitigation.kind is not None and adapter is None and not config.mitigation.options.get(REFERENCE):
        raise ConfigError(
            f"mitigation {config.mitigation.kind} compares with a reference model: give one that was not trained on "
            "the same rows, --mitigation-option reference=DIR (the base model, say)."
        )


def mitigated(config: MeasureConfig, run_model: RunModel, reporter: Reporter) -> tuple[RunModel, dict[str, Any]]:
    """The model as it answers under the mitigation, if there is one, and what ``metrics.json`` says of it.

    Raises:
        FingerprintError: If the reference has another tokenizer.
        ModelError, ConfigError: If it cannot be loaded, or an option has no fitting value.
    """
    asked = config.mitigation
    if asked.kind is None:
        return run_model, {}
    source = str(asked.options.get(REFERENCE) or config.model.source)
    reference = load_by(config.model, source)
    ours, theirs = (tokenizer_fingerprint(each.tokenizer) for each in (run_model.loaded, reference))
    if ours != theirs:
        raise FingerprintError(
            f"{source}: its tokenizer ({theirs[:12]}) is not that of {run_model.loaded.source} ({ours[:12]}), so their "
            "tokens cannot be compared. Give a model of the same family."
        )
    decoding = mitigated_by(asked.kind, reference, asked.options)
    reporter.note(f"{STAYS} (answers: {asked.kind}, reference {source})")
    said = {"kind": asked.kind, "options": dict(asked.options), "reference": reference.fingerprint, "text": STAYS}
    return replace(run_model, loaded=replace(run_model.loaded, decoding=decoding)), {"mitigation": said}


ROWS = "rows.parquet"


def stored_rows(source: str | None) -> Path | None:
    """The table of rows that ``source`` names, or that lies in it, a directory of results; None where it is a model."""
    if source is None or not is_local(source):
        return None
    path = Path(source).expanduser()
    found = path / ROWS if path.is_dir() else path
    return found if found.suffix == ".parquet" and found.is_file() else None


def check_retained(config: MeasureConfig, *, borrowed: bool) -> None:
    """Find out before long work whether the retained model can be loaded.

    Raises:
        ModelError: Says what is missing.
        ConfigError: If it is an adapter, and the model is an object that somebody else holds.
    """
    source = config.retained
    if source is None or not is_local(source) or is_gguf(source):
        return
    if not _is_adapter(source):
        check_directory(source, allow_pickle=config.model.dangerously_allow_pickle)
    elif borrowed:
        raise ConfigError(f"{source}: a retained adapter needs its model as a path. Give both so, or a whole model.")
    else:
        check_adapter_directory(Path(source).expanduser())


def _is_adapter(source: str) -> bool:
    folder = Path(source).expanduser()
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def open_retained(config: MeasureConfig, reporter: Reporter) -> RunModel:
    """The model that was trained without the forget rows, with the template and the length of the other.

    It shows what forgotten looks like.
    """
    source = str(config.retained)
    if _is_adapter(source):
        return open_run_model(config.model, config.data, reporter, adapter=Path(source).expanduser())
    return open_run_model(config.model.model_copy(update={"source": source}), config.data, reporter)
