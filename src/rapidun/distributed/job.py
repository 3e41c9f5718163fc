"""A build as it travels to a worker: plain settings, and what the driver found out when it read the rows.

The driver reads and checks all rows and fixes the plan; a worker loads rows and model itself, takes over the driver's
manifest, and refuses if what it sees is not what the driver saw. Shards depend on nothing else, so any worker computes
any shard to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.attribution.store import BuildPlan, Manifest, missing_shards, prepare
from rapidun.attribution.store.build import check_index_place
from rapidun.attribution.store.manifest import load_manifest
from rapidun.attribution.store.plan import check_same, data_fingerprint
from rapidun.attribution.store.shards import compute_shard, write_shard
from rapidun.data import Rows
from rapidun.errors import DiskFullError, FingerprintError, InputError, ModelError, OutputError, RapidunError
from rapidun.lifecycle import held
from rapidun.pipeline.indexing import check_scorers, model_context, open_before, plan_new
from rapidun.pipeline.inputs import open_run_model, read_rows
from rapidun.pipeline.job import check_registered
from rapidun.pipeline.pieces import indexing
from rapidun.pipeline.reporter import Reporter, Silent, counting
from rapidun.settings.attribution import IndexConfig

_SAMPLED_ROWS = 64
_KINDS: dict[str, type[RapidunError]] = {
    kind.__name__: kind for kind in (DiskFullError, FingerprintError, InputError, ModelError, OutputError)
}


@dataclass(frozen=True)
class Settings:
    """What every engine is told.

    Args:
        workers: Number of workers; None lets the engine choose.
        resume: Go on with what a stopped build left.
        overwrite: Replace an index that is there.
        reporter: Told of phases and progress.
    """

    workers: int | None = None
    resume: bool = False
    overwrite: bool = False
    reporter: Reporter = field(default_factory=Silent)


@dataclass(frozen=True)
class WorkerSpec:
    """What the driver tells every worker; plain values, so that any engine can send it.

    Args:
        manifest: Of the plan, as in its JSON file.
        left_out: Lines of rows that cannot be tokenised.
        sample: Fingerprint of some rows.
        shards: The shards to make, in order.
    """

    manifest: dict[str, Any]
    left_out: tuple[int, ...]
    sample: str
    shards: tuple[int, ...]


@dataclass(frozen=True)
class IndexJob:
    """The arguments of `rapidun.pipeline.indexing.build`.

    Args:
        config: Model, rows and index settings.
        data: The row file; every worker must see it under this path.
        out: The index; every worker must be able to write there.
        adapter: PEFT adapter, or None.
    """

    config: IndexConfig
    data: Path
    out: Path
    adapter: Path | None = None

    def plan(self, reporter: Reporter) -> BuildPlan:
        """The driver's plan: every row read and checked. Raises as `rapidun.pipeline.indexing.plan_new`."""
        return plan_new(self.config, self.data, self.out, adapter=self.adapter, reporter=reporter)

    def spec(self, plan: BuildPlan) -> WorkerSpec:
        """What workers need to know of the driver's plan."""
        left_out = tuple(row.line for row in plan.rows.skipped)
        manifest = plan.manifest.model_dump(mode="json")
        return WorkerSpec(manifest, left_out, _sample(plan.rows), tuple(missing_shards(plan)))

    def join(self, spec: WorkerSpec) -> BuildPlan:
        """The driver's plan, made again by a worker with a model of its own.

        Raises:
            FingerprintError: If the worker's model, adapter, tokenizer, template or rows are not the driver's.
        """
        check_registered(self.config)  # a worker's process knows no plugin yet
        rows = read_rows(self.data, "rows", self.config.data, Silent())
        run_model = open_run_model(self.config.model, self.config.data, Silent(), adapter=self.adapter)
        before = open_before(self.config.index.base, self.config.model, Silent())
        model = model_context(run_model, self.adapter, before)
        manifest = Manifest.model_validate(spec.manifest)
        check_same(manifest, self.out, model.origins(), **model.fingerprints())
        check_scorers(manifest, model)
        rows = _without(rows, set(spec.left_out))
        if len(rows) != manifest.rows or _sample(rows) != spec.sample:
            raise FingerprintError(
                f"{self.data}: a worker found {len(rows)} rows that are not the {manifest.rows} rows of the driver. "
                "Give all machines the same file."
            )
        return BuildPlan(self.out, manifest, model, rows)

    def on(self, device: str) -> IndexJob:
        """The same on another device."""
        model = self.config.model.model_copy(update={"device": device})
        return replace(self, config=self.config.model_copy(update={"model": model}))


@contextmanager
def driving(job: IndexJob, settings: Settings) -> Iterator[None]:
    """Hold the index's directory: there is one driver at a time. Raises OutputError where another process has it."""
    check_index_place(job.out, resume=settings.resume, overwrite=settings.overwrite)
    with held(job.out, resumable=True):
        yield


def start_driver(job: IndexJob, settings: Settings) -> BuildPlan | None:
    """The driver's plan, checked and begun, and its model let go; None where the index is whole already.

    Call it while `driving`.

    Raises:
        OutputError, FingerprintError, InputError, ModelError: As `build_index`, before any worker starts.
    """
    plan = job.plan(settings.reporter)
    settings.reporter.plan([indexing(plan)])
    told = counting(settings.reporter, "rows")
    prepared = prepare(plan, resume=settings.resume, overwrite=settings.overwrite, progress=told)
    return None if prepared is None else without_model(prepared)


def without_model(plan: BuildPlan) -> BuildPlan:
    """The plan for a driver that computes nothing, so that its device's memory is free for a worker."""
    loaded, before = plan.model.loaded, plan.model.before
    before = None if before is None else replace(before, model=None)
    return replace(plan, model=replace(plan.model, loaded=replace(loaded, model=None), before=before))


def already_whole(job: IndexJob) -> Manifest:
    """The manifest of a finished index."""
    return load_manifest(job.out)


def make_shard(plan: BuildPlan, number: int, tick: Callable[[int], None] | None = None) -> int:
    """Compute and write one shard; returns its rows. ``tick`` hears of rows done after each batch."""
    return write_shard(plan, compute_shard(plan, number, tick)).rows


def make_shards(plan: BuildPlan, shards: Sequence[int], tell: Callable[[int], None]) -> None:
    """A worker's shards one after another; ``tell`` hears of the rows of all of them that are done, batch by batch."""
    done = 0
    for number in shards:
        done += make_shard(plan, number, lambda rows, before=done: tell(before + rows))  # type: ignore[misc]
        tell(done)


def error_to_text(error: RapidunError) -> tuple[str, str]:
    """Kind and message, to be sent to another process."""
    return type(error).__name__, str(error)


def text_to_error(kind: str, message: str) -> RapidunError:
    """The error that `error_to_text` described."""
    return _KINDS.get(kind, RapidunError)(message)


def _sample(rows: Rows) -> str:
    places = np.unique(np.linspace(0, len(rows) - 1, _SAMPLED_ROWS).astype(np.int64)).tolist()
    return data_fingerprint(replace(rows, dataset=rows.dataset.select(places)))


def _without(rows: Rows, lines: set[int]) -> Rows:
    kept = [place for place, line in enumerate(rows.lines) if line not in lines] if lines else []
    if not lines or len(kept) == len(rows):
        return rows
    return replace(rows, dataset=rows.dataset.select(kept), lines=[rows.lines[place] for place in kept])
