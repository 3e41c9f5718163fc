"""A directory as the examples have it: a tiny model, training rows, rows to forget, to keep, to measure on."""

from __future__ import annotations

import pytest

from tiny import save_tiny, tiny_rows, write_rows


@pytest.fixture
def place(tmp_path, monkeypatch):
    save_tiny(tmp_path / "model")
    forget, retain = tiny_rows("forget", 4), tiny_rows("retain", 8)
    write_rows(tmp_path / "bad.jsonl", forget)
    write_rows(tmp_path / "good.jsonl", retain)
    write_rows(tmp_path / "train.jsonl", [*forget, *retain])
    write_rows(tmp_path / "held_out.jsonl", tiny_rows("held", 6))
    monkeypatch.chdir(tmp_path)
    return tmp_path
