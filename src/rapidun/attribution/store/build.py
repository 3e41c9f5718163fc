"""Build an index, or add to one: every shard of a plan, computed here and written in the background.

While shards are made, ``.building/`` holds the plan and a mark for each whole shard. A build that was killed goes on
at the first shard without a mark and ends with the same bytes as one that was not. The manifest is written last, so
an index that opens is whole; while rows are appended, the old manifest stays valid.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rapidun.attribution.store.manifest import (
    BUILDING,
    MANIFEST,
    PLAN,
    Manifest,
    ShardFiles,
    entry_of,
    load_manifest,
    mark_file,
    parse_manifest,
)
from rapidun.attribution.store.plan import BuildPlan, chained
from rapidun.attribution.store.shards import compute_shard, row_ids, write_moments, write_shard
from rapidun.errors import FingerprintError, InputError, OutputError
from rapidun.files import LOCK, check_place, disk_error, is_empty, remove_leftovers
from rapidun.lifecycle import check_free, held
from rapidun.reading import read_kind

Progress = Callable[[int, int], None]
_WAITING = 1  # shards in memory beside the one being computed


def build_index(
    plan: BuildPlan, *, resume: bool = False, overwrite: bool = False, progress: Progress | None = None
) -> Manifest:
    """Carry out a plan of `plan_build` or `plan_append`, here, shard by shard.

    Args:
        plan: What to build.
        resume: Go on with what a stopped build of the same plan left.
        overwrite: Replace an index that is there; only a directory that holds one is ever removed.
        progress: Called after each batch with ``(rows done, rows of the plan)``; while a preconditioner is fitted,
            with ``(rows done, rows it is fitted to)``, once through for each of its passes.

    Raises:
        OutputError: If the place is taken, cannot be written, or the disk is full (go on with ``resume``).
        FingerprintError: On resume, if the plan is not the one that was begun; names both values.
        InputError, ModelError: If a row or a vector cannot be used, or rows to append are in the index already.
    """
    if not plan.appends:
        check_index_place(plan.directory, resume=resume, overwrite=overwrite)
    with held(plan.directory, resumable=True):
        return _build(plan, resume, overwrite, progress)


def _build(plan: BuildPlan, resume: bool, overwrite: bool, progress: Progress | None) -> Manifest:
    prepared = prepare(plan, resume=resume, overwrite=overwrite, progress=progress)
    if prepared is None:
        return load_manifest(plan.directory)
    plan = prepared
    report = progress or (lambda done, total: None)
    done = sum(span.stop - span.start for span in plan.spans if is_done(plan, span.number))
    report(done, len(plan.rows))
    pending: deque[Future[ShardFiles]] = deque()

    def settle(waiting: int) -> None:
        """Raise what a write raised; wait while more than ``waiting`` shards wait, so that memory stays bounded."""
        while pending and (len(pending) > waiting or pending[0].done()):
            pending.popleft().result()

    def tick(rows: int) -> None:
        settle(_WAITING + 1)  # after every batch, so a full disk stops the build at once
        report(done + rows, len(plan.rows))

    with ThreadPoolExecutor(1, "index-writer") as pool:  # its end waits: what was computed is kept, also after Ctrl-C
        for number in missing_shards(plan):
            content = compute_shard(plan, number, tick)
            settle(_WAITING)
            pending.append(pool.submit(write_shard, plan, content))
            done += content.table.num_rows
        settle(0)
    return finish(plan)


def prepare(
    plan: BuildPlan, *, resume: bool = False, overwrite: bool = False, progress: Progress | None = None
) -> BuildPlan | None:
    """Check that a plan can be carried out, or that what is there is the same plan, half done; fit what is fitted once.

    Call it once, before any worker's `build_shard`, holding the directory. Raises as `build_index`.

    Returns:
        The plan to go on with, what was fitted named in it; None where ``resume`` finds this very plan finished.
    """
    directory = plan.directory
    if not plan.appends:
        check_index_place(directory, resume=resume, overwrite=overwrite)
    else:
        _settle(directory)
        if resume and is_appended(plan):
            return None
    begun = (directory / PLAN).is_file()
    if begun and resume:
        before = parse_manifest(directory / PLAN)
        _check_plan(plan, before)
        plan = plan.with_views(before.views)
    elif plan.appends:
        _check_appending(plan, begun=begun, resume=resume)
    elif resume and (directory / MANIFEST).is_file():
        _check_plan(plan, load_manifest(directory))
        shutil.rmtree(directory / BUILDING, ignore_errors=True)
        return None
    elif directory.is_dir():
        _clear(directory)
    check_new(plan)
    _clean(directory, begun=begun and resume)
    plan.manifest.save(directory / PLAN)
    return _fitted(plan, progress)


def is_appended(plan: BuildPlan) -> bool:
    """Whether the rows of an append are what was last appended to the index."""
    there = load_manifest(plan.directory)
    return bool(there.appended_to) and chained(there.appended_to, plan.rows) == there.fingerprints.data


def check_new(plan: BuildPlan) -> None:
    """Refuse rows to append that are in the index already, unless they may be there twice.

    Raises:
        InputError: Naming the first of them.
    """
    if plan.repeats or not plan.appends:
        return
    lines = dict(zip(plan.rows.dataset["id"], plan.rows.lines, strict=True))
    found = [
        (lines[name], name, shard.first + place)
        for shard in plan.manifest.shards
        for place, name in enumerate(row_ids(plan.directory, shard.number, shard.rows))
        if name in lines
    ]
    if found:
        line, name, position = min(found)
        raise InputError(
            f"{plan.rows.path}:{line}: {name!r} is row {position} of the index already, and so are "
            f"{len(found) - 1} more of the {len(lines)} rows. Append new rows alone; --repeats appends them again."
        )


def _fitted(plan: BuildPlan, progress: Progress | None) -> BuildPlan:
    """The plan after every view has fitted what it needs; a build killed meanwhile fits again."""
    fitted = plan.with_views({name: view.fit(plan, progress) for name, view in plan.manifest.views.items()})
    if fitted.manifest != plan.manifest:
        fitted.manifest.save(plan.directory / PLAN)
    return fitted


def missing_shards(plan: BuildPlan) -> Iterator[int]:
    """Numbers of the plan's shards that have no mark yet, in order; looks again before each."""
    return (number for number in plan.numbers if not is_done(plan, number))


