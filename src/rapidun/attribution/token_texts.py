"""Where each token stands in the text of its row: for words to find their tokens, and for pages to show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Span = tuple[int, int]
_INCOMPLETE = "\ufffd"  # what a decoder prints for a character whose bytes are not all there yet


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
