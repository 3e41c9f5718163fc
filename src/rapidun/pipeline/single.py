"""The jobs of a run, one at a time: what the verbs ``weigh`` and ``unlearn`` call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rapidun.errors import ConfigError, InputError
from rapidun.files import file_sha256, sha256_of
from rapidun.lifecycle import RunDirectory
from rapidun.models import LoadedModel
from rapidun.pipeline.context import WHOLE, RunContext, identity, open_inputs, origins_of, signatures
from rapidun.pipeline.estimating import Piece
from rapidun.pipeline.job import Job
from rapidun.pipeline.pieces import training, weighing
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.train import OUTCOME, check_weights
from rapidun.reading import read_object
from rapidun.settings.run import RunConfig
from rapidun.weighting import read_rapidin, read_weights, released_weights, scheme_weights, write_released


def weigh_only(config: RunConfig, out: Path, *, resume: bool, overwrite: bool, reporter: Reporter) -> list[Path]:
    """Influence and weights; returns the files written."""
    context = _open(config, Job(config, out, reporter, resume, overwrite), ("weigh",))
    with context.directory as directory:
        context.weigh()
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
    job = Job(config, out, reporter, resume, overwrite)
    context = _open(config, job, WHOLE if weights is None else ("unlearn",), weights, loaded)
    with context.directory as directory:
        if weights is not None:
            directory.write_text("weights.jsonl", weights.read_text(encoding="utf-8"))
        else:
            context.weigh()
        context.unlearn()
        return {**read_object(out / OUTCOME), "signatures": signatures(out, config)}


def _open(
    config: RunConfig, job: Job, jobs: Sequence[str], weights: Path | None = None, loaded: LoadedModel | None = None
) -> RunContext:
    """Read and check everything, say what ``jobs`` will take, and claim the directory."""
    job.begin("Reading rows and model")
    groups, run_model = open_inputs(config, job.reporter, jobs=jobs, loaded=loaded)
    marks = identity(config, groups, run_model)
    if weights is not None:
        check_weights(weights, groups)
        marks["weights"] = file_sha256(weights)

    def pieces(done: Sequence[str]) -> list[Piece]:
        work = {"weigh": weighing(run_model, groups, config), "unlearn": [training(run_model, groups, config)]}
        return [piece for name in jobs if name not in done for piece in work[name]]

    directory = job.claim(marks, pieces, origins=origins_of(config, groups), skipped=groups.skipped())
    return RunContext(config, groups, run_model, directory, job.reporter)


def weigh_rapidin(
    source: Path, out: Path, *, compat: str | None, scheme: str, seed: int, overwrite: bool
) -> list[Path]:
    """Write ``forget_weights.jsonl`` and ``retain_weights.jsonl``, ``{"index", "weight"}`` a line.

    Args:
        source: Directory of ``influence_results_N_{FTF,FTR,RTF,RTR}.json``.
        out: New directory.
        compat: "released" for the mapping of RapidUn's released code; None for this project's defaults.
        scheme: The weighting scheme when ``compat`` is None.

    Raises:
        ConfigError: If ``compat`` is unknown.
        InputError: If a result file is missing or broken.
    """
    if compat not in (None, "released"):
        raise ConfigError(f"--compat {compat}: the only value is released.")
    results = read_rapidin(source)
    weights = released_weights(results) if compat else scheme_weights(scheme, results.blocks(), seed)
    identity = {
        "rapidin files": sha256_of(path.read_bytes() for path in sorted(source.glob("influence_results_*.json")))
    }
    with RunDirectory.claim(out, identity, resume=False, overwrite=overwrite, resumable=False) as directory:
        return list(write_released(directory.path, weights))
