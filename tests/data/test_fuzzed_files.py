"""Files with every kind of damage: rows or one clear line, never a traceback; and both ways of reading agree."""

from __future__ import annotations

import bz2
import copy
import csv
import datetime
import gzip
import io
import json
import lzma
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rapidun.data import RowStream, load_rows
from rapidun.errors import RapidunError

Records = list[dict[str, Any]]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
SHAREGPT = [{"from": "human", "value": "Wer bin ich?"}, {"from": "gpt", "value": "Du, natürlich."}]
CHAT = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "Qué?"},
    {"role": "assistant", "content": "Así."},
]
TOOLS = [CHAT[1], {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "3"}, CHAT[2]]
LAYOUTS: list[Callable[[int], dict[str, Any]]] = [
    lambda i: {"instruction": f"Sag {i}", "input": "Füße", "output": f"{i}", "system": "s", "history": [["a", "b"]]},
    lambda i: {"prompt": f"p {i}", "completion": f"r {i}", "score": i, "tags": ["a"]},
    lambda i: {"id": i, "question": f"q {i}", "answer": f"ça {i}", "context": None, "response_clean": "x"},
    lambda i: {"messages": CHAT, "source": f"{i}"},
    lambda i: {"messages": TOOLS, "tools": [{"type": "function", "function": {"name": "f"}}]},
    lambda i: {"conversations": SHAREGPT, "category": {"deep": [i]}},
    lambda i: {"prompt": CHAT[:2], "completion": CHAT[2:]},
    lambda i: {"prompt": "p", "chosen": f"{i}", "rejected": "b"},
    lambda i: {"text": f"line {i}\nand more"},
]
JUNK: list[Callable[[random.Random], Any]] = [
    lambda draw: None,
    lambda draw: draw.choice([True, 0, -1, 1.5, 2**70, 10**400, float("nan"), float("inf")]),
    lambda draw: draw.choice(["", " ", "\0", "\ud800", "a\u2028b", "[", "{}", "[[1]]", "x" * 100_000]),
    lambda draw: draw.choice([[], {}, [None], {"a": None}, {"": 1}, [[1], ["a"]], [{"role": "user"}], [CHAT]]),
    lambda draw: draw.choice([[*CHAT, None], [*CHAT[:2], {"role": "assistant", "content": [{"type": "image"}]}]]),
    lambda draw: _nested(draw.choice([3, 90, 110, 300])),
    lambda draw: [
        {"role": draw.choice(["user", "assistant", "tool", 3]), "content": draw.choice(["a", "", None, ["b"]])}
    ],
]


def _nested(depth: int) -> Any:
    value: Any = "x"
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


# damage to records ---------------------------------------------------------------------------------------------------


def _damaged_records(records: Records, draw: random.Random) -> Records:
    records = json.loads(json.dumps(records))
    for _ in range(draw.choice([0, 0, 1, 1, 2, 5])):
        row = draw.choice(records)
        name = draw.choice(list(row)) if row else "prompt"
        kind = draw.randrange(5)
        if kind == 0:
            row.pop(name, None)
        elif kind == 1:
            row[draw.choice(["context", "extra", "prompt", "messages", "tools", "\0", "", "id", "\ud800"])] = _junk(
                draw
            )
        elif kind == 2 and isinstance(row.get(name), list) and any(isinstance(turn, dict) for turn in row[name]):
            draw.choice([turn for turn in row[name] if isinstance(turn, dict)])[
                draw.choice(["content", "role", "weight", "tool_calls", "x"])
            ] = _junk(draw)
        else:
            row[name] = _junk(draw)
    if draw.random() < 0.2:
        records += [LAYOUTS[draw.randrange(len(LAYOUTS))](i) for i in range(draw.choice([1, 8]))]
    return records


def _junk(draw: random.Random) -> Any:
    return copy.deepcopy(draw.choice(JUNK)(draw))


# records to files ----------------------------------------------------------------------------------------------------


def _dumps(value: Any, draw: random.Random) -> bytes:
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, None, None, 1]))
    return text.encode("utf-8", "surrogatepass")


def _json_lines(records: Records, draw: random.Random) -> bytes:
    return b"".join(_dumps(row, draw).replace(b"\n", b" ") + b"\n" for row in records)


def _json_list(records: Records, draw: random.Random) -> bytes:
    return _dumps(draw.choice([records, {"data": records}, {"train": records, "version": 1}, {"x": records}]), draw)


def _table(records: Records, draw: random.Random, delimiter: str = ",") -> bytes:
    names = list(dict.fromkeys(name for row in records for name in row))
    names += names[:1] if draw.random() < 0.1 else []
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=draw.choice(["\n", "\r\n"]))
    cells = [
        [value if isinstance(value := row.get(name), str) else json.dumps(value) for name in names] for row in records
    ]
    writer.writerows([names, *cells])
    return file.getvalue().encode("utf-8", "surrogatepass")


def _parquet(records: Records, draw: random.Random) -> bytes:
    names = list(dict.fromkeys(name for row in records for name in row))
    columns = [_column([row.get(name) for row in records]) for name in names]
    file = io.BytesIO()
    pq.write_table(pa.table(columns, names=list(map(_name, names))), file)
    return file.getvalue()


def _name(name: str) -> str:
    return name.replace("\0", "0").encode("utf-8", "replace").decode()


