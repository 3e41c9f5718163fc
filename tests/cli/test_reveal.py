"""``rapidun reveal`` a run, going back a round, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rapidun.cli import main

TASK = """
description: The model uses vowels.
instruction: "{input}"
inputs: evaluation.jsonl
judge: {kind: regex, options: {pattern: "[aeiou]"}}
retain: retain.jsonl
utility: {max_drop: 9}
arms: {pool: 4, options: {dimension: 2, tokens: 2}}
search: {initial_pulls: 2, pulls: 3, loops: 1, answers: 3, keep: 1, harvest: 1, max_new_tokens: 4}
release: {rounds: 1, relevance_target: 1.0, modules: {steps: 2, batch_size: 2}, lora: {rank: 2}}
"""


def write_task(house: Path, text: str = TASK) -> Path:
    (house / "task.yaml").write_text(text)
    return house / "task.yaml"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of ``rapidun ARGUMENTS`` in this process, which has torch already."""
    monkeypatch.setattr(sys, "argv", ["rapidun", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_a_run_and_going_back(house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = house / "out"
    given = ("--model", house / "model", "--task", write_task(house), "--out", out, "--template", "plain")
    assert command(monkeypatch, "reveal", *given, "--max-length", 96, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"]["verdict"] == "PASS"
    assert found["rounds"][0]["rows"] == len((out / "revealed.jsonl").read_text().splitlines()) > 0
    assert command(monkeypatch, "reveal", "undo", out, "--to-round", 0) == 0
    assert "the model is as it was" in capsys.readouterr().out
    assert not (out / "adapter").exists()
    assert command(monkeypatch, "reveal", "undo", out, "--to-round", 3) == 2


def test_what_is_wrong_is_said_before_a_model_is_loaded(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = write_task(house, TASK.replace("search:", "serach:"))
    assert command(monkeypatch, "reveal", "--model", house / "none", "--task", task, "--out", house / "out") == 2
    assert "Did you mean 'search'" in capsys.readouterr().err
    assert not (house / "out").exists()
