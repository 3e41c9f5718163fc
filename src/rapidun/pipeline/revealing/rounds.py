"""The files of a reveal run, round by round, and what is read from them: the present state and the summary.

``rounds/01/`` holds ``pulls.jsonl``, ``revealed.jsonl``, ``retain/``, ``forget/``, ``adapter/`` (the state after the
round), ``round.json`` (what training did) and ``measure.json`` (what the model did then). Everything at the top of the
run is made from these, so that undoing a round is moving its directory away.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rapidun.errors import InputError, OutputError
from rapidun.files import write_json
from rapidun.jsonl import read_jsonl, write_jsonl
from rapidun.lifecycle import IDENTITY, RunDirectory, held, read_phases
from rapidun.reading import RESTORE, made_from, read_object
from rapidun.report import write_report
from rapidun.revealing import read_pulls
from rapidun.together import replaced_together

ROUNDS, UNDONE, METHOD, SUMMARY = "rounds", "undone", "unlearn", "reveal.json"
UNDOING = "undoing_to_round"
"""In `SUMMARY` from the instant of undoing until the rounds after this one are moved away."""
TOGETHER = ("revealed.jsonl", "arms.jsonl", "adapter", SUMMARY, "metrics.json")


def round_directory(run: Path, number: int) -> Path:
    """Directory of round ``number``, from 1."""
    return run / ROUNDS / f"{number:02d}"


def rounds_of(run: Path) -> list[int]:
    """Numbers of the rounds that have a directory."""
    folder = run / ROUNDS
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def measured(run: Path, number: int) -> dict[str, Any] | None:
    """``measure.json`` of a round, with "accepted" in it; None where it was not measured."""
    path = round_directory(run, number) / "measure.json"
    found = read_object(path) if path.exists() else None
    if found is not None and not isinstance(found.get("accepted"), bool):
        raise InputError(f"{path}: does not say whether the round was accepted. {RESTORE}")
    return found


def current_round(run: Path, numbers: Sequence[int] | None = None) -> int:
    """The last of these rounds, by default of all, whose release was kept; 0 is the model as it was."""
    numbers = rounds_of(run) if numbers is None else numbers
    kept = [number for number in numbers if (found := measured(run, number)) is not None and found["accepted"]]
    return max(kept, default=0)


def state_adapter(run: Path, number: int) -> Path | None:
    """The adapter of the state after round ``number``; None is the base model."""
    if not number:
        return None
    by_method = round_directory(run, number) / METHOD / "adapter"  # released by another method than modules
    return by_method if by_method.is_dir() else round_directory(run, number) / "adapter"


def settle(run: Path, *, summary: Mapping[str, Any] | None = None, upto: int | None = None) -> None:
    """Make the files at the top of the run from those of its rounds, all at one instant.

    Args:
        run: The run directory; held.
        summary: What ``reveal.json`` is to say; by default what it says, with the rounds that there are.
        upto: The last round that counts; by default the last there is. Later ones are to be moved away.
    """
    numbers = [number for number in rounds_of(run) if upto is None or number <= upto]
    revealed = [path for number in numbers if (path := round_directory(run, number) / "revealed.jsonl").exists()]
    rows = {str(row.get("id")): row for path in revealed for row in read_jsonl(path)}
    if summary is None and (run / SUMMARY).exists():
        summary = {name: value for name, value in read_object(run / SUMMARY).items() if name != UNDOING}
    current = current_round(run, numbers)
    with replaced_together(run, TOGETHER) as state:
        write_jsonl(state / "revealed.jsonl", rows.values())
        write_jsonl(state / "arms.jsonl", (line for number in numbers for line in _pull_lines(run, number)))
        adapter = state_adapter(run, current)
        if adapter is not None:  # byte for byte the round's; absent for the model as it was
            shutil.copytree(adapter, state / "adapter")
        if summary is not None:
            summary = {**summary, "rounds": round_lines(run, numbers), "current": current}
            write_json(state / SUMMARY, summary)
            if summary["method"] != "none":
                with made_from(run / SUMMARY):
                    gate = gate_of(summary)
                write_json(state / "metrics.json", gate)


def _pull_lines(run: Path, number: int) -> list[dict[str, Any]]:
    """One line a pull, without its texts."""
    scores = ("repeat", "relevance", "diversity", "reward")
    return [
        {
            "round": number,
            "stage": pull.stage,
            "arm": pull.arm.name,
            "kind": pull.arm.kind,
            "instruction": pull.arm.instruction,
            **{name: getattr(pull, name) for name in scores},
        }
        for pull in read_pulls(round_directory(run, number) / "pulls.jsonl")
    ]


def round_lines(run: Path, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """What these rounds did, for the summary: rows, relevance and utility before and after, overlap, accepted."""
    found = []
    for number in numbers:
        rows, trained = (round_directory(run, number) / name for name in ("revealed.jsonl", "round.json"))
        line = {"round": number, "rows": len(read_jsonl(rows)) if rows.exists() else 0}
        found.append(line | (read_object(trained) if trained.exists() else {}) | (measured(run, number) or {}))
    return found


def undo(run: Path, to_round: int) -> dict[str, Any]:
    """Go back to the state after round ``to_round``; 0 is the model as it was. Later rounds go to ``undone/``.

    The adapter of that state is the file that the round wrote, so weights are restored exactly. `rapidun reveal
    --resume` goes on from there.

    Returns:
        ``{"from", "to", "adapter", "moved"}``.

    Raises:
        InputError: If the directory is no reveal run with rounds, or has no such round to go back to.
    """
    if not (run / IDENTITY).exists() or not (run / SUMMARY).exists():
        raise InputError(f"{run}: not a finished `rapidun reveal` run ({SUMMARY} is missing).")
    with held(run, resumable=False):
        return _undo(RunDirectory(run, read_phases(run)), to_round)


def _undo(directory: RunDirectory, to_round: int) -> dict[str, Any]:
    run = directory.path
    finish_undo(directory)
    present = current_round(run)
    if not 0 <= to_round <= present:
        there = f"0 to {present}" if present else "0 alone: no round was kept"
        raise InputError(f"{run}: cannot go back to round {to_round}; choose {there}.")
    moved: list[str] = []
    if any(number > to_round for number in rounds_of(run)):
        summary = {**read_object(run / SUMMARY), "stopped": f"undone to round {to_round}", UNDOING: to_round}
        settle(run, summary=summary, upto=to_round)  # the instant of undoing: what follows only tidies up
        moved = finish_undo(directory)
    write_report(run)
    adapter = run / "adapter"
    return {"from": present, "to": to_round, "adapter": str(adapter) if adapter.exists() else None, "moved": moved}


def finish_undo(directory: RunDirectory) -> list[str]:
    """Move the rounds away that were undone, also where a kill came in between; returns where they went."""
    run = directory.path
    to_round = read_object(run / SUMMARY).get(UNDOING) if (run / SUMMARY).exists() else None
    if to_round is None:
        return []
    later = [number for number in rounds_of(run) if number > to_round]
    directory.unmark([f"{job} {number}" for number in later for job in ("reveal", "release", "measure")])
    moved = [_move_away(run, number) for number in later]
    settle(run)
    return moved


def _move_away(run: Path, number: int) -> str:
    source = round_directory(run, number)
    for copy in range(1, 1000):
        target = run / UNDONE / f"{number:02d}-{copy}"
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
            return str(target)
    raise OutputError(f"{run / UNDONE}: round {number} was undone a thousand times; clear the directory.")


def gate_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The gate of a release: the relevance target within the utility budget, by the state that was kept."""
    rounds = [line for line in summary["rounds"] if "accepted" in line]
    kept = [line for line in rounds if line["round"] <= summary["current"] and line["accepted"]]
    start = summary["rounds"][0].get("relevance_before", 0.0) if summary["rounds"] else 0.0
    after = kept[-1]["relevance_after"] if kept else start
    drop = kept[-1]["drop"] if kept else 0.0
    reached = bool(kept) and after <= summary["relevance_target"]
    checks = [
        {
            "name": "relevance_share",
            "passed": reached,
            "value": after,
            "limit": summary["relevance_target"],
            "text": f"Asked in the best ways that were found, the model shows {after:.1%} of the behaviour "
            f"({start:.1%} before); the target is {summary['relevance_target']:.1%}"
            + ("." if summary["relevance_target"] > 0 else ": set release.relevance_target to what is good enough.")
            + ("" if kept else " No round was kept, so the model is as it was."),
        },
        {
            "name": "utility_drop",
            "passed": drop <= summary["max_drop"],
            "value": drop,
            "limit": summary["max_drop"],
            "text": f"Utility by {summary['utility_before']['suite']} fell by {max(drop, 0.0):.3f}; the budget is "
            f"{summary['max_drop']:.3f}.",
        },
    ]
    passed = all(check["passed"] for check in checks)
    return {
        "verdict": "PASS" if passed else "FAIL",
        "gate": {"passed": passed, "checks": checks},
        "stopped": summary["stopped"],
    }
