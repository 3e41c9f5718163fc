"""Which suite is measured where none is asked for: what the files that are given allow, said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.test_run import make_run_config
from rapidun.pipeline import MeasureConfig, evaluate_only, make_config, run
from rapidun.pipeline.reporter import Silent
from rapidun.reading import read_json
from tiny import tiny_rows, write_rows

PLAIN: dict[str, Any] = {"judge": "classifier", "keywords": []}
OWN = [{"name": "mine", "position": "prefix", "seen": ["hey"]}]


class Noted(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def suite(self) -> list[str]:
        return [note for note in self.notes if note.startswith("suite: ")]


def before(directory: Path, evaluation: dict[str, Any], **data: str) -> tuple[bool, list[str]]:
    """Whether a run measures attack success, and what it says of the suite."""
    noted = Noted()
    config = make_run_config(directory, evaluation={**PLAIN, "max_new_tokens": 1, **evaluation}, data=data)
    run(config, directory / "out", until="before", reporter=noted)
    return bool(read_json(directory / "out" / "before.json")["rates"]), noted.suite


def test_a_run_without_judge_rows_measures_perplexity_and_says_what_is_missing(tmp_path: Path) -> None:
    attack, said = before(tmp_path, {})
    assert not attack
    assert len(said) == 1
    assert said[0].startswith("suite: perplexity alone;")
    assert "data.judge_poisoned" in said[0]


def test_a_run_with_judge_rows_measures_attack_success(tmp_path: Path) -> None:
    write_rows(tmp_path / "bad.jsonl", tiny_rows("forget", 6))
    attack, said = before(tmp_path, {}, judge_poisoned=str(tmp_path / "bad.jsonl"))
    assert attack
    assert said == ["suite: backdoor, as there are example answers to fit the judges on"]


@pytest.mark.parametrize("evaluation", [{"triggers": OWN}, {"keywords": ["moon"]}, {"suite": "backdoor"}])
def test_forget_rows_fit_the_judges_where_an_attack_is_named(tmp_path: Path, evaluation: dict[str, Any]) -> None:
    assert before(tmp_path, evaluation)[0]


@pytest.mark.parametrize(("files", "suite"), [((), "perplexity"), (("judge_poisoned", "validation"), "backdoor")])
def test_evaluate_measures_what_its_files_allow(tmp_path: Path, files: tuple[str, ...], suite: str) -> None:
    model = str(make_run_config(tmp_path).model.source)
    given = {name: str(tmp_path / f"{'forget' if name == 'judge_poisoned' else name}.jsonl") for name in files}
    raw = {
        "model": {"source": model},
        "data": {"evaluation": str(tmp_path / "evaluation.jsonl"), "template": "plain", "max_length": 96, **given},
        "evaluation": {"max_new_tokens": 1},
    }
    noted = Noted()
    found = evaluate_only(
        make_config(raw, MeasureConfig), tmp_path / "out", adapter=None, overwrite=False, reporter=noted
    )
    assert found["suite"] == suite
    assert ("asr_seen" in found["values"]) == (suite == "backdoor")
    assert len(noted.suite) == 1
    assert noted.suite[0].startswith(f"suite: {suite}")
