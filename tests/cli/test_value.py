"""``rapidun value`` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rapidun.cli import app
from rapidun.errors import ConfigError, InputError, OutputError, RapidunError
from tiny import tiny_rows, write_rows

Verb = Callable[..., str]


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Verb:
    """``rapidun value ...`` in this process, where importing torch once is enough; gives standard output."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        assert app(["value", *map(str, arguments)], standalone_mode=False) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def pool(house: Path) -> Path:
    rows = [*tiny_rows("retain", 30), *tiny_rows("forget", 30)]
    sources = ("north", "south", "south")
    return write_rows(house / "pool.jsonl", [{**row, "provider": sources[i % 3]} for i, row in enumerate(rows)])


def options(house: Path, *more: object) -> list[object]:
    files = ["--model", house / "model", "--task-data", house / "forget.jsonl", "--candidates", house / "pool.jsonl"]
    return [*files, "--out", house / "out", "--template", "plain", "--max-length", 96, "--k", 128, *more]


def test_a_pool_is_valued_selected_from_and_shared(verb: Verb, house: Path, pool: Path) -> None:
    said = verb(*options(house, "--exact", "--select", "top:10%", "--by", "provider"))
    assert "60 rows: median" in said
    assert "selected: 6 rows" in said
    assert "north" in said
    assert (house / "out" / "report.html").stat().st_size > 1_000_000
    chosen = [json.loads(line) for line in (house / "out" / "selected.jsonl").read_text().splitlines()]
    assert len(chosen) == 6
    assert {"prompt", "response", "provider", "value"} <= set(chosen[0])
    with pytest.raises(OutputError, match=r"--resume.*--overwrite"):
        verb(*options(house))
    found = json.loads(verb(*options(house, "--exact", "--select", "threshold:0", "--resume", "--json")))
    assert found["selection"]["least"] >= 0
    assert "best" not in found


def test_a_student_is_fitted_saved_and_used_again(verb: Verb, house: Path, pool: Path) -> None:
    said = verb(*options(house, "--sample", "50%", "--format", "csv"))
    assert "student against teacher, held-out rows: Spearman" in said
    assert (house / "out" / "values.csv").read_text().startswith("line,id,value,teacher\n")
    saved = ("--student", house / "out" / "student", "--candidates", pool, "--out", house / "again")
    found = json.loads(verb(*saved, "--json"))
    assert (found["kind"], found["rows"]) == ("student", 60)
    with pytest.raises(ConfigError, match="leave out --model"):
        verb(*saved, "--model", house / "model")


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        (("--similarity", "angle"), ConfigError, "value.similarity = 'angle'"),
        (("--optimizer", "lion"), ConfigError, "value.optimizer = 'lion'"),
        (("--sketch", "napkin"), ConfigError, "sketch kind 'napkin'"),
        (("--targets", "q_pruj"), RapidunError, "q_pruj.*q_proj"),
        (("--sampling", "astrology"), ConfigError, "student.sampling = 'astrology'"),
        (("--encoder", "somewhere"), ConfigError, "--encoder goes with --student encoder"),
        (("--select", "top:200%"), ConfigError, "--select top:200%"),
        (("--by", "colour"), InputError, "no column 'colour'"),
        (("--candidates", "nowhere.jsonl"), InputError, "nowhere.jsonl: no such file"),
    ],
)
def test_bad_settings_are_named_and_leave_nothing(
    verb: Verb, house: Path, pool: Path, more: tuple[str, ...], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        verb(*options(house, *more))
    assert not (house / "out").exists()


def test_what_is_missing_is_said_with_exit_code_2(rapidun: Any, house: Path, pool: Path) -> None:
    done = rapidun("value", "--candidates", pool, "--out", house / "out")
    assert done.returncode == 2
    assert "give --model and --task-data, or --student DIRECTORY" in done.stderr
    with pytest.raises(InputError, match="no such student"):
        app(["value", "--student", "nobody", "--candidates", str(pool), "--out", str(house / "out")],
            standalone_mode=False)  # fmt: skip
