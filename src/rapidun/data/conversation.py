"""The turns of a row: what stands before the answer, and the turn that is the answer.

``messages`` hold the whole conversation, the assistant's answer last. ``prompt``, the user's last turn, and
``response`` say two of its texts again, and are what counts: code that changes the prompt (a trigger) or the answer
(``response_clean``) need not know about chats. Keys with the value None are Arrow's, which gives all rows of a column
the same keys: they are absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rapidun.data.content import other_turns
from rapidun.data.turns import last_user

Row = Mapping[str, Any]
Turn = dict[str, Any]


def user_text(row: Row) -> str:
    """Prompt, blank line, context; the prompt alone where there is no context."""
    return f"{row['prompt']}\n\n{row['context']}" if row.get("context") else str(row["prompt"])


def turns_before(row: Row) -> list[Turn]:
    """Every turn before the answer, the user's last one with the row's own ``prompt``."""
    turns = [_as_text(present(turn)) for turn in row.get("messages") or []]
    if turns and turns[-1].get("role") == "assistant":
        turns.pop()
    if not turns:
        return [{"role": "user", "content": user_text(row)}]
    place = last_user(turns)
    asked = turns[-1 if place is None else place]
    if turn_text(asked) != user_text(row):
        asked["content"] = user_text(row)
    return turns


def answer_turn(row: Row) -> Turn:
    """The assistant's turn with ``response``; what else the file's last turn holds belongs to its own answer alone."""
    said = str(row.get("response") or "")
    messages = row.get("messages") or []
    last: Turn = present(messages[-1]) if messages else {}
    own = last.get("role") == "assistant" and turn_text(last) == said
    return {**(last if own else {}), "role": "assistant", "content": said}


def transcript(row: Row) -> str:
    """`other_turns` as text, for templates that know no roles; empty for rows without any."""
    return "".join(f"{str(turn.get('role')).capitalize()}: {turn_text(turn)}\n\n" for turn in other_turns(row))


def turn_text(turn: Mapping[str, Any]) -> str:
    """The text of a turn, its parts put together where it has parts."""
    content = turn.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return "" if content is None else str(content)


def _as_text(turn: Turn) -> Turn:
    """The turn with content of text parts alone as one text: many templates print a list as Python writes it."""
    parts = turn.get("content")
    if isinstance(parts, list) and all(isinstance(part, Mapping) and set(part) <= {"type", "text"} for part in parts):
        return {**turn, "content": turn_text(turn)}
    return turn


def present(value: Any) -> Any:
    """``value`` without the keys of its mappings, at any depth, that hold None."""
    if isinstance(value, Mapping):
        return {name: present(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [present(inner) for inner in value]
    return value
