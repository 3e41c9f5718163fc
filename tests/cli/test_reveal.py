"""``rapidun reveal`` a run, going back a round, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

from cli.conftest import Rapidun

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


def test_a_run_and_going_back(house: Path, rapidun: Rapidun) -> None:
    out = house / "out"
    given = ("--model", house / "model", "--task", write_task(house), "--out", out, "--template", "plain")
    done = rapidun("reveal", *given, "--max-length", 96, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["metrics"]["verdict"] == "PASS"
    assert found["rounds"][0]["rows"] == len((out / "revealed.jsonl").read_text().splitlines()) > 0
    undone = rapidun("reveal", "undo", out, "--to-round", 0)
    assert undone.returncode == 0, undone.stderr
    assert "the model is as it was" in undone.stdout
    assert not (out / "adapter").exists()
    assert rapidun("reveal", "undo", out, "--to-round", 3).returncode == 2


def test_what_is_wrong_is_said_before_a_model_is_loaded(house: Path, rapidun: Rapidun) -> None:
    task = write_task(house, TASK.replace("search:", "serach:"))
    done = rapidun("reveal", "--model", house / "none", "--task", task, "--out", house / "out")
    assert done.returncode == 2
    assert "task.yaml: unknown key 'task.serach'. Did you mean 'search'?" in " ".join(done.stderr.split())
    assert not (house / "out").exists()
