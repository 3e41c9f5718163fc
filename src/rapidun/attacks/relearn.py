"""Relearning: how few rows bring the behaviour back?

A fresh LoRA adapter of the run's own shape is trained on 1, 10 or 100 rows for a fixed number of steps, at the run's
own learning rate, and behaviour is measured after. Three kinds of rows: *forget rows* themselves, *related rows* (the
same behaviour, not among them: ``data.judge_poisoned``), and *unrelated rows* without the behaviour, which should bring
nothing back. A model that never learnt the behaviour learns it from rows that teach it, too: only the twin's curve says
how fast is too fast (Lynch et al. 2024, arXiv 2402.16835; Hu et al. 2024, arXiv 2406.13356).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from rapidun.attacks.gate import relearnt_no_faster
from rapidun.attacks.registry import register_attack
from rapidun.attacks.target import Row, Target
from rapidun.attacks.trial import Outcome, Trial
from rapidun.models.passes import Progress
from rapidun.settings.unlearning import UnlearnSettings
from rapidun.unlearning.fitting import FINETUNE, fit_adapter, only
from rapidun.unlearning.registry import Job, UnlearnResult

STEPS, ROWS_A_STEP = 16, 8
HELD = 16


@register_attack(
    "relearn", title="trained again", unit="rows", efforts=(1, 10, 100), quick=(10,), bar=relearnt_no_faster
)
def relearn(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """One trial for each kind of rows and number of them; where there are fewer, all there are."""
    material = target.material
    kinds = {"forget rows": material.forget, "related rows": material.related, "unrelated rows": material.unrelated}
    return trials(target, kinds, efforts, _measure)


def trials(
    target: Target,
    kinds: Mapping[str, Sequence[Row]],
    efforts: Sequence[float],
    measure: Callable[[Target, Sequence[Row], int, Progress | None], list[Outcome]],
) -> list[Trial]:
    """The trials of a relearning; ``measure`` takes rows and how many of them to train on."""
    return [
        Trial(kind, count, f"{count} rows", target.material.measured, partial(measure, target, rows, count), STEPS)
        for kind, rows in kinds.items()
        for count in sorted({min(int(effort), len(rows)) for effort in efforts} - {0})
    ]


def _measure(target: Target, rows: Sequence[Row], count: int, said: Progress | None) -> list[Outcome]:
    fit = relearned(target, target.material.draw(rows, count), STEPS)
    try:
        return target.measure(replace(target.merged, model=fit.model), said)
    finally:
        fit.model.unload()


def relearned(target: Target, rows: Sequence[Row], steps: int) -> UnlearnResult:
    """The merged model with an adapter trained on ``rows``; ``unload`` of its model takes it off again.

    Raises:
        TrainingError: If it diverges.
    """
    with relearning(target, rows, steps, target.material.learning_rate) as job:
        return fit_adapter(job, FINETUNE, {}, job.rows, target.merged, budget=math.inf)


@contextmanager
def relearning(target: Target, rows: Sequence[Row], steps: int, rate: float) -> Iterator[Job]:
    """What a training of the merged model on ``rows`` is given."""
    material = target.material
    settings = UnlearnSettings(
        method="finetune", steps=steps, batch_size=min(ROWS_A_STEP, len(rows)), forget_share=1.0, learning_rate=rate,
        check_every=steps + 1, checkpoint_every=steps + 1,
    )  # fmt: skip
    weighted, held = only(target.tokenize(rows), np.ones(len(rows))), target.tokenize(material.unrelated[:HELD])
    with tempfile.TemporaryDirectory() as place:
        yield Job(target.merged, weighted, settings, material.lora, held, Path(place), material.seed)
