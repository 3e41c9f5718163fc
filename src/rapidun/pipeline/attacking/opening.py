"""A finished run and its twin, read and checked: model, rows, triggers and judge are the run's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rapidun.attacks import Material, Target
from rapidun.data.templates import require_same_template
from rapidun.errors import ConfigError, FingerprintError, InputError
from rapidun.evaluation import PerplexityResult
from rapidun.lifecycle import CONFIG, IDENTITY
from rapidun.models import LoadedModel, adapter_fingerprint, is_adapted, model_fingerprint
from rapidun.models.adapter_files import CONFIG as ADAPTER
from rapidun.pipeline.context import identity
from rapidun.pipeline.inputs import RowGroups, RunModel, load_by, open_run_model, read_groups, usable_groups
from rapidun.pipeline.measure import EvalSuite, Measurement, judge_examples, make_suite
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.train import OUTCOME, unlearned_run_model
from rapidun.reading import made_from, read_kind, read_object
from rapidun.settings.attack import AttackConfig
from rapidun.settings.base import make_config, read_mapping
from rapidun.settings.plugins import plugin_marks
from rapidun.settings.run import RunConfig

BEFORE, METRICS = "before.json", "metrics.json"
RATE = 1e-3
"""Of relearning, where the run has none of its own."""


@dataclass(frozen=True)
class Scene:
    """Everything an attack needs.

    Args:
        run: The run's configuration.
        eval_suite: Its judges.
        targets: The unlearned model, and its twin where there is one.
        before: Forget rows' perplexity before unlearning, where the run measured it.
        marks: What the results are of.
    """

    run: RunConfig
    eval_suite: EvalSuite
    targets: list[Target]
    before: PerplexityResult | None
    marks: dict[str, str]

    @property
    def material(self) -> Material:
        """What is asked of all targets."""
        return self.targets[0].material


def open_scene(config: AttackConfig, directory: Path, reporter: Reporter) -> Scene:
    """Read a run directory again, load its model as it came out and the twin.

    Raises:
        InputError: If it is no finished run, or asks for more rows than there are.
        FingerprintError: If rows, model or template are not those of the run.
    """
    run = read_config(directory)
    groups = read_groups(run.data, reporter, run.seed)
    run_model = open_run_model(run.model, run.data, reporter)
    groups = usable_groups(groups, run_model, run.data, reporter)
    marks = identity(run, groups, run_model)
    _check_same(directory, marks)
    eval_suite = _suite(config, run, groups, directory)
    twin = _twin(config.twin, run, run_model, reporter)
    ours = unlearned_run_model(run_model, directory)
    adapted = is_adapted(ours.loaded.model)  # else unlearning wrote a whole model, and the one before is loaded again
    loading_before = (lambda: ours.loaded) if adapted else partial(load_by, run.model)
    with made_from(directory / OUTCOME):
        rate = float(read_object(directory / OUTCOME).get("learning_rate") or RATE)
    material = _material(run, groups, eval_suite, rate, config.seed, loading_before)
    models = {"unlearned": ours} if twin is None else {"unlearned": ours, "twin": twin}
    targets = [Target(name, each.loaded, each.template, each.max_length, material) for name, each in models.items()]
    own = {
        **{name: mark for name, mark in marks.items() if name != "configuration"},
        "adapter": adapter_fingerprint(directory / "adapter") if adapted else model_fingerprint(ours.loaded.model),
        "twin": twin.loaded.fingerprint if twin is not None else "none",
        "seed": str(config.seed),
        "prompts": str(len(material.prompts)),
        **{f"attack {name}": mark for name, mark in plugin_marks(config.plugins).items()},
    }
    path = directory / BEFORE
    before = Measurement.load(path).forget_perplexity if path.is_file() else None
    return Scene(run, eval_suite, targets, before, own)


def read_config(directory: Path) -> RunConfig:
    """The configuration of a run that has come to an adapter or a model. Raises InputError where it has not."""
    if not (directory / CONFIG).is_file():
        raise InputError(f"{directory}: no run here ({CONFIG} is missing). Give the --out of `rapidun run` or demo.")
    if not (directory / OUTCOME).is_file() or not any((directory / name).is_dir() for name in ("adapter", "model")):
        raise InputError(f"{directory}: this run has not unlearned yet. Finish it: the same command with --resume.")
    run = make_config(
        read_mapping(directory / CONFIG, "not a run's configuration."), RunConfig, str(directory / CONFIG)
    )
    if run.model.quantize is not None:
        raise ConfigError(f"{directory}: its model was loaded in {run.model.quantize}, whose adapter cannot be merged.")
    return run


def _check_same(directory: Path, marks: Mapping[str, str]) -> None:
    """The files that the configuration names are still those of the run; its own text may be of another version."""
    before = read_kind(directory / IDENTITY, dict[str, str])
    for name, mark in marks.items():
        if name != "configuration" and name in before and before[name] != mark:
            raise FingerprintError(
                f"{directory}: {name} was {before[name][:16]} in this run and is now {mark[:16]}. Attack it with the "
                "files that it was made with."
            )


def _suite(config: AttackConfig, run: RunConfig, groups: RowGroups, directory: Path) -> EvalSuite:
    rows = groups.evaluation or groups.validation or groups.retain
    if config.prompts is not None and config.prompts > len(rows):
        raise InputError(f"{rows.path}: --prompts {config.prompts}, and it has {len(rows)} usable rows.")
    # `rapidun unlearn` measures nothing, whatever its triggers are
    measured = run.evaluation.suite != "perplexity" and (directory / METRICS).is_file()
    changed: dict[str, Any] = {"prompts": config.prompts or run.evaluation.prompts}
    settings = run.evaluation.model_copy(update=changed if measured else {**changed, "suite": "perplexity"})
    shown = judge_examples(groups, settings)
    return make_suite(rows, settings, poisoned=shown["poisoned"], clean=shown["clean"])


def _material(
    run: RunConfig, groups: RowGroups, eval_suite: EvalSuite, rate: float, seed: int, before: Callable[[], LoadedModel]
) -> Material:
    known = {str(row.get("prompt")) for row in groups.forget}
    return Material(
        prompts=list(eval_suite.rows),
        forget=list(groups.forget),
        related=[row for row in groups.judge_poisoned or [] if str(row.get("prompt")) not in known],
        unrelated=list(groups.validation or groups.retain),
        families=eval_suite.families,
        judge=eval_suite.judges.get(eval_suite.primary),
        generation=run.evaluation,
        lora=run.lora,
        learning_rate=rate,
        seed=seed,
        before=before,
    )


def _twin(path: Path | None, run: RunConfig, run_model: RunModel, reporter: Reporter) -> RunModel | None:
    if path is None:
        reporter.note("twin: none; whether this model is no faster than one that never learnt it cannot be said")
        return None
    if not path.is_dir():
        raise InputError(f"{path}: no such directory. --twin takes a model that never learnt it, or none.")
    if (path / ADAPTER).is_file():
        found = open_run_model(run.model, run.data, reporter, adapter=path)
        mark = f"{found.loaded.fingerprint} + {adapter_fingerprint(path)}"
        found = replace(found, loaded=replace(found.loaded, fingerprint=mark))
    else:
        found = open_run_model(run.model, run.data, reporter, loaded=load_by(run.model, str(path)))
    require_same_template(run_model.template, found.template)
    return found
