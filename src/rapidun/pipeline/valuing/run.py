"""What ``rapidun value`` does: a model, a task and a pool in; the value of every row of the pool out.

Without a student the teacher (LinFiK) values every row. With one, the teacher values a sample, the student learns from
it and values the whole pool from its text (ALinFiK). A student that was saved needs neither model nor task. Values are
written in parts, so a run that was killed goes on at the first part that is missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rapidun.attribution.checkpoints import read_checkpoint
from rapidun.data import Rows
from rapidun.errors import ConfigError
from rapidun.gradients.coverage import coverage_of
from rapidun.gradients.targets import find_targets
from rapidun.models import LoadedModel, adapter_fingerprint, tokenizer_fingerprint
from rapidun.models.fingerprints import tensors_fingerprint
from rapidun.pipeline.estimating import Piece
from rapidun.pipeline.evidence import note_coverage, teacher_sketch
from rapidun.pipeline.inputs import RunModel, check_there, open_run_model, read_rows, rows_fingerprint, usable
from rapidun.pipeline.job import Job, subject_facts, write_manifest
from rapidun.pipeline.reporter import Reporter
from rapidun.pipeline.valuing.pool import Pool, survey, untokenisable
from rapidun.pipeline.valuing.scoring import by_student, by_teacher, student_of
from rapidun.pipeline.valuing.teacher import TASK_COLUMN, Teacher, valuing
from rapidun.pipeline.valuing.uses import NO_GRADIENTS, use_values
from rapidun.settings.plugins import plugin_marks
from rapidun.settings.value import SavedConfig, Uses, ValueConfig, ValueFiles
from rapidun.valuation.distil import check_sample
from rapidun.valuation.diversity import MATCHING
from rapidun.valuation.sampling import sample_size
from rapidun.valuation.saved import load_student
from rapidun.valuation.selection import check_diverse


def value(
    config: ValueConfig,
    files: ValueFiles,
    out: Path,
    uses: Uses,
    *,
    resume: bool,
    overwrite: bool,
    reporter: Reporter,
    loaded: LoadedModel | None = None,
) -> dict[str, Any]:
    """Value every row of a pool; returns what ``valuation.json`` holds.

    Raises:
        InputError, ConfigError, ModelError: Before any long work.
        FingerprintError: On resume, if model, rows or settings are others; names both values.
    """
    teacher, marks = _open(config, files, uses, loaded, Job(config, out, reporter, resume, overwrite))
    run_model, directory = teacher.run_model, teacher.directory
    tokenizer = run_model.loaded.tokenizer.backend_tokenizer.to_str()
    with directory:
        if config.student.kind is None:
            found = by_teacher(teacher)
        else:
            saved, seen = student_of(teacher, tokenizer, marks)
            found = by_student(saved, teacher.pool, directory, reporter, seen)
        coverage = {"gradients": coverage_of(run_model.loaded.model, teacher.tracked).record()}
        facts = subject_facts(run_model) | {"tracked": teacher.tracked, "coverage": coverage}
        write_manifest(directory, facts, seed=config.seed, device=str(run_model.loaded.device), fingerprints=marks)
        return use_values(
            found, teacher.pool, uses, directory, tokenizer=tokenizer, seed=config.seed, reporter=reporter,
            gradients=teacher.gradients,
        )  # fmt: skip


def _open(
    config: ValueConfig, files: ValueFiles, uses: Uses, loaded: LoadedModel | None, job: Job
) -> tuple[Teacher, dict[str, str]]:
    """Read and check everything, claim the directory; the teacher, and what a resume must have in common."""
    uses.check()
    job.begin("Reading rows and model")
    teacher_sketch(config.value, config.seed)
    check_there(files.checkpoints)
    reporter = job.reporter
    run_model = open_run_model(config.model, config.data, reporter, adapter=files.adapter, loaded=loaded)
    inspect = untokenisable(run_model, files.candidates) if config.student.kind is None else None
    task = read_rows(files.task, "task", config.data, reporter, (TASK_COLUMN,))
    task = usable(task, run_model, config.data, reporter, name="task")
    pool = survey(files.candidates, config.data, reporter, inspect=inspect, by=uses.by)
    _check_sizes(config, uses, pool)
    tracked = [tensor.name for tensor in find_targets(run_model.loaded.model, config.value.targets)]
    note_coverage("gradients", coverage_of(run_model.loaded.model, tracked), reporter)
    marks = _marks(config, files, run_model, task, pool)
    origins = {"model": config.model.source, "task rows": files.task, "candidates": files.candidates}

    def pieces(done: Sequence[str]) -> list[Piece]:
        return [] if {"values", "teacher"} & set(done) else [valuing(config, files, run_model, task, pool)]

    skipped = {"candidates": pool.bad}
    directory = job.claim(marks, pieces, origins=origins, skipped=skipped, replayable=False)
    return Teacher(config, files, run_model, task, pool, directory, reporter), marks


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
    if uses.diversity == MATCHING:
        raise ConfigError(NO_GRADIENTS)
    job = Job(config, out, reporter, resume, overwrite)
    job.begin("Reading rows and student")
    saved = load_student(student)
    pool = survey(candidates, config.data, reporter, by=uses.by)
    marks = {"student": saved.fingerprint, "candidates": pool.fingerprint}
    # nothing to plan: a student reads text alone, minutes only for millions of rows
    with job.claim(marks, lambda _: [], skipped={"candidates": pool.bad}, replayable=False) as directory:
        found = by_student(saved, pool, directory, reporter)
        learnt_from = saved.config.get("fingerprints", {})
        write_manifest(directory, {"model": str(student)}, seed=config.seed, device="cpu", fingerprints=learnt_from)
        return use_values(
            found, pool, uses, directory, tokenizer=saved.teacher_tokenizer(), seed=config.seed, reporter=reporter
        )


def _check_sizes(config: ValueConfig, uses: Uses, pool: Pool) -> None:
    """Refuse a sample or a selection that this pool cannot have, before any long work."""
    if config.student.kind is not None:
        check_sample(sample_size(config.student.sample, pool.count))
    selection = uses.selection
    if uses.diversity is not None and selection is not None and selection.kind == "top":
        check_diverse(selection.count(pool.count))


def _marks(config: ValueConfig, files: ValueFiles, run_model: RunModel, task: Rows, pool: Pool) -> dict[str, str]:
    """What a resume must have in common with what was begun."""
    checkpoints = [tensors_fingerprint(read_checkpoint(path).items()) for path in files.checkpoints]
    names = task.dataset[TASK_COLUMN][:] if TASK_COLUMN in task.dataset.column_names else []
    marks = {
        "model": run_model.loaded.fingerprint,
        "adapter": adapter_fingerprint(files.adapter) if files.adapter is not None else "none",
        "checkpoints": ", ".join(checkpoints) or "none",
        "tokenizer": tokenizer_fingerprint(run_model.loaded.tokenizer),
        "template": run_model.template.fingerprint,
        "task rows": rows_fingerprint(task),
        "tasks": json.dumps(names),
        "candidates": pool.fingerprint,
        "max_length": str(run_model.max_length),
        "seed": str(config.seed),
        **plugin_marks(config.plugins),
    }
    for section in ("value", "student"):
        settings = getattr(config, section).model_dump(mode="json")
        marks |= {f"{section}.{name}": json.dumps(found, sort_keys=True) for name, found in settings.items()}
    return marks
