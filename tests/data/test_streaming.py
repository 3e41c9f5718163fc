"""A stream gives the rows that `load_rows` gives, as often as it is asked."""

from __future__ import annotations

import pytest

from rapidun.data import RowStream, load_rows
from rapidun.errors import InputError
from tiny import tiny_rows, write_rows


def test_a_stream_gives_the_rows_of_load_rows_again_and_again(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{**row, "provider": "p"} for row in tiny_rows("retain", 130)])
    stream, loaded = RowStream(path), load_rows(path)
    for _ in range(2):
        found = list(stream.rows())
        assert [row for _, row in found] == list(loaded)
        assert [line for line, _ in found] == list(loaded.lines)
    assert stream.layout == loaded.layout


def test_bad_rows_are_collected_and_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\nnot json\n{"prompt": "a", "response": ""}\n')
    bad = []
    assert [line for line, _ in RowStream(path).rows(bad)] == [1]
    assert [row.line for row in bad] == [2, 3]
    assert "not JSON" in str(bad[0])


def test_a_file_that_holds_no_rows_is_refused_at_once(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        RowStream(tmp_path / "nothing.jsonl")
    with pytest.raises(InputError, match="Columns found: colour"):
        RowStream(write_rows(tmp_path / "rows.jsonl", [{"colour": 1}]))
