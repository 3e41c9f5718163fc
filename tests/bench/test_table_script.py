"""benchmarks/unlearning/table.py on a tiny world in the place of the embedded model: cells, page, what is missing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.worlds import tiny_world
from experiments.plan import SETTLED

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "unlearning"
CHOICE = ("--scenario", "contaminated_30", "--arm", "rapidun/uniform", SETTLED, "--seed", "0", "--prompts", "6")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import table as script

    world = replace(tiny_world(tmp_path / "world"), name="demo")
    monkeypatch.setitem(script.WORLDS, "demo", lambda split: world)
    out = tmp_path / "out"
    out.mkdir()

    def run(*arguments: str) -> tuple[str, Path]:
        monkeypatch.setattr(sys, "argv", ["table.py", "--out", str(out / "results"), *arguments])
        script.main()
        return capsys.readouterr().out, out / "results"

    monkeypatch.setattr(script, "draw", lambda *_: None)  # a picture needs Chromium
    return run


def test_cells_are_computed_once_and_the_page_says_what_is_missing(table):
    _, out = table(*CHOICE, "--limit", "3")
    assert "3 of 4 cells are computed" in (out / "unlearning.md").read_text()
    first = (out / "unlearning-demo.jsonl").read_bytes()
    assert first.count(b"\n") == 3
    said, _ = table(*CHOICE, "--json")
    found = json.loads(said.splitlines()[-1])
    assert (found["cells"], found["missing"], found["ours"]) == (4, 0, SETTLED)
    assert (out / "unlearning-demo.jsonl").read_bytes().startswith(first)
    tests = [each for each in found["paired"] if each["metric"] == "asr_seen"]
    assert next((each["arm"], each["control"]) for each in tests) == (SETTLED, "uniform")


def test_time_left_computes_nothing(table):
    said, out = table("--quick", "--time-left")
    assert "18 of 18 cells are missing: unknown" in said
    assert not out.exists()
