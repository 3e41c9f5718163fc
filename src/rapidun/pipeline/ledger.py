"""Several forget requests one after the other: each an adapter of its own, any of them undone later.

Request k is unlearned on the model as requests 1..k-1 left it, and only its own adapter is new. The model after all
of them is base + sum of the active adapters; that sum is itself an adapter, ``OUT/adapter``, and it loads on the base
model. Undoing a request leaves its part out of the sum: exact, without training and without loading the model. (What
later requests learnt on top of it stays as they learnt it.)

    OUT/ledger.json                       what was asked, what was done, what it cost, in order
    OUT/requests/001-name/                a run directory: config, weights, log, checkpoints, adapter
    OUT/adapter/                          the sum of the active adapters
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rapidun.data import Example
from rapidun.errors import ConfigError, FingerprintError, InputError
from rapidun.files import check_replaceable, write_json
from rapidun.lifecycle import CONFIG, RunDirectory, held
from rapidun.models import load_adapter, merge_adapter
from rapidun.models.adapters import combine_adapters
from rapidun.pipeline.context import identity, origins_of
from rapidun.pipeline.estimating import Piece
from rapidun.pipeline.evidence import say_coverage, weigh
from rapidun.pipeline.inputs import (
    RowGroups,
    RunModel,
    check_targets,
    held_rows,
    open_run_model,
    read_groups,
    rows_fingerprint,
    usable_groups,
)
from rapidun.pipeline.job import Job
from rapidun.pipeline.meter import Meter
from rapidun.pipeline.pieces import training, weighing
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.train import check_preferred, train, write_sum_card
from rapidun.reading import as_kind, inside, path_fault, read_object, read_text
from rapidun.settings.run import RunConfig
from rapidun.together import replaced_together
from rapidun.unlearning import Procedure, get_method

LEDGER = "ledger.json"
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Entry:
    """One request as it was carried out.

    Args:
        number: From 1.
        name: The file's name without its ending.
        rows: Number of forget rows.
        fingerprint: Of the forget rows.
        directory: Below the ledger's, with the adapter.
        forget_before: Loss of its forget rows before the request.
        forget_after: The same after it.
        utility: Loss on validation rows with all requests up to this one, over the base model's: 1.02 is 2% worse.
        stopped: Why its training ended early, or None.
        seconds: Influence, weights and training.
        active: False once it was undone.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    number: int
    name: str
    rows: int
    fingerprint: str
    directory: str
    forget_before: float
    forget_after: float
    utility: float
    stopped: str | None
    seconds: float
    active: bool = True


def request_files(source: Path) -> list[Path]:
    """The forget sets of a directory in order of name, or those that a text file lists, one path a line.

    Raises:
        InputError: If there are none, or one is missing or listed twice.
    """
    if path_fault(str(source)):
        raise InputError(f"--requests {str(source)[:200]}: {path_fault(str(source))}.")
    if source.is_dir():
        found = sorted(path for path in source.iterdir() if path.suffix in SUFFIXES)
    elif source.is_file() and source.suffix in SUFFIXES:
        found = [source]
    elif source.is_file():
        lines = read_text(source).split("\n")
        found = [source.parent / line.strip() for line in lines if line.strip() and not line.startswith("#")]
    else:
        raise InputError(f"{source}: no such file or directory. --requests takes a directory of forget sets or a list.")
    if not found:
        raise InputError(f"{source}: no forget set ({', '.join(SUFFIXES)}) there.")
    for number, path in enumerate(found, 1):
        if path_fault(str(path)) or not path.is_file():
            raise InputError(f"{source}: request {number}, {path}: no such file.")
        if path in found[: number - 1]:
            raise InputError(f"{source}: request {number}, {path}, is listed twice.")
    return found


