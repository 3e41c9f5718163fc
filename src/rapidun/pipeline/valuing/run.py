"""What ``rapidun value`` does: a model, a task and a pool in; the value of every row of the pool out.

Without a student the teacher (LinFiK) values every row. With one, the teacher values a sample, the student learns from
it and values the whole pool from its text (ALinFiK). A student that was saved needs neither model nor task. Values are
written in parts, so a run that was killed goes on at the first part that is missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.data import Rows
from rapidun.data.badrows import BadRow, raise_bad_rows
from rapidun.errors import InputError
from rapidun.files import read_json, write_json, write_jsonl
from rapidun.gradients import Exact, Preconditioner, fit_preconditioner, load_preconditioner, make_collector
from rapidun.gradients.targets import find_targets
from rapidun.influence.checkpoints import read_checkpoint
from rapidun.models import adapter_fingerprint, tokenizer_fingerprint
from rapidun.models.fingerprints import tensors_fingerprint
from rapidun.pipeline.directory import RunDirectory
from rapidun.pipeline.inputs import Subject, open_subject, read_rows, rows_fingerprint
from rapidun.pipeline.meter import Meter, hardware, versions
from rapidun.pipeline.pool import Numbered, Pool, survey, untokenisable
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.value_config import SavedConfig, StudentSettings, Uses, ValueConfig, ValueFiles
from rapidun.pipeline.value_uses import Found, use_values
from rapidun.valuation.distil import check_sample, committee, distil
from rapidun.valuation.linfik import LinFiK
from rapidun.valuation.parts import chunked, read_column, value_columns, write_parts
from rapidun.valuation.sampling import (
    Ordinals,
    random_sample,
    round_sizes,
    sample_size,
    stratified_sample,
    uncertain_sample,
)
from rapidun.valuation.saved import SavedStudent, load_student, save_student
from rapidun.valuation.selection import check_diverse
from rapidun.valuation.students import student_kind

Values = npt.NDArray[np.float32]


def value(
    config: ValueConfig, files: ValueFiles, out: Path, uses: Uses, *, resume: bool, overwrite: bool, reporter: Reporter
) -> dict[str, Any]:
    """Value every row of a pool; returns what ``valuation.json`` holds.

    Raises:
        InputError, ConfigError, ModelError: Before any long work.
        FingerprintError: On resume, if model, rows or settings are others; names both values.
    """
    uses.check()
    if config.student.kind is not None:
        student_kind(config.student.kind)
    config.value.make_sketch(config.seed)
    reporter.phase("check", "Reading rows and model")
    subject = open_subject(config.model, config.data, reporter, adapter=files.adapter)
    whole = config.student.kind is None
    inspect = untokenisable(subject, files.candidates) if whole else None
    task = read_rows(files.task, "task", config.data, reporter)
    subject.tokenize(task)
    pool = survey(files.candidates, config.data, reporter, inspect=inspect, by=uses.by)
    _check_sizes(config, uses, pool)
    find_targets(subject.loaded.model, _targets(config, files))
    marks = _marks(config, files, subject, task, pool)
    directory = RunDirectory.claim(out, marks, resume=resume, overwrite=overwrite)
    write_jsonl(directory / "rows_skipped.jsonl", [{"group": "candidates", **bad.as_dict()} for bad in pool.bad])
    teacher = Teacher(config, files, subject, task, pool, directory, reporter)
    tokenizer = subject.loaded.tokenizer.backend_tokenizer.to_str()
    if whole:
        found = _by_teacher(teacher, config, pool, directory, reporter)
    else:
        saved, seen = _student(teacher, config, pool, directory, reporter, tokenizer, marks)
        found = _by_student(saved, pool, directory, config.student.part_rows, reporter, seen)
    facts = {"model": subject.loaded.source, "template": subject.template.name, "tracked": teacher.tracked}
    _write_manifest(directory, marks, config.seed, facts, str(subject.loaded.device))
    return use_values(found, pool, uses, directory, tokenizer=tokenizer, seed=config.seed, reporter=reporter)


def value_by_student(
    config: SavedConfig,
    student: Path,
    candidates: Path,
    out: Path,
    uses: Uses,
    *,
    resume: bool,
    overwrite: bool,
    reporter: Reporter,
) -> dict[str, Any]:
    """Value a pool with a saved student: no model, no task, forward only. Raises as `value`."""
    uses.check()
    reporter.phase("check", "Reading rows and student")
    saved = load_student(student)
    pool = survey(candidates, config.data, reporter, by=uses.by)
    marks = {"student": saved.fingerprint, "candidates": pool.fingerprint}
    directory = RunDirectory.claim(out, marks, resume=resume, overwrite=overwrite)
    write_jsonl(directory / "rows_skipped.jsonl", [{"group": "candidates", **bad.as_dict()} for bad in pool.bad])
    found = _by_student(saved, pool, directory, config.part_rows, reporter, None)
    _write_manifest(directory, saved.config.get("fingerprints", {}), config.seed, {"model": str(student)}, "cpu")
    return use_values(
        found, pool, uses, directory, tokenizer=saved.teacher_tokenizer(), seed=config.seed, reporter=reporter
    )


@dataclass(frozen=True)
class Teacher:
    """LinFiK as a run configures it; its work begins when the first value is asked for."""

    config: ValueConfig
    files: ValueFiles
    subject: Subject
    task: Rows
    pool: Pool
    directory: RunDirectory
    reporter: Reporter

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in order of first appearance."""
        return list(dict.fromkeys(self._task_names))

    @property
    def tracked(self) -> list[str]:
        """Names of the tracked tensors."""
        return self._unfitted.tracked

    def values(self, rows: Sequence[dict[str, Any]]) -> Values:
        """LinFiK of rows for every task."""
        return self._fitted.values(self.subject.tokenize(rows), self.subject.loaded.pad_token_id)

    def usable(self, ordinals: Ordinals) -> tuple[Ordinals, list[Numbered]]:
        """The rows at these ordinals that can be tokenised.

        Raises:
            InputError: If one cannot, unless such rows are skipped.
        """
        rows = self.pool.at(ordinals)
        faults: list[BadRow] = untokenisable(self.subject, self.files.candidates)(rows)
        if faults and self.config.data.on_bad_row == "error":
            raise_bad_rows(faults, len(rows), str(self.files.candidates))
        bad = {fault.line for fault in faults}
        kept = [place for place, (line, _) in enumerate(rows) if line not in bad]
        return ordinals[kept], [rows[place] for place in kept]

    @cached_property
    def _task_names(self) -> list[str]:
        column = self.config.value.task_column
        if column not in self.task.dataset.column_names:
            return ["task"] * len(self.task)
        names = self.task.dataset[column][:]
        if None in names:
            where = self.task.where(names.index(None))
            raise InputError(f"{where}: column {column!r} is empty. Name every row's task, or leave the column out.")
        return [str(name) for name in names]

    @cached_property
    def _unfitted(self) -> LinFiK:
        settings = self.config.value
        adam = self._adam() if settings.optimizer == "adam" else None
        return LinFiK(
            self.subject.loaded.model,
            settings.make_sketch(self.config.seed),
            targets=_targets(self.config, self.files),
            normalize=settings.normalize,
            similarity=settings.similarity,
            transform=None if adam is None else adam.power(-0.5),
            checkpoints=self.files.checkpoints,
            max_tokens=settings.max_tokens,
        )

    @cached_property
    def _fitted(self) -> LinFiK:
        examples = self.subject.tokenize(self.task)
        return self._unfitted.fit(examples, self.subject.loaded.pad_token_id, self._task_names)

    def _adam(self) -> Preconditioner:
        """The second moment of candidates' gradients; kept, so that a resumed run has the same."""
        settings, place = self.config.value, self.directory / "preconditioner"
        if not (place / "preconditioner.json").exists():
            self.reporter.note(f"second moment from {min(settings.adam_rows, self.pool.count)} candidates")
            generator = np.random.default_rng([self.config.seed, 11])
            _, rows = self.usable(random_sample(self.pool.count, min(settings.adam_rows, self.pool.count), generator))
            model = self.subject.loaded.model
            sketch = settings.make_sketch(self.config.seed) or Exact()
            collector = make_collector(model, sketch, _targets(self.config, self.files), "none")
            fit_preconditioner(
                collector,
                self.subject.tokenize([row for _, row in rows]),
                self.subject.loaded.pad_token_id,
                "adam",
                damping=settings.adam_damping,
                max_tokens=settings.max_tokens,
            ).save(place)
        return load_preconditioner(place)


