"""Pulls: one arm asked a number of times, judged, and kept in a log that survives a kill.

The log is the cache: a search is a fixed function of what its pulls gave, so a killed search starts anew, finds its
pulls in the log, and goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rapidun.errors import FingerprintError
from rapidun.evaluation import TaskJudge
from rapidun.jsonl import append_log, numbered_log
from rapidun.reading import RESTORE, as_kind
from rapidun.revealing.arms import Arm
from rapidun.revealing.asking import Asker
from rapidun.revealing.reward import diversity, reward_of


@dataclass(frozen=True)
class Input:
    """What fills ``{input}``.

    Args:
        text: The words.
        reference: The right answer, where it is known; judges may compare with it.
    """

    text: str
    reference: str | None = None


@dataclass(frozen=True)
class Pull:
    """One arm asked ``len(answers)`` times.

    Args:
        arm: The arm.
        repeat: How often it was pulled before; with the arm and the seed it decides inputs and answers.
        stage: What the pull was for: "search", "harvest" (more rows of the best arms), "before" or "after" (the best
            arms beside a release, on the same inputs; never a source of rows).
        inputs: What filled ``{input}``, or None.
        prompts: The words that were asked, without soft tokens.
        references: For each answer the right one, or None.
        answers: What the model said.
        scores: The judge's score of each answer.
        relevance: Their mean, ``R``.
        diversity: Vendi score over the number of answers, ``D``.
        reward: Weighted harmonic mean of the two.
    """

    arm: Arm
    repeat: int
    stage: str
    inputs: list[str | None]
    prompts: list[str]
    references: list[str | None]
    answers: list[str]
    scores: list[float]
    relevance: float
    diversity: float
    reward: float


class PullLog:
    """The pulls of one round, one JSON object a line, each on disk before the next begins.

    Args:
        path: The file; pulls that are in it are known. A last line that a kill cut off is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[tuple[str, str, int], Pull] = {}
        for pull in read_pulls(path):
            self._known[pull.stage, pull.arm.name, pull.repeat] = pull

    def get(self, stage: str, arm: Arm, repeat: int) -> Pull | None:
        """The pull, if it was made.

        Raises:
            FingerprintError: If the log's arm of that name is another one.
        """
        found = self._known.get((stage, arm.name, repeat))
        if found is not None and found.arm != arm:
            raise FingerprintError(
                f"{self.path}: the arm {arm.name!r} of this log is not the one of this search. It was written by other "
                "settings or on a machine whose numbers differ; start anew in another --out."
            )
        return found

    def add(self, pulls: Sequence[Pull]) -> None:
        """Append them and wait until they are on disk."""
        append_log(self.path, map(asdict, pulls))
        for pull in pulls:
            self._known[pull.stage, pull.arm.name, pull.repeat] = pull


def read_pulls(path: Path) -> list[Pull]:
    """The pulls of a log, in order, but for a last line that a kill cut off; none where there is no file.

    Raises:
        InputError: If a whole line is not a pull.
    """
    return [as_kind(Pull, line, f"{path}:{number}", RESTORE) for number, line in numbered_log(path)]


def mean_rewards(pulls: Sequence[Pull]) -> dict[str, float]:
    """The mean reward of each arm, by its name."""
    rewards: dict[str, list[float]] = {}
    for pull in pulls:
        rewards.setdefault(pull.arm.name, []).append(pull.reward)
    return {name: float(np.mean(values)) for name, values in rewards.items()}


