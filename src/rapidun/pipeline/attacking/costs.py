"""What attacks will take: seconds of an answer, of a row that is read and of a training step, tried once each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rapidun.attacks import Attack, Material, Target, Trial
from rapidun.attacks.relearn import ROWS_A_STEP, relearned
from rapidun.models.row_losses import row_losses
from rapidun.pipeline.estimating import Piece, over_prompts, over_rows, timed
from rapidun.pipeline.estimating import Trial as Tried

STEPS, TOKENS = 3, 4096


@dataclass(frozen=True)
class Job:
    """An attack with its trials on every target; without any, ``why``."""

    attack: Attack
    trials: Sequence[tuple[Target, Trial]]
    why: str = ""


class Costs:
    """Seconds of attacks on these models; answers count as long as they may be.

    Args:
        target: Any of the models; the others are taken to be as fast.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._paces: dict[tuple[bool, ...], list[float]] = {}  # of a kind of work: seconds estimated, seconds taken

    @property
    def _material(self) -> Material:
        return self._target.material

    @cached_property
    def read(self) -> float:
        """Seconds of a row that is read: of its loss."""
        loaded, examples = self._target.loaded, self._target.tokenize(self._material.forget)
        tried = over_rows(
            examples, TOKENS, lambda chosen: row_losses(loaded.model, chosen, loaded.pad_token_id, loaded.device)
        )
        return tried.seconds / len(examples)

    @cached_property
    def answer(self) -> float:
        """Seconds of a generated answer, or of a row's loss where there are no triggers."""
        if not self._material.has_triggers:
            return self.read
        target, loaded = self._target, self._target.loaded
        from rapidun.evaluation import generate_answers

        how = self._material.generation
        prompts = [target.text(question) for question in self._material.known()]
        tried = over_prompts(
            prompts, how.batch_size, how.max_new_tokens,
            lambda chosen, tokens: generate_answers(
                loaded, chosen, max_new_tokens=tokens, batch_size=how.batch_size
            ),
        )  # fmt: skip
        return tried.seconds / len(prompts)

    @cached_property
    def step(self) -> float:
        """Seconds of a training step, merging included."""
        rows = self._material.draw(self._material.forget, ROWS_A_STEP)

        def few() -> None:
            relearned(self._target, rows, STEPS).model.unload()

        return timed(few) / STEPS

    def seconds(self, trials: Sequence[tuple[Target, Trial]]) -> float:
        """Of these trials, by the pace of those of their kind that were done."""
        found = 0.0
        for each in trials:
            estimated, taken = self._paces.get(_kind(each[1]), (1.0, 1.0))
            found += self._expected([each]) * taken / estimated
        return found

    def learn(self, trial: tuple[Target, Trial], seconds: float) -> None:
        """A trial took so long."""
        pace = self._paces.setdefault(_kind(trial[1]), [0.0, 0.0])
        pace[0] += self._expected([trial])
        pace[1] += seconds

    def _expected(self, trials: Sequence[tuple[Target, Trial]]) -> float:
        units = {"answer": 0, "read": 0, "step": 0}
        for _, trial in trials:
            units["answer"] += trial.answers
            units["read"] += trial.reads
            units["step"] += trial.steps
        # what nothing is done of is not tried
        return float(sum(count * getattr(self, unit) for unit, count in units.items() if count))

    def piece(self, job: Job) -> Piece:
        """An attack as work that can be tried."""
        answers = sum(trial.answers for _, trial in job.trials)
        total, unit = (answers, "answers") if answers else (sum(trial.reads for _, trial in job.trials), "rows")
        return Piece(f"attack {job.attack.name}", total, unit, lambda: Tried(self._expected(job.trials)))


def _kind(trial: Trial) -> tuple[bool, ...]:
    """What a trial does: trials of one kind go at one pace."""
    return trial.answers > 0, trial.reads > 0, trial.steps > 0
