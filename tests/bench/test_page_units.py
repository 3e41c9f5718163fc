"""A page says what its numbers are of: one model is one value, a rate stays a rate, scenarios are units."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import Cell, CellStore, Results, write_page
from rapidun.reading import read_json

ASR = {
    "poisoned": [0.909375] * 5,
    "retrain": [0.0] * 5,
    "rapidun/influence": [0.0, 0.0, 0.0, 0.02, 0.0],
    "rapidun/uniform": [0.1, 0.12, 0.11, 0.1, 0.14],
}


@pytest.fixture
def page(tmp_path: Path) -> tuple[str, dict]:
    store, cells = CellStore(tmp_path / "cells.jsonl"), []
    for scenario in ("main", "small"):
        for arm, rates in ASR.items():
            for seed, rate in enumerate(rates):
                cell = Cell(arm, scenario, seed, {"version": 1})
                result = {"asr_seen": {"value": rate}, "perplexity_ratio": {"value": 1.0 + rate}}
                store.add(cell, result, {"wall_seconds": 1.0})
                cells.append(cell)
    paths = write_page(Results(cells, store), tmp_path, title="Made up", ours="rapidun/influence")
    return paths[0].read_text(encoding="utf-8"), read_json(paths[1])


def row(text: str, arm: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {arm} |"))


def test_one_model_measured_again_and_again_is_one_value_without_an_interval(page: tuple[str, dict]) -> None:
    text, numbers = page
    assert row(text, "poisoned") == "| poisoned | 0.909 (one model) | 0.909 (one model) |"
    entry = next(entry for entry in numbers["table"] if entry["arm"] == "poisoned")
    assert entry["asr_seen"] == {"value": 0.909375, "low": None, "high": None, "n": 1, "unit": "models"}


def test_trainings_that_all_gave_the_same_have_no_interval_and_count_as_many(page: tuple[str, dict]) -> None:
    assert row(page[0], "retrain") == "| retrain | 0.000 (n=5) | 0.000 (n=5) |"


def test_the_interval_of_a_rate_does_not_go_below_zero(page: tuple[str, dict]) -> None:
    assert row(page[0], "rapidun/influence").startswith("| rapidun/influence | 0.004 [0.000, 0.015] (n=5) |")
    for entry in page[1]["table"]:
        for measure in (value for value in entry.values() if isinstance(value, dict)):
            assert measure["low"] is None or measure["low"] >= 0


def test_tests_over_several_scenarios_have_scenarios_as_units(page: tuple[str, dict]) -> None:
    units = {scored["scope"]: (scored["n"], scored["unit"]) for scored in page[1]["scored"]}
    assert units["main"] == (5, "draws")
    assert units["all"] == (2, "scenarios")
    assert "2 scenarios" in page[0]
