"""Releasing: modules trained on what was revealed, or its rows as the forget set of any method; then measuring."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rapidun.errors import ConfigError
from rapidun.files import write_json
from rapidun.jsonl import write_jsonl
from rapidun.models.cards import write_card
from rapidun.pipeline.inputs import RunModel
from rapidun.pipeline.revealing.context import RevealContext
from rapidun.pipeline.revealing.rounds import METHOD, round_directory, settle, state_adapter
from rapidun.pipeline.revealing.searching import again, arms_of, make_puller, pulls_of, rows_of
from rapidun.pipeline.single import unlearn_only
from rapidun.pipeline.train import Losses
from rapidun.reading import read_kind
from rapidun.revealing import Pull, train_round
from rapidun.revealing.utility import Utility, measure_utility
from rapidun.settings.base import make_config
from rapidun.settings.reveal import RevealConfig
from rapidun.settings.run import RunConfig

UTILITY_BEFORE = "utility_before.json"


def release_round(context: RevealContext, number: int) -> None:
    """Train both modules on the present state and write the next one."""
    folder, run_model = context.folder(number), context.run_model
    lines: list[dict[str, Any]] = []
    losses = Losses()

    def record(line: dict[str, Any]) -> None:
        losses.hear(line)
        lines.append(line)

    outcome = train_round(
        run_model.loaded,
        state_adapter(context.directory.path, number - 1),
        run_model.tokenize(context.retain),
        run_model.tokenize(rows_of(context, number)),
        context.config.task.release,
        folder,
        seed=context.seed(number),
        record=record,
        progress=lambda done, total: context.reporter.progress(done, total, losses.text, "steps"),
    )
    write_jsonl(folder / "log.jsonl", lines)
    steps = context.config.task.release.of_modules.steps
    method = f"Reveal-and-Release, modules of rounds 1 to {number}, {steps} steps each"
    verdict = "that of the run's metrics.json and report.html"
    write_card(folder / "adapter", template=run_model.template.name, method=method, verdict=verdict)
    write_json(folder / "round.json", asdict(outcome))


def release_by_method(context: RevealContext, number: int) -> None:
    """All rows so far as the forget set of any registered method, influence weights included, on the base model.

    Each round trains anew from the model as it was, and its adapter replaces the one before: the method's reference
    model is what it should be, and the rows of earlier rounds are not learnt back.
    """
    run = context.directory.path
    place = round_directory(run, number) / METHOD
    rows = {row["id"]: row for each in range(1, number + 1) for row in rows_of(context, each)}
    write_jsonl(_forget_file(run, number), rows.values())
    settings = method_config(context.config, run, number)
    unlearn_only(settings, place, weights=None, resume=place.exists(), overwrite=False, reporter=context.reporter)


def _forget_file(run: Path, number: int) -> Path:
    return round_directory(run, number) / "forget.jsonl"


def method_config(config: RevealConfig, run: Path, number: int = 1) -> RunConfig:
    """The configuration that feeds the rows revealed up to round ``number`` to ``release.method``.

    Raises:
        ConfigError: If the task's settings of the method are wrong, or columns are renamed.
    """
    task, rows = config.task, config.data
    if rows.columns:
        raise ConfigError(
            f"--map does not go with method {task.release.method!r}: revealed rows have their own columns."
        )
    raw: dict[str, Any] = {
        "model": config.model.model_dump(mode="json"),
        "data": {
            **{name: getattr(rows, name) for name in ("template", "template_options", "max_length", "on_bad_row")},
            "forget": str(_forget_file(run, number)),
            "retain": str(task.retain),
            "validation": str(task.utility.rows) if task.utility.rows else None,
        },
        "unlearning": {**task.release.unlearning, "method": task.release.method},
        "weights": task.release.weights,
        "lora": task.release.lora.model_dump(mode="json"),
        "seed": config.seed,
        "plugins": [str(path) for path in config.plugins],
    }
    return make_config(raw, RunConfig, "task.release")


def measure_start(context: RevealContext) -> None:
    """Utility of the model as it is."""
    write_json(context.directory / UTILITY_BEFORE, asdict(_utility(context, context.run_model)))


def measure_round(context: RevealContext, number: int) -> None:
    """Ask this round's best arms again, measure what must be kept, and decide whether the round stays."""
    before = read_kind(context.directory / UTILITY_BEFORE, Utility)
    arms = arms_of(context, number)
    with context.state_after(number) as run_model:
        puller = make_puller(context, run_model, number)
        asked = puller.pull_each(again(context, arms), "after")
        after = _utility(context, run_model)
    drop = after.drop_from(before)
    found = {
        "relevance_before": _mean_relevance(pulls_of(context, number, "before")),
        "relevance_after": _mean_relevance(asked),
        "utility": asdict(after),
        "drop": drop,
        "accepted": drop <= context.config.task.utility.max_drop,
    }
    write_json(context.folder(number) / "measure.json", found)
    context.reporter.note(
        f"relevance of the best arms {found['relevance_before']:.3f} -> {found['relevance_after']:.3f}; utility "
        f"({after.suite}) {before.value:.4g} -> {after.value:.4g}"
    )
    settle(context.directory.path)


def _utility(context: RevealContext, run_model: RunModel) -> Utility:
    rows = list(context.utility)
    settings = context.config.task.utility
    return measure_utility(
        run_model.loaded,
        run_model.template,
        rows,
        run_model.tokenize(rows),
        settings,
        context.utility_judge,
        batch_size=context.config.task.search.batch_size,
    )


def _mean_relevance(pulls: list[Pull]) -> float:
    return sum(pull.relevance for pull in pulls) / len(pulls) if pulls else 0.0
