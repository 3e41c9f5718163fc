"""JSON files that prove themselves: the last key, ``sha256``, is the checksum of the file with zeros in its place.

So a byte that was changed anywhere is seen, a blank or a digit of the checksum among them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rapidun.errors import InputError
from rapidun.files import atomic_write
from rapidun.reading import decoded, parse_json, read_bytes

KEY = "sha256"
_ZEROS = "0" * 64


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Indented JSON of ``value`` with its checksum, atomically.

    Raises:
        OutputError: If it cannot be written.
    """
    text = json.dumps({**value, KEY: _ZEROS}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    before, _, after = text.rpartition(_ZEROS)
    with atomic_write(path) as file:
        file.write(before + hashlib.sha256(text.encode()).hexdigest() + after)


def read_sealed(path: Path) -> tuple[dict[str, Any], bool | None]:
    """The value without its checksum, and whether the file is as it was written; None where it has no checksum.

    Raises:
        InputError: If the file is missing, cannot be read, or is no JSON object.
    """
    content = read_bytes(path)
    value = parse_json(decoded(content, path), path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object. It is not as it was written: restore it.")
    if KEY not in value:
        return value, None
    seal = str(value.pop(KEY)).encode()
    before, found, after = content.rpartition(seal)
    return value, bool(found) and hashlib.sha256(before + _ZEROS.encode() + after).hexdigest().encode() == seal


def altered(path: Path) -> InputError:
    """The error for a file whose checksum is another."""
    return InputError(f"{path}: its bytes were changed since it was written. Restore it, or make it again.")
