"""``--engine local``: all devices of this machine, a process for each GPU; on a CPU, as many as asked for.

Worker ``r`` of ``W`` makes the missing shards r, r + W, ... . When all have ended, what a lost worker left is given out
again, until nothing is missing or a whole round made nothing. A worker computes with ``OMP_NUM_THREADS`` threads, or
one: never with a number that depends on how many workers there are, since sums may round differently.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import torch
from torch import multiprocessing

from rapidun.attribution.store import BuildPlan, Manifest, finish, missing_shards
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
from rapidun.errors import RapidunError
from rapidun.models.placement import choose_device
from rapidun.pipeline.reporter import Reporter


@register_engine("local")
def run(job: IndexJob, settings: Settings) -> Manifest:
    """Build with worker processes on this machine. Raises as `rapidun.distributed.build`."""
    devices = _devices(job.config.model.device, settings.workers)
    with driving(job, settings):
        return _run(job, settings, devices)


def _run(job: IndexJob, settings: Settings, devices: list[str]) -> Manifest:
    plan = start_driver(job.on(devices[0]), settings)
    if plan is None:
        return already_whole(job)
    spec = job.spec(plan)
    count = min(len(devices), max(1, len(spec.shards)))
    title = f"Indexing {len(plan.rows)} rows in {len(plan.spans)} shards; {count} workers"
    settings.reporter.phase("index", title)
    while spec.shards:
        _round(job, spec, devices[:count], _Progress(plan, spec, settings.reporter))
        left = tuple(missing_shards(plan))
        if len(left) == len(spec.shards):
            raise RapidunError(
                f"{plan.directory}: every worker was lost before it finished a shard (killed, or out of memory). Lower "
                "--max-tokens or --workers and run the same command with --resume."
            )
        if left:
            settings.reporter.note(f"a worker was lost; its {len(left)} shards are made again")
        spec = replace(spec, shards=left)
    return finish(plan)


class _Progress:
    """Rows done by all workers of a round, on top of those done before it."""

    def __init__(self, plan: BuildPlan, spec: WorkerSpec, reporter: Reporter) -> None:
        missing = sum(plan.span(number).stop - plan.span(number).start for number in spec.shards)
        self._before = len(plan.rows) - missing
        self._done: dict[int, int] = {}
        self._total, self._reporter = len(plan.rows), reporter

    def __call__(self, worker: int, rows: int) -> None:
        self._done[worker] = rows
        self._reporter.progress(min(self._total, self._before + sum(self._done.values())), self._total, unit="rows")


def _devices(asked: str, workers: int | None) -> list[str]:
    """The device of each worker: every GPU once unless told otherwise; ``cuda:1`` means that GPU alone."""
    device = choose_device(asked)
    if device.type == "cpu":
        return ["cpu"] * (workers or max(1, (os.cpu_count() or 1) // _threads()))
    if device.type != "cuda" or ":" in str(device):
        return [str(device)] * (workers or 1)
    gpus = torch.cuda.device_count()
    return [f"cuda:{place % gpus}" for place in range(workers or gpus)]


def _threads() -> int:
    """Threads of a worker."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(asked)) if asked.isdigit() else 1


def _round(job: IndexJob, spec: WorkerSpec, devices: list[str], progress: _Progress) -> None:
    """Start a worker for every device and listen until all have ended, well or not.

    Raises:
        RapidunError: What a worker raised; the others are stopped.
    """
    with _workers(job, spec, devices) as listening:
        while listening:
            for connection in cast("list[Connection]", wait(list(listening))):
                try:
                    kind, *content = connection.recv()
                except (EOFError, OSError):  # ended or killed: what it left is missing, and found so
                    del listening[connection]
                    continue
                if kind == "error":
                    raise text_to_error(*content)
                progress(listening[connection], *content)


@contextmanager
def _workers(job: IndexJob, spec: WorkerSpec, devices: list[str]) -> Iterator[dict[Connection, int]]:
    """Running workers by the connection they speak through; none is left running afterwards."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    listening: dict[Connection, int] = {}
    started: list[Any] = []
    try:
        for rank, device in enumerate(devices):
            ours, theirs = context.Pipe(duplex=False)
            shards = spec.shards[rank :: len(devices)]
            process = context.Process(target=_work, args=(theirs, job.on(device), spec, shards), daemon=True)
            process.start()
            theirs.close()
            started.append(process)
            listening[ours] = rank
        yield listening
    finally:
        for process in started:
            if process.is_alive() and listening:
                process.terminate()
            process.join()


def _work(connection: Connection, job: IndexJob, spec: WorkerSpec, shards: Sequence[int]) -> None:
    """A worker process: makes its shards and tells the driver after every batch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's, which stops its workers
    torch.set_num_threads(_threads())
    try:
        make_shards(job.join(spec), shards, lambda rows: connection.send(("rows", rows)))
    except RapidunError as error:
        connection.send(("error", *error_to_text(error)))
    except BrokenPipeError:
        return  # the driver is gone; whole shards are kept
