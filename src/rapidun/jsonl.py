"""JSON lines: one reader and one writer, for files that are written whole and for logs that grow line by line.

A line ends at a line feed and nowhere else. Python's ``splitlines``, and other programs, also cut at U+2028, U+2029,
U+0085, vertical tab and form feed, which may stand in any answer: they are written as JSON's escapes, and read as they
are. A log's last line may be cut off by a kill: it is no line until its line feed is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rapidun.errors import InputError
from rapidun.files import atomic_write, disk_error
from rapidun.reading import decoded, parse_json, read_bytes
from rapidun.text import json_line

Line = dict[str, Any]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, atomically.

    Raises:
        OutputError: If it cannot be written.
    """
    with atomic_write(path) as file:
        for row in rows:
            file.write(json_line(row) + "\n")


def read_jsonl(path: Path) -> list[Line]:
    """All objects of a file that was written whole; blank lines are ignored.

    Raises:
        InputError: If the file is missing, or a line is not a JSON object; names the line.
    """
    return [value for _, value in numbered_lines(path)]


def numbered_lines(path: Path) -> Iterator[tuple[int, Line]]:
    """The same with the number of each line, from 1. Raises as `read_jsonl`."""
    return _objects(read_bytes(path), path)


def append_log(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add objects to a log and wait until they are on the disk; what a kill left of a last line is cut off first.

    Raises:
        OutputError: If it cannot be written.
    """
    content = "".join(json_line(row) + "\n" for row in rows).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.truncate(_whole_bytes(file))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(error, path) from error


def read_log(path: Path) -> list[Line]:
    """The whole lines of a log; none where there is no file.

    Raises:
        InputError: If one is not a JSON object; names the line.
    """
    return [value for _, value in numbered_log(path)]


def numbered_log(path: Path) -> Iterator[tuple[int, Line]]:
    """The same with the number of each line, from 1. Raises as `read_log`."""
    content = read_bytes(path) if path.exists() else b""
    return _objects(content[: content.rfind(b"\n") + 1], path)


def _objects(content: bytes, path: Path) -> Iterator[tuple[int, Line]]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        value = parse_json(decoded(line, where), where)
        if not isinstance(value, dict):
            raise InputError(f"{where}: not a JSON object.")
        yield number, value


def _whole_bytes(file: Any, block: int = 4096) -> int:
    """Bytes up to and including the last line feed, looked for from the end."""
    end: int = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - block)
        file.seek(start)
        place = file.read(end - start).rfind(b"\n")
        if place >= 0:
            return start + int(place) + 1
        end = start
    return 0