def is_done(plan: BuildPlan, number: int) -> bool:
    """Whether the shard is whole."""
    return (plan.directory / mark_file(number)).is_file()


def finish(plan: BuildPlan) -> Manifest:
    """Write what spans shards and the manifest, once every shard is whole; call it once, after all workers.

    Raises:
        InputError: If a shard is missing.
    """
    directory = plan.directory
    shards = [*plan.manifest.shards, *(_marked(plan, number) for number in plan.numbers)]
    manifest = plan.manifest.model_copy(update={"shards": shards})
    fitted = [path for scorer in manifest.views.values() for path in scorer.files(directory)]
    entries = [entry_of(path.relative_to(directory).as_posix(), path.read_bytes()) for path in fitted]
    manifest = manifest.model_copy(update={"files": [*write_moments(directory, manifest), *entries]})
    manifest.save(directory / MANIFEST)
    (directory / PLAN).unlink()  # first: without it the marks count for nothing
    shutil.rmtree(directory / BUILDING)
    return manifest


def _marked(plan: BuildPlan, number: int) -> ShardFiles:
    if not is_done(plan, number):
        raise InputError(f"{plan.directory}: shard {number} is missing. Run the same build again with --resume.")
    return read_kind(plan.directory / mark_file(number), ShardFiles)


def check_index_place(directory: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a place for a new index that is taken or cannot be written. Raises OutputError as `check_place`."""
    # nothing but what a build leaves that was killed before its plan was in place
    empty = directory.is_dir() and not (directory / PLAN).exists() and is_empty(directory, but=[BUILDING])
    if not empty:
        check_place(directory, [MANIFEST, BUILDING], "an index", resume=resume, overwrite=overwrite)
    check_free(directory)


def _clear(directory: Path) -> None:
    """Remove an index: what says that it is whole first, what says that it is one last, so a kill only delays it."""
    (directory / BUILDING).mkdir(exist_ok=True)
    (directory / MANIFEST).unlink(missing_ok=True)
    (directory / PLAN).unlink(missing_ok=True)
    for path in directory.iterdir():
        if path.name not in (LOCK, BUILDING):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _check_appending(plan: BuildPlan, *, begun: bool, resume: bool) -> None:
    if begun:
        raise OutputError(
            f"{plan.directory}: rows are half appended. Run the same append with --resume; or remove "
            f"{plan.directory / BUILDING}, and the index is as it was before."
        )
    if resume:
        raise OutputError(f"{plan.directory}: no append of these rows was begun here. Leave out --resume.")


def _settle(directory: Path) -> None:
    """Take away what an append leaves that was killed after its manifest was in place: a plan, or marks without one."""
    if (directory / PLAN).is_file():
        there, planned = load_manifest(directory), parse_manifest(directory / PLAN)
        if (there.fingerprints, there.rows) != (planned.fingerprints, planned.rows):
            return
    shutil.rmtree(directory / BUILDING, ignore_errors=True)


def _clean(directory: Path, *, begun: bool) -> None:
    """Remove half-written files of a killed build and, unless one goes on, marks that no plan stands behind."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not begun:
            shutil.rmtree(directory / BUILDING, ignore_errors=True)
        remove_leftovers(directory)
    except OSError as error:
        raise disk_error(error, directory) from error


def _check_plan(plan: BuildPlan, begun: Manifest) -> None:
    before = begun.planned().model_dump(mode="json")
    now = plan.manifest.planned().model_dump(mode="json")
    for name in ("fingerprints", "views", "matrices", "max_length", "max_tokens", "shard_rows", "rows"):
        if before[name] != now[name]:
            key, old, new = _first_difference(name, before[name], now[name])
            raise FingerprintError(
                f"{plan.directory}: cannot resume: {key} was {old} and is now {new}. Give the same settings and rows, "
                "or start anew in another place."
            )


def _first_difference(name: str, old: object, new: object) -> tuple[str, object, object]:
    """The first key, dotted, under which two JSON values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                return _first_difference(f"{name}.{key}", old.get(key), new.get(key))
    return name, old, new
