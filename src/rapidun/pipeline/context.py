"""What `run`, `weigh`, `unlearn` and `tune` work on: rows and model, read and checked alike, and shared steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rapidun.data import Rows
from rapidun.evaluation import RunNumbers, diagnose
from rapidun.files import sha256_of
from rapidun.jsonl import read_log
from rapidun.lifecycle import RunDirectory
from rapidun.models import LoadedModel
from rapidun.pipeline.evidence import check_checkpoints, say_coverage, weigh
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
from rapidun.pipeline.job import do_phase
from rapidun.pipeline.measure import EvalSuite, Measurement, judge_examples, make_suite, measure
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.train import OUTCOME, check_preferred, train
from rapidun.reading import read_object
from rapidun.settings.plugins import plugin_marks
from rapidun.settings.run import RunConfig
from rapidun.weighting import get_scheme, read_weights
from rapidun.weighting.options import Robust

WHOLE = ("weigh", "unlearn")
"""The jobs whose needs are checked: evidence for weights, and training."""


@dataclass(frozen=True)
class RunContext:
    """Rows, model and directory of a run, opened and checked."""

    config: RunConfig
    groups: RowGroups
    run_model: RunModel
    directory: RunDirectory
    reporter: Reporter

    def weigh(self) -> None:
        """Write weights and what they are made of, unless that was done before."""
        step = partial(weigh, self.config, self.groups, self.run_model, self.directory.path, self.reporter)
        self.phase("weigh", "Influence in four directions, and weights", step)

    def unlearn(self) -> None:
        """Train with the weights that are there, unless that was done before."""
        step = partial(train, self.config, self.groups, self.run_model, self.directory.path, self.reporter)
        self.phase("unlearn", "Unlearning", step)

    def phase(self, name: str, title: str, step: Callable[[], object]) -> None:
        """`do_phase`."""
        do_phase(self.directory, self.reporter, name, title, step)


@dataclass(frozen=True)
class MeasuredContext(RunContext):
    """The same with what measures the model."""

    eval_suite: EvalSuite

    def measure(self, run_model: RunModel) -> Measurement:
        """Of the evaluation rows and the forget rows, by a model as it stands."""
        return measure(run_model, self.eval_suite, self.config.evaluation, self.reporter, forget=self.groups.forget)

    def before(self) -> None:
        """Measure the model as it is, into ``before.json``, unless that was done before."""

        def step() -> None:
            self.measure(self.run_model).save(self.directory / "before.json")

        self.phase("before", "Measuring the model as it is", step)


def open_inputs(
    config: RunConfig,
    reporter: Reporter,
    *,
    jobs: Collection[str] = WHOLE,
    loaded: LoadedModel | None = None,
    check_rows: Callable[[RowGroups], None] | None = None,
) -> tuple[RowGroups, RunModel]:
    """Read rows and model, and find out before long work whether ``jobs`` can be done with them.

    Args:
        config: Names everything.
        reporter: Hears what was found, and which weights gradients and adapter leave out.
        jobs: ``weigh`` and ``unlearn``, or one of them.
        loaded: The model itself, where somebody holds it already.
        check_rows: What else is asked of the rows, before the model is loaded.

    Raises:
        RapidunError: For anything wrong with rows, model or settings.
    """
    check_there(config.influence.checkpoints)
    groups = read_groups(config.data, reporter, config.seed)
    if "unlearn" in jobs:
        check_preferred(config, groups)
    if check_rows is not None:
        check_rows(groups)
    run_model = open_run_model(config.model, config.data, reporter, loaded=loaded)
    if "unlearn" in jobs:
        check_targets(run_model, config, gradients="weigh" in jobs)
    groups = usable_groups(groups, run_model, config.data, reporter)
    check_checkpoints(run_model, config.influence)
    say_coverage(config, run_model, reporter, jobs)
    return groups, run_model


def suite_of(rows: Rows, groups: RowGroups, config: RunConfig, reporter: Reporter) -> EvalSuite:
    """What measures the model on ``rows``; judges are fitted on rows of the run. Raises as `make_suite`."""
    settings = config.evaluation
    return make_suite(rows, settings, **judge_examples(groups, settings), reporter=reporter)


def origins_of(config: RunConfig, groups: RowGroups) -> dict[str, object]:
    """Where what `identity` names came from."""
    rows = {f"rows {name}": rows.path for name, rows in groups.present().items()}
    plugins = {f"plugin {number}": path for number, path in enumerate(config.plugins, 1)}
    return {"model": config.model.source, "template": config.data.template, **plugins, **rows}


def identity(config: RunConfig, groups: RowGroups, run_model: RunModel) -> dict[str, str]:
    """What must be the same for a run to be resumed."""
    return {
        "configuration": sha256_of([config.to_yaml().encode()]),
        "model": run_model.loaded.fingerprint,
        "template": run_model.template.fingerprint,
        **plugin_marks(config.plugins),
        **{f"rows {name}": rows_fingerprint(rows) for name, rows in groups.present().items()},
    }


def signatures(directory: Path, config: RunConfig, metrics: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
    """The failure signatures of a run directory, from the files that are there.

    Args:
        directory: The run directory.
        config: The run's configuration.
        metrics: ``after``, ``perplexity_ratio`` and ``forget_ratio`` where the run was evaluated.
    """
    weights: dict[str, list[float]] = {}
    if (directory / "weights.jsonl").exists():
        for row in read_weights(directory / "weights.jsonl"):
            weights.setdefault(row.group, []).append(row.weight)
    measured = {name: (metrics or {}).get(name) for name in ("after", "perplexity_ratio", "forget_ratio")}
    numbers = RunNumbers(
        log=read_log(directory / "log.jsonl"),
        weights=weights,
        scheme=config.weights.scheme,
        robust=issubclass(get_scheme(config.weights.scheme).options, Robust),
        outcome=read_object(directory / OUTCOME),
        thresholds=config.gate,
        **measured,
    )
    return [signature.to_dict() for signature in diagnose(numbers)]
