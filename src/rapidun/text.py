"""Text that somebody else wrote, made safe for a terminal.

Rows, ids, column names, file names and model answers may hold escape sequences (ESC, and its one-character form in
C1), which move the cursor, set the window's title or write to the clipboard (OSC 52), controls of direction, which
make a line read as another one, characters that draw nothing, or half characters, which cannot be written at all. Each
such character is shown as its escape, ``\\u001b``, so that nothing is hidden and nothing is obeyed.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

_PLAIN = re.compile(r"[ -~\n]*")
_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))  # Unicode's categories of what is not drawn as it is


def terminal_safe(text: str) -> str:
    """``text`` with every character that a terminal might obey, or draw as nothing, as its escape.

    Line feeds stay; all other white space that is drawn as such stays too. A tab is shown as ``\\t``: how wide it is
    depends on the terminal.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(map(_shown, text))


def on_one_line(text: str) -> str:
    """`terminal_safe`, with line feeds as ``\\n``."""
    return terminal_safe(text).replace("\n", "\\n")


def json_line(value: Any) -> str:
    """``value`` as JSON on one line that is safe for a terminal, and for readers that split at other line ends.

    Every character that `terminal_safe` would replace stands as JSON's own escape, so the line reads back as ``value``.
    A number that is not finite is written as null: JSON has no other word for it.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)
    return text if _PLAIN.fullmatch(text) else "".join(map(_in_json, text))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE


def _shown(character: str) -> str:
    if character == "\n" or not _unsafe(character):
        return character
    if character in "\t\r":
        return "\\t" if character == "\t" else "\\r"
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _in_json(character: str) -> str:
    return json.dumps(character)[1:-1] if _unsafe(character) else character
