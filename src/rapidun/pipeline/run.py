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
from rapidun.files import sha256_of, write_json
from rapidun.gradients.targets import settled_targets
from rapidun.jsonl import write_jsonl
from rapidun.lifecycle import CONFIG, IDENTITY, RunDirectory
from rapidun.pipeline.cards import write_adapter_card
from rapidun.pipeline.coverage import coverage_record, say_coverage
from rapidun.pipeline.diagnosis import signatures
from rapidun.pipeline.estimating import Piece
from rapidun.pipeline.evidence import check_checkpoints, make_collector
from rapidun.pipeline.inputs import (
    RowGroups,
    RunModel,
    check_targets,
    check_there,
    open_run_model,
    read_groups,
    rows_fingerprint,
    usable_groups,
)
from rapidun.pipeline.manifest import subject_facts, write_manifest
from rapidun.pipeline.measure import EvalSuite, Measurement, judge_examples, make_suite, measure, say_chances
from rapidun.pipeline.phases import do_phase
from rapidun.pipeline.pieces import measuring, tracing, training, weighing
from rapidun.pipeline.registered import check_registered
from rapidun.pipeline.reporter import Reporter, Silent
from rapidun.pipeline.tracing import trace_rows
from rapidun.pipeline.train import OUTCOME, check_preferred, train, unlearned_run_model
from rapidun.pipeline.weigh import weigh, write_weighed
from rapidun.reading import read_json, read_object
from rapidun.report import write_report
from rapidun.settings.plugins import plugin_marks
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


@dataclass
class _Context:
    config: RunConfig
    groups: RowGroups
    run_model: RunModel
    eval_suite: EvalSuite
    directory: RunDirectory
    reporter: Reporter


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
    check_registered(config)
    RunDirectory.check(out, resume=resume, overwrite=overwrite)
    reporter = reporter or Silent()
    reporter.phase("check", "Reading rows and model")
    context = _open(config, out, resume, overwrite, until, reporter)
    steps: dict[str, tuple[str, Callable[[_Context], None]]] = {
        "before": ("Measuring the model as it is", _before),
        "trace": ("Tracing bad answers to training rows", _trace),
        "weigh": ("Influence in four directions, and weights", _weigh),
        "unlearn": ("Unlearning", _unlearn),
        "after": ("Measuring the model after", _after),
    }
    with context.directory as directory:
        for name, (title, step) in steps.items():
            do_phase(directory, reporter, name, title, partial(step, context))
            if until == name:
                return RunResult(out, None, None)
        reporter.phase("report", "Deciding and writing the report")
        metrics = _decide(context, cost)
        _say_what_ran(context)
        write_adapter_card(out, config, context.run_model.template.name, metrics)
        return RunResult(out, metrics, write_report(out))


def _open(
    config: RunConfig, out: Path, resume: bool, overwrite: bool, until: str | None, reporter: Reporter
) -> _Context:
    check_there(config.influence.checkpoints)
    groups = read_groups(config.data, reporter, config.seed)
    check_preferred(config, groups)
    run_model = open_run_model(config.model, config.data, reporter)
    check_targets(run_model, config)
    groups = usable_groups(groups, run_model, config.data, reporter)
    check_checkpoints(run_model, config.influence)
    say_coverage(config, run_model, reporter)
    eval_suite = make_suite(
        groups.evaluation or groups.validation or groups.retain,
        config.evaluation,
        **judge_examples(groups, config.evaluation),
        reporter=reporter,
    )
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite}
    marks = identity(config, groups, run_model)
    origins: dict[str, Any] = {"origins": origins_of(config, groups), "configuration": config.to_yaml()}
    done = RunDirectory.check(out, marks, **how, **origins)
    say_chances(eval_suite, config.gate, reporter)
    reporter.plan(_pieces(config, groups, run_model, eval_suite, done, until))
    directory = RunDirectory.claim(out, marks, **how, **origins)
    directory.write_text(CONFIG, config.to_yaml())
    write_jsonl(directory / "rows_skipped.jsonl", groups.skipped())
    targets = settled_targets(run_model.loaded.model, config.influence.targets)  # not those of the adapter to come
    settled = {"influence": config.influence.model_copy(update={"targets": targets})}
    return _Context(config.model_copy(update=settled), groups, run_model, eval_suite, directory, reporter)