def _column(values: list[Any]) -> pa.Array:
    """Of the type that Arrow finds; JSON text where it finds none, or would crash over the depth."""
    texts = [json.dumps(value) for value in values]
    try:
        return pa.array(texts if any(text.count('{"k"') > 10 or "{}" in text for text in texts) else values)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return pa.array(texts)


ZSTD = pa.Codec("zstd")
FORMATS: dict[str, Callable[[Records, random.Random], bytes]] = {
    "rows.jsonl": _json_lines,
    "rows.json": _json_list,
    "list.jsonl": _json_list,
    "rows.csv": _table,
    "rows.tsv": lambda records, draw: _table(records, draw, "\t"),
    "rows.parquet": _parquet,
    "rows.jsonl.gz": lambda records, draw: gzip.compress(_json_lines(records, draw)),
    "rows.csv.gz": lambda records, draw: gzip.compress(_table(records, draw)),
    "rows.json.bz2": lambda records, draw: bz2.compress(_json_list(records, draw)),
    "rows.jsonl.xz": lambda records, draw: lzma.compress(_json_lines(records, draw)),
    "rows.jsonl.zst": lambda records, draw: ZSTD.compress(_json_lines(records, draw), asbytes=True),
}


def _damaged_bytes(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice([0, 0, 0, 1, 1, 3])):
        place = draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[place:]
        elif kind == 2:
            data[place:place] = draw.choice(
                [b"\xff", b"\0", b'"', b"[", b"}", b"\n", b",", b"\r", b"9" * 5000, b"[" * 3000]
            )
        elif kind == 3:
            data[place:place] = data[draw.randrange(len(data) + 1) :][:200]
        elif kind == 4 and draw.random() < 0.3:
            data[:] = (
                bytes(data)
                .decode("utf-8", "replace")
                .encode(draw.choice(["latin-1", "utf-16", "utf-8-sig"]), "replace")
            )
        else:
            del data[place : place + draw.randrange(1, 40)]
    return bytes(data)


def _write(folder: Path, draw: random.Random) -> Path:
    """A file, or a folder that holds it under a split's name or that `datasets` saved, with some damage."""
    layout = draw.choice(LAYOUTS)
    records = _damaged_records([layout(i) for i in range(draw.choice([1, 3, 12]))], draw)
    name = draw.choice([*FORMATS, "saved", "snapshot"])
    if name == "saved":
        return _saved(folder / name, records, draw)
    if name == "snapshot":
        place = folder / name / "data"
        place.mkdir(parents=True)
        for number in range(draw.choice([1, 2])):
            content = _damaged_bytes(_parquet(records, draw), draw)
            (place / f"{draw.choice(['train', 'train', 'test'])}-0000{number}-of-00002.parquet").write_bytes(content)
        return folder / name
    path = folder / name
    path.write_bytes(_damaged_bytes(FORMATS[name](records, draw), draw))
    return path


def _saved(path: Path, records: Records, draw: random.Random) -> Path:
    names = list(dict.fromkeys(name for row in records for name in row))
    columns = {_name(name): _column([row.get(name) for row in records]) for name in names}
    datasets.Dataset(pa.table(columns)).save_to_disk(path)
    file = draw.choice(sorted(path.iterdir()))
    file.write_bytes(_damaged_bytes(file.read_bytes(), draw))
    return path


# what must hold ------------------------------------------------------------------------------------------------------


def _check(path: Path, draw: random.Random) -> bool:
    """Read the file in every way; whether it could be read."""
    options = {"require_response": draw.random() < 0.8}
    loaded = _named(path, lambda: load_rows(path, on_bad_row="skip", **options))
    strict = _named(path, lambda: load_rows(path, **options))
    bad: list[Any] = []
    streamed = _named(path, lambda: list(RowStream(path, **options).rows(bad)))
    if loaded is None:
        assert strict is None
        assert not streamed
        return False
    assert (strict is None) == bool(loaded.skipped)
    found = dict(zip(loaded.lines, loaded, strict=True))
    given = dict(streamed or [])
    repeated = {row.line for row in loaded.skipped if "is already that of line" in row.reason}
    assert len(found) == len(loaded)
    assert found.keys() | repeated == given.keys()
    assert {row.line for row in bad} | repeated == {row.line for row in loaded.skipped}
    for line, row in found.items():
        expected = {**given[line], "id": row["id"]}
        assert row["id"] == given[line]["id"] or row["id"].startswith(f"{given[line]['id']}-")
        assert _plain({name: value for name, value in row.items() if value is not None}) == _plain(
            {name: value for name, value in expected.items() if value is not None}
        )
    return True


def _named(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RapidunError as error:
        assert str(path) in str(error)
        assert "Traceback" not in str(error)
        str(error).encode("utf-8")
        return None


def _plain(value: Any) -> Any:
    """Comparable: NaN equals itself, and what JSON has no type for is its text."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return str(value) if isinstance(value, (bytes, datetime.datetime)) else value


def _fuzz(folder: Path, seeds: range) -> int:
    read = 0
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        draw = random.Random(seed)
        path = _write(place, draw)
        try:
            read += _check(path, draw)
        except BaseException as error:
            error.add_note(f"seed {seed}: {path}")
            raise
        shutil.rmtree(place)
    return read


def test_300_damaged_files_are_read_alike_or_named(tmp_path):
    assert 60 < _fuzz(tmp_path, range(300)) < 290


@pytest.mark.slow
def test_2500_damaged_files_are_read_alike_or_named(tmp_path):
    assert _fuzz(tmp_path, range(10_000, 12_500)) > 500
