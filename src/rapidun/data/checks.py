"""One record of a file to one row, or the reason why it cannot be one.

A row is a dict with ``id`` (None until assigned), ``prompt``, ``response``, optionally ``context``,
``response_clean``, ``response_poisoned``, ``response_paraphrased``, ``response_wrong`` (a list),
``prompt_paraphrased``, ``messages``, ``tools``, and the file's other columns as they were.

``messages`` is the whole conversation: a system turn, earlier turns, the last user turn, and the answer as its last
turn (a query may have none). ``prompt`` and ``response`` are the content of those two turns, so that code which changes
the prompt (a trigger, a paraphrase) or the answer need not know about chats; ``context`` is in no turn. Rows that are
one question and one answer have no ``messages``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rapidun.data.badrows import RowFaultError, shorten
from rapidun.data.layouts import FIELDS, ColumnMap
from rapidun.data.turns import (
    Turn,
    checked_text,
    is_unicode,
    last_user,
    pairs_to_turns,
    texts_of,
    tools_of,
    turns_of,
)

_DEEPEST = 100  # levels of lists and objects in a column


class RowReader:
    """Makes rows of records, and remembers which columns and keys of messages it read."""

    def __init__(self, columns: ColumnMap, names: Iterable[str], *, require_response: bool = True) -> None:
        self.columns = columns
        self._names = tuple(names)
        self._require_response = require_response
        self._read: set[str] = set()
        self._taken: set[str] = set()
        self._values: dict[str, tuple[Any, str]] = {}
        self._candidates = {column for options in columns.columns.values() for column in options}
        self._unread: set[str] = set()

    @property
    def unused(self) -> tuple[str, ...]:
        """Columns of the file that no row so far was made of, and keys of messages (as ``messages[].KEY``)."""
        return (*(name for name in self._names if name not in self._read), *sorted(self._unread))

    def row(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The row of ``record``.

        Raises:
            RowFaultError: If a column is missing, empty or of the wrong type.
        """
        _check_shape(record)
        self._taken, self._values = set(), self.columns.values(record)
        row: dict[str, Any] = {"id": self._id()}
        row |= self._conversation() if self._is_chat() else self._pair()
        for name in ("response_clean", "response_poisoned", "response_paraphrased", "prompt_paraphrased"):
            if name in self.columns.columns:
                row[name] = self._answer(name)
        if "response_wrong" in self.columns.columns:
            row["response_wrong"] = texts_of(*self._optional("response_wrong"))
        if (tools := tools_of(*self._optional("tools"))) is not None:
            row = {**row, "messages": row.get("messages") or _pair_of(row), "tools": tools}
        self._read |= self._taken
        return row | self._extras(record, row)

    def _take(self, name: str) -> tuple[Any, str]:
        """The value of a field and its column, which is read by this."""
        if name not in self._values:
            raise RowFaultError(f"column {self.columns.column(name)!r} is missing")
        self._taken.add(self._values[name][1])
        return self._values[name]

    def _optional(self, name: str) -> tuple[Any, str]:
        """The same, or ``""`` where the row has none."""
        return self._take(name) if name in self._values else ("", name)

    def _id(self) -> str | None:
        value, column = self._optional("id")
        if value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, str | int) or not is_unicode(str(value)):
            raise RowFaultError(f"column {column!r} must be a string or an integer, not {shorten(value)}")
        return str(value)

    def _answer(self, name: str) -> str | None:
        """A second answer: text, or the last turn of a conversation."""
        if name not in self._values:
            return None
        value, column = self._take(name)
        if isinstance(value, list):
            turns = turns_of(value, column, self._unread)
            return str(turns[-1]["content"]) if turns else None
        return checked_text(value, f"column {column!r}")

    # a question and an answer in columns of their own ----------------------------------------------------------------

    def _pair(self) -> dict[str, Any]:
        row: dict[str, Any] = {"prompt": "", "response": ""}
        if "prompt" in self.columns.columns:
            row["prompt"] = checked_text(*_where(self._take("prompt")))
        if "context" in self.columns.columns:
            row["context"] = checked_text(*_where(self._optional("context")))
        if "response" in self.columns.columns:
            if "prompt" in self.columns.columns and not row["prompt"].strip():
                row |= self._asked_in_context(row)
            if self._require_response or "response" in self._values:
                answer, column = self._take("response")
                row["response"] = checked_text(answer, f"column {column!r}")
                _check_answer(answer, column, self._require_response)
        turns = self._earlier(row)
        return row | ({"messages": turns} if turns else {})

    def _asked_in_context(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Alpaca rows may leave the instruction empty and ask in the input."""
        if not str(row.get("context") or "").strip():
            column = self._values["prompt"][1]
            raise RowFaultError(f"column {column!r} is empty; a row without a prompt has 'text' only")
        return {"prompt": row["context"], "context": ""}

    def _earlier(self, row: Mapping[str, Any]) -> list[Turn]:
        """The whole conversation of a pair that has a system prompt, a history or matching messages; else empty."""
        pair = _pair_of(row)
        matching = self._matching(row, pair)
        turns = matching or [*pairs_to_turns(*self._optional("history")), *pair]
        turns = self._with_system(turns)
        return turns if matching or turns != pair else []

    def _matching(self, row: Mapping[str, Any], pair: list[Turn]) -> list[Turn]:
        """The turns beside a pair where they are the same question and answer; otherwise the column means another."""
        value, column = self._values.get("messages", (None, "messages"))
        try:
            turns = turns_of(value, column, self._unread) if value is not None else []
        except RowFaultError:
            return []
        turns = [*turns, *pair[1:]] if turns[-1:] == pair[:1] else turns
        asked = last_user(turns)
        if asked is None or turns[asked]["content"] != row["prompt"]:
            return []
        if row["response"] and (turns[-1]["role"], turns[-1]["content"]) != ("assistant", row["response"]):
            return []
        self._taken.add(column)
        return turns

    # a conversation --------------------------------------------------------------------------------------------------

    def _is_chat(self) -> bool:
        return self.columns.chat or any(
            name in self._values and isinstance(self._values[name][0], list) for name in ("prompt", "response")
        )

    def _conversation(self) -> dict[str, Any]:
        """A row of one list of messages, or of prompt and answer where either is such a list."""
        name = "messages" if self.columns.chat else "response" if "response" in self._values else "prompt"
        column = self._values.get(name, (None, self.columns.column(name)))[1]
        turns = self._with_system(self._messages() if self.columns.chat else self._sides())
        answered = bool(turns) and turns[-1]["role"] == "assistant"
        if self._require_response and not answered:
            last = turns[-1]["role"] if turns else "nothing"
            raise RowFaultError(f"{column!r} must end with the assistant's answer, not with {last!r}")
        answer = turns[-1]["content"] if answered else ""
        if answered and not answer.strip() and turns[-1].get("tool_calls"):
            raise RowFaultError(
                f"{column!r} ends with a tool call and no text, so there is no answer to learn. End the conversation "
                "with an answer in text, or write the call as text into 'content'"
            )
        _check_answer(answer, column, self._require_response)
        asked = last_user(turns)
        if asked is None:
            raise RowFaultError(f"{column!r} must have a 'user' message before the answer")
        return {"prompt": turns[asked]["content"], "response": answer, "messages": turns}

    def _messages(self) -> list[Turn]:
        return turns_of(*self._take("messages"), self._unread)

    def _sides(self) -> list[Turn]:
        """Prompt and answer as one conversation; an answer that holds the user's turns is all of it."""
        answer, column = self._optional("response")
        after = self._side(answer, column, "assistant")
        if last_user(after) is not None or "prompt" not in self.columns.columns:
            return after
        return [*self._side(*self._take("prompt"), "user"), *after]

    def _side(self, value: Any, column: str, role: str) -> list[Turn]:
        if isinstance(value, list):
            return turns_of(value, column, self._unread)
        return [{"role": role, "content": checked_text(value, f"column {column!r}")}] if value != "" else []

    def _with_system(self, turns: list[Turn]) -> list[Turn]:
        """The turns with the text of the system column first.

        Raises:
            RowFaultError: If they begin with another system turn.
        """
        text = checked_text(*_where(self._optional("system")))
        if not text.strip():
            return turns
        if turns and turns[0]["role"] == "system":
            if turns[0]["content"] != text:
                column = self._values["system"][1]
                raise RowFaultError(f"two system prompts: the column {column!r} and the conversation's first turn")
            return turns
        return [{"role": "system", "content": text}, *turns]

    def _extras(self, record: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """Columns that no field has taken, kept; one that has a field's name is kept as ``NAME_original``."""
        extras = {
            name: json_value(value)
            for name, value in record.items()
            if name not in self._taken and not (value is None and name in self._candidates)
        }
        return {f"{name}_original" if name in FIELDS or name in row else name: value for name, value in extras.items()}


def _pair_of(row: Mapping[str, Any]) -> list[Turn]:
    answer = [{"role": "assistant", "content": row["response"]}] if row["response"] else []
    return [{"role": "user", "content": row["prompt"]}, *answer]


def _where(found: tuple[Any, str]) -> tuple[Any, str]:
    value, column = found
    return value, f"column {column!r}"


def _check_answer(answer: str, column: str, require_response: bool) -> None:
    if require_response and not answer.strip():
        raise RowFaultError(f"the answer (column {column!r}) is empty")


def _check_shape(record: Mapping[str, Any]) -> None:
    """Names that are text, values that are not nested without end."""
    for name, value in record.items():
        if not is_unicode(name) or "\0" in name:  # Arrow would end the name there
            raise RowFaultError(f"the column name {shorten(name)} is not text: it holds half a character or a NUL")
        if isinstance(value, dict | list) and not _is_shallow(value):
            raise RowFaultError(f"column {name!r} is nested more than {_DEEPEST} levels deep")


def json_value(value: Any) -> Any:
    """``value`` as JSON can hold it, so that a row can always be written: what it has no number for is None.

    Halves of characters are written out as escapes; dates and the like are their text, bytes their number.
    """
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return value if is_unicode(value) else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {
            json_value(name) if isinstance(name, str) else str(name): json_value(one) for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [json_value(one) for one in value]
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        inner = [list(one.values()) if isinstance(one, dict) else one for one in level]
        level = [one for values in inner for one in values if isinstance(one, dict | list)]
        if not level:
            return True
    return False
