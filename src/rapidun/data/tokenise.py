"""Rows to token ids, once per row, with the boundary of the answer found by character offset (trap 5).

Prompt and answer are never tokenised apart: joined afterwards, their boundary token would differ from what the
model sees in one text. The rule at the boundary: a token belongs to the answer if any of its characters does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rapidun.data.badrows import BadRow, RowFaultError, raise_bad_rows, shorten
from rapidun.data.batches import Example
from rapidun.data.rows import Rows
from rapidun.data.templates import Template
from rapidun.errors import ConfigError, ModelError


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
        InputError: If a row has no answer, no answer token, or holds the tokenizer's BOS or EOS inside its text.
    """
    _check_tokenizer(tokenizer)
    if max_length < 2:
        raise ConfigError(f"max_length={max_length}: at least 2 tokens are needed, one to read and one to predict.")
    examples: list[Example] = []
    bad: list[BadRow] = []
    for index, row in enumerate(rows):
        try:
            answered = {"id": str(index), **row, "response": _answer(row, response_column)}
            examples.append(_example(answered, tokenizer, template, max_length))
        except RowFaultError as fault:
            file, line = (rows.path, rows.lines[index]) if isinstance(rows, Rows) else ("rows", index + 1)
            bad.append(BadRow(file, line, str(fault)))
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


def _answer(row: Mapping[str, Any], column: str) -> str:
    answer = row.get(column)
    if not isinstance(answer, str) or not answer.strip():
        raise RowFaultError(f"row {shorten(row.get('id'))} has no answer in column {column!r}")
    return answer


def _example(row: Mapping[str, Any], tokenizer: Any, template: Template, max_length: int) -> Example:
    prompt, answer = template.prompt_text(row), template.answer_text(row)
    _check_special_text(row, answer.removesuffix(template.ending), template)
    encoded = tokenizer(
        prompt + answer,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        truncation=False,
        verbose=False,  # it would warn of rows longer than the context: they are cut below
    )
    ids: list[int] = encoded["input_ids"]
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    answer_end = len(prompt) + len(answer) - len(template.ending)
    if not any(begin < answer_end and end > max(begin, len(prompt)) for begin, end in offsets):
        raise RowFaultError("nothing of the answer is left after tokenisation: the tokenizer knows none of its text")
    start = answer_boundary(offsets, len(prompt))
    kept, start, truncated = _fit(ids, start, max_length, keep_first=ids[0] == tokenizer.bos_token_id)
    return Example(str(row["id"]), kept, start, truncated)


def _check_special_text(row: Mapping[str, Any], answer: str, template: Template) -> None:
    """BOS or EOS inside the data would become the real token: a second start, or an end in the middle."""
    prompt = str(row.get("prompt") or "").removeprefix(template.bos_text)
    for name, text in (("prompt", prompt), ("context", row.get("context") or ""), ("answer", answer)):
        for special in (template.bos_text, template.eos_text):
            if special and special in text:
                raise RowFaultError(f"the {name} holds the tokenizer's {special!r} inside its text; take it out")


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
