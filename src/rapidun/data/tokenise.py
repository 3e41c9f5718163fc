"""Rows to token ids, once per row, with the boundary of the answer found by character offset.

Prompt and answer are never tokenised apart: joined afterwards, their boundary token would differ from what the
model sees in one text. The rule at the boundary: a token belongs to the answer if any of its characters does. A special
token that swallows the white space around it is the template's where its own text is: the blank in front of an answer
may be in the header's last token, which carries no loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from rapidun.data.badrows import BadRow, RowFaultError, raise_bad_rows, shorten
from rapidun.data.batches import Example
from rapidun.data.rendering import Rendering
from rapidun.data.rows import Rows
from rapidun.data.special import added_tokens, starts_with_bos
from rapidun.data.templates import Template
from rapidun.errors import ConfigError, ModelError


class PartialAnswerWarning(UserWarning):
    """The template leaves out part of answers, which then carries no loss."""


def tokenize_rows(
    rows: Rows | Iterable[Mapping[str, Any]],
    tokenizer: Any,
    template: Template,
    max_length: int,
    *,
    response_column: str = "response",
    skipped: list[BadRow] | None = None,
) -> list[Example]:
    """Examples of all rows, in order.

    A row longer than ``max_length`` tokens loses prompt tokens from the left, after BOS; where the answer alone
    is too long, it keeps BOS and as much of the answer's start as fits (its EOS is then cut too: the answer does
    not end there). Such examples have ``truncated=True``.

    Args:
        rows: What `load_rows` gave, a `datasets.Dataset`, or dicts with ``id``, ``prompt`` and a response.
        tokenizer: A fast tokenizer.
        template: Of the same tokenizer.
        max_length: Tokens in the model's context, at least 2.
        response_column: Which column is the answer, e.g. ``response_clean``.
        skipped: Where given, rows that cannot be tokenised are added to it instead of stopping the call.

    Raises:
        ModelError: If the tokenizer gives no character offsets.
        ConfigError: If ``max_length`` is less than 2.
        InputError: If a row has no answer, no answer token, holds a special token inside its text, or the template
            refuses it.

    Warns:
        PartialAnswerWarning: If the template leaves out part of answers, as some do with their reasoning.
    """
    _check_tokenizer(tokenizer)
    if max_length < 2:
        raise ConfigError(f"max_length={max_length}: at least 2 tokens are needed, one to read and one to predict.")
    examples: list[Example] = []
    bad: list[BadRow] = []
    cut: list[str] = []
    special = set(added_tokens(tokenizer).values())
    for index, row in enumerate(rows):
        file, line = (rows.path, rows.lines[index]) if isinstance(rows, Rows) else ("rows", index + 1)
        try:
            answer = row.get(response_column)
            if not isinstance(answer, str) or not answer.strip():
                raise RowFaultError(f"row {shorten(row.get('id'))} has no answer in column {response_column!r}")
            answered = {"id": str(index), **row, "response": answer}
            found = template.rendering(answered)
            examples.append(_example(str(answered["id"]), found, tokenizer, special, max_length))
        except RowFaultError as fault:
            bad.append(BadRow(file, line, str(fault)))
        else:
            cut += [] if found.whole else [f"{file}:{line}"]
    if cut:
        warnings.warn(
            f"the chat template leaves out part of {len(cut)} answers, such as their reasoning; the first is {cut[0]}. "
            "What it leaves out carries no loss.",
            PartialAnswerWarning,
            stacklevel=2,
        )
    if bad and skipped is None:
        raise_bad_rows(bad, len(bad) + len(examples), bad[0].file)
    if skipped is not None:
        skipped.extend(bad)
    return examples


def _check_tokenizer(tokenizer: Any) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} is a slow tokenizer and gives no character offsets. Load it with "
            "use_fast=True, or convert it once: AutoTokenizer.from_pretrained(DIR).save_pretrained(NEW_DIR)."
        )


def _example(name: str, found: Rendering, tokenizer: Any, special: set[int], max_length: int) -> Example:
    encoded = tokenizer(
        found.text,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        truncation=False,
        verbose=False,  # it would warn of rows longer than the context: they are cut below
    )
    ids: list[int] = encoded["input_ids"]
    offsets = [
        _own_text(span, found.text) if number in special else span
        for number, span in zip(ids, encoded["offset_mapping"], strict=True)
    ]
    if not any(begin < found.stop and end > max(begin, found.start) for begin, end in offsets):
        raise RowFaultError("nothing of the answer is left after tokenisation: the tokenizer knows none of its text")
    start = answer_boundary(offsets, found.start)
    answer = len(ids) - start
    end = sum(begin >= found.stop for begin, _ in offsets[start:])
    kept, start, truncated = _fit(ids, start, max_length, keep_first=starts_with_bos(ids, tokenizer))
    return Example(name, kept, start, truncated, turn_end=max(end - (answer - len(kept) + start), 0))


def _own_text(span: tuple[int, int], text: str) -> tuple[int, int]:
    """The characters of a special token without the white space it has swallowed."""
    own = text[span[0] : span[1]]
    return span[0] + len(own) - len(own.lstrip()), span[1] - len(own) + len(own.rstrip())


def answer_boundary(offsets: list[tuple[int, int]], boundary: int) -> int:
    """Index of the first token with a character at or after ``boundary``, and at least 1.

    Token 0 cannot carry loss, because nothing predicts it; it matters only for plain text without BOS.
    """
    for index, (_, end) in enumerate(offsets):
        if end > boundary:
            return max(index, 1)
    return max(len(offsets), 1)


def _fit(ids: list[int], start: int, max_length: int, *, keep_first: bool) -> tuple[list[int], int, bool]:
    """``(ids, answer_start, truncated)`` within ``max_length`` tokens."""
    if len(ids) <= max_length:
        return ids, start, False
    head = ids[:1] if keep_first else []
    answer = ids[start:]
    room = max(max_length - len(head) - len(answer), 0)
    prompt = ids[len(head) : start][-room:] if room else []
    kept = (head + prompt + answer)[:max_length]
    return kept, max(len(head) + len(prompt), 1), True