def _targets(config: ValueConfig, files: ValueFiles) -> str | list[str]:
    targets = config.value.targets
    return ("linear" if files.adapter is None else "lora") if targets == "auto" else targets


def _check_sizes(config: ValueConfig, uses: Uses, pool: Pool) -> None:
    """Refuse a sample or a selection that this pool cannot have, before any long work."""
    if config.student.kind is not None:
        check_sample(sample_size(config.student.sample, pool.count))
    selection = uses.selection
    if uses.diversity is not None and selection is not None and selection.kind == "top":
        check_diverse(selection.count(pool.count))


def _marks(config: ValueConfig, files: ValueFiles, subject: Subject, task: Rows, pool: Pool) -> dict[str, str]:
    """What a resume must have in common with what was begun."""
    checkpoints = [tensors_fingerprint(read_checkpoint(path).items()) for path in files.checkpoints]
    column = config.value.task_column
    names = task.dataset[column][:] if column in task.dataset.column_names else []
    marks = {
        "model": subject.loaded.fingerprint,
        "adapter": adapter_fingerprint(files.adapter) if files.adapter is not None else "none",
        "checkpoints": ", ".join(checkpoints) or "none",
        "tokenizer": tokenizer_fingerprint(subject.loaded.tokenizer),
        "template": subject.template.fingerprint,
        "task rows": rows_fingerprint(task),
        "tasks": json.dumps(names),
        "candidates": pool.fingerprint,
        "max_length": str(subject.max_length),
        "seed": str(config.seed),
    }
    for section in ("value", "student"):
        settings = getattr(config, section).model_dump(mode="json")
        marks |= {f"{section}.{name}": json.dumps(found, sort_keys=True) for name, found in settings.items()}
    return marks


