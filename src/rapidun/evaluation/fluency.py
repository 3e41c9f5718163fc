"""How a model talks: is an answer empty, does it go round in circles, how varied are its words, do answers differ?

Unlearning that goes too far shows here first, before any fact is asked for. All are functions of the answers alone, so
that anyone who has these can compute them again. Words are those of ROUGE (`rapidun.evaluation.rouge.words_of`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rapidun.evaluation.perplexity import PerplexityResult
from rapidun.evaluation.rouge import words_of
from rapidun.stats import RATE, Interval, Rate, over_units

BIGRAMS, TRIGRAMS = 1 / 3, 2 / 3
"""Weights of both entropies in ROME's fluency."""
COPIES = 4
"""An end that says the same so many times in a row goes round in circles ..."""
LEAST = 24
"""... where it is so many characters long, and half of the answer."""
FLAGS = ("empty", "endless", "alike")
SHARES = ("distinct_1", "distinct_2")
MEANS = ("ngram_entropy", "words")

_Floats = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]


def ngram_entropy(answers: Sequence[str]) -> _Floats:
    """Each answer's ``H_2/3 + 2 H_3/3``, ``H_n = -sum_g f(g) log2 f(g)`` over its n-grams of words, in bits.

    The entropy of Zhang et al. 2018 (arXiv 1809.05972), with the weights that ROME (Meng et al. 2022, arXiv 2202.05262)
    and MEMIT (arXiv 2210.07229) report as fluency. It grows with an answer's length, so compare answers of one limit.
    Theirs counts punctuation as words; this does not.

    Args:
        answers: (rows,) texts.

    Returns:
        (rows,) float64, 0 where one n-gram is all there is; NaN for an answer of fewer than three words.
    """

    def of(words: Sequence[str]) -> float:
        return BIGRAMS * _entropy(words, 2) + TRIGRAMS * _entropy(words, 3) if len(words) > 2 else float("nan")

    return np.array([of(words_of(answer)) for answer in answers], np.float64)


def distinct_ngrams(answers: Sequence[str], n: int) -> _Floats:
    """Each answer's different n-grams of words over all of them (distinct-n, Li et al. 2016, arXiv 1510.03055).

    One less it is the repetition of Welleck et al. 2020 (seq-rep-n, arXiv 1908.04319).

    Args:
        answers: (rows,) texts.
        n: Words in an n-gram.

    Returns:
        (rows,) float64 in (0, 1]; NaN for an answer of fewer than ``n`` words.
    """
    counts = [_ngrams(words_of(answer), n) for answer in answers]
    return np.array([len(count) / count.total() if count else np.nan for count in counts], np.float64)


def is_empty(answers: Sequence[str]) -> _Flags:
    """(rows,) bool: whether an answer has no word at all."""
    return np.array([not words_of(answer) for answer in answers], bool)


def is_endless(answers: Sequence[str]) -> _Flags:
    """(rows,) bool: whether an answer ends in the same characters again and again.

    Its end is `COPIES` copies or more of one piece, the last of which may be cut off, is `LEAST` characters long or
    longer, and half of the answer or more. White space counts as one blank.
    """
    return np.array([_goes_round(" ".join(answer.split())) for answer in answers], bool)


def is_alike(answers: Sequence[str]) -> _Flags:
    """(rows,) bool: whether another prompt got the same words as an answer."""
    texts = [" ".join(words_of(answer)) for answer in answers]
    counts = Counter(texts)
    return np.array([counts[text] > 1 for text in texts], bool)


def fluency_rows(answers: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    """Every number of each answer: name to (rows,) float64, flags as 0 and 1, NaN where an answer has none."""
    return {
        "empty": is_empty(answers).astype(np.float64),
        "endless": is_endless(answers).astype(np.float64),
        "alike": is_alike(answers).astype(np.float64),
        "words": np.array([len(words_of(answer)) for answer in answers], np.float64),
        "distinct_1": distinct_ngrams(answers, 1),
        "distinct_2": distinct_ngrams(answers, 2),
        "ngram_entropy": ngram_entropy(answers),
    }


def fluency_values(rows: Mapping[str, _Floats]) -> dict[str, Interval]:
    """What the numbers of answers come to.

    Args:
        rows: Name to (rows,), of `fluency_rows`; ``answer_loss`` and ``answer_tokens`` besides where a reference model
            read the answers: their loss in nats, summed over an answer's tokens, and how many these are.

    Returns:
        The share of answers that are empty, endless or alike (Clopper-Pearson); means of the other numbers over the
        rows that have them (t); ``answer_perplexity`` (bootstrap over rows).
    """
    found: dict[str, Interval | None] = {name: _share(rows[name]) for name in FLAGS}
    found |= {name: over_units(_there(rows[name]), "rows", within=RATE) for name in SHARES}
    found |= {name: over_units(_there(rows[name]), "rows", within=(0.0, np.inf)) for name in MEANS}
    if "answer_loss" in rows and (read := rows["answer_tokens"] > 0).any():
        tokens = rows["answer_tokens"][read].astype(np.int64)
        perplexity = PerplexityResult.from_rows(rows["answer_loss"][read], tokens)
        ends = perplexity.low, perplexity.high
        found["answer_perplexity"] = Interval(perplexity.value, *ends, perplexity.n, "rows")
    return {name: value for name, value in found.items() if value is not None}


def fluency_change(after: Mapping[str, _Floats], before: Mapping[str, _Floats]) -> dict[str, Interval]:
    """Mean change of each number over the prompts whose answers have it both times, with a paired t interval."""
    ends = dict.fromkeys((*FLAGS, *SHARES), (-1.0, 1.0)) | dict.fromkeys(MEANS, (-np.inf, np.inf))
    found = {name: over_units(_there(after[name] - before[name]), "rows", within=its) for name, its in ends.items()}
    return {name: value for name, value in found.items() if value is not None}


def _share(flags: _Floats) -> Interval:
    rate = Rate.from_flags(flags > 0)
    return Interval(rate.value, rate.low, rate.high, rate.n, "rows")


def _there(values: _Floats) -> list[float]:
    found: list[float] = values[~np.isnan(values)].tolist()
    return found


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _entropy(words: Sequence[str], n: int) -> float:
    counts = np.array(list(_ngrams(words, n).values()), np.float64)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _goes_round(text: str) -> bool:
    longest = max(LEAST, (len(text) + 1) // 2)
    return any(_circling(text, period) >= max(longest, COPIES * period) for period in range(1, len(text) // COPIES + 1))


def _circling(text: str, period: int) -> int:
    """Characters at the end of ``text`` that repeat with ``period``."""
    place = len(text) - 1
    while place >= period and text[place] == text[place - period]:
        place -= 1
    return len(text) - 1 - place + period
