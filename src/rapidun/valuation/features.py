"""What a student reads of a row: hashed n-grams of prompt and answer, and how they look. No vocabulary, no state.

Prompt and answer have n-grams of their own: the same word means another thing on the other side. A linear model of
words needs many rows to learn what a few numbers of `surface` tell: that an answer is short, is a list, or is copied
from its prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.feature_extraction.text import HashingVectorizer

from rapidun.data.content import other_text
from rapidun.data.conversation import user_text
from rapidun.data.words import WORD
from rapidun.errors import ConfigError

Row = Mapping[str, Any]
LENGTHS = 4
_SIDE = ("characters", "words", "word length", "capitals", "digits", "punctuation", "line breaks", "distinct words",
         "sentences", "ends a sentence")  # fmt: skip
NAMES = (*(f"{side} {name}" for side in ("prompt", "answer") for name in _SIDE), "echo", "context")
_WORD = re.compile(WORD)
_ENDS = ".!?"


def texts_of(row: Row) -> tuple[str, str]:
    """``(prompt with context and earlier turns, answer)``."""
    earlier = "".join(f"{text}\n\n" for text in other_text(row))
    return earlier + user_text(row), str(row.get("response") or "")


def length_of(row: Row) -> int:
    """Characters of the row's text."""
    prompt, answer = texts_of(row)
    return len(prompt) + len(answer)


@dataclass(frozen=True)
class HashedText:
    """Rows to sparse features.

    Args:
        buckets: Of the hash, for prompt and answer each.
        words: Longest n-gram in words.

    Raises:
        ConfigError: If a number is out of range.
    """

    buckets: int = 2**17
    words: int = 2

    def __post_init__(self) -> None:
        if not (256 <= self.buckets <= 2**24 and 1 <= self.words <= 5):
            raise ConfigError(f"buckets={self.buckets}, words={self.words}: give 256 to 2^24, and 1 to 5.")

    @property
    def width(self) -> int:
        """Number of features, lengths included."""
        return 2 * self.buckets + LENGTHS

    def __call__(self, rows: Sequence[Row]) -> sp.csr_matrix:
        """(rows, width) float32; the n-grams of each side have norm 1, or 0 where there is no text."""
        texts = [texts_of(row) for row in rows]
        sides = [self._vectorizer.transform([text[side] for text in texts]) for side in (0, 1)]
        return sp.hstack([*sides, sp.csr_matrix(_lengths(texts))], format="csr", dtype=np.float32)

    def text_only(self, rows: Sequence[Row]) -> sp.csr_matrix:
        """(rows, 2 x buckets) float32 of norm 1: how alike two rows are is their inner product, in [0, 1]."""
        return self(rows)[:, : 2 * self.buckets] / np.float32(np.sqrt(2))

    @cached_property
    def _vectorizer(self) -> HashingVectorizer:
        return HashingVectorizer(
            n_features=self.buckets,
            ngram_range=(1, self.words),
            token_pattern=WORD,
            alternate_sign=False,
            norm="l2",
            dtype=np.float32,
        )


def _lengths(texts: Sequence[tuple[str, str]]) -> np.ndarray:
    """Logarithms of characters and words of both sides, scaled to the size of the other features."""
    counts = [[len(part), part.count(" ") + 1] for pair in texts for part in pair]
    return (np.log1p(np.array(counts, dtype=np.float32)) / 10).reshape(len(texts), LENGTHS)


def surface(rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    """(rows, len(NAMES)) float32; counts as logarithms, the rest as shares or means."""
    return np.array([_of_row(row) for row in rows], dtype=np.float32).reshape(len(rows), len(NAMES))


def _of_row(row: Row) -> list[float]:
    prompt, answer = texts_of(row)
    asked, said = (_WORD.findall(text.lower()) for text in (prompt, answer))
    known = set(asked)
    echo = sum(word in known for word in said) / max(1, len(said))
    return [*_of_side(prompt, asked), *_of_side(answer, said), echo, float(bool(row.get("context")))]


def _of_side(text: str, words: list[str]) -> list[float]:
    characters, count = max(1, len(text)), max(1, len(words))
    return [
        float(np.log1p(len(text))),
        float(np.log1p(len(words))),
        len(text) / count,
        sum(map(str.isupper, text)) / characters,
        sum(map(str.isdigit, text)) / characters,
        sum(not (letter.isalnum() or letter.isspace()) for letter in text) / characters,
        text.count("\n") / characters,
        len(set(words)) / count,
        float(np.log1p(sum(map(text.count, _ENDS)))),
        float(text.rstrip().endswith(tuple(_ENDS))),
    ]