def unlearn_requests(
    config: RunConfig, requests: Sequence[Path], out: Path, *, resume: bool, overwrite: bool, reporter: Reporter
) -> list[Entry]:
    """Carry out every request in order; with ``resume`` the finished ones are kept and the rest goes on.

    Args:
        config: One configuration for all; its ``data.forget`` is each request's in turn.
        requests: From `request_files`.
        out: The ledger's directory.
        resume: Go on; requests may have been added at the end.
        overwrite: Replace a ledger that is there.
        reporter: Where progress goes.

    Raises:
        ConfigError: If the method's result is no adapter.
        FingerprintError: On resume, if the model or the settings are others than before.
        InputError: On resume, if a request that was carried out has changed or is missing.
    """
    job = Job(config, out, reporter, resume, overwrite)
    job.begin("Reading rows and model")
    method = get_method(config.unlearning.method)
    if isinstance(method, Procedure) and method.saves != "adapter":
        raise ConfigError(f"--requests needs a method whose result is an adapter; {method.name!r} changes the model.")
    configs = [_for_request(config, path) for path in requests]
    groups = [read_groups(each.data, reporter, each.seed) for each in configs]
    for each in groups:
        check_preferred(config, each)
    run_model = open_run_model(config.model, config.data, reporter)
    groups = [usable_groups(each, run_model, config.data, reporter) for each in groups]
    check_targets(run_model, config)
    say_coverage(config, run_model, reporter)

    def left(_: Sequence[str]) -> list[Piece]:
        entries = _carried_out(out) if resume else []
        _check_unchanged(entries, requests, groups, out)
        return _pieces(configs, groups, run_model, requests, len(entries))

    marks = identity(_for_request(config, Path("request")), groups[0], run_model)
    del marks["rows forget"]  # what must stay the same over all requests is the rest
    origins = origins_of(configs[0], groups[0])
    with job.claim(marks, left, origins=origins, replayable=False):
        entries = _carried_out(out)  # again: until now another process may have been at work
        _save(out, entries)
        held = held_rows(run_model, groups[0])
        reference = run_model.losses(held).mean, held
        for number in range(len(entries) + 1, len(requests) + 1):
            reporter.phase("request", f"Request {number} of {len(requests)}: {requests[number - 1].stem}")
            config, group = configs[number - 1], groups[number - 1]
            entry = _carry_out(config, group, number, out, entries, reference, reporter)
            entries = [*entries, entry]
            _save(out, entries)
            reporter.note(describe(entry))
    return entries


def _pieces(
    configs: Sequence[RunConfig],
    groups: Sequence[RowGroups],
    run_model: RunModel,
    requests: Sequence[Path],
    done: int,
) -> list[Piece]:
    """Influence and training of every request that is left, all tried on the model as it is."""
    return [
        replace(piece, title=f"{request.stem}: {piece.title}")
        for config, group, request in list(zip(configs, groups, requests, strict=True))[done:]
        for piece in (*weighing(run_model, group, config), training(run_model, group, config))
    ]


def undo(out: Path, number: int, *, again: bool = False) -> list[Entry]:
    """Take request ``number`` out of the sum (or, with ``again``, put it back); returns the ledger.

    Raises:
        InputError: If there is no such request, or it is undone (or active) already.
    """
    read_ledger(out)  # refuses a place that is no ledger
    with held(out, resumable=False):
        entries = read_ledger(out)
        chosen = next((entry for entry in entries if entry.number == number), None)
        if chosen is None:
            raise InputError(f"{out / LEDGER}: no request {number}; there are {len(entries)}.")
        if chosen.active == again:
            state = "active" if again else "undone"
            raise InputError(f"{out / LEDGER}: request {number} ({chosen.name}) is {state} already.")
        entries = [replace(entry, active=again) if entry is chosen else entry for entry in entries]
        _save(out, entries)
        return entries


def read_ledger(out: Path) -> list[Entry]:
    """The entries of a ledger, in order.

    Raises:
        InputError: If there is none, or it was not written by rapidun.
    """
    if not (out / LEDGER).is_file():
        raise InputError(f"{out}: no {LEDGER} there. Give the --out of `rapidun unlearn --requests`.")
    path = out / LEDGER
    entries = as_kind(
        list[Entry], read_object(path).get("requests"), path, "It is not as rapidun wrote it: restore it."
    )
    for place, entry in enumerate(entries, 1):
        inside(out, entry.directory, path)
        if entry.number != place:
            raise InputError(f"{path}: request {place} is numbered {entry.number}. Restore the file.")
    return entries


def _carried_out(out: Path) -> list[Entry]:
    return read_ledger(out) if (out / LEDGER).exists() else []


