"""`rapidun reveal`: search, reveal, release, measure, in rounds that can be stopped, resumed and undone.

A round's three phases are marked when their files are in place. Within a search every pull is on disk before the next
is made; a module whose training was cut off is trained anew, from the same seed to the same bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rapidun.lifecycle import IDENTITY
from rapidun.models import LoadedModel
from rapidun.pipeline.job import do_phase, subject_facts, write_manifest
from rapidun.pipeline.reporter import Reporter, Silent
from rapidun.pipeline.revealing.context import RevealContext, open_reveal
from rapidun.pipeline.revealing.releasing import (
    UTILITY_BEFORE,
    measure_round,
    measure_start,
    method_config,
    release_by_method,
    release_round,
)
from rapidun.pipeline.revealing.rounds import SUMMARY, finish_undo, measured, settle
from rapidun.pipeline.revealing.searching import reveal_round, rows_of
from rapidun.reading import read_json
from rapidun.report import write_report
from rapidun.settings.reveal import MODULES, RevealConfig


@dataclass(frozen=True)
class RevealResult:
    """What a reveal run did: ``summary`` is ``reveal.json``; ``metrics`` is None where nothing was released."""

    directory: Path
    summary: dict[str, Any]
    metrics: dict[str, Any] | None
    report: Path

    @property
    def passed(self) -> bool:
        """Whether the relevance target was reached within the utility budget; True where nothing was to be released."""
        return self.metrics is None or self.metrics["verdict"] == "PASS"


def reveal(
    config: RevealConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    loaded: LoadedModel | None = None,
) -> RevealResult:
    """Carry out a reveal run, or go on with it.

    Args:
        config: Model, rows, task.
        out: The run directory.
        resume: Go on where a stopped run was, to the end that an unbroken one has.
        overwrite: Replace a run that is there.
        reporter: Where progress goes.
        loaded: The model, where somebody holds it already.

    Raises:
        RapidunError: For anything wrong with input, settings or machine.
    """
    reporter = reporter or Silent()
    if config.task.release.method not in (MODULES, "none"):
        method_config(config, out)  # wrong settings of the method are found here
    context = open_reveal(config, out, resume, overwrite, reporter, loaded)
    with context.directory:
        finish_undo(context.directory)
        settle(context.directory.path)  # a place that cannot hold the result is found now
        _phase(context, "measure 0", "Measuring what must be kept", measure_start)
        return _finish(context, _rounds(context))


def _phase(context: RevealContext, name: str, title: str, step: Callable[[RevealContext], None]) -> None:
    do_phase(context.directory, context.reporter, name, title, partial(step, context))


def _rounds(context: RevealContext) -> str:
    """Rounds of reveal, release and measure, as the task asks; returns why they ended."""
    if context.config.task.release.method == "none":
        _phase(context, "reveal 1", "Revealing", partial(reveal_round, number=1))
        return "revealed only, as asked"
    release = release_round if context.config.task.release.method == MODULES else release_by_method
    total = context.config.task.release.rounds
    for number in range(1, total + 1):
        label = f"Round {number} of {total}: "
        _phase(context, f"reveal {number}", f"{label}revealing", partial(reveal_round, number=number))
        if not rows_of(context, number):
            return f"round {number}: nothing was revealed"
        _phase(context, f"release {number}", f"{label}releasing", partial(release, number=number))
        _phase(context, f"measure {number}", f"{label}measuring", partial(measure_round, number=number))
        reason = _reason_to_stop(context, number)
        if reason is not None:
            return reason
    return f"all {total} rounds were done"


def _reason_to_stop(context: RevealContext, number: int) -> str | None:
    found = measured(context.directory.path, number) or {}
    if not found["accepted"]:
        return (
            f"round {number}: utility fell by {found['drop']:.3f}, beyond the budget of "
            f"{context.config.task.utility.max_drop:.3f}; the state of round {number - 1} was restored"
        )
    target = context.config.task.release.relevance_target
    if target > 0 and found["relevance_after"] <= target:
        return f"round {number}: the relevance target was reached"
    return None


def _finish(context: RevealContext, stopped: str) -> RevealResult:
    directory, loaded = context.directory, context.run_model.loaded
    settle(directory.path, summary=_summary(context, stopped))
    summary = read_json(directory / SUMMARY)
    metrics = read_json(directory / "metrics.json") if context.config.task.release.method != "none" else None
    context.reporter.note(stopped)
    facts = subject_facts(context.run_model) | {"lora": context.config.task.release.lora.model_dump()}
    fingerprints = read_json(directory / IDENTITY)
    write_manifest(directory, facts, seed=context.config.seed, device=str(loaded.device), fingerprints=fingerprints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return RevealResult(directory.path, summary, metrics, write_report(directory.path))


def _summary(context: RevealContext, stopped: str) -> dict[str, Any]:
    """What ``reveal.json`` holds besides the rounds."""
    directory, task = context.directory, context.config.task
    return {
        "description": task.description,
        "instruction": task.instruction,
        "mask": task.mask,
        "strategy": task.search.strategy,
        "arms": task.arms.kind,
        "judge": task.judge.kind,
        "method": task.release.method,
        "relevance_target": task.release.relevance_target,
        "max_drop": task.utility.max_drop,
        "utility_before": read_json(directory / UTILITY_BEFORE),
        "stopped": stopped,
    }
