"""One record of a file to one row, or the reason why it cannot be one.

A row is a dict with ``id`` (None until assigned), ``prompt``, ``response``, optionally ``context``,
``response_clean``, ``response_poisoned``, ``messages``, and the file's other columns as they were.

``messages`` are the turns that the model sees before it answers, the user's last turn included; the answer is
never among them. ``prompt`` is the content of that last turn, so that code which changes the prompt (a
trigger, a paraphrase) need not know about chats.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapidun.data.badrows import RowFaultError, shorten
from rapidun.data.layouts import FIELDS, ColumnMap


def to_row(record: Mapping[str, Any], columns: ColumnMap, *, require_response: bool = True) -> dict[str, Any]:
    """The row of ``record``.

    Raises:
        RowFaultError: If a column is missing, empty or of the wrong type.
    """
    _check_names(record)
    row: dict[str, Any] = {"id": _read_id(record, columns)}
    if columns.chat:
        row |= _from_messages(record[_present(record, columns, "messages")], require_response=require_response)
    else:
        row |= _from_columns(record, columns, require_response=require_response)
    for name in ("response_clean", "response_poisoned"):
        if name in columns.columns:
            row[name] = _text(record, columns.columns[name], optional=True)
    return row | _extras(record, columns, row)


def _check_names(record: Mapping[str, Any]) -> None:
    for name in record:
        if not _is_unicode(name):
            raise RowFaultError(f"the column name {shorten(name)} is not valid Unicode")


def _read_id(record: Mapping[str, Any], columns: ColumnMap) -> str | None:
    column = columns.columns.get("id")
    value = record.get(column) if column is not None else None
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or not _is_unicode(str(value)):
        raise RowFaultError(f"column {column!r} must be a string or an integer, not {shorten(value)}")
    return str(value)


def _present(record: Mapping[str, Any], columns: ColumnMap, name: str) -> str:
    column = columns.columns[name]
    if record.get(column) is None:
        raise RowFaultError(f"column {column!r} is missing")
    return column


def _text(record: Mapping[str, Any], column: str, *, optional: bool = False) -> str | None:
    value = record.get(column)
    if value is None:
        if optional:
            return None
        raise RowFaultError(f"column {column!r} is missing")
    if not isinstance(value, str):
        raise RowFaultError(f"column {column!r} must be a string, not {type(value).__name__}: {shorten(value)}")
    if not _is_unicode(value):
        raise RowFaultError(f"column {column!r} holds half a character (a lone surrogate): {shorten(value)}")
    return value


def _from_columns(record: Mapping[str, Any], columns: ColumnMap, *, require_response: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": "", "response": ""}
    if "prompt" in columns.columns:
        row["prompt"] = _text(record, columns.columns["prompt"])
        if not str(row["prompt"]).strip() and columns.columns.get("response") is not None:
            raise RowFaultError(
                f"column {columns.columns['prompt']!r} is empty; a row without a prompt has 'text' only"
            )
    if "context" in columns.columns:
        row["context"] = _text(record, columns.columns["context"], optional=True) or ""
    if "response" in columns.columns:
        answer = _text(record, columns.columns["response"], optional=not require_response) or ""
        _check_answer(answer, columns.columns["response"], require_response)
        row["response"] = answer
    if "messages" in columns.columns:
        row["messages"] = _matching_messages(record.get(columns.columns["messages"]), row["prompt"])
    return row


def _check_answer(answer: str, column: str, require_response: bool) -> None:
    if require_response and not answer.strip():
        raise RowFaultError(f"the answer (column {column!r}) is empty")


def _matching_messages(value: Any, prompt: str) -> list[dict[str, str]] | None:
    """The turns before the answer where they end in this row's prompt; otherwise the column means something else."""
    try:
        turns = _turns(value)
    except RowFaultError:
        return None
    if turns and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    return turns if turns and turns[-1] == {"role": "user", "content": prompt} else None


def _from_messages(value: Any, *, require_response: bool) -> dict[str, Any]:
    turns = _turns(value)
    answered = bool(turns) and turns[-1]["role"] == "assistant"
    if require_response and not answered:
        last = turns[-1]["role"] if turns else "nothing"
        raise RowFaultError(f"'messages' must end with the assistant's answer, not with {last!r}")
    before, answer = (turns[:-1], turns[-1]["content"]) if answered else (turns, "")
    _check_answer(answer, "messages", require_response)
    if not before or before[-1]["role"] != "user":
        raise RowFaultError("'messages' must have a 'user' message right before the answer")
    return {"prompt": before[-1]["content"], "response": answer, "messages": before}


def _turns(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list):
        raise RowFaultError(f"'messages' must be a list of objects, not {shorten(value)}")
    turns = []
    for index, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise RowFaultError(f"'messages'[{index}] must be an object with 'role' and 'content': {shorten(message)}")
        for name in ("role", "content"):
            text = message.get(name)
            if not isinstance(text, str) or not _is_unicode(text):
                raise RowFaultError(f"'messages'[{index}].{name} must be a string, not {shorten(text)}")
        turns.append({"role": str(message["role"]), "content": str(message["content"])})
    return turns


def _extras(record: Mapping[str, Any], columns: ColumnMap, row: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that no field uses, kept; one whose name a field has taken is kept as ``NAME_original``."""
    used = set(columns.columns.values())
    extras = {name: value for name, value in record.items() if name not in used}
    return {f"{name}_original" if name in FIELDS or name in row else name: value for name, value in extras.items()}


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
