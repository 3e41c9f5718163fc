"""What a row says: everything of it that decides the tokens, for its id, for fingerprints and for comparing rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rapidun.data.turns import Turn, last_user
from rapidun.files import sha256_of


def content_id(row: Mapping[str, Any]) -> str:
    """16 hex digits of the SHA-256 of prompt, context and response, and other turns and tools where there are any."""
    return sha256_of(part.encode("utf-8") for part in row_texts(row))[:16]


def row_texts(row: Mapping[str, Any]) -> list[str]:
    """Prompt, context and response, and other turns and tools as JSON where there are any."""
    return [row["prompt"], row.get("context") or "", row["response"], *_beyond(row)]


def row_content(row: Mapping[str, Any]) -> Iterator[bytes]:
    """The id and all that decides the row's tokens, in parts."""
    parts = [str(row.get(name) or "") for name in ("id", "prompt", "context", "response")]
    return (part.encode("utf-8") for part in (*parts, *_beyond(row)))


def as_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as a file of JSON holds it, to be read again as the same row: no nulls, and text alone as ``text``.

    Of other columns, what JSON has no form for (a date, bytes, a decimal number) is text.
    """
    record = {name: _plain(value) for name, value in row.items() if value is not None}
    if not record["prompt"]:
        text = record.pop("response")
        record = {name: value for name, value in record.items() if name != "prompt"} | {"text": text}
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def other_turns(row: Mapping[str, Any]) -> list[Turn]:
    """The turns of a conversation that are neither the row's prompt nor its answer; empty where it is none."""
    turns = row.get("messages") or []
    own = {last_user(turns), len(turns) - 1 if turns and turns[-1].get("role") == "assistant" else None}
    return [turn for place, turn in enumerate(turns) if place not in own]


def other_text(row: Mapping[str, Any]) -> list[str]:
    """`other_turns` as texts, with their calls, and the row's tools."""
    said = [str(turn["content"]) for turn in other_turns(row)]
    calls = [turn["tool_calls"] for turn in row.get("messages") or [] if turn.get("tool_calls")]
    return said + [json.dumps(one, sort_keys=True) for one in (*calls, row.get("tools")) if one]


def _beyond(row: Mapping[str, Any]) -> list[str]:
    """What prompt, context and response do not say, as JSON: other turns, keys of turns, tools."""
    turns = list(row.get("messages") or [])
    asked, answered = {"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}
    for said in ([asked, answered], [asked]):
        if turns[-len(said) :] == said:
            earlier: list[Any] = turns[: -len(said)]
            break
    else:
        earlier = [turns] if turns else []  # the last two turns say more than their text
    beyond = [earlier] if earlier else []
    tools = [{"tools": row["tools"]}] if row.get("tools") else []
    return [json.dumps(part, sort_keys=True) for part in (*beyond, *tools)]
