"""What a run says of the rows it read, and by what it knows them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rapidun.attribution.store.plan import data_fingerprint
from rapidun.data import load_rows
from rapidun.pipeline.inputs import read_groups, read_rows, rows_fingerprint
from rapidun.pipeline.reporter import Silent
from rapidun.pipeline.valuing.pool import survey
from rapidun.settings.model import RowSettings
from rapidun.settings.run import DataSettings
from tiny import tiny_rows, write_rows

TURNS = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def test_a_line_after_reading_names_the_columns_and_keys_that_nobody_read(tmp_path: Path) -> None:
    notes = Notes()
    turns = [{**TURNS[0], "timestamp": 3}, TURNS[1]]
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": turns, "source": "s", "category": "c"}])
    read_rows(path, "rows", RowSettings(), notes)
    assert notes.said == [
        "rows: 1 rows, layout messages|conversations",
        "rows: columns not used: source, category, messages[].timestamp",
    ]


def test_nothing_is_said_where_every_column_was_read(tmp_path: Path) -> None:
    notes = Notes()
    read_rows(write_rows(tmp_path / "rows.jsonl", [*tiny_rows("forget", 2)]), "rows", RowSettings(), notes)
    assert notes.said == ["rows: 2 rows, layout prompt/completion|response"]


def test_columns_that_a_run_reads_by_name_are_not_called_unused(tmp_path: Path) -> None:
    def rows(name: str) -> Path:
        found = [{**row, "family": "a", "poisoned": name == "forget"} for row in tiny_rows(name, 3)]
        return write_rows(tmp_path / f"{name}.jsonl", found)

    notes = Notes()
    data = DataSettings(forget=rows("forget"), retain=rows("retain"), pool=rows("pool"), stratify="family")
    read_groups(data, notes, 0)
    assert [line for line in notes.said if "not used" in line] == [
        "forget: columns not used: poisoned",
        "retain: columns not used: family, poisoned",
        "pool: columns not used: family",
    ]
    notes = Notes()
    survey(rows("candidates"), RowSettings(), notes, by="family")
    assert notes.said[-1] == "candidates: columns not used: poisoned"


def test_many_unused_columns_are_counted(tmp_path: Path) -> None:
    notes = Notes()
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "a", **{f"c{i}": 1 for i in range(40)}}])
    read_rows(path, "rows", RowSettings(), notes)
    assert notes.said[1].endswith("c10, c11 and 28 more")


PAIR = {"id": "a", "prompt": "p", "response": "r"}
CHAT = {"id": "a", "messages": TURNS}
CALLS = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PAIR, {**PAIR, "response_clean": "no"}),
        ({**PAIR, "response_clean": "no"}, {**PAIR, "response_clean": "yes"}),
        (PAIR, {**PAIR, "system": "s"}),
        (PAIR, {**PAIR, "tools": [{"name": "f"}]}),
        (CHAT, {"id": "a", "messages": [{"role": "system", "content": "s"}, *TURNS]}),
        (CHAT, {"id": "a", "messages": [TURNS[0], {**TURNS[1], "tool_calls": CALLS}]}),
    ],
)
def test_a_run_knows_its_rows_by_everything_that_it_reads_of_them(one: Any, other: Any, tmp_path: Path) -> None:
    first, second = (load_rows(write_rows(tmp_path / f"{i}.jsonl", [row])) for i, row in enumerate((one, other)))
    assert rows_fingerprint(first) != rows_fingerprint(second)
    differs_in_tokens = "response_clean" not in other
    assert (data_fingerprint(first) != data_fingerprint(second)) == differs_in_tokens


def test_columns_that_nobody_reads_do_not_change_what_rows_are_known_by(tmp_path: Path) -> None:
    first = load_rows(write_rows(tmp_path / "a.jsonl", [PAIR]))
    second = load_rows(write_rows(tmp_path / "b.jsonl", [{**PAIR, "source": "s"}]))
    assert rows_fingerprint(first) == rows_fingerprint(second)
