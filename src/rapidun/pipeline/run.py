"""One run from configuration to report: phases that write their files, are marked, and can be resumed.

before -> trace -> weigh -> unlearn -> after -> decide -> report. Everything that can be wrong with the input is
found before the first phase begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rapidun.errors import ConfigError
from rapidun.evaluation import decide, perplexity_ratio
from rapidun.files import write_json
from rapidun.gradients.targets import settled_targets
from rapidun.jsonl import write_jsonl
from rapidun.lifecycle import IDENTITY
from rapidun.pipeline.context import (
    MeasuredContext,
    identity,
    open_inputs,
    origins_of,
    signatures,
    suite_of,
)
from rapidun.pipeline.estimating import Piece
from rapidun.pipeline.evidence import job_coverage, make_collector
from rapidun.pipeline.inputs import RowGroups, RunModel
from rapidun.pipeline.job import Job, subject_facts, write_manifest
from rapidun.pipeline.measure import EvalSuite, Measurement, say_chances
from rapidun.pipeline.pieces import measuring, tracing, training, weighing
from rapidun.pipeline.reporter import Reporter, Silent
from rapidun.pipeline.tracing import trace_rows
from rapidun.pipeline.train import OUTCOME, unlearned_run_model, write_adapter_card
from rapidun.reading import read_json, read_object
from rapidun.report import write_report
from rapidun.settings.run import RunConfig

PHASES = ("before", "trace", "weigh", "unlearn", "after", "report")
TRACE_QUERIES = 20
"""Most bad answers that are traced back to the pool."""
TRACE_K = 100
TRACE_SHOWN = 10


@dataclass
class RunResult:
    """What a finished run says; ``metrics`` is None when it was told to stop early."""

    directory: Path
    metrics: dict[str, Any] | None
    report: Path | None

    @property
    def passed(self) -> bool:
        """Whether the gate was reached."""
        return bool(self.metrics and self.metrics["verdict"] == "PASS")


def run(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    until: str | None = None,
    reporter: Reporter | None = None,
    cost: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
) -> RunResult:
    """Carry out a run, or go on with it.

    Args:
        config: What to do.
        out: The run directory.
        resume: Go on after the last finished phase; configuration and data must be the same.
        overwrite: Replace a run that is there.
        until: Stop after this phase.
        reporter: Where progress goes.
        cost: Given the phase records, returns the ``cost`` part of the metrics (unlearning beside retraining).

    Raises:
        RapidunError: For anything wrong with input, settings or machine.
    """
    if until is not None and until not in PHASES:
        raise ConfigError(f"--until {until}: choose from {', '.join(PHASES)}.")
    job = Job(config, out, reporter or Silent(), resume, overwrite)
    context = _open(config, job, until)
    steps: dict[str, Callable[[], None]] = {
        "before": context.before,
        "trace": lambda: context.phase("trace", "Tracing bad answers to training rows", partial(_trace, context)),
        "weigh": context.weigh,
        "unlearn": context.unlearn,
        "after": lambda: context.phase("after", "Measuring the model after", partial(_after, context)),
    }
    with context.directory:
        for name, step in steps.items():
            step()
            if until == name:
                return RunResult(out, None, None)
        job.reporter.phase("report", "Deciding and writing the report")
        metrics = _decide(context, cost)
        _say_what_ran(context)
        write_adapter_card(out, config, context.run_model.template.name, metrics)
        return RunResult(out, metrics, write_report(out))


def _open(config: RunConfig, job: Job, until: str | None) -> MeasuredContext:
    job.begin("Reading rows and model")
    groups, run_model = open_inputs(config, job.reporter)
    eval_suite = suite_of(groups.evaluation or groups.validation or groups.retain, groups, config, job.reporter)
    say_chances(eval_suite, config.gate, job.reporter)
    directory = job.claim(
        identity(config, groups, run_model),
        partial(_pieces, config, groups, run_model, eval_suite, until),
        origins=origins_of(config, groups),
        skipped=groups.skipped(),
    )
    targets = settled_targets(run_model.loaded.model, config.influence.targets)  # not those of the adapter to come
    settled = {"influence": config.influence.model_copy(update={"targets": targets})}
    return MeasuredContext(config.model_copy(update=settled), groups, run_model, directory, job.reporter, eval_suite)


def _pieces(
    config: RunConfig,
    groups: RowGroups,
    run_model: RunModel,
    eval_suite: EvalSuite,
    until: str | None,
    done: Sequence[str],
) -> list[Piece]:
    """The long work of the phases that are still to be done."""
    settings = config.evaluation
    wanted = PHASES if until is None else PHASES[: PHASES.index(until) + 1]
    left = [name for name in wanted if name not in done]
    measured = [name for name in ("before", "after") if name in left]
    found = measuring(run_model, eval_suite, settings, f"measuring {' and '.join(measured)}", len(measured))
    found += tracing(run_model, groups.pool, config) if "trace" in left else []
    found += weighing(run_model, groups, config) if "weigh" in left else []
    return [*found, *([training(run_model, groups, config)] if "unlearn" in left else [])]


def _trace(context: MeasuredContext) -> None:
    pool = context.groups.pool
    before = Measurement.load(context.directory / "before.json")
    bad = [record for record in before.records if record["condition"] == "seen" and record["poisoned"]]
    contexts = {row["id"]: row.get("context") or "" for row in context.eval_suite.rows}
    queries = [
        {"id": row_id, "prompt": record["prompt"], "context": contexts[row_id], "response": record["answer"]}
        for record in bad[:TRACE_QUERIES]
        for row_id in [record["row_id"]]
    ]
    if pool is None or not queries:
        context.reporter.note(
            "nothing to trace: " + ("no pool of training rows given" if pool is None else "no bad answer")
        )
        return
    config, reporter = context.config, context.reporter
    found = trace_rows(
        context.run_model, queries, pool, config.influence, k=TRACE_K, seed=config.seed, reporter=reporter
    )
    shown = [line for line in found.lines if line["rank"] <= TRACE_SHOWN]
    write_jsonl(context.directory / "trace.jsonl", shown)
    write_json(context.directory / "trace_quality.json", found.quality)


def _after(context: MeasuredContext) -> None:
    found = context.measure(unlearned_run_model(context.run_model, context.directory.path))
    found.save(context.directory / "after.json")


def _decide(context: MeasuredContext, cost: Callable[[list[dict[str, Any]]], dict[str, Any]] | None) -> dict[str, Any]:
    directory, primary = context.directory, context.eval_suite.primary
    before, after = (Measurement.load(directory / f"{name}.json") for name in ("before", "after"))
    ratio = perplexity_ratio(before.perplexity, after.perplexity)
    summaries = {"before": before.summary(primary), "after": after.summary(primary)}
    forget_ratio = None
    if before.forget_perplexity is not None and after.forget_perplexity is not None:
        forget_ratio = perplexity_ratio(before.forget_perplexity, after.forget_perplexity)
    limits = context.config.gate
    gate = decide(summaries["before"], summaries["after"], ratio, limits, forget_ratio=forget_ratio)
    quality = directory / "trace_quality.json"
    metrics: dict[str, Any] = {
        "verdict": gate.label,
        "gate": gate.to_dict(),
        **summaries,
        "perplexity_ratio": ratio._asdict(),
        "forget_ratio": forget_ratio._asdict() if forget_ratio is not None else None,
        "by_variant": {"before": before.by_variant, "after": after.by_variant},
        "judges": {name: card.to_dict() for name, card in context.eval_suite.cards.items()},
        "primary_judge": primary,
        "all_judges": {"before": before.rates, "after": after.rates},
        "trace": read_json(quality) if quality.exists() else [],
        "stopped": read_object(directory / OUTCOME).get("stopped"),
        "unlearning": read_json(directory / OUTCOME),
    }
    metrics["signatures"] = signatures(directory.path, context.config, metrics)
    if cost is not None:
        metrics["cost"] = cost(directory.phases)
    write_json(directory / "metrics.json", metrics)
    write_jsonl(directory / "samples.jsonl", _samples(before, after))
    return metrics


def _samples(before: Measurement, after: Measurement) -> list[dict[str, Any]]:
    def key(record: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(record[name] for name in ("condition", "family", "trigger", "row_id"))

    later = {key(record): record for record in after.records}
    found = []
    for record in before.records:
        then = later[key(record)]
        found.append(
            {name: record[name] for name in ("condition", "family", "trigger", "prompt")}
            | {"before": record["answer"], "after": then["answer"]}
            | {"before_poisoned": record["poisoned"], "after_poisoned": then["poisoned"]}
        )
    return found


def _say_what_ran(context: MeasuredContext) -> None:
    coverage = job_coverage(context.config, context.run_model)
    facts = {
        **subject_facts(context.run_model),
        "lora": context.config.lora.model_dump(),
        "tracked": make_collector(context.run_model, context.config.influence).tracked,
        "coverage": {name: each.record() for name, each in coverage.items()},
    }
    write_manifest(
        context.directory,
        facts,
        seed=context.config.seed,
        device=str(context.run_model.loaded.device),
        fingerprints=read_json(context.directory / IDENTITY),
    )
