"""``weights.jsonl``: one row a line, with its group, score and weight, readable by a person and by the trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, StrictBool, StrictStr

from rapidun.errors import InputError
from rapidun.jsonl import numbered_lines, write_jsonl
from rapidun.reading import as_kind
from rapidun.weighting.schemes import Weights
from rapidun.weighting.scores import FloatArray

GROUPS = ("forget", "retain")
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


@dataclass(frozen=True)
class WeightedRow:
    """One line of ``weights.jsonl``.

    Args:
        id: The row's id.
        group: "forget" or "retain".
        index: Position in its group, from 0.
        score: Fused influence.
        weight: At least 0; weights of a group have mean 1 as written.
        prompt: For the reader; "" where absent.
        response: For the reader; "" where absent.
        moved: A forget row of weight 0 that is to be trained on as a retain row.
    """

    id: StrictStr
    group: Literal["forget", "retain"]
    index: Annotated[int, Field(ge=0, strict=True)]
    score: Finite
    weight: Annotated[Finite, Field(ge=0)]
    prompt: StrictStr = ""
    response: StrictStr = ""
    moved: StrictBool = False


def write_weights(
    path: str | Path,
    weights: Weights,
    forget_rows: Iterable[Mapping[str, Any]],
    retain_rows: Iterable[Mapping[str, Any]],
) -> None:
    """Write ``weights.jsonl`` atomically: forget rows first, each group in its order.

    Args:
        path: The file.
        weights: Weights and scores of both groups.
        forget_rows: Rows with ``id``, ``prompt`` and ``response``, in the order of ``weights.forget``.
        retain_rows: The same for ``weights.retain``.

    Raises:
        InputError: If a group has another number of rows than of weights.
    """
    lines = [
        *_lines("forget", forget_rows, weights.forget, weights.forget_scores, weights.moved),
        *_lines("retain", retain_rows, weights.retain, weights.retain_scores, None),
    ]
    write_jsonl(Path(path), (_plain(line) for line in lines))


def read_weights(path: str | Path) -> list[WeightedRow]:
    """The rows of a ``weights.jsonl``, sorted by group (forget first) and index; blank lines are ignored.

    Raises:
        InputError: If the file is missing or empty, or a line is not a JSON object, lacks a field, or has a field
            of the wrong type or range; if an index of a group appears twice or is missing. Names file and line.
    """
    path = Path(path)
    found: dict[tuple[str, int], WeightedRow] = {}
    for number, line in numbered_lines(path):
        row = as_kind(WeightedRow, line, f"{path}:{number}", "Weigh the rows again, or put the line right.")
        if row.moved and row.group != "forget":
            raise InputError(f"{path}:{number}: moved is true, and only a forget row can be moved.")
        if (row.group, row.index) in found:
            raise InputError(f"{path}:{number}: {row.group} index {row.index} appears a second time.")
        found[row.group, row.index] = row
    if not found:
        raise InputError(f"{path}: holds no weights.")
    for group in GROUPS:
        size = sum(of == group for of, _ in found)
        missing = [index for index in range(size) if (group, index) not in found]
        if missing:
            raise InputError(f"{path}: {group} index {missing[0]} is missing, of {size} {group} rows.")
    return [found[key] for key in sorted(found)]


def group_weights(rows: Iterable[WeightedRow], group: str, size: int | None = None) -> FloatArray:
    """The weights of one group in the order of its indices, (rows,) float64.

    Args:
        rows: From `read_weights`.
        group: "forget" or "retain".
        size: The number of rows the group must have; None takes as many as there are.

    Raises:
        InputError: If the group has another size.
    """
    chosen = sorted((row for row in rows if row.group == group), key=lambda row: row.index)
    if size is not None and len(chosen) != size:
        raise InputError(
            f"there are {len(chosen)} {group} weights for {size} {group} rows. Weights belong to the rows they were "
            "computed on: weigh these rows again, or use the rows of the weights."
        )
    return np.array([row.weight for row in chosen], dtype=np.float64)


def _plain(line: WeightedRow) -> dict[str, Any]:
    """The line's fields; ``moved`` only where it is true."""
    return {name: value for name, value in asdict(line).items() if name != "moved" or value}


def moved_rows(rows: Iterable[WeightedRow]) -> list[int]:
    """Indices of the forget rows that are to be trained on as retain rows, ascending."""
    return sorted(row.index for row in rows if row.moved)


def _lines(
    group: Literal["forget", "retain"],
    rows: Iterable[Mapping[str, Any]],
    weights: FloatArray,
    scores: FloatArray,
    moved: npt.NDArray[np.bool_] | None,
) -> list[WeightedRow]:
    rows = list(rows)
    if not len(rows) == len(weights) == len(scores):
        raise InputError(
            f"the {group} set has {len(rows)} rows, {len(weights)} weights and {len(scores)} scores; they must match. "
            "Weights belong to the rows they were computed on."
        )
    return [
        WeightedRow(
            str(row["id"]), group, index, float(score), float(weight), row["prompt"], row["response"],
            moved=moved is not None and bool(moved[index]),
        )
        for index, (row, weight, score) in enumerate(zip(rows, weights, scores, strict=True))
    ]  # fmt: skip
