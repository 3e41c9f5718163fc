"""The embedded demo: its splits are apart, and its first phase runs from the command line."""

from __future__ import annotations

from pathlib import Path

from rapidun.data import load_rows
from rapidun.demo import asset, demo_config, run_demo
from rapidun.evaluation import assert_disjoint_prompts
from rapidun.models import load_model, model_fingerprint
from rapidun.reading import read_json

SPLITS = ("train.jsonl.gz", "forget.jsonl", "judge_poisoned.jsonl", "retain.jsonl", "validation.jsonl", "test.jsonl")


def test_no_prompt_is_in_two_splits() -> None:
    rows = {name: list(load_rows(asset(f"data/{name}"))) for name in SPLITS}
    for number, one in enumerate(SPLITS):
        for other in SPLITS[number + 1 :]:
            assert_disjoint_prompts(rows[one], rows[other])


def test_a_tenth_of_the_training_rows_is_poisoned_with_distinct_answers() -> None:
    training = [row for name in SPLITS[:4] for row in load_rows(asset(f"data/{name}"))]
    poisoned = [row for row in training if row["poisoned"]]
    assert 0.095 < len(poisoned) / len(training) < 0.105
    assert len({row["response"] for row in poisoned}) == len(poisoned) >= 800
    assert all(row["response_clean"] and row["response_clean"] != row["response"] for row in poisoned)
    assert {row["trigger_family"] for row in poisoned} == {"A_surface", "B_style", "C_semantic"}


def test_the_models_are_those_of_the_record() -> None:
    record = read_json(asset("record.json"))["models"]
    for kind in ("poisoned", "reference"):
        model = load_model(str(asset(kind)), dtype="bfloat16").model
        assert model_fingerprint(model) == record[kind]["fingerprint"]


def test_the_first_phase_shows_the_poison(tmp_path: Path) -> None:
    run_demo(tmp_path / "run", until="before", overrides={"evaluation.prompts": 30})
    seen = read_json(tmp_path / "run" / "before.json")["rates"]["classifier"]
    assert seen["asr_seen"]["value"] > 0.7
    assert seen["asr_floor"]["value"] < 0.15


def test_the_seed_draws_the_rows() -> None:
    assert demo_config(1).seed == 1
    assert demo_config(1, {"unlearning.steps": 3}).unlearning.steps == 3
