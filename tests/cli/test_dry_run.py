"""``--dry-run``: everything is checked and a first batch tried; the plan is said, and nothing is left behind."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cli.conftest import Rapidun

PLAIN = "--template plain --max-length 96"
FAST = f"{PLAIN} --set influence.sketch_size=256"
TRIGGERS = "--set evaluation.triggers=[{name: t, position: prefix, seen: ['hey ']}] --set evaluation.max_new_tokens=4"
UNLEARN = f"unlearn --model model --forget forget.jsonl --retain retain.jsonl {FAST} --steps 6 --out o"
EVALUATE = (
    f"evaluate --model model --data evaluation.jsonl --poisoned forget.jsonl --clean retain.jsonl {PLAIN} --out o"
)
KNOWN = f"evaluate --model model --data evaluation.jsonl --suite qa {PLAIN}"
VERBS = {
    UNLEARN: ["evidence for weights", "unlearning"],
    f"{UNLEARN} --method fisher": ["evidence for weights", "unlearning"],
    f"{UNLEARN} --weights uniform": ["unlearning"],
    f"weigh --model model --forget forget.jsonl --retain retain.jsonl {FAST} --out o": ["evidence for weights"],
    f'{EVALUATE} --set "evaluation.triggers=[{{name: t, position: prefix, seen: [a]}}]"': [
        "measuring, perplexity",
        "measuring, answers",
    ],
    f"evaluate --model model --data evaluation.jsonl --suite generation {PLAIN} --out o": ["answers"],
    f"{KNOWN} --forget forget.jsonl --retain retain.jsonl --out o": ["losses of answers", "answers"],
    f"index build --model model --data retain.jsonl {PLAIN} --k 128 --out o": ["indexing"],
    f"value --model model --task-data forget.jsonl --candidates retain.jsonl {PLAIN} --k 128 --out o": ["valuing"],
    f"reveal --model model --task task.yaml {PLAIN} --out o": ["12 pulls", "releasing, 1 rounds"],
    "run run.yaml --out o": [
        "measuring before and after, perplexity",
        "measuring before and after, answers",
        "evidence for weights",
        "unlearning",
    ],
    "tune run.yaml --tuning evaluation.jsonl --out o --trials 0": [
        "evidence for weights",
        "probing",
        "measuring, perplexity",
        "measuring, answers",
    ],
}
RUN = """
model: {source: model}
data: {forget: forget.jsonl, retain: retain.jsonl, template: plain, max_length: 96}
influence: {sketch_size: 256}
unlearning: {steps: 6}
evaluation: {max_new_tokens: 4, triggers: [{name: t, position: prefix, seen: ["hey "]}]}
"""
TASK = """
description: x
instruction: say moon
retain: retain.jsonl
judge: {kind: keywords, options: {words: [moon]}}
search: {pulls: 6, keep: 2, harvest: 1, answers: 2, loops: 1, max_new_tokens: 4}
release: {rounds: 1, modules: {steps: 4}}
"""


Called = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def there(house: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (house / "run.yaml").write_text(RUN)
    (house / "task.yaml").write_text(TASK)
    monkeypatch.chdir(house)
    return house


@pytest.fixture
def called(there: Path, rapidun: Rapidun) -> Called:
    """Exit code, standard output and standard error."""

    def call(line: str) -> tuple[int, str, str]:
        done = rapidun(*shlex.split(line))
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.mark.parametrize("line", VERBS)
def test_a_dry_run_says_every_part_of_the_work_and_leaves_nothing(line: str, there: Path, called: Called) -> None:
    files = sorted(there.rglob("*"))
    code, out, err = called(f"{line} --dry-run --json")
    assert code == 0, err
    plan = json.loads(out)
    assert [part["title"] for part in plan["parts"]] == VERBS[line]
    assert all(part["seconds"] > 0 and part["total"] > 0 for part in plan["parts"])
    assert 0 < plan["memory_gib"] < 64
    assert plan["seconds"] == pytest.approx(sum(part["seconds"] for part in plan["parts"]))
    assert sorted(there.rglob("*")) == files


def test_a_dry_run_finds_what_is_wrong_and_says_whether_the_gate_can_be_passed(there: Path, called: Called) -> None:
    code, out, err = called("run run.yaml --out o --dry-run")
    assert code == 0
    assert "the gate cannot be passed: with seen triggers, not even 0 hits pass: 0 of 12" in err
    assert "dry run: nothing was done or written." in out
    assert "in all about" in out
    code, _, err = called(f"{UNLEARN} --lora-target q_porj --dry-run")
    assert (code, "q_porj" in err) == (2, True)
    (there / "o").mkdir()
    (there / "o" / "thesis.txt").write_text("mine")
    code, _, err = called(f"{UNLEARN} --dry-run")
    assert (code, "--overwrite" in err) == (2, True)


def test_a_real_run_says_the_estimate_goes_on_and_ends_as_a_run_without_one(there: Path, called: Called) -> None:
    """What is tried leaves no trace on the model: the weights and the adapter are those of a silent run."""
    from rapidun.pipeline import RunConfig, Silent, make_config, unlearn_only

    code, out, err = called(UNLEARN)
    assert code == 0, err
    assert "in all about" in err
    assert "loss on forget rows" in err
    assert "loss on forget rows: " in out
    assert "loss on validation rows: " in out
    config = make_config(yaml.safe_load((there / "o" / "config.yaml").read_text()), RunConfig)
    unlearn_only(config, there / "silent", weights=None, resume=False, overwrite=False, reporter=Silent())
    for name in ("weights.jsonl", "adapter/adapter_model.safetensors"):
        assert (there / "o" / name).read_bytes() == (there / "silent" / name).read_bytes()


def test_a_resume_names_the_setting_that_differs_with_both_values(there: Path, called: Called) -> None:
    assert called(UNLEARN)[0] == 0
    code, _, err = called(f"{UNLEARN} --learning-rate 1e-3 --resume --dry-run")
    assert code == 2
    assert "cannot resume: unlearning.learning_rate was auto and is now 0.001" in " ".join(err.split())
    rows = (there / "retain.jsonl").read_text().splitlines()
    (there / "retain.jsonl").write_text("\n".join(rows[1:]) + "\n")
    code, _, err = called(f"{UNLEARN} --resume")
    assert code == 2
    assert "rows retain (retain.jsonl) was" in " ".join(err.split())
