"""The special tokens of a tokenizer: where they may stand, what it puts in front of a text, and what pads.

A special token inside a row's own text would become the real token: a turn that the row does not have, or an end in the
middle. Such rows are refused, whatever field holds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rapidun.data.badrows import RowFaultError
from rapidun.data.conversation import Row, answer_turn, turns_before, user_text


def added_tokens(tokenizer: Any) -> dict[str, int]:
    """Every token beside the vocabulary proper, text to id; single characters and white space are text, not tokens."""
    found = {str(token.content): int(number) for number, token in tokenizer.added_tokens_decoder.items()}
    return {text: number for text, number in found.items() if len(text.strip()) > 1}


def leading_text(tokenizer: Any) -> str:
    """The special tokens that the tokenizer itself puts before a text, as text; often BOS, often nothing.

    Its post-processor decides, not its ``bos_token``: GPT-2 and Qwen have one that is never written, and in SmolLM2 it
    is the header of a turn.
    """
    encoded = tokenizer("a", return_special_tokens_mask=True)
    mask: list[int] = encoded["special_tokens_mask"]
    count = mask.index(0) if 0 in mask else 0
    return "".join(tokenizer.convert_ids_to_tokens(encoded["input_ids"][:count]))


def starts_with_bos(ids: list[int], tokenizer: Any) -> bool:
    """Whether the first token is BOS, and no header of a turn: one that comes again and that no tokenizer adds is."""
    if not ids or ids[0] != tokenizer.bos_token_id:
        return False
    return ids.count(ids[0]) == 1 or leading_text(tokenizer).startswith(tokenizer.bos_token)


def padding_id(tokenizer: Any) -> int:
    """A token to fill padding with: the tokenizer's own, or its unknown token, or token 0, or 1; never EOS.

    Which one does not matter, because masks come from lengths. The tokenizer is not told: a pad token given to it would
    be saved with it, and take its text out of every answer.
    """
    candidates = (tokenizer.pad_token_id, tokenizer.unk_token_id, 0, 1)
    return next(int(one) for one in candidates if one is not None and one != tokenizer.eos_token_id)


class ControlTokens:
    """The tokens that a row's text must not hold.

    These are the special tokens, and the other added ones that the chat template frames turns with. Tags that come in
    pairs, such as ``<think>`` and ``</think>``, are part of what a model writes where the tokenizer does not call them
    special.

    Args:
        tokenizer: A fast tokenizer.
        framing: A conversation as the template writes it; "" without one.
    """

    def __init__(self, tokenizer: Any, framing: str = "") -> None:
        self._tokenizer = tokenizer
        added = added_tokens(tokenizer)
        special = {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special |= set(tokenizer.all_special_tokens)
        framed = {text for text in added if text in framing and not _paired(text, added)}
        self._texts = {added[text]: text for text in added if text in special | framed}
        longest = sorted(self._texts.values(), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest)) or r"(?!)", re.IGNORECASE)

    def check(self, row: Row, answer: str) -> None:
        """Refuse a row that holds one.

        Raises:
            RowFaultError: Names the field or turn, and the token.
        """
        for field, text in _texts(row, answer):
            found = self.find(text)
            if found is not None:
                raise RowFaultError(f"{field} holds the tokenizer's {found!r} inside its text; take it out")

    def find(self, text: str) -> str | None:
        """The first control token that ``text`` would be read to hold, if there is one."""
        if not self._pattern.search(text):
            return None
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return next((self._texts[one] for one in ids if one in self._texts and self._holds(text, one)), None)

    def _holds(self, text: str, number: int) -> bool:
        """Whether the token stands there; the unknown token also comes of text it is not written in."""
        return self._texts[number].lower() in text.lower()


def _paired(text: str, added: Mapping[str, int]) -> bool:
    other = f"<{text[2:]}" if text.startswith("</") else f"</{text[1:]}"
    return text.startswith("<") and other in added


def _texts(row: Row, answer: str) -> Iterator[tuple[str, str]]:
    """``(field, text)`` of every text of a row that reaches the model."""
    yield "the prompt", str(row.get("prompt") or "")
    yield "the context", str(row.get("context") or "")
    yield "the answer", answer
    messages = row.get("messages") or []
    for number, turn in enumerate(turns_before(row) if messages else [], 1):
        said = {**turn, "content": None} if turn.get("content") == user_text(row) else turn  # the prompt, seen above
        yield from ((f"turn {number} ({turn.get('role')})", text) for text in _strings(said))
    rest = {**answer_turn(row), "content": None}
    yield from (("the answer's turn", text) for text in _strings(rest))
    yield from (("the column 'tools'", text) for text in _strings(row.get("tools")))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)