def _pieces(
    config: RunConfig,
    groups: RowGroups,
    run_model: RunModel,
    eval_suite: EvalSuite,
    done: Sequence[str],
    until: str | None,
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


def origins_of(config: RunConfig, groups: RowGroups) -> dict[str, object]:
    """Where what `identity` names came from."""
    rows = {f"rows {name}": rows.path for name, rows in groups.present().items()}
    plugins = {f"plugin {number}": path for number, path in enumerate(config.plugins, 1)}
    return {"model": config.model.source, "template": config.data.template, **plugins, **rows}


def identity(config: RunConfig, groups: RowGroups, run_model: RunModel) -> dict[str, str]:
    """What must be the same for a run to be resumed."""
    rows = {f"rows {name}": rows_fingerprint(rows) for name, rows in groups.present().items()}
    return {
        "configuration": sha256_of([config.to_yaml().encode()]),
        "model": run_model.loaded.fingerprint,
        "template": run_model.template.fingerprint,
        **plugin_marks(config.plugins),
        **rows,
    }


def _measure(context: _Context, run_model: RunModel) -> Measurement:
    return measure(
        run_model, context.eval_suite, context.config.evaluation, context.reporter, forget=context.groups.forget
    )


def _before(context: _Context) -> None:
    found = _measure(context, context.run_model)
    found.save(context.directory / "before.json")


def _trace(context: _Context) -> None:
    pool = context.groups.pool
    before = Measurement.load(context.directory / "before.json")
    bad = [record for record in before.records if record["condition"] == "seen" and record["poisoned"]]
    queries = [_query(record, context.eval_suite) for record in bad[:TRACE_QUERIES]]
    if pool is None or not queries:
        context.reporter.note(
            "nothing to trace: " + ("no pool of training rows given" if pool is None else "no bad answer")
        )
        return
    found = trace_rows(
        context.run_model,
        queries,
        pool,
        context.config.influence,
        k=TRACE_K,
        seed=context.config.seed,
        reporter=context.reporter,
    )
    shown = [line for line in found.lines if line["rank"] <= TRACE_SHOWN]
    write_jsonl(context.directory / "trace.jsonl", shown)
    write_json(context.directory / "trace_quality.json", found.quality)


def _query(record: Mapping[str, Any], eval_suite: EvalSuite) -> dict[str, Any]:
    context = {row["id"]: row.get("context") or "" for row in eval_suite.rows}[record["row_id"]]
    return {"id": record["row_id"], "prompt": record["prompt"], "context": context, "response": record["answer"]}


def _weigh(context: _Context) -> None:
    config = context.config
    weighed = weigh(context.run_model, context.groups, config.influence, config.weights, config.seed, context.reporter)
    write_weighed(weighed, context.groups, context.directory)


def _unlearn(context: _Context) -> None:
    train(context.config, context.groups, context.run_model, context.directory.path, context.reporter)


def _after(context: _Context) -> None:
    found = _measure(context, unlearned_run_model(context.run_model, context.directory.path))
    found.save(context.directory / "after.json")


def _decide(context: _Context, cost: Callable[[list[dict[str, Any]]], dict[str, Any]] | None) -> dict[str, Any]:
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
    found = signatures(directory.path, context.config, metrics)
    metrics["signatures"] = [signature.to_dict() for signature in found]
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


def _say_what_ran(context: _Context) -> None:
    facts = {
        **subject_facts(context.run_model),
        "lora": context.config.lora.model_dump(),
        "tracked": make_collector(context.run_model, context.config.influence).tracked,
        "coverage": coverage_record(context.config, context.run_model),
    }
    write_manifest(
        context.directory,
        facts,
        seed=context.config.seed,
        device=str(context.run_model.loaded.device),
        fingerprints=read_json(context.directory / IDENTITY),
    )
