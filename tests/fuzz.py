"""Damage for files of JSON, YAML and bytes: seeded, and of every kind that was ever seen to hurt."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

NAUGHTY = (
    "", " ", "\0", "\ud800", "../x", "/etc/passwd", "a/../../b", "..\\x", "x" * 5000, "a\u2028b", "\x1b[31m", "[/x]",
    "nan", "1e999", "-0", "{{", "{% for", "~nobody/x", "é" * 200,
)  # fmt: skip
NUMBERS = (None, True, False, -1, 0, 1, 2**31, 2**63, 10**400, 1.5, -1e308, float("nan"), float("inf"))


def nested(depth: int, draw: random.Random) -> Any:
    value: Any = draw.choice(NAUGHTY)
    for _ in range(depth):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


def junk(draw: random.Random) -> Any:
    kind = draw.randrange(5)
    if kind == 0:
        return draw.choice(NUMBERS)
    if kind == 1:
        return draw.choice(NAUGHTY)
    if kind == 2:
        return draw.choice([[], {}, [None], [[]], [{}], {"": None}, ["a", 1], {"a": {"b": []}}])
    if kind == 3:
        return nested(draw.choice([2, 30, 200]), draw)
    return [draw.choice(NUMBERS) for _ in range(3)]


def places(value: Any) -> list[tuple[Any, Any]]:
    """``(container, key)`` of every value inside ``value``."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    found = [(value, key) for key in keys]
    return found + [place for key in keys for place in places(value[key])]


def damaged_value(value: Any, draw: random.Random) -> Any:
    """A copy of a JSON value with some of it replaced, removed, renamed or doubled."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        inside = places(value)
        if not inside or draw.random() < 0.03:
            return junk(draw)
        container, key = draw.choice(inside)
        kind = draw.randrange(6)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[draw.choice(NAUGHTY)] = container.pop(key)
        elif kind == 2 and isinstance(container, list):
            container.append(container[key])
        elif kind == 3 and type(container[key]) in (int, float):
            container[key] = container[key] * -1 + draw.choice([-1, 0, 1])
        else:
            container[key] = junk(draw)
    return value


def damaged_bytes(content: bytes, draw: random.Random) -> bytes:
    """The bytes cut off, flipped, doubled, or with something put in."""
    for _ in range(draw.choice([1, 1, 2, 5])):
        place = draw.randrange(len(content) + 1)
        kind = draw.randrange(6)
        if kind == 0:
            content = content[:place]
        elif kind == 1 and place < len(content):
            content = content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
        elif kind == 2:
            content = content[:place] + draw.choice(
                [b"\0", b"\xff\xfe", b"[" * 3000, b"9" * 5000, b"\n", b"\xe2\x80\xa8"]
            )
        elif kind == 3:
            content = content[:place] + draw.randbytes(draw.randrange(1, 30)) + content[place:]
        elif kind == 4:
            content = content[place:]
        else:
            content = content[:place] + content[max(0, place - 20) :]
    return content


def damaged_json(value: Any, draw: random.Random) -> bytes:
    """A JSON file of a damaged value, of damaged bytes, or of both."""
    if draw.random() < 0.75:
        value = damaged_value(value, draw)
    content = json.dumps(value, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    return damaged_bytes(content, draw) if draw.random() < 0.35 else content