def describe(entry: Entry) -> str:
    """One line."""
    state = "" if entry.active else ", undone"
    return (
        f"request {entry.number} ({entry.name}): {entry.rows} rows, their loss {entry.forget_before:.3f} -> "
        f"{entry.forget_after:.3f}; validation loss {entry.utility:.3f} times the base model's{state}"
    )


def _for_request(config: RunConfig, path: Path) -> RunConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"forget": path})})


def _check_unchanged(
    entries: Sequence[Entry], requests: Sequence[Path], groups: Sequence[RowGroups], out: Path
) -> None:
    if len(entries) > len(requests):
        raise InputError(
            f"{out}: {len(entries)} requests were carried out, and {len(requests)} are given. Undo by --undo."
        )
    for entry, path, group in zip(entries, requests, groups, strict=False):
        if entry.fingerprint != rows_fingerprint(group.forget):
            raise InputError(
                f"{path}: request {entry.number} ({entry.name}) was carried out with other rows. Requests are only "
                "added at the end; take one back by --undo."
            )


def _carry_out(
    config: RunConfig,
    groups: RowGroups,
    number: int,
    out: Path,
    entries: Sequence[Entry],
    reference: tuple[float, list[Example]],
    reporter: Reporter,
) -> Entry:
    """One request on the model as the active ones left it. A stopped one goes on where it was."""
    base, held_rows = reference
    name = re.sub(r"[^\w.-]+", "_", Path(config.data.forget).stem)
    place = out / "requests" / f"{number:03d}-{name}"
    run_model = _as_left(config, out, entries, reporter)
    with _claim(place, identity(config, groups, run_model), reporter) as run:
        run.write_text(CONFIG, config.to_yaml())
        before = run_model.losses(run_model.tokenize(groups.forget)).mean
        with Meter("request") as meter:
            if not run.done("weigh"):
                weigh(config, groups, run_model, place, reporter)
                run.mark({"name": "weigh"})
            outcome = train(config, groups, run_model, place, reporter)
    after = run_model.with_model(load_adapter(run_model.loaded.model, place / "adapter"))
    return Entry(
        number=number,
        name=name,
        rows=len(groups.forget),
        fingerprint=rows_fingerprint(groups.forget),
        directory=str(place.relative_to(out)),
        forget_before=before,
        forget_after=after.losses(run_model.tokenize(groups.forget)).mean,
        utility=after.losses(held_rows).mean / base,
        stopped=outcome["stopped"],
        seconds=meter.record["seconds"],
    )


def _claim(place: Path, marks: dict[str, str], reporter: Reporter) -> RunDirectory:
    """The request's directory; one left unfinished on another model (a request was undone since) begins anew."""
    try:
        return RunDirectory.claim(place, marks, resume=True, overwrite=False)
    except FingerprintError:
        reporter.note("the model is another than when this request was stopped: it begins anew")
        return RunDirectory.claim(place, marks, resume=False, overwrite=True)


def _as_left(config: RunConfig, out: Path, entries: Sequence[Entry], reporter: Reporter) -> RunModel:
    """A fresh model with the active adapters merged into it."""
    run_model = open_run_model(config.model, config.data, reporter)
    for entry in entries:
        if entry.active:
            merged = merge_adapter(load_adapter(run_model.loaded.model, out / entry.directory / "adapter"))
            run_model = run_model.with_model(merged)
    return run_model


def _save(out: Path, entries: Sequence[Entry]) -> None:
    """The sum and the ledger that says what is in it, at one instant."""
    active = [out / entry.directory / "adapter" for entry in entries if entry.active]
    check_replaceable(out / "adapter", "adapter_config.json", "an adapter")
    with replaced_together(out, (LEDGER, "adapter")) as state:
        if active:  # with every request undone the model is the base model
            combine_adapters(active, state / "adapter")
            write_sum_card(out, [entry.directory for entry in entries if entry.active], state / "adapter")
        write_json(state / LEDGER, {"requests": [asdict(entry) for entry in entries]})


def summary(entries: Sequence[Entry]) -> dict[str, Any]:
    """For ``--json``."""
    return {"requests": [asdict(entry) for entry in entries], "active": sum(entry.active for entry in entries)}
