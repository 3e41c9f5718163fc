"""The teacher of a valuation: LinFiK, as a run configures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.data import Rows
from rapidun.data.badrows import BadRow, raise_bad_rows
from rapidun.errors import InputError
from rapidun.gradients import Exact, Preconditioner, RapidGrad, fit_preconditioner, load_preconditioner, make_collector
from rapidun.gradients.collector import Transform
from rapidun.lifecycle import RunDirectory
from rapidun.pipeline.estimating import Piece, Trial, over_rows
from rapidun.pipeline.evidence import teacher_sketch
from rapidun.pipeline.inputs import RunModel
from rapidun.pipeline.pieces import SAMPLED
from rapidun.pipeline.reporter import Reporter, counting
from rapidun.pipeline.valuing.pool import Numbered, Pool, untokenisable
from rapidun.settings.value import ValueConfig, ValueFiles
from rapidun.valuation.linfik import LinFiK
from rapidun.valuation.sampling import Ordinals, random_sample, sample_size

Values = npt.NDArray[np.float32]
MATCHING_K = 4096

TASK_COLUMN = "task"
"""Column of the task rows that names the task of each."""
ADAM_ROWS, ADAM_DAMPING = 256, 1e-3
"""Candidates that adam's second moment is taken from, and what is added to it, times its mean."""


@dataclass(frozen=True)
class Teacher:
    """LinFiK as a run configures it; its work begins when the first value is asked for."""

    config: ValueConfig
    files: ValueFiles
    run_model: RunModel
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
        return self._fitted.values(self.run_model.tokenize(rows), self.run_model.loaded.pad_token_id)

    def gradients(self, ordinals: Ordinals) -> tuple[Ordinals, Values, Values]:
        """The rows at these ordinals that can be tokenised, in the pool's order; their gradients, and along the tasks.

        Gradients are sketched to `MATCHING_K` values, of norm 1, at the model's own weights; see `LinFiK.gradients`.
        Rows that cannot be tokenised (a student's pool may have some) are left out with a note: by now the values
        are computed, and a choice among the others is worth more than an error.
        """
        self.reporter.phase("match", f"Comparing gradients of {len(ordinals)} rows")
        kept, rows, faults = self._tokenisable(np.sort(ordinals))
        if faults:
            self.reporter.note(f"{len(faults)} rows cannot be tokenised and are not chosen, first {faults[0]}")
        matcher = LinFiK(
            self.run_model.loaded.model,
            RapidGrad(MATCHING_K, seed=self.config.seed),
            targets=self.config.value.targets,
            max_tokens=self.config.value.max_tokens,
        )
        pad = self.run_model.loaded.pad_token_id
        matcher.fit(self.run_model.tokenize(self.task), pad, self._task_names)
        return kept, *matcher.gradients(self.run_model.tokenize([row for _, row in rows]), pad)

    def usable(self, ordinals: Ordinals) -> tuple[Ordinals, list[Numbered]]:
        """The rows at these ordinals that can be tokenised.

        Raises:
            InputError: If one cannot, unless such rows are skipped.
        """
        kept, rows, faults = self._tokenisable(ordinals)
        if faults and self.config.data.on_bad_row == "error":
            raise_bad_rows(faults, len(ordinals), str(self.files.candidates))
        return kept, rows

    def _tokenisable(self, ordinals: Ordinals) -> tuple[Ordinals, list[Numbered], list[BadRow]]:
        rows = self.pool.at(ordinals)
        faults: list[BadRow] = untokenisable(self.run_model, self.files.candidates)(rows)
        bad = {fault.line for fault in faults}
        kept = [place for place, (line, _) in enumerate(rows) if line not in bad]
        return ordinals[kept], [rows[place] for place in kept], faults

    @cached_property
    def _task_names(self) -> list[str]:
        if TASK_COLUMN not in self.task.dataset.column_names:
            return ["task"] * len(self.task)
        names = self.task.dataset[TASK_COLUMN][:]
        if None in names:
            where = self.task.where(names.index(None))
            raise InputError(
                f"{where}: column {TASK_COLUMN!r} is empty. Name every row's task, or leave the column out."
            )
        return [str(name) for name in names]

    @cached_property
    def _unfitted(self) -> LinFiK:
        settings = self.config.value
        adam = self._adam() if settings.optimizer == "adam" else None
        transform = None if adam is None else adam.power(-0.5)
        return _linfik(self.config, self.files, self.run_model, transform)

    @cached_property
    def _fitted(self) -> LinFiK:
        examples, told = self.run_model.tokenize(self.task), counting(self.reporter, "rows")
        return self._unfitted.fit(examples, self.run_model.loaded.pad_token_id, self._task_names, told)

    def _adam(self) -> Preconditioner:
        """The second moment of candidates' gradients; kept, so that a resumed run has the same."""
        settings, place = self.config.value, self.directory / "preconditioner"
        if not (place / "preconditioner.json").exists():
            self.reporter.note(f"second moment from {min(ADAM_ROWS, self.pool.count)} candidates")
            generator = np.random.default_rng([self.config.seed, 11])
            _, rows = self.usable(random_sample(self.pool.count, min(ADAM_ROWS, self.pool.count), generator))
            model = self.run_model.loaded.model
            sketch = teacher_sketch(settings, self.config.seed) or Exact()
            collector = make_collector(model, sketch, self.config.value.targets, "none")
            fit_preconditioner(
                collector,
                self.run_model.tokenize([row for _, row in rows]),
                self.run_model.loaded.pad_token_id,
                "adam",
                damping=ADAM_DAMPING,
                max_tokens=settings.max_tokens,
            ).save(place)
        return load_preconditioner(place)


def _linfik(config: ValueConfig, files: ValueFiles, run_model: RunModel, transform: Transform | None = None) -> LinFiK:
    settings = config.value
    return LinFiK(
        run_model.loaded.model,
        teacher_sketch(settings, config.seed),
        targets=settings.targets,
        normalize=settings.normalize,
        similarity=settings.similarity,
        transform=transform,
        checkpoints=files.checkpoints,
        max_tokens=settings.max_tokens,
    )


def valuing(config: ValueConfig, files: ValueFiles, run_model: RunModel, task: Rows, pool: Pool) -> Piece:
    """LinFiK of the pool, or of a student's sample of it; tried on some of its rows, against one task row."""
    whole = pool.count if config.student.kind is None else sample_size(config.student.sample, pool.count)
    drawn = random_sample(pool.count, min(SAMPLED, pool.count), np.random.default_rng(0))
    settings, pad = config.value, run_model.loaded.pad_token_id
    skipped: list[BadRow] = []
    examples = run_model.tokenize([row for _, row in pool.at(drawn)], skipped=skipped)

    def attempt() -> Trial:
        linfik = _linfik(config, files, run_model).fit(run_model.tokenize(list(islice(task, 1))), pad)
        trial = over_rows(examples, settings.max_tokens, lambda rows: linfik.values(rows, pad))
        return replace(trial, seconds=trial.seconds * whole / len(examples))

    return Piece("valuing", whole, "rows", attempt)
