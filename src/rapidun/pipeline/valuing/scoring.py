"""Values of a whole pool, by the teacher or by a student, written in parts that a killed run does not lose.

ALinFiK: the teacher values a sample of the pool, and a student learns to predict it from the rows' text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.files import write_json
from rapidun.lifecycle import RunDirectory
from rapidun.pipeline.meter import Meter
from rapidun.pipeline.reporter import Reporter, counting
from rapidun.pipeline.valuing.pool import Numbered, Pool
from rapidun.pipeline.valuing.teacher import Teacher, Values
from rapidun.pipeline.valuing.uses import Found
from rapidun.reading import read_kind
from rapidun.settings.value import StudentSettings
from rapidun.valuation.distil import Distilled, committee, distil
from rapidun.valuation.parts import Extra, chunked, read_column, value_columns, write_parts
from rapidun.valuation.sampling import (
    Ordinals,
    random_sample,
    round_sizes,
    sample_size,
    stratified_sample,
    uncertain_sample,
)
from rapidun.valuation.saved import SavedStudent, load_student, save_student

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


_SCATTER = 500  # held-out rows that the report draws


def student_of(teacher: Teacher, tokenizer: str, marks: Mapping[str, str]) -> tuple[SavedStudent, dict[int, float]]:
    """The student, fitted or as a stopped run left it, and the teacher's values by ordinal."""
    ordinals, values = _teacher_sample(teacher)
    seen = dict(zip(ordinals.tolist(), values.mean(axis=1, dtype=np.float32).tolist(), strict=True))
    place = teacher.directory / "student"
    if not teacher.directory.done("student"):
        kind = str(teacher.config.student.kind)
        teacher.reporter.phase("student", f"Fitting a {kind} student to {len(ordinals)} rows")
        with Meter("student") as meter:
            found = _fitted(teacher, ordinals, values)
            about = _about(teacher, found, marks)
            save_student(place, found, kind, teacher.tasks, about, tokenizer)
        mark_scored(teacher.directory, meter)
    saved = load_student(place)
    spearman = saved.config["measures"]["spearman"]
    teacher.reporter.note(
        f"student against teacher on {spearman['n']} held-out rows: Spearman {spearman['value']:.3f} "
        f"[{spearman['low']:.3f}, {spearman['high']:.3f}]"
    )
    return saved, seen


def _fitted(teacher: Teacher, ordinals: Ordinals, values: Values) -> Distilled:
    settings = teacher.config.student
    return distil(
        str(settings.kind),
        [row for _, row in teacher.pool.at(ordinals)],
        values,
        ordinals,
        options=settings.options,
        seed=teacher.config.seed,
        progress=teacher.reporter.progress,
    )


def _about(teacher: Teacher, found: Distilled, marks: Mapping[str, str]) -> dict[str, Any]:
    """What the student's ``config.json`` says besides its settings."""
    scatter = np.stack([found.held_out.student, found.held_out.teacher], axis=1).astype(float)
    measures = found.held_out.measures(teacher.config.seed)
    return {
        "fingerprints": dict(marks),
        "teacher": teacher.run_model.loaded.source,
        "measures": {**measures, "scatter": scatter[:_SCATTER].tolist(), "sizes": found.sizes},
    }


def _teacher_sample(teacher: Teacher) -> tuple[Ordinals, Values]:
    """Ordinals of the sample, ascending, and the teacher's values of them, (rows, tasks)."""
    settings = teacher.config.student
    count = sample_size(settings.sample, teacher.pool.count)
    sizes = round_sizes(count, settings.rounds) if settings.sampling == "uncertain" else [count]
    teacher.reporter.phase("teacher", f"LinFiK of a sample of {count} rows")
    ordinals, values = np.zeros(0, np.int64), np.zeros((0, len(teacher.tasks)), np.float32)
    counted = Counted(teacher.values)
    with Meter("teacher") as meter:
        for number, size in enumerate(sizes):
            folder = teacher.directory / f"teacher/{number:02d}"
            place = folder / "ordinals.json"
            if not place.exists():  # kept, because a draw may need a pass over the pool
                drawn = _draw(settings, teacher.pool, size, ordinals, values, teacher.config.seed)
                write_json(place, drawn.tolist())
            usable, rows = teacher.usable(np.array(read_kind(place, list[int]), dtype=np.int64))
            found = _valued(teacher, folder, rows, counted)
            ordinals, values = np.concatenate([ordinals, usable]), np.concatenate([values, found])
    mark_scored(teacher.directory, meter, counted.rows)
    order = np.argsort(ordinals)
    return ordinals[order], values[order]


def _valued(teacher: Teacher, folder: Path, rows: list[Numbered], counted: Counted) -> Values:
    """The teacher's values of some rows, (rows, tasks), through parts in ``folder``."""
    parts = write_parts(
        folder,
        iter(rows),
        counted,
        teacher.tasks,
        part_rows=teacher.config.value.part_rows,
        total=len(rows),
        progress=counting(teacher.reporter, "rows"),
    )
    names = value_columns(teacher.tasks)[-len(teacher.tasks) :]
    return np.stack([read_column(parts, name) for name in names], axis=1).astype(np.float32)


def _draw(settings: StudentSettings, pool: Pool, size: int, taken: Ordinals, values: Values, seed: int) -> Ordinals:
    generator = np.random.default_rng([seed, 3, len(taken)])
    if settings.sampling == "random":
        return random_sample(pool.count, size, generator)
    if not len(taken):
        return stratified_sample(pool.lengths, size, generator)
    order = np.argsort(taken)
    rows = [row for _, row in pool.at(taken[order])]
    members = committee(rows, values[order], seed=seed)
    found = [members.disagreement([row for _, row in chunk]) for chunk in chunked(pool.rows(), 4096)]
    return uncertain_sample(np.concatenate(found), min(size, pool.count - len(taken)), taken, generator)