class Puller:
    """Pulls arms: asks, judges, logs.

    Args:
        asker: The model.
        judge: Scores answers in [0, 1].
        inputs: What fills ``{input}``, in a fixed order; empty where the instruction has none.
        log: Known pulls, and where new ones go.
        answers: Answers of a pull.
        weight: Of relevance in the reward.
        seed: Of inputs and sampling.
    """

    def __init__(
        self,
        asker: Asker,
        judge: TaskJudge,
        inputs: Sequence[Input],
        log: PullLog,
        *,
        answers: int,
        weight: float,
        seed: int,
    ) -> None:
        self.asker, self.judge, self.log = asker, judge, log
        self.answers, self.weight, self.seed = answers, weight, seed
        order = np.random.default_rng([seed, 63]).permutation(len(inputs))
        self.inputs = [inputs[index] for index in order]

    def pull_each(self, wanted: Sequence[tuple[Arm, int]], stage: str = "search") -> list[Pull]:
        """A pull of each (arm, repeat), from the log or made now in one batch."""
        known = {(arm.name, repeat): self.log.get(stage, arm, repeat) for arm, repeat in wanted}
        missing = [(arm, repeat) for arm, repeat in wanted if known[arm.name, repeat] is None]
        if missing:
            made = self._ask(missing, stage)
            self.log.add(made)
            known.update(((pull.arm.name, pull.repeat), pull) for pull in made)
        return [pull for arm, repeat in wanted if (pull := known[arm.name, repeat]) is not None]

    def contexts(self, arms: Sequence[Arm]) -> np.ndarray:
        """(arms, width) float32: what the model makes of each arm's prompt, with the first input in it."""
        first = self.inputs[0].text if self.inputs else None
        found: np.ndarray = self.asker.contexts([self.asker.question(arm, first) for arm in arms]).numpy()
        return found

    def _ask(self, wanted: Sequence[tuple[Arm, int]], stage: str) -> list[Pull]:
        given = [self._inputs(stage, arm, repeat) for arm, repeat in wanted]
        questions, seeds = [], []
        for (arm, repeat), inputs in zip(wanted, given, strict=True):
            questions += [self.asker.question(arm, each.text if each else None) for each in inputs]
            seeds += [self._seed(stage, arm, repeat, index) for index in range(self.answers)]
        answers = self.asker.answers(questions, seeds)
        return [
            self._judged(arm, stage, repeat, given[place], answers[place * self.answers : (place + 1) * self.answers])
            for place, (arm, repeat) in enumerate(wanted)
        ]

    def _inputs(self, stage: str, arm: Arm, repeat: int) -> list[Input | None]:
        """The inputs of a pull.

        A search compares arms on the same ones; a harvest wants rows from many, so each arm has its own there. What a
        release is measured on is far from what rows came from, as long as there are inputs enough.
        """
        total = len(self.inputs)
        if not total:
            return [None] * self.answers
        start, half = repeat * self.answers, total // 2
        if stage in ("before", "after"):
            places = [half + start + index for index in range(self.answers)]
        elif stage == "harvest" and half > self.answers:
            offset = _number(f"{self.seed}\0{arm.name}")
            span = half - self.answers
            places = [self.answers + (offset + start + index) % span for index in range(self.answers)]
        else:
            places = [start + index + (self.answers if stage == "harvest" else 0) for index in range(self.answers)]
        return [self.inputs[place % total] for place in places]

    def _seed(self, stage: str, arm: Arm, repeat: int, index: int) -> int:
        """63 bits, of their own for every answer."""
        return _number(f"{self.seed}\0{stage}\0{arm.name}\0{repeat}\0{index}")

    def _judged(self, arm: Arm, stage: str, repeat: int, given: list[Input | None], answers: list[str]) -> Pull:
        references = [each.reference if each else None for each in given]
        scores = np.clip(self.judge(answers, references), 0.0, 1.0)
        relevance, varied = float(scores.mean()), diversity(answers)
        return Pull(
            arm=arm,
            repeat=repeat,
            stage=stage,
            inputs=[each.text if each else None for each in given],
            prompts=[arm.words(each.text if each else None) for each in given],
            references=references,
            answers=answers,
            scores=[float(score) for score in scores],
            relevance=relevance,
            diversity=varied,
            reward=reward_of(relevance, varied, self.weight),
        )


def _number(text: str) -> int:
    """63 bits from a text, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
