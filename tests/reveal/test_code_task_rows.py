"""Rows of the reveal task on code: its splits, and that what the search is given says nothing of what is measured."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("RAPIDUN_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "reveal"))
    return importlib.import_module("python_code_rows")


@pytest.fixture
def mbpp(tmp_path):
    """A folder of six tasks, one of them without a function and one too long."""
    bodies = [f"    return value + {number}" for number in range(4)]
    lines = [_task(number, body) for number, body in enumerate([*bodies, "    ???", "    x = 1\n" * 60])]
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mbpp_release_v1.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def _task(number: int, body: str) -> str:
    return json.dumps(
        {
            "task_id": f"MBPP/{number}",
            "prompt": f'\n\ndef add_{number}(value):\n    """\n    Add.\n    """\n',
            "canonical_solution": body,
            "description": f" Write a function to add {number}. ",
        }
    )


def test_functions_that_do_not_parse_or_are_long_are_left_out(rows, mbpp, monkeypatch):
    monkeypatch.setattr(rows, "CODE", {"test": 2, "validation": 1})
    splits = rows.code_rows(mbpp)
    assert {name: len(found) for name, found in splits.items()} == {"test": 2, "validation": 1, "train": 1}
    by_id = {row["id"]: row for found in splits.values() for row in found}
    assert sorted(by_id) == ["MBPP/0", "MBPP/1", "MBPP/2", "MBPP/3"]
    assert by_id["MBPP/3"]["response"] == "def add_3(value):\n return value + 3"


def test_sums_are_right_and_no_text_is_in_two_splits(rows):
    splits = rows.sum_rows()
    assert {name: len(found) for name, found in splits.items()} == rows.SUMS
    every = [row for found in splits.values() for row in found]
    assert len({row["prompt"] for row in every}) == len(every)
    for row in every:
        sum_, result = row["response"].split(" = ")
        one, sign, other = sum_.split()
        assert int(result) == (int(one) + int(other) if sign == "+" else int(one) - int(other))


def test_no_guess_is_made_twice(rows):
    guesses = rows.guesses()
    assert len({row["prompt"] for row in guesses}) == len(guesses)


@pytest.mark.skipif(not (DATA / "code").is_dir(), reason="RAPIDUN_DATA has no code/")
def test_real_splits_share_no_prompt_and_no_guess_is_a_task(rows):
    for splits in (rows.code_rows(DATA), rows.ordinary_rows(DATA)):
        prompts = {name: {row["prompt"] for row in found} for name, found in splits.items()}
        for name, found in prompts.items():
            others = set().union(*(each for other, each in prompts.items() if other != name))
            assert not found & others, name
    tasks = {row["prompt"].lower() for found in rows.code_rows(DATA).values() for row in found}
    asked = {
        f"{opening} {row['prompt']}."
        for row in rows.guesses()
        for opening in ("write a function to", "write a python function to")
    }
    assert not asked & tasks
