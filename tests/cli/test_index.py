"""``rapidun index`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny import tiny_rows, write_rows


def build(rapidun: Any, house: Path, *more: object) -> Any:
    options = ["--template", "plain", "--max-length", 96, "--k", 128, "--shard-rows", 5]
    return rapidun(
        "index", "build", "--model", house / "model", "--data", house / "retain.jsonl", "--out", house / "index",
        *options, *more,
    )  # fmt: skip


def refused(done: Any, *parts: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    message = " ".join(done.stderr[done.stderr.rindex("error:") :].split())
    for part in parts:
        assert part in message, message


def test_an_index_is_built_appended_to_verified_and_exported(rapidun: Any, house: Path) -> None:
    done = build(rapidun, house, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["shards"]) == (12, 3)
    assert list(found["views"]) == ["gradient", "hidden", "lexical"]
    refused(build(rapidun, house), "exists and is not empty", "--resume", "--overwrite")

    write_rows(house / "more.jsonl", tiny_rows("more", 4))
    model = ("--model", house / "model", "--template", "plain")
    done = rapidun("index", "append", house / "index", *model, "--data", house / "more.jsonl")
    assert done.returncode == 0, done.stderr
    assert "16 in 4 shards" in done.stdout
    other = ("--model", house / "model", "--template", "alpaca")
    refused(rapidun("index", "append", house / "index", *other, "--data", house / "more.jsonl"), "template", "plain")

    out = house / "out"
    done = rapidun("index", "export", house / "index", "--out", out)
    assert done.returncode == 0, done.stderr
    assert np.load(out / "vectors.npy").shape == (16, 128)
    query = ("--query", house / "forget.jsonl", "--keep", 3)
    done = rapidun("index", "export", house / "index", "--out", out, "--format", "rapidin", *model, *query, "--json")
    assert done.returncode == 0, done.stderr
    (path,) = json.loads(done.stdout)["files"]
    assert len(json.loads(Path(path).read_text())["7"]["harmful"]) == 3

    shard = house / "index" / "shards" / "00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(bytes(content))
    done = rapidun("index", "verify", house / "index", "--json")
    refused(done, "shards/00002.safetensors", "bytes were changed")
    assert json.loads(done.stdout)["whole"] is False


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (("--views", "smell"), ("view", "smell", "lexical")),
        (("--store-dtype", "float8"), ("dtype", "float8")),
        (("--targets", "q_pruj"), ("q_pruj", "q_proj")),
    ],
)
def test_bad_settings_are_named_and_leave_nothing(rapidun: Any, house: Path, more: tuple, parts: tuple) -> None:
    refused(build(rapidun, house, *more), *parts)
    assert not (house / "index").exists()


def test_help_and_a_missing_index(rapidun: Any, house: Path) -> None:
    done = rapidun("index", "--help")
    for verb in ("build", "append", "info", "verify", "export"):
        assert verb in done.stdout
    refused(rapidun("index", "info", house), "no index here")