def _by_teacher(
    teacher: Teacher, config: ValueConfig, pool: Pool, directory: RunDirectory, reporter: Reporter
) -> Found:
    reporter.phase("values", f"LinFiK of {pool.count} rows")
    with Meter("values") as meter:
        parts = write_parts(
            directory / "parts",
            pool.rows(),
            counted := _Counted(teacher.values),
            teacher.tasks,
            part_rows=config.value.part_rows,
            total=pool.count,
            progress=reporter.progress,
        )
    _mark(directory, meter, counted.rows)
    return Found("linfik", teacher.tasks, parts)


def _by_student(
    saved: SavedStudent,
    pool: Pool,
    directory: RunDirectory,
    part_rows: int,
    reporter: Reporter,
    seen: Mapping[int, float] | None,
) -> Found:
    """``seen``: the teacher's values by ordinal, where this run has a teacher."""
    reporter.phase("values", f"The student values {pool.count} rows")

    def of_teacher(first: int, rows: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
        return {"teacher": [(seen or {}).get(first + place) for place in range(len(rows))]}

    with Meter("values") as meter:
        parts = write_parts(
            directory / "parts",
            pool.rows(),
            counted := _Counted(saved.predict),
            saved.tasks,
            part_rows=part_rows,
            total=pool.count,
            extra=None if seen is None else of_teacher,
            progress=reporter.progress,
        )
    _mark(directory, meter, counted.rows)
    kind = "student" if seen is None else "alinfik"
    return Found(kind, saved.tasks, parts, {"kind": saved.config["kind"], **saved.config.get("measures", {})})


def _student(
    teacher: Teacher,
    config: ValueConfig,
    pool: Pool,
    directory: RunDirectory,
    reporter: Reporter,
    tokenizer: str,
    marks: Mapping[str, str],
) -> tuple[SavedStudent, dict[int, float]]:
    """The student, fitted or as a stopped run left it, and the teacher's values by ordinal."""
    settings, place = config.student, directory / "student"
    ordinals, values = _teacher_sample(teacher, settings, pool, directory, config, reporter)
    seen = dict(zip(ordinals.tolist(), values.mean(axis=1, dtype=np.float32).tolist(), strict=True))
    if not directory.done("student"):
        reporter.phase("student", f"Fitting a {settings.kind} student to {len(ordinals)} rows")
        with Meter("student") as meter:
            rows = [row for _, row in pool.at(ordinals)]
            found = distil(
                str(settings.kind), rows, values, ordinals, options=settings.options, seed=config.seed,
                progress=reporter.progress,
            )  # fmt: skip
            held_out = found.held_out
            scatter = np.stack([held_out.student, held_out.teacher], axis=1).astype(float)
            measures = {**held_out.measures(config.seed), "scatter": scatter[:500].tolist()}
            about = {"fingerprints": dict(marks), "teacher": teacher.subject.loaded.source,
                     "measures": {**measures, "sizes": found.sizes}}  # fmt: skip
            save_student(place, found, str(settings.kind), teacher.tasks, about, tokenizer)
        _mark(directory, meter)
    saved = load_student(place)
    spearman = saved.config["measures"]["spearman"]
    reporter.note(
        f"student against teacher on {spearman['n']} held-out rows: Spearman {spearman['value']:.3f} "
        f"[{spearman['low']:.3f}, {spearman['high']:.3f}]"
    )
    return saved, seen


def _teacher_sample(
    teacher: Teacher,
    settings: StudentSettings,
    pool: Pool,
    directory: RunDirectory,
    config: ValueConfig,
    reporter: Reporter,
) -> tuple[Ordinals, Values]:
    """Ordinals of the sample, ascending, and the teacher's values of them, (rows, tasks)."""
    count = sample_size(settings.sample, pool.count)
    sizes = round_sizes(count, settings.rounds) if settings.sampling == "uncertain" else [count]
    reporter.phase("teacher", f"LinFiK of a sample of {count} rows")
    ordinals, values = np.zeros(0, np.int64), np.zeros((0, len(teacher.tasks)), np.float32)
    counted = _Counted(teacher.values)
    with Meter("teacher") as meter:
        for number, size in enumerate(sizes):
            folder = directory / f"teacher/{number:02d}"
            place = folder / "ordinals.json"
            if not place.exists():  # kept, because a draw may need a pass over the pool
                write_json(place, _draw(settings, pool, size, ordinals, values, config.seed).tolist())
            usable, rows = teacher.usable(np.array(read_json(place), dtype=np.int64))
            parts = write_parts(
                folder,
                iter(rows),
                counted,
                teacher.tasks,
                part_rows=config.value.part_rows,
                total=len(rows),
                progress=reporter.progress,
            )
            names = value_columns(teacher.tasks)[-len(teacher.tasks) :]
            found = np.stack([read_column(parts, name) for name in names], axis=1).astype(np.float32)
            ordinals, values = np.concatenate([ordinals, usable]), np.concatenate([values, found])
    _mark(directory, meter, counted.rows)
    order = np.argsort(ordinals)
    return ordinals[order], values[order]


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


class _Counted:
    """A scorer that knows how many rows it has scored: a resumed run does not do them all."""

    def __init__(self, score: Callable[[list[dict[str, Any]]], Values]) -> None:
        self._score = score
        self.rows = 0

    def __call__(self, rows: list[dict[str, Any]]) -> Values:
        self.rows += len(rows)
        return self._score(rows)


def _mark(directory: RunDirectory, meter: Meter, rows: int | None = None) -> None:
    """Record a phase, unless an earlier run did it and this one had nothing left to do."""
    if not directory.done(meter.record["name"]):
        directory.mark({**meter.record, **({} if rows is None else {"rows": rows})})


def _write_manifest(
    directory: RunDirectory, marks: Mapping[str, str], seed: int, facts: Mapping[str, Any], device: str
) -> None:
    from rapidun import __version__

    write_json(
        directory / "manifest.json",
        {
            "rapidun_version": __version__,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seed": seed,
            **facts,
            "fingerprints": dict(marks),
            "versions": versions(),
            "hardware": hardware(device),
            "phases": directory.phases,
        },
    )
