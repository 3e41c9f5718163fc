"""Judges of a task: how much of the unwanted behaviour an answer shows, in [0, 1], by a function registered by name.

A `Judge` of the backdoor suite says yes or no. A task judge gives a degree, and may compare with a reference answer:
the relevance of revealed answers and the abilities that must be kept are both measured with one. A new kind is one
registered function whose keyword arguments are its options::

    @register_judge("short")
    def short(*, words: int) -> TaskJudge: ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rapidun.data import load_rows
from rapidun.errors import ConfigError, InputError
from rapidun.evaluation.classifiers import ClassifierJudge, HFClassifierJudge
from rapidun.evaluation.judges import Judge
from rapidun.evaluation.keywords import KeywordJudge
from rapidun.registry import Registry, check_options
from rapidun.settings import names

Scores = npt.NDArray[np.float64]


class TaskJudge(Protocol):
    """Scores answers; an empty answer scores 0."""

    def __call__(self, answers: Sequence[str], references: Sequence[str | None] | None = None) -> Scores:
        """(answers,) float64 in [0, 1]: 0 shows nothing of the behaviour, 1 all of it.

        Args:
            answers: What the model said.
            references: For each answer the right one, or None where it is not known; judges of text alone ignore it.

        Raises:
            InputError: If the judge needs a reference that is not there.
        """


Factory = Callable[..., TaskJudge]
JUDGES: Registry[Factory] = Registry(names.JUDGES)


def register_judge(name: str) -> Callable[[Factory], Factory]:
    """Register the decorated factory as the judge ``name``; its keyword arguments are the judge's options.

    Examples:
        >>> import rapidun
        >>> from rapidun.evaluation import make_judge
        >>> from rapidun.evaluation.task_judges import each_answer
        >>> @rapidun.register_judge("short")
        ... def short(*, words=5):
        ...     return each_answer(lambda answer, reference: float(len(answer.split()) <= words))
        >>> make_judge("short", {"words": 2})(["moon robot", "it is not so"]).tolist()
        [1.0, 0.0]
    """
    return JUDGES.register(name)


def check_judge(kind: str, options: Mapping[str, Any]) -> None:
    """Check a judge's name and the names of its options, without making it (which may read files or load a model).

    Raises:
        ConfigError: If the kind or an option is unknown, or an option is missing; names the nearest valid name.
    """
    check_options(f"judge {kind!r}", JUDGES[kind], options)


names.JUDGES.rule = check_judge


def make_judge(kind: str, options: Mapping[str, Any]) -> TaskJudge:
    """The judge called ``kind`` with these options.

    Raises:
        ConfigError: As `check_judge`, or for a value that cannot be used.
        InputError: If a file of the judge cannot be read.
        ModelError: If a classifier cannot be loaded.
    """
    check_judge(kind, options)
    judge = JUDGES[kind](**options)
    if not callable(judge):
        raise ConfigError(f"judge {kind!r} gave {type(judge).__name__}; return a judge, such as each_answer(score).")

    def scores(answers: Sequence[str], references: Sequence[str | None] | None = None) -> Scores:
        found = np.asarray(judge(answers, references), dtype=np.float64)
        if found.shape != (len(answers),):
            raise InputError(f"judge {kind!r}: {len(answers)} answers got scores of shape {found.shape}, not one each.")
        wrong = np.flatnonzero(~((found >= 0) & (found <= 1)))
        if len(wrong):
            raise InputError(f"judge {kind!r} gave {found[wrong[0]]:g} to an answer; a score is from 0 to 1.")
        return found

    return scores


def of_text(judge: Judge) -> TaskJudge:
    """A yes-or-no judge of the text alone as a task judge: 1 where it says yes."""

    def scores(answers: Sequence[str], references: Sequence[str | None] | None = None) -> Scores:
        return judge(answers).astype(np.float64)

    return scores


def each_answer(score: Callable[[str, str | None], float]) -> TaskJudge:
    """A task judge from a function of one answer and its reference; empty answers are 0 without asking it."""

    def scores(answers: Sequence[str], references: Sequence[str | None] | None = None) -> Scores:
        given = references if references is not None else [None] * len(answers)
        if len(given) != len(answers):
            raise InputError(f"a judge got {len(answers)} answers and {len(given)} references.")
        found = [score(answer, right) if answer.strip() else 0.0 for answer, right in zip(answers, given, strict=True)]
        try:
            return np.array(found, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"a judge gave {found[0]!r} to an answer; a score is a number from 0 to 1.") from error

    return scores


@register_judge("keywords")
def keywords(*, words: Sequence[str], min_hits: int = 1) -> TaskJudge:
    """1 where at least ``min_hits`` different words of the list occur, whole and in any case."""
    return of_text(KeywordJudge(words, min_hits))


@register_judge("regex")
def regex(*, pattern: str, ignore_case: bool = True) -> TaskJudge:
    """1 where the regular expression is found anywhere in the answer.

    Raises:
        ConfigError: If the pattern is not a regular expression, or finds something in an empty answer.
    """
    try:
        compiled = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise ConfigError(f"judge 'regex': {pattern!r} is not a regular expression ({error}).") from error
    if compiled.search(""):
        raise ConfigError(f"judge 'regex': {pattern!r} is found in every text, even an empty one.")
    return each_answer(lambda answer, _: float(compiled.search(answer) is not None))


@register_judge("classifier")
def classifier(*, unwanted: str, wanted: str) -> TaskJudge:
    """TF-IDF and logistic regression fitted on the answers of two row files; 1 where unwanted is the verdict."""
    answers = ([row["response"] for row in load_rows(Path(path))] for path in (unwanted, wanted))
    return of_text(ClassifierJudge.fit(*answers))


@register_judge("hf-classifier")
def hf_classifier(
    *, model: str, label: str | None = None, batch_size: int = 32, max_length: int = 512, device: str = "cpu"
) -> TaskJudge:
    """Any Hugging Face sequence classifier; 1 where ``label`` (of two labels: the second) is the most likely."""
    return of_text(
        HFClassifierJudge(model, poisoned_label=label, batch_size=batch_size, max_length=max_length, device=device)
    )
