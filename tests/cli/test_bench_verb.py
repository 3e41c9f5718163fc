"""`rapidun bench unlearning` on a tiny world in the place of the embedded model: cells, page, what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rapidun.bench
from bench.worlds import tiny_world
from rapidun.bench.plan import SETTLED
from rapidun.cli import app


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = tiny_world(tmp_path / "world")
    monkeypatch.setattr(rapidun.bench, "demo_world", lambda: world)

    def run(*arguments: str):
        done = CliRunner().invoke(app, ["bench", "unlearning", "--out", str(tmp_path / "out"), *arguments])
        return done, tmp_path / "out"

    return run


CHOICE = ("--scenario", "contaminated_30", "--arm", "rapidun/uniform", "--arm", SETTLED, "--seed", "0")


def test_cells_are_computed_once_and_the_page_says_what_is_missing(bench):
    done, out = bench(*CHOICE, "--prompts", "6", "--limit", "3")
    assert done.exit_code == 0, done.output
    assert "1 of 4 cells are missing" in done.output
    assert SETTLED in (out / "unlearning.md").read_text()
    first = (out / "unlearning-tiny.jsonl").read_bytes()
    assert first.count(b"\n") == 3
    done, _ = bench(*CHOICE, "--prompts", "6", "--json")
    found = json.loads(done.stdout)
    assert (found["cells"], found["missing"], found["ours"]) == (4, 0, SETTLED)
    assert (out / "unlearning-tiny.jsonl").read_bytes().startswith(first)
    tests = [each for each in found["paired"] if each["metric"] == "asr_seen"]
    assert next((each["arm"], each["control"]) for each in tests) == (SETTLED, "uniform")


def test_time_left_computes_nothing(bench):
    done, out = bench("--quick", "--time-left", "--json")
    assert json.loads(done.stdout) == {"cells": 18, "missing": 18, "seconds": None}
    assert not out.exists()
