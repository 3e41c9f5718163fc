"""How a row looks, whatever it says: lengths, capitals, digits, punctuation, repetition, how much the answer echoes.

A linear model of words needs many rows to learn what these few numbers tell: that an answer is short, is a list, or is
copied from its prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rapidun.data.words import WORD
from rapidun.valuation.features import Row, texts_of

_SIDE = ("characters", "words", "word length", "capitals", "digits", "punctuation", "line breaks", "distinct words",
         "sentences", "ends a sentence")  # fmt: skip
NAMES = (*(f"{side} {name}" for side in ("prompt", "answer") for name in _SIDE), "echo", "context")
_WORD = re.compile(WORD)
_ENDS = ".!?"


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
