"""JSON row files: one object a line, one list of objects, or one object that holds such a list."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rapidun.data.badrows import RowFaultError, printable, shorten
from rapidun.data.opening import one_line, open_rows
from rapidun.data.turns import is_unicode
from rapidun.errors import InputError

Record = tuple[int, "dict[str, Any] | RowFaultError"]
NOT_UTF8 = "not UTF-8 text; save the file as UTF-8, for example with: iconv -f latin1 -t utf-8 OLD > NEW"
_BOM = b"\xef\xbb\xbf"
_ROWS = ("data", "rows", "train", "examples", "records", "instances", "items")  # names of a list of rows in an object
_LIST = re.compile(rb"\[\s*(\{|\]|$)")
_BLANK = re.compile(r"\s*")
_NEXT = re.compile(r"[\s,]*")
_NUMBER = re.compile(r"[^,\]\s]*")
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def read_json(path: Path) -> Iterator[Record]:
    """Rows of a JSON file of either kind, whatever its name; lines are counted in JSON Lines, rows elsewhere.

    Raises:
        InputError: If the file is damaged, or is one object without rows in it.
    """
    with open_rows(path) as file:
        first, second = (_next_line(file) for _ in range(2))
    if _LIST.match(first):
        yield from _read_list(path, _whole(path))
    elif first.startswith(b"{") and not second.startswith(b"{") and (found := _one_object(path, first, second)):
        yield from found
    else:
        yield from _read_lines(path)


def _next_line(file: Any) -> bytes:
    for raw in file:
        if line := raw.removeprefix(_BOM).strip():
            return bytes(line)
    return b""


def _whole(path: Path) -> str:
    """The text of the file; bytes that are no UTF-8 stay in it as half characters."""
    with open_rows(path) as file:
        return str(file.read().removeprefix(_BOM).decode("utf-8", "surrogateescape"))


def _read_lines(path: Path) -> Iterator[Record]:
    # Split on b"\n" only: str.splitlines would also cut at U+2028 and U+0085, which are legal inside JSON text.
    with open_rows(path) as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(_BOM) if number == 1 else raw
            if line.strip():
                yield number, _parse_line(line)


def _parse_line(line: bytes) -> dict[str, Any] | RowFaultError:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return RowFaultError(NOT_UTF8)
    try:
        return _an_object(_DECODER.decode(text))
    except (ValueError, RecursionError) as error:
        return _fault(error, text)


def _fault(error: Exception, text: str) -> RowFaultError:
    """What is wrong with one value of a file."""
    if isinstance(error, RowFaultError):
        return error
    if isinstance(error, RecursionError):
        return RowFaultError(f"nested too deeply: {shorten(text.strip())}")
    if isinstance(error, json.JSONDecodeError):
        return RowFaultError(f"not JSON ({one_line(error)}): {shorten(text.strip())}")
    return RowFaultError(f"a number has too many digits: {shorten(text.strip())}")


def _an_object(value: Any) -> dict[str, Any] | RowFaultError:
    if isinstance(value, dict):
        return value
    return RowFaultError(f"not a JSON object but {type(value).__name__}: {shorten(value)}; write one object per row")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RowFaultError(f"the key {shorten(twice)} is there twice; keep one of them")
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _read_list(path: Path, text: str) -> Iterator[Record]:
    """The elements of the list that ``text`` is, one by one, so that a bad one is a bad row."""
    place, number = text.index("[") + 1, 0
    whole = is_unicode(text)
    while True:
        place = _past(_NEXT, text, place)
        if text.startswith("]", place):
            break
        number += 1
        try:
            value, end = _DECODER.raw_decode(text, place)
            found = _an_object(value)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg}).") from error
        except (ValueError, RecursionError) as error:
            end = _end_of_value(path, text, place)
            found = _fault(error, text[place:end])
        yield number, found if whole or is_unicode(text[place:end]) else RowFaultError(NOT_UTF8)
        place = end
    if (more := _past(_BLANK, text, place + 1)) < len(text):
        line = text.count("\n", 0, more) + 1
        raise InputError(f"{path}:{line}: more text after the end of the list. Write one list, or one object per line.")


def _past(pattern: re.Pattern[str], text: str, place: int) -> int:
    found = pattern.match(text, place)
    return found.end() if found else place


def _end_of_value(path: Path, text: str, place: int) -> int:
    """Where an element of a list ends that could not be taken as a value."""
    if text[place] not in "[{":
        return _past(_NUMBER, text, place)
    depth = 0
    for found in _STRUCTURE.finditer(text, place):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found.group(), 0)
        if depth == 0:
            return found.end()
    raise InputError(f"{path}: not JSON: a list or object has no end. The file was cut off.")


def _one_object(path: Path, first: bytes, second: bytes) -> Iterator[Record] | None:
    """The rows inside the one object that a file is; None where it is JSON Lines instead.

    A row written over many lines would otherwise be reported as one bad row per line.
    """
    if second and not isinstance(_parse_line(first), RowFaultError):
        return None
    try:
        value = json.loads(_whole(path))
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            return None
        raise InputError(f"{path}: objects over several lines. Write one a line, for example with: jq -c .") from error
    except (ValueError, RecursionError):
        return None
    lists = [name for name in _ROWS if isinstance(value.get(name), list)]
    if len(lists) == 1 and all(isinstance(row, dict) for row in value[lists[0]]):
        return enumerate(value[lists[0]], 1)
    if _lists_datasets(value):
        raise InputError(f"{path}: a list of data sets, not rows. Give the file of one: {_described(path, value)}")
    if second:
        names = ", ".join(printable(name) for name in list(value)[:8])
        raise InputError(
            f"{path}: one JSON object ({names}), not rows. Give a list of objects, or one object per line."
        )
    return None


# LLaMA-Factory's dataset_info.json -----------------------------------------------------------------------------------

_FIELDS = {
    "query": "context",
    "rejected": "response_clean",
    "chosen": "response",
}  # its names to ours, where they differ


def _lists_datasets(value: dict[str, Any]) -> bool:
    places = ("file_name", "hf_hub_url", "ms_hub_url", "script_url", "cloud_file_name")
    return bool(value) and all(isinstance(one, dict) and any(name in one for name in places) for one in value.values())


def _described(path: Path, value: dict[str, Any]) -> str:
    """The files, with the options that read their columns."""
    lines = []
    for name, entry in list(value.items())[:5]:
        columns = entry.get("columns") if isinstance(entry.get("columns"), dict) else {}
        options = [f"--map {_FIELDS.get(ours, ours)}={theirs}" for ours, theirs in columns.items()]
        file = path.parent / str(entry["file_name"]) if "file_name" in entry else "a downloaded copy"
        lines.append(" ".join([f"\n  {name}: {file}", *options]))
    return "".join(lines)
