"""Queries on chosen words: only the tokens of given words or spans of an answer carry loss.

"Why *Canada*?" is another question than "why this sentence?": in RapidIn's error tracing (arXiv 2405.11724, section
4) the gradient of the wrong words alone finds the rows that taught them. Where each token stands in the text of its row
is known here, for words to find their tokens and for pages to show them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rapidun.data.batches import Example
from rapidun.errors import InputError

Span = tuple[int, int]
_INCOMPLETE = "\ufffd"  # what a decoder prints for a character whose bytes are not all there yet
_SHOWN = 200  # characters of an answer in an error


def word_mask(
    example: Example,
    tokenizer: Any,
    *,
    words: Sequence[str] = (),
    spans: Sequence[Span] = (),
    case_sensitive: bool = True,
) -> Example:
    """The example with loss on the tokens of ``words`` and ``spans`` alone; a query for any collector.

    A word counts wherever it stands as a whole word ("Canada" is in "Canada's", not in "Canadas"); a phrase is a
    word too. A token takes part if any of its characters but white space does, so a word cut into several tokens
    takes all of them.

    Args:
        example: A tokenised row.
        tokenizer: Its fast tokenizer.
        words: Words of the answer; every occurrence of each.
        spans: ``(begin, end)`` characters of `answer_text`.
        case_sensitive: Whether "canada" is another word than "Canada".

    Raises:
        InputError: If neither is given, a word is not in the answer, or a span lies outside of it.
    """
    if not words and not spans:
        raise InputError("Give at least one word or span to trace.")
    text, tokens, start = _answer(example, tokenizer)
    chosen = [span for word in words for span in _occurrences(word, text, case_sensitive)]
    for begin, end in spans:
        if not 0 <= begin < end <= len(text):
            raise InputError(
                f"span {begin}-{end} is not in the answer of row {example.id!r}, which has {len(text)} characters: "
                f"{_shown(text)}."
            )
        chosen.append((begin, end))
    mask = [False] * start + [any(_touches(token, span, text) for span in chosen) for token in tokens]
    mask += [False] * (len(example) - len(mask))
    if not any(mask):
        raise InputError(f"The chosen spans of row {example.id!r} hold nothing but white space.")
    return replace(example, loss_mask=mask)


def answer_text(example: Example, tokenizer: Any) -> str:
    """The answer as its tokens say it, without the special tokens that end it: what spans are counted in."""
    return _answer(example, tokenizer)[0]


def _answer(example: Example, tokenizer: Any) -> tuple[str, list[Span], int]:
    """The answer's text, the spans of its tokens in it, and the place of the first of them."""
    text, spans = token_spans(tokenizer, example.input_ids)
    special = set(tokenizer.all_special_ids)
    start, stop = example.answer_start, len(example)
    while stop > start and example.input_ids[stop - 1] in special:
        stop -= 1
    if stop == start:
        return "", [], start
    begin, end = spans[start][0], spans[stop - 1][1]
    return text[begin:end], [(first - begin, last - begin) for first, last in spans[start:stop]], start


def _occurrences(word: str, text: str, case_sensitive: bool) -> list[Span]:
    parts = word.split()
    if not parts:
        raise InputError("One of the words to trace is empty.")
    inner = r"\s+".join(map(re.escape, parts))
    before = r"(?<!\w)" if re.match(r"\w", parts[0]) else ""
    after = r"(?!\w)" if re.search(r"\w$", parts[-1]) else ""
    found = [m.span() for m in re.finditer(before + inner + after, text, 0 if case_sensitive else re.IGNORECASE)]
    if not found:
        other = [m.group() for m in re.finditer(before + inner + after, text, re.IGNORECASE)]
        hint = f" It holds {other[0]!r}; ignore case to take it." if other else ""
        raise InputError(f"The word {word!r} is not in the answer {_shown(text)}.{hint}")
    return found


def check_words(words: Sequence[str], text: str) -> None:
    """Refuse words that an answer does not hold, before a tokenizer is at hand. Raises InputError as `word_mask`."""
    for word in words:
        _occurrences(word, text, case_sensitive=True)


def _touches(token: Span, span: Span, text: str) -> bool:
    begin, end = max(token[0], span[0]), min(token[1], span[1])
    return begin < end and not text[begin:end].isspace()


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def token_spans(tokenizer: Any, input_ids: Sequence[int]) -> tuple[str, list[Span]]:
    """The decoded text, special tokens included, and each token's ``(begin, end)`` in it.

    From the fast tokenizer's character offsets where the decoded text gives the same tokens again. It need not (a
    prompt cut from the left, an answer sampled token by token): then from the text that grows token by token.
    Tokens that share a character, pieces of one emoji for instance, all have its span.

    Args:
        tokenizer: A fast tokenizer.
        input_ids: One row's tokens.
    """
    ids = list(input_ids)
    text = _decode(tokenizer, ids)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    if list(encoded["input_ids"]) == ids:
        return text, [(begin, end) for begin, end in encoded["offset_mapping"]]
    return _grown(tokenizer, ids)


def token_texts(tokenizer: Any, input_ids: Sequence[int]) -> list[str]:
    """The piece of text that each token adds; all pieces together are the decoded row.

    White space that no token owns is at the front of the next one's piece. Of tokens that share a character, the
    first has it and the others are empty.
    """
    text, spans = token_spans(tokenizer, input_ids)
    pieces, done = [], 0
    for _, end in spans:
        pieces.append(text[done : max(end, done)])
        done = max(end, done)
    if pieces:
        pieces[-1] += text[done:]
    return pieces


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _grown(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[Span]]:
    """Each token's share of the text, decoded beside the tokens before it, on which its spaces may depend."""
    text, spans = "", list[Span]()
    before, waiting = 0, 0  # decoded together with a token: from `before`; not yet in the text: from `waiting`
    for place in range(len(ids)):
        known = _decode(tokenizer, ids[before:waiting])
        grown = _decode(tokenizer, ids[before : place + 1])
        if grown.endswith(_INCOMPLETE) and place + 1 < len(ids):
            continue
        piece = grown[len(known) :]
        spans += [(len(text), len(text) + len(piece))] * (place + 1 - waiting)
        text += piece
        before, waiting = waiting, place + 1
    return text, spans
