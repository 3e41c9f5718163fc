"""`rapidun evaluate`: read and check, load, try, measure the model and what it is compared with, write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rapidun.errors import ConfigError
from rapidun.files import write_json
from rapidun.models import LoadedModel, adapter_fingerprint
from rapidun.models.lora import adapter_disabled
from rapidun.pipeline.estimating import Piece, repeated
from rapidun.pipeline.inputs import RunModel, open_run_model, rows_fingerprint
from rapidun.pipeline.job import Job
from rapidun.pipeline.mitigating import check_reference, mitigated
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.retained import check_retained, open_retained
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
