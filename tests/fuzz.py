"""Damage for files of JSON, YAML and bytes: seeded, and of every kind that was ever seen to hurt."""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rapidun.errors import RapidunError
from rapidun.sealed import KEY, write_sealed

Case = Callable[[random.Random, Path], object]
"""Writes damaged files below a directory and reads them as a verb would."""

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


def damaged_table(content: bytes, draw: random.Random) -> bytes:
    """A Parquet file with other columns, types or rows, or with damaged bytes."""
    if draw.random() < 0.4:
        return damaged_bytes(content, draw)
    table = pq.read_table(io.BytesIO(content))
    names, place = table.column_names, draw.randrange(table.num_columns)
    other = pa.array([draw.choice([None, 3, "x", [1.5]])] * table.num_rows)
    table = draw.choice([
        table.slice(draw.randrange(table.num_rows + 1)),
        pa.concat_tables([table, table]),
        table.drop_columns(names[place]),
        table.set_column(place, names[place], other),
        table.append_column(names[place], other),
        table.rename_columns([draw.choice(("", " ", "../x")) if n == place else name for n, name in enumerate(names)]),
        table.set_column(place, names[place], pa.nulls(table.num_rows, table.schema.field(place).type)),
    ])  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def damage_one(folder: Path, draw: random.Random) -> Path:
    """Damage one file of a directory of results, or take it away; a checksum of its own is made anew half the time."""
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    content = path.read_bytes()
    if draw.random() < 0.04:
        path.unlink()
    elif path.suffix == ".json":
        path.write_bytes(damaged_json(value := json.loads(content), draw))
        if isinstance(value, dict) and KEY in value and draw.random() < 0.5:
            _sealed_anew(path)
    elif path.suffix == ".parquet":
        path.write_bytes(damaged_table(content, draw))
    elif path.suffix == ".jsonl" and draw.random() < 0.7:
        lines = content.split(b"\n")
        place = draw.randrange(len(lines))
        lines[place] = damaged_json(json.loads(lines[place] or b"null"), draw)
        path.write_bytes(b"\n".join(lines))
    else:
        path.write_bytes(damaged_bytes(content, draw))
    return path


def _sealed_anew(path: Path) -> None:
    """With the checksum of what is in the file now, where that is an object of plain values."""
    try:
        value = json.loads(path.read_bytes())
        write_sealed(path, {name: inner for name, inner in value.items() if name != KEY})
    except (ValueError, AttributeError, RecursionError):
        return


def copied(place: Path, name: str, make: Callable[[Path], object]) -> Path:
    """A fresh copy below ``place`` of a directory that is made once, beside it."""
    whole = place.parent / name
    if not whole.exists():
        make(whole)
    shutil.rmtree(place / name, ignore_errors=True)
    return Path(shutil.copytree(whole, place / name, symlinks=True))


def refusals(case: Case, seeds: range, place: Path) -> int:
    """How many of the damaged files were refused; every message names something and is no traceback."""
    place.mkdir()
    refused = 0
    for seed in seeds:
        try:
            case(random.Random(f"{case.__name__} {seed}"), place)
        except RapidunError as error:
            refused += 1
            assert str(error).strip(), f"{case.__name__} {seed}"
        except Exception as error:
            raise AssertionError(f"{case.__name__}, seed {seed}: {type(error).__name__}: {error}") from error
    return refused
