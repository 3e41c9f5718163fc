"""The files of a run directory, read and checked. The report knows nothing else about a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rapidun.errors import InputError
from rapidun.jsonl import Line, read_jsonl, read_log
from rapidun.reading import read_json
from rapidun.report.record import Record
from rapidun.sealed import altered, read_sealed
from rapidun.tensor_files import load_arrays

Block = NDArray[np.float32]
BLOCK_NAMES = ("ff", "fr", "rf", "rr")


@dataclass(frozen=True)
class RunFiles:
    """What a run directory holds; ``None`` or an empty list where a file is absent."""

    directory: Path
    manifest: Record | None
    metrics: Record | None
    blocks: dict[str, Block] | None  # each (scored rows, queries)
    weights: list[Record]
    samples: list[Record]
    trace: list[Record]
    log: list[Record]
    skipped: list[Record]
    config: str | None
    valuation: Record | None = None
    reveal: Record | None = None
    arms: list[Record] = field(default_factory=list)
    revealed: list[Record] = field(default_factory=list)
    attacks: Record | None = None
    evaluations: list[Record] = field(default_factory=list)  # metrics.json of measurements in folders of the run


def read_run(directory: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        InputError: If it is not a run directory, or one of its files is broken; names the file.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such run directory. Give the --out of `rapidun run`, demo, reveal or value.")
    manifest, metrics = _sealed(directory / "manifest.json"), _record(directory / "metrics.json")
    valuation = _record(directory / "valuation.json")
    if manifest is None and metrics is None and valuation is None:
        raise InputError(
            f"{directory}: neither manifest.json nor metrics.json is here, so this is not a run directory. "
            "Give the --out of `rapidun run`, demo, reveal or value."
        )
    config = directory / "config.yaml"
    return RunFiles(
        directory=directory,
        manifest=manifest,
        metrics=metrics,
        blocks=_blocks(directory / "blocks.safetensors"),
        weights=_records(directory / "weights.jsonl"),
        samples=_records(directory / "samples.jsonl"),
        trace=_records(directory / "trace.jsonl"),
        log=_records(directory / "log.jsonl", read_log),
        skipped=_records(directory / "rows_skipped.jsonl"),
        config=config.read_text(encoding="utf-8", errors="replace") if config.exists() else None,
        valuation=valuation,
        reveal=_record(directory / "reveal.json"),
        arms=_records(directory / "arms.jsonl"),
        revealed=_records(directory / "revealed.jsonl"),
        attacks=_record(directory / "attacks" / "attacks.json"),
        evaluations=[found for path in sorted(directory.glob("*/metrics.json")) if (found := _record(path))],
    )


def _record(path: Path) -> Record | None:
    if not path.exists():
        return None
    return Record.of(read_json(path), str(path))


def _sealed(path: Path) -> Record | None:
    """A file that has a checksum of itself, unless it was written before there was one."""
    if not path.exists():
        return None
    value, whole = read_sealed(path)
    if whole is False:
        raise altered(path)
    return Record.of(value, str(path))


def _records(path: Path, read: Callable[[Path], list[Line]] = read_jsonl) -> list[Record]:
    if not path.exists():
        return []
    return [Record.of(row, f"{path}: row {number}") for number, row in enumerate(read(path), 1)]


def _blocks(path: Path) -> dict[str, Block] | None:
    if not path.exists():
        return None
    arrays = load_arrays(path, "Run `rapidun weigh` again.")
    missing = [name for name in BLOCK_NAMES if name not in arrays]
    if missing:
        raise InputError(f"{path}: block {missing[0]!r} is missing; found {sorted(arrays)}.")
    _check_shapes(path, arrays)
    return {name: arrays[name] for name in BLOCK_NAMES}


def _check_shapes(path: Path, arrays: dict[str, Block]) -> None:
    """FF and RR are square; FR and RF join the same two groups."""
    shapes = {name: arrays[name].shape for name in BLOCK_NAMES}
    if any(len(shape) != 2 for shape in shapes.values()):
        raise InputError(f"{path}: every block must have two axes; found {shapes}.")
    forget, retain = shapes["ff"][0], shapes["rr"][0]
    wanted = {"ff": (forget, forget), "fr": (forget, retain), "rf": (retain, forget), "rr": (retain, retain)}
    wrong = [name for name in BLOCK_NAMES if shapes[name] != wanted[name]]
    if wrong:
        name = wrong[0]
        raise InputError(f"{path}: block {name!r} is {shapes[name]}, expected {wanted[name]}.")
