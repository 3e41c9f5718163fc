"""The suite `qa` on a model as it stands: rows in, a Parquet table of every row's numbers and a JSON of values out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rapidun.evaluation.qa import LOOK_ALIKES, RETAINED, qa_values, row_metrics
from rapidun.evaluation.qa_table import write_rows
from rapidun.files import write_json
from rapidun.jsonl import write_jsonl
from rapidun.lifecycle import RunDirectory
from rapidun.models import LoadedModel, adapter_fingerprint
from rapidun.models.row_losses import BATCH_TOKENS, row_losses
from rapidun.pipeline.estimating import Piece, over_rows, repeated
from rapidun.pipeline.inputs import RunModel, open_run_model, rows_fingerprint
from rapidun.pipeline.pieces import answering
from rapidun.pipeline.qa_rows import QaGroup, qa_group, read_qa, say_what_is_left_out
from rapidun.pipeline.qa_scores import longest_answer, scored
from rapidun.pipeline.registered import check_registered
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.retained import check_retained, open_retained
from rapidun.settings.plugins import plugin_marks
from rapidun.settings.run import MeasureConfig
from rapidun.stats import Interval

ROWS = "rows.parquet"


def evaluate_qa(
    config: MeasureConfig,
    out: Path,
    *,
    adapter: Path | None,
    overwrite: bool,
    reporter: Reporter,
    loaded: LoadedModel | None = None,
) -> dict[str, Any]:
    """Measure memorisation; writes ``metrics.json`` and ``rows.parquet`` and returns what the first holds."""
    check_registered(config)
    how: dict[str, Any] = {"resume": False, "overwrite": overwrite, "resumable": False}
    RunDirectory.check(out, **how)
    reporter.phase("check", "Reading rows and model")
    check_retained(config, borrowed=loaded is not None)
    files = read_qa(config, reporter)
    run_model = open_run_model(config.model, config.data, reporter, adapter=adapter, loaded=loaded)
    groups = {name: qa_group(rows, name, run_model, config, reporter) for name, rows in files.items()}
    marks = {
        "model": run_model.loaded.fingerprint,
        "adapter": adapter_fingerprint(adapter) if adapter is not None else "none",
        "template": run_model.template.fingerprint,
        **plugin_marks(config.plugins),
        **{f"rows {name}": rows_fingerprint(group.rows) for name, group in groups.items()},
    }
    RunDirectory.check(out, marks, **how)
    say_what_is_left_out(groups, config, reporter)
    reporter.plan(_pieces(run_model, groups, config))
    with RunDirectory.claim(out, marks, **how) as directory:
        skipped = [
            {"group": name, **bad.as_dict()}
            for name, group in groups.items()
            for part in group.parts
            for bad in part.skipped
        ]
        write_jsonl(directory / "rows_skipped.jsonl", skipped)
        reporter.phase("evaluate", "Measuring the model")
        scores = {"model": scored(run_model, groups, config.evaluation, reporter)}
        if config.retained is not None:
            del run_model
            reporter.phase("retained", "Measuring the retained model")
            other = open_retained(config, reporter)
            marks["retained model"] = other.loaded.fingerprint
            scores["retained"] = scored(other, groups, config.evaluation, reporter)
        metrics = {
            model: {name: row_metrics(rows) for name, rows in of_model.items()} for model, of_model in scores.items()
        }
        write_rows(directory / ROWS, scores, metrics)
        found = summarise(metrics, marks)
        write_json(directory / "metrics.json", found)
        return found


def summarise(metrics: Mapping[str, Mapping[str, Any]], marks: Mapping[str, str]) -> dict[str, Any]:
    """What ``metrics.json`` holds: values with n, interval and unit, and what they were compared with."""
    retained = metrics.get("retained")
    found: dict[str, Any] = {
        "suite": "qa",
        "yardstick": LOOK_ALIKES if retained is None else RETAINED,
        "convention": "tofu",
        "values": _plain(qa_values(metrics["model"], retained)),
        "fingerprints": dict(marks),
    }
    if retained is not None:
        found["retained"] = _plain(qa_values(retained))
    return found


def _plain(values: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: value.to_dict() for name, value in values.items()}


def _pieces(run_model: RunModel, groups: Mapping[str, QaGroup], config: MeasureConfig) -> list[Piece]:
    """All forward passes and all answers, of both models."""
    loaded, settings = run_model.loaded, config.evaluation
    work = partial(
        row_losses, loaded.model, pad_token_id=loaded.pad_token_id, device=loaded.device, max_tokens=BATCH_TOKENS
    )
    own = [example for group in groups.values() for example in run_model.tokenize(group.rows)]
    every = [example for group in groups.values() for part in group.parts for example in run_model.tokenize(part)]
    prompts = [
        run_model.template.prompt_text(row)
        for group in groups.values()
        for part in (group.rows, group.asked)
        for row in part or ()
    ]
    few = settings.model_copy(update={"max_new_tokens": longest_answer(run_model, own, settings)})
    losses = Piece("losses of answers", len(every), "texts", partial(over_rows, every, BATCH_TOKENS, work))
    pieces = [losses, answering(run_model, prompts, few, "answers")]
    times = 1 if config.retained is None else 2
    return [repeated(piece, times, piece.title) for piece in pieces] if times > 1 else pieces
