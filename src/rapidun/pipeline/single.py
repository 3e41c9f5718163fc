"""The jobs of a run, one at a time: what the verbs ``weigh`` and ``unlearn`` call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rapidun.errors import InputError
from rapidun.files import file_sha256
from rapidun.jsonl import write_jsonl
from rapidun.lifecycle import CONFIG, RunDirectory
from rapidun.models import LoadedModel
from rapidun.pipeline.coverage import say_coverage
from rapidun.pipeline.diagnosis import signatures
from rapidun.pipeline.evidence import check_checkpoints
from rapidun.pipeline.inputs import (
    RowGroups,
    RunModel,
    check_targets,
    check_there,
    open_run_model,
    read_groups,
    usable_groups,
)
from rapidun.pipeline.phases import do_phase
from rapidun.pipeline.pieces import training, weighing
from rapidun.pipeline.registered import check_registered
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.run import identity, origins_of
from rapidun.pipeline.train import OUTCOME, check_preferred, check_weights, train
from rapidun.pipeline.weigh import weigh, write_weighed
from rapidun.reading import read_object
from rapidun.settings.run import RunConfig
from rapidun.weighting import read_weights


def weigh_only(config: RunConfig, out: Path, *, resume: bool, overwrite: bool, reporter: Reporter) -> list[Path]:
    """Influence and weights; returns the files written."""
    groups, run_model, directory = _open(config, out, resume, overwrite, reporter, ("weigh",))
    with directory:
        _weigh(config, groups, run_model, directory, reporter)
    return [path for name in ("weights.jsonl", "blocks.safetensors") if (path := directory / name).exists()]


def unlearn_only(
    config: RunConfig,
    out: Path,
    *,
    weights: Path | None,
    resume: bool,
    overwrite: bool,
    reporter: Reporter,
    loaded: LoadedModel | None = None,
) -> dict[str, Any]:
    """Weights (computed, or those of ``weights``), then the adapter; returns what training did."""
    if weights is not None:
        if not weights.is_file():
            raise InputError(f"{weights}: no such file. --weights takes a scheme or a weights.jsonl.")
        read_weights(weights)
    jobs = ("unlearn",) if weights is not None else ("weigh", "unlearn")
    groups, run_model, directory = _open(config, out, resume, overwrite, reporter, jobs, weights, loaded)
    with directory:
        if weights is not None:
            directory.write_text("weights.jsonl", weights.read_text(encoding="utf-8"))
        else:
            _weigh(config, groups, run_model, directory, reporter)
        step = partial(train, config, groups, run_model, directory.path, reporter)
        do_phase(directory, reporter, "unlearn", "Unlearning", step)
        found = signatures(directory.path, config)
        return {**read_object(directory / OUTCOME), "signatures": [signature.to_dict() for signature in found]}


def _open(
    config: RunConfig,
    out: Path,
    resume: bool,
    overwrite: bool,
    reporter: Reporter,
    jobs: Sequence[str],
    weights: Path | None = None,
    loaded: LoadedModel | None = None,
) -> tuple[RowGroups, RunModel, RunDirectory]:
    """Read and check everything, say what ``jobs`` will take, and claim the directory."""
    check_registered(config)
    RunDirectory.check(out, resume=resume, overwrite=overwrite)
    reporter.phase("check", "Reading rows and model")
    check_there(config.influence.checkpoints)
    groups = read_groups(config.data, reporter, config.seed)
    if "unlearn" in jobs:
        check_preferred(config, groups)
    run_model = open_run_model(config.model, config.data, reporter, loaded=loaded)
    if "unlearn" in jobs:
        check_targets(run_model, config, gradients=weights is None)
    groups = usable_groups(groups, run_model, config.data, reporter)
    check_checkpoints(run_model, config.influence)
    wanted = [name for name in jobs if name != "weigh" or weights is None]
    say_coverage(config, run_model, reporter, wanted)
    if weights is not None:
        check_weights(weights, groups)
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite}
    marks = identity(config, groups, run_model) | ({"weights": file_sha256(weights)} if weights is not None else {})
    origins: dict[str, Any] = {"origins": origins_of(config, groups), "configuration": config.to_yaml()}
    done = RunDirectory.check(out, marks, **how, **origins)
    work = {"weigh": weighing(run_model, groups, config), "unlearn": [training(run_model, groups, config)]}
    reporter.plan([piece for name in jobs if name not in done for piece in work[name]])
    directory = RunDirectory.claim(out, marks, **how, **origins)
    directory.write_text(CONFIG, config.to_yaml())
    write_jsonl(directory / "rows_skipped.jsonl", groups.skipped())
    return groups, run_model, directory


def _weigh(
    config: RunConfig, groups: RowGroups, run_model: RunModel, directory: RunDirectory, reporter: Reporter
) -> None:
    def step() -> None:
        weighed = weigh(run_model, groups, config.influence, config.weights, config.seed, reporter)
        write_weighed(weighed, groups, directory)

    do_phase(directory, reporter, "weigh", "Influence in four directions, and weights", step)
