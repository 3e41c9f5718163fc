"""`tune`: the probe's suggestion, the score, rows kept apart, trials that resume; Optuna where it is installed."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest

from killing import killed_when
from pipeline.test_run import make_run_config
from rapidun.errors import ConfigError, InputError
from rapidun.jsonl import read_jsonl
from rapidun.pipeline import RunConfig, load_config
from rapidun.pipeline.reporter import Silent
from rapidun.pipeline.tuning import Probe, around, score_of, search_space, suggest, tune, with_values
from rapidun.reading import read_json
from tiny import tiny_rows, write_rows

NEEDS_OPTUNA = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="Optuna is not installed: pip install 'rapidun[tune]'"
)


def make_tuning(directory: Path, **unlearning: Any) -> tuple[RunConfig, Path]:
    config = make_run_config(
        directory,
        unlearning={"steps": 3, "method": "npo", "learning_rate": 3e-3, "retain_budget": 0.5, **unlearning},
        weights={"scheme": "uniform"},
        evaluation={"suite": "perplexity"},
    )
    return config, write_rows(directory / "tuning.jsonl", tiny_rows("tuning", 9))


def tuned(config: RunConfig, tuning: Path, out: Path, *, trials: int, **more: Any) -> Any:
    options = {"resume": False, "overwrite": False, "probe_steps": 2, "reporter": Silent(), **more}
    return tune(config, tuning, out, trials=trials, **options)


def test_the_space_is_around_the_configured_rate_and_strength(tmp_path: Path) -> None:
    config, _ = make_tuning(tmp_path, options={"gamma": 2.0})
    assert search_space(config) == {"learning_rate": (3e-3 / 16, 3e-3 * 16), "gamma": (0.5, 8.0)}
    other, _ = make_tuning(tmp_path, method="fisher")
    assert list(search_space(other)) == ["selection"]
    changed = with_values(config, {"learning_rate": 1.0, "gamma": 3.0})
    assert (changed.unlearning.learning_rate, changed.unlearning.options) == (1.0, {"gamma": 3.0})
    assert config.unlearning.options == {"gamma": 2.0}


def test_the_probe_suggests_the_furthest_setting_within_half_the_budget() -> None:
    space = {"learning_rate": (1e-4, 1e-2)}
    probes = [Probe({"learning_rate": rate}, *rises) for rate, *rises in (
        (1e-4, 0.1, 0.0), (1e-3, 2.0, 0.04), (1e-2, 9.0, 0.3))]  # fmt: skip
    assert suggest(probes, space, budget=0.1) == {"learning_rate": 1e-3}
    assert suggest(probes[2:], space, budget=0.1) == {"learning_rate": 1e-2}
    assert suggest([Probe({"learning_rate": 5.0}, 1.0, 0.0)], space, budget=0.1) == {"learning_rate": 1e-2}


def test_trials_search_rates_around_the_suggestion_and_all_strengths() -> None:
    space = {"learning_rate": (1e-4, 1e-2), "gamma": (0.25, 4.0)}
    found = around({"learning_rate": 1e-3, "gamma": 4.0}, space)
    assert found == {"learning_rate": (2.5e-4, 4e-3), "gamma": (0.25, 4.0)}
    assert around({"learning_rate": 1e-2, "gamma": 1.0}, space)["learning_rate"] == (2.5e-3, 1e-2)
    assert around({"selection": 3.0}, {"selection": (1.0, 9.0)}) == {"selection": (1.0, 9.0)}


def test_the_score_prefers_forgetting_until_perplexity_passes_its_limit() -> None:
    assert score_of(0.0, 1.0, 1.03) == 0.0
    assert score_of(0.0, 1.02, 1.03) < score_of(0.05, 1.0, 1.03)
    assert score_of(0.0, 1.10, 1.03) > score_of(0.2, 1.03, 1.03)


def test_a_probe_alone_needs_no_optuna_and_leaves_a_configuration_to_run(tmp_path: Path) -> None:
    config, tuning = make_tuning(tmp_path)
    found = tuned(config, tuning, tmp_path / "out", trials=0)
    assert len(found.probes) == 7  # five rates, two more strengths
    assert {probe.held_rise for probe in found.probes} != {0.0}
    best = load_config(tmp_path / "out" / "best.yaml")
    assert best.unlearning.learning_rate == pytest.approx(found.suggestion["learning_rate"])
    assert best.data.evaluation == config.data.evaluation
    assert read_json(tmp_path / "out" / "probe.json")["suggestion"] == found.suggestion


def test_tuning_rows_that_are_report_rows_are_refused(tmp_path: Path) -> None:
    config, _ = make_tuning(tmp_path)
    with pytest.raises(InputError, match="tuning rows and report rows must be apart"):
        tuned(config, tmp_path / "evaluation.jsonl", tmp_path / "out", trials=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("optuna") is not None, reason="Optuna is installed")
def test_without_optuna_trials_are_refused_at_once_with_what_to_install(tmp_path: Path) -> None:
    config, tuning = make_tuning(tmp_path)
    with pytest.raises(ConfigError, match=r"rapidun\[tune\]"):
        tuned(config, tuning, tmp_path / "out", trials=2)
    assert not (tmp_path / "out").exists()


@NEEDS_OPTUNA
def test_a_trial_that_had_trained_when_the_run_was_killed_is_not_trained_again(tmp_path: Path) -> None:
    config, tuning = make_tuning(tmp_path)
    out, trained = tmp_path / "out", tmp_path / "out" / "trials" / "001" / "unlearning.json"
    assert killed_when(lambda: tuned(config, tuning, out, trials=1), trained.exists) is None
    assert not (out / "trials.jsonl").exists()
    before = trained.stat()
    tuned(config, tuning, out, trials=1, resume=True)
    assert (trained.stat().st_ino, trained.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@NEEDS_OPTUNA
def test_stored_trials_that_are_of_no_such_search_are_refused(tmp_path: Path) -> None:
    config, tuning = make_tuning(tmp_path)
    tuned(config, tuning, tmp_path / "out", trials=1)
    path = tmp_path / "out" / "trials.jsonl"
    (line,) = read_jsonl(path)
    for values, score in (({}, 1.0), ({"learning_rate": -1.0}, 1.0), ({"alpha": 1.0}, 1.0), (line["values"], math.nan)):
        path.write_text(json.dumps({**line, "values": values, "score": score}) + "\n")
        with pytest.raises(InputError, match=r"trials\.jsonl: trial 1 is of no search over learning_rate from"):
            tuned(config, tuning, tmp_path / "out", trials=2, resume=True)


@NEEDS_OPTUNA
def test_trials_resume_to_the_same_values_and_the_best_is_kept(tmp_path: Path) -> None:
    config, tuning = make_tuning(tmp_path)
    whole = tuned(config, tuning, tmp_path / "whole", trials=4)
    tuned(config, tuning, tmp_path / "broken", trials=2)
    resumed = tuned(config, tuning, tmp_path / "broken", trials=4, resume=True)
    assert [trial.values for trial in resumed.trials] == [trial.values for trial in whole.trials]
    assert whole.trials[0].values == whole.suggestion
    assert len({tuple(trial.values.items()) for trial in whole.trials}) == 4
    assert whole.best == min(whole.trials, key=lambda trial: trial.score).values
    for line in read_jsonl(tmp_path / "whole" / "trials.jsonl"):
        for name, (low, high) in around(whole.suggestion, search_space(config)).items():
            assert low <= line["values"][name] <= high
