"""Conversations as people write them, to one form: a list of turns with ``role``, ``content`` and what else is said.

Read are OpenAI's chat files (``role`` and ``content``, ``tool_calls``, the older ``function_call``, content parts, the
``weight`` of an answer), ShareGPT's ``from`` and ``value``, pairs of question and answer (Alpaca's ``history``), and
any of them as JSON text in a cell of a table. A turn keeps the keys that chat templates know (`KEPT`) and no other; no
key of a turn is None.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rapidun.data.badrows import RowFaultError, shorten

Turn = dict[str, Any]
KEPT = ("name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking")
_READ = {"role", "from", "content", "value", "weight", "function_call", *KEPT}
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "tool_response": "tool",
}
_CALLS = ("function_call", "tool_call")  # ShareGPT's roles whose value is a call
_TEXT_PARTS = ("text", "input_text", "output_text")


def turns_of(value: Any, column: str, unread: set[str] | None = None) -> list[Turn]:
    """The turns of a conversation.

    Args:
        value: A list of messages, or JSON text of one.
        column: For messages.
        unread: Keys of messages that are not read are added to it.

    Raises:
        RowFaultError: If it is no such list, or a turn holds what cannot be read; names the turn.
    """
    messages = from_json(value, column)
    if not isinstance(messages, list):
        raise RowFaultError(f"{column!r} must be a list of objects, not {shorten(messages)}")
    turns = [_turn(message, f"{column!r}[{index}]") for index, message in enumerate(messages)]
    if turns and turns[-1]["role"] == "assistant" and messages[-1].get("weight") == 0:
        raise RowFaultError(
            f"{column!r}[{len(turns) - 1}].weight is 0: the last answer is not to be learnt, and there is no other "
            "that a row stands for. Take that turn off, or give it the weight 1"
        )
    if unread is not None:
        unread.update(f"{column}[].{key}" for message in messages for key in message if key not in _READ)
    return turns


def from_json(value: Any, column: str) -> Any:
    """``value``, or what it says where it is JSON text (as in a cell of a CSV)."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowFaultError(f"column {column!r} must be a list or JSON text of one: {shorten(value)}") from error


def pairs_to_turns(value: Any, column: str) -> list[Turn]:
    """Alpaca's ``history``, ``[[question, answer], ...]``, as turns.

    Raises:
        RowFaultError: If it is not a list of pairs of strings.
    """
    pairs = from_json(value, column) if value != "" else []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise RowFaultError(f"column {column!r} must be a list of [question, answer] pairs, not {shorten(value)}")
    said = [(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
    return [{"role": role, "content": checked_text(text, f"column {column!r}")} for role, text in said]


def tools_of(value: Any, column: str) -> list[Any] | None:
    """The schemas of a row's tools; a bare function gets OpenAI's ``{"type": "function", "function": ...}`` around it.

    Raises:
        RowFaultError: If it is not a list of objects, or JSON text of one.
    """
    tools = from_json(value, column) if value != "" else None
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RowFaultError(f"column {column!r} must be a list of objects, not {shorten(tools)}")
    check_json(tools, f"column {column!r}")
    bare = [isinstance(tool.get("name"), str) and "type" not in tool and "function" not in tool for tool in tools]
    return [_function(tool) if is_bare else tool for tool, is_bare in zip(tools, bare, strict=True)] or None


def texts_of(value: Any, column: str) -> list[str] | None:
    """The texts of a column that holds a list of them, JSON text of one, or a single text; None where it is empty.

    Raises:
        RowFaultError: If it holds anything else, or an empty text.
    """
    if value == "":
        return None
    listed = _listed(value)
    texts = listed if isinstance(listed, list) else [listed]
    for text in texts:
        if not checked_text(text, f"column {column!r}").strip():
            raise RowFaultError(f"column {column!r} holds an empty text among {len(texts)}")
    return texts or None


def _listed(value: Any) -> Any:
    """What the JSON text of a list says; anything else as it is, such as a text that begins with a bracket."""
    if not (isinstance(value, str) and value.lstrip().startswith("[")):
        return value
    try:
        return from_json(value, "")
    except RowFaultError:
        return value


def checked_text(value: Any, where: str) -> str:
    """``value`` where it is text that can be written as UTF-8.

    Raises:
        RowFaultError: If it is not; names ``where``.
    """
    if not isinstance(value, str):
        raise RowFaultError(f"{where} must be a string, not {type(value).__name__}: {shorten(value)}")
    if not is_unicode(value):
        raise RowFaultError(f"{where} holds half a character (a lone surrogate): {shorten(value)}")
    return value


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_json(value: Any, where: str) -> None:
    """Refuse a nested value that JSON or UTF-8 cannot hold.

    Raises:
        RowFaultError: If it holds NaN, a date or the like, or half a character; names ``where``.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise RowFaultError(f"{where} holds what JSON cannot hold ({error})") from error
    if not is_unicode(text):
        raise RowFaultError(f"{where} holds half a character (a lone surrogate): {shorten(value)}")


def last_user(turns: Sequence[Mapping[str, Any]]) -> int | None:
    """The place of the last user turn; None where there is none."""
    return next((place for place in reversed(range(len(turns))) if turns[place].get("role") == "user"), None)


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, Mapping):
        raise RowFaultError(f"{where} must be an object with 'role' and 'content': {shorten(message)}")
    role_key, content_key = ("from", "value") if "role" not in message and "from" in message else ("role", "content")
    said = checked_text(message.get(role_key), f"{where}.{role_key}")
    turn: Turn = {"role": _ROLES.get(said, said), "content": ""}
    turn |= {key: message[key] for key in KEPT if message.get(key) is not None}
    calls = _calls(message, said, where, content_key)
    if calls:
        turn["tool_calls"] = calls
    if said not in _CALLS and (message.get(content_key) is not None or not calls):
        turn["content"] = _content(message.get(content_key), f"{where}.{content_key}")
    if len(turn) > 2:
        check_json(turn, where)
    return turn


def _calls(message: Mapping[str, Any], said: str, where: str, content_key: str) -> list[Any]:
    """The tool calls of a message, whichever of the three ways they are written in."""
    if said in _CALLS:
        found = from_json(message.get(content_key), f"{where}.{content_key}")
        calls = [_function(call) for call in (found if isinstance(found, list) else [found])]
    elif message.get("function_call") is not None:
        calls = [_function(message["function_call"])]
    else:
        calls = from_json(message.get("tool_calls") or [], f"{where}.tool_calls")
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) and _named(call) for call in calls):
        raise RowFaultError(f"{where}.tool_calls must be a list of calls with a name: {shorten(calls)}")
    return calls


def _named(call: Mapping[str, Any]) -> bool:
    function = call.get("function", call)
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _function(described: Any) -> dict[str, Any]:
    return {"type": "function", "function": described}


def _content(value: Any, where: str) -> str:
    """Text, or the text of all parts, joined without anything between."""
    if not isinstance(value, list):
        return checked_text(value, where)
    return "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(value))


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in _TEXT_PARTS:
        shown = f"a part of type {shorten(kind)}" if isinstance(part, Mapping) else shorten(part)
        raise RowFaultError(f"{where} is {shown}: only parts of type 'text' can be read")
    return checked_text(part.get("text"), f"{where}.text")
