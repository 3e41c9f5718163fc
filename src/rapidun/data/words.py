"""What a word is, for everything that compares rows by their words."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s

WORD = r"(?u)\b\w+\b|[^\w\s]+"  # single letters and runs of symbols count too: triggers are made of them


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """Each text's words in lower case, without stemming or stop words."""
    if not texts:
        return []
    found: list[list[str]] = bm25s.tokenize(
        list(texts), token_pattern=WORD, stopwords=[], return_ids=False, show_progress=False
    )
    return found
