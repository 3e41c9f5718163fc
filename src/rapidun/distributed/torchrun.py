"""``--engine torchrun``: the command itself is started many times, by torchrun, accelerate or a cluster's scheduler::

    torchrun --nnodes 4 --nproc-per-node 8 ... -m rapidun index build ... --engine torchrun

Rank 0 reads and checks the rows and tells the others (gloo on CPUs, NCCL on GPUs); rank ``r`` of ``W`` makes the
missing shards r, r + W, ...; when all have said how it went, rank 0 finishes. torchrun stops everybody when a rank
dies: the same command with ``--resume`` goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from rapidun.attribution.store import BuildPlan, Manifest, finish
from rapidun.distributed.engines import register_engine
from rapidun.distributed.job import (
    IndexJob,
    Settings,
    WorkerSpec,
    already_whole,
    driving,
    error_to_text,
    make_shards,
    start_driver,
    text_to_error,
)
from rapidun.errors import ConfigError, RapidunError
from rapidun.models.placement import choose_device

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(days=30)  # waiting for a slow rank is no fault; a dead one is seen by what started it


@register_engine("torchrun")
def run(job: IndexJob, settings: Settings) -> Manifest | None:
    """One rank's part of the build. Raises as `rapidun.distributed.build`.

    Raises:
        ConfigError: If the process was not started by torchrun or its like.
    """
    _check_environment(settings)
    placed = job.on(_device(job.config.model.device))
    with _group(placed.config.model.device), ExitStack() as stack:
        rank = distributed.get_rank()
        plan: BuildPlan | None = None
        spec = None
        with _together():
            if rank == 0:
                stack.enter_context(driving(placed, settings))
                plan = start_driver(placed, settings)
                spec = None if plan is None else placed.spec(plan)
        spec = _from_first(spec)
        if spec is None:
            return already_whole(job) if rank == 0 else None
        with _together():
            _work(placed, spec, settings)
        with _together():  # nobody leaves, and looks for the index, before it is there
            return finish(plan) if plan is not None else None


def _work(job: IndexJob, spec: WorkerSpec, settings: Settings) -> None:
    """This rank's shards; progress is of them alone."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    mine = spec.shards[rank::world]
    plan = job.join(spec)
    spans = [plan.span(number) for number in mine]
    total = sum(span.stop - span.start for span in spans)
    if rank == 0:
        title = f"Indexing {len(plan.rows)} rows in {len(plan.spans)} shards; {world} ranks, shown is the first's part"
        settings.reporter.phase("index", title)

    def tell(rows: int) -> None:
        if rank == 0:
            settings.reporter.progress(rows, total, unit="rows")

    make_shards(plan, mine, tell)


def _check_environment(settings: Settings) -> None:
    missing = [name for name in _NEEDED if name not in os.environ]
    if missing:
        raise ConfigError(
            f"--engine torchrun: {', '.join(missing)} not set, so this was not started by torchrun. Start it as: "
            "torchrun --nproc-per-node N -m rapidun index build ... --engine torchrun; or use --engine local."
        )
    if settings.workers is not None:
        raise ConfigError("--workers: torchrun decides how many there are (--nnodes, --nproc-per-node). Leave it out.")


def _device(asked: str) -> str:
    """This rank's device: the GPU of its local rank, unless one is named."""
    device = choose_device(asked)
    if device.type != "cuda" or ":" in str(device):
        return str(device)
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


@contextmanager
def _group(device: str) -> Iterator[None]:
    """The ranks' process group, taken down at the end."""
    backend = "gloo"
    if torch.device(device).type == "cuda":
        torch.cuda.set_device(device)
        backend = "nccl"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    """A step that every rank ends before any goes on; where one rank has failed, all raise its error."""
    told: tuple[str, str] | None = None
    try:
        yield
    except RapidunError as error:
        told = error_to_text(error)
    heard: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(heard, told)
    for failure in heard:
        if failure is not None:
            raise text_to_error(*failure)


def _from_first(spec: WorkerSpec | None) -> WorkerSpec | None:
    """Rank 0's spec, on every rank."""
    box: list[Any] = [spec]
    distributed.broadcast_object_list(box, src=0)
    received: WorkerSpec | None = box[0]
    return received
