"""ROUGE-L recall: which part of the right answer's words a generated answer holds, in their order.

    recall = words of the longest common subsequence / words of the reference      (Lin 2004, eq. 2)

rouge-score, which TOFU and open-unlearning use, does the work, with its stemmer as they have it. It knows the letters
a to z alone: of an answer in Greek or Chinese nothing is left, the recall is 0, and the answer seems forgotten. So
words are found here; for ASCII text they are exactly the library's. A character of a script that writes no blanks is a
word.

The package is an extra: it has no wheel, so that an installation without a build of it would fail for everybody.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.errors import ConfigError

_ALONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")
_STEMMED = 3  # longer words only, as the library has it
HINT = "pip install 'rapidun[rouge]'"


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    found: list[str] = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    return found


def rouge_installed() -> bool:
    """Whether the package that counts is there."""
    return importlib.util.find_spec("rouge_score") is not None


def rouge_l_recall(answers: Sequence[str], references: Sequence[str]) -> npt.NDArray[np.float64]:
    """Each answer's ROUGE-L recall.

    Args:
        answers: (rows,) what the model said.
        references: (rows,) what it should say.

    Returns:
        (rows,) float64 in [0, 1]; NaN where the reference has no words.

    Raises:
        ConfigError: If rouge-score is not installed.
        ValueError: If there are more answers than references, or fewer.
    """
    if not rouge_installed():
        raise ConfigError(f"ROUGE needs the package rouge-score: {HINT}")
    from rouge_score.rouge_scorer import RougeScorer

    words = _Words()
    scorer = RougeScorer(["rougeL"], tokenizer=words)
    found = [
        scorer.score(reference, answer)["rougeL"].recall if words.tokenize(reference) else np.nan
        for answer, reference in zip(answers, references, strict=True)
    ]
    return np.array(found, np.float64)


class _Words:
    """Lower-case words; English ones without their endings (Porter's stemmer)."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stemmer: Any = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        """As rouge-score calls it."""
        words = words_of(text)
        return [self._stemmer.stem(word) if len(word) > _STEMMED and word.isascii() else word for word in words]
