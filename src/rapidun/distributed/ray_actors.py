"""``--engine ray`` (extra ``ray``): a pool of actors over shards, on a cluster or on this machine.

An actor gets its first shard when it has a place and a model, and its next when it is done: actors that the cluster
has no room for yet join later. A shard whose actor is lost goes back into the queue, and another actor takes the
lost one's place.
"""

from __future__ import annotations

import importlib
from collections import Counter, deque
from typing import Any

from rapidun.attribution.store import BuildPlan, Manifest, finish
from rapidun.distributed.engines import register_engine
from rapidun.distributed.job import IndexJob, Settings, WorkerSpec, already_whole, driving, make_shard, start_driver
from rapidun.errors import ConfigError, RapidunError

LIVES = 4
"""How many actors a shard may outlive before the build gives up."""
_START = -1  # stands for "no shard yet": the actor is loading its model


@register_engine("ray")
def run(job: IndexJob, settings: Settings) -> Manifest:
    """Build with Ray actors; joins the cluster of ``RAY_ADDRESS``, or starts Ray here. As `distributed.build`.

    Raises:
        ConfigError: If Ray is not installed.
    """
    ray = _ray()
    with driving(job, settings):
        return _run(ray, job, settings)


def _run(ray: Any, job: IndexJob, settings: Settings) -> Manifest:
    plan = start_driver(job, settings)
    if plan is None:
        return already_whole(job)
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        _Pool(ray, job, plan, settings).work()
    finally:
        if ours:
            ray.shutdown()
    return finish(plan)


class ShardActor:
    """A worker: a model of its own and the driver's plan."""

    def __init__(self, job: IndexJob, spec: WorkerSpec) -> None:
        self._job, self._ticket = job, spec
        self._plan: BuildPlan | None = None

    def make(self, number: int) -> int:
        """Compute and write a shard; returns its rows. `_START` loads rows and model."""
        self._plan = self._plan or self._job.join(self._ticket)  # here, where Ray hands on what is raised
        return 0 if number == _START else make_shard(self._plan, number)


class _Pool:
    """Actors, the shards they have, and the shards that wait."""

    def __init__(self, ray: Any, job: IndexJob, plan: BuildPlan, settings: Settings) -> None:
        self._ray, self._plan, self._settings = ray, plan, settings
        self._ticket = job.spec(plan)
        self._waiting = deque(self._ticket.shards)
        self._losses: Counter[int] = Counter()
        gpus = ray.cluster_resources().get("GPU", 0) if job.config.model.device != "cpu" else 0
        self._workers = settings.workers or max(1, int(gpus or ray.cluster_resources().get("CPU", 1)))
        self._actor = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(ShardActor)
        self._job = ray.put(job)
        self._busy: dict[Any, tuple[Any, int]] = {}
        """The actor and the shard behind every call in progress."""

    def work(self) -> None:
        """Make all shards.

        Raises:
            RapidunError: What a shard raised, or if one shard outlives too many actors.
        """
        total = len(self._plan.rows)
        done = total - sum(self._rows(number) for number in self._waiting)
        count = min(self._workers, len(self._waiting))
        title = f"Indexing {total} rows in {len(self._plan.spans)} shards; up to {count} Ray actors"
        self._settings.reporter.phase("index", title)
        for _ in range(count):
            self._give(self._new(), _START)
        while self._waiting or any(number != _START for _, number in self._busy.values()):
            (call,), _ = self._ray.wait(list(self._busy), num_returns=1)
            actor, number = self._busy.pop(call)
            rows = self._outcome(call)
            if rows is None:
                self._replace(number)
                continue
            done += rows
            self._settings.reporter.progress(done, total, unit="rows")
            if self._waiting:
                self._give(actor, self._waiting.popleft())

    def _outcome(self, call: Any) -> int | None:
        """Rows made, or None where the actor was lost."""
        errors = self._ray.exceptions
        try:
            rows: int = self._ray.get(call)
        except errors.RayTaskError as error:  # raised by our own code
            raise _cause(error) from error
        except (errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError):
            return None
        return rows

    def _replace(self, number: int) -> None:
        """Put a lost actor's shard back and start another actor."""
        self._losses[number] += 1
        if self._losses[number] >= LIVES:
            what = "every actor was lost while it loaded the model" if number == _START else f"shard {number}"
            raise RapidunError(
                f"{self._plan.directory}: {what}: {LIVES} actors were lost over it (killed, or out of memory). Lower "
                "--max-tokens and run the same command with --resume."
            )
        if number != _START:
            self._waiting.appendleft(number)
            self._settings.reporter.note(f"an actor was lost; shard {number} is made again")
        self._give(self._new(), _START)

    def _new(self) -> Any:
        return self._actor.remote(self._job, self._ticket)

    def _give(self, actor: Any, number: int) -> None:
        self._busy[actor.make.remote(number)] = (actor, number)

    def _rows(self, number: int) -> int:
        span = self._plan.span(number)
        return span.stop - span.start


def _cause(error: Any) -> BaseException:
    """What our own code raised, out of Ray's error around it."""
    cause = error.cause
    return cause if isinstance(cause, RapidunError) else error


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'rapidun[ray]'.") from error
