"""Values of a whole pool, by the teacher or by a student, written in parts that a killed run does not lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapidun.lifecycle import RunDirectory
from rapidun.pipeline.meter import Meter
from rapidun.pipeline.reporter import Reporter, counting
from rapidun.pipeline.valuing.pool import Pool
from rapidun.pipeline.valuing.teacher import Teacher, Values
from rapidun.pipeline.valuing.uses import Found
from rapidun.valuation.parts import Extra, write_parts
from rapidun.valuation.saved import SavedStudent

PART_ROWS = 8192
"""Rows that a student scores between two writes."""
Score = Callable[[list[dict[str, Any]]], Values]


def by_teacher(teacher: Teacher) -> Found:
    """LinFiK of every row."""
    teacher.reporter.phase("values", f"LinFiK of {teacher.pool.count} rows")
    parts = _score_pool(
        teacher.values, teacher.tasks, teacher.pool, teacher.directory, teacher.config.value.part_rows, teacher.reporter
    )
    return Found("linfik", teacher.tasks, parts)


def by_student(
    saved: SavedStudent,
    pool: Pool,
    directory: RunDirectory,
    reporter: Reporter,
    seen: Mapping[int, float] | None = None,
) -> Found:
    """What a student predicts for every row."""
    reporter.phase("values", f"The student values {pool.count} rows")

    def of_teacher(first: int, rows: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
        return {"teacher": [(seen or {}).get(first + place) for place in range(len(rows))]}

    extra = None if seen is None else of_teacher
    parts = _score_pool(saved.predict, saved.tasks, pool, directory, PART_ROWS, reporter, extra)
    kind = "student" if seen is None else "alinfik"
    return Found(kind, saved.tasks, parts, {"kind": saved.config["kind"], **saved.config.get("measures", {})})


def _score_pool(
    score: Score,
    tasks: list[str],
    pool: Pool,
    directory: RunDirectory,
    part_rows: int,
    reporter: Reporter,
    extra: Extra | None = None,
) -> list[Path]:
    counted = Counted(score)
    with Meter("values") as meter:
        parts = write_parts(
            directory / "parts",
            pool.rows(),
            counted,
            tasks,
            part_rows=part_rows,
            total=pool.count,
            extra=extra,
            progress=counting(reporter, "rows"),
        )
    mark_scored(directory, meter, counted.rows)
    return parts


class Counted:
    """A scorer that knows how many rows it has scored: a resumed run does not do them all."""

    def __init__(self, score: Score) -> None:
        self._score = score
        self.rows = 0

    def __call__(self, rows: list[dict[str, Any]]) -> Values:
        """Score rows, and count them."""
        self.rows += len(rows)
        return self._score(rows)


def mark_scored(directory: RunDirectory, meter: Meter, rows: int | None = None) -> None:
    """Record a phase, unless an earlier run did it and this one had nothing left to do."""
    if not directory.done(meter.record["name"]):
        directory.mark({**meter.record, **({} if rows is None else {"rows": rows})})
