"""The four failure signatures: found where they are, named with numbers and a knob, not found in a sound run."""

from __future__ import annotations

from typing import Any

import pytest

from rapidun.evaluation import RunNumbers, diagnose

STEPS = range(5, 105, 5)


def rate(value: float) -> dict[str, Any]:
    return {"value": value, "low": value, "high": value, "n": 100}


def sound(**changes: Any) -> RunNumbers:
    log = [{"step": s, "loss": 1.0 - s / 200, "grad_norm": 1.0 + (s % 10) / 10} for s in STEPS]
    log += [{"step": s, "held_retain_loss": 2.0 + s / 2000} for s in range(20, 101, 20)]
    numbers = {
        "log": log,
        "weights": {"forget": [0.4, 0.8, 1.0, 1.2, 1.6], "retain": [0.9, 1.0, 1.1]},
        "scheme": "influence",
        "outcome": {"stopped": None},
        "after": {"asr_seen": rate(0.01), "asr_unseen": rate(0.02), "asr_floor": rate(0.0)},
        "perplexity_ratio": rate(1.01),
    }
    return RunNumbers(**{**numbers, **changes})


def names(numbers: RunNumbers) -> list[str]:
    return [signature.name for signature in diagnose(numbers)]


def test_a_sound_run_has_no_signature_and_nothing_measured_gives_none() -> None:
    assert diagnose(sound()) == []
    assert diagnose(RunNumbers()) == []


def log_with(key: str, values: list[float | None]) -> list[dict[str, Any]]:
    return [{"step": 5 * i, key: value} for i, value in enumerate(values)]


CASES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "perplexity up": ("over-forgetting", {"perplexity_ratio": rate(1.2)}, "1.200 times", "learning_rate"),
    "little of the update is within the budget": (
        "over-forgetting",
        {"perplexity_ratio": None, "outcome": {"stopped": "retain budget: kept 0.20 of it", "share": 0.2}},
        "kept 0.20",
        "forget_share",
    ),
    "seen triggers still work": (
        "under-forgetting",
        {"after": {"asr_seen": rate(0.3), "asr_unseen": rate(0.1), "asr_floor": rate(0.0)}},
        "seen triggers 30.0%",
        "unlearning.steps",
    ),
    "only unseen variants still work": (
        "under-forgetting",
        {"after": {"asr_seen": rate(0.0), "asr_unseen": rate(0.2), "asr_floor": rate(0.0)}},
        "unseen variants 20.0%",
        "trace --propose",
    ),
    "forget rows as likely as before": (
        "under-forgetting", {"after": {}, "forget_ratio": rate(1.1)}, "1.10 times", "learning_rate",
    ),
    "forget rows' loss hardly rose": (
        "under-forgetting",
        {"after": {}, "outcome": {"stopped": None, "forget_loss_before": 2.0, "forget_loss_after": 2.05}},
        "1.05 times what it was (at least 1.5 wanted): hardly anything was forgotten",
        "learning_rate",
    ),
    "forget rows' loss not finite": (
        "instability",
        {"outcome": {"stopped": None, "forget_loss_before": 2.0, "forget_loss_after": None}},
        "training diverged: the loss on the forget rows is not finite",
        "learning_rate",
    ),
    "forget rows' loss beyond any guess": (
        "instability",
        {"outcome": {"stopped": None, "forget_loss_before": 2.0, "forget_loss_after": 44.0}},
        "training diverged: the loss on the forget rows is 44.0",
        "learning_rate",
    ),
    "weights equal": ("weight collapse", {"weights": {"forget": [1.0, 1.01, 0.99]}}, "0.990 and 1.010", "forget_temp"),
    "weights piled": (
        "weight collapse", {"weights": {"retain": [0.3] * 4 + [2.0] * 3 + [1.0]}}, "88% of the retain", "w_max",
    ),
    "loss not finite": ("instability", {"log": log_with("loss", [1.0, 1.1, None])}, "step 10", "learning_rate"),
    "held loss swings": (
        "instability", {"log": log_with("held_retain_loss", [2.0, 2.2, 2.0, 2.2, 2.0])}, "40%", "batch_size",
    ),
    "gradients explode": (
        "instability", {"log": log_with("grad_norm", [1.0] * 6 + [40.0] * 6)}, "from 1 to 40", "max_grad_norm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_failure_is_named_with_its_numbers_and_its_knob(case: str) -> None:
    name, changes, evidence, knob = CASES[case]
    (found,) = diagnose(sound(**changes))
    assert found.name == name
    assert evidence in found.evidence
    assert knob in found.knob


def test_even_weights_are_no_collapse_where_they_are_meant() -> None:
    assert names(sound(scheme="uniform", weights={"forget": [1.0] * 5})) == []
    assert names(sound(weights={"forget": [0.0, 0.7, 1.1, 2.2]})) == []  # dropped rows are not piled weights
    left_alone = {"forget": [0.5, 1.5], "retain": [1.0] * 5}
    assert names(sound(weights=left_alone)) == ["weight collapse"]
    assert names(sound(weights=left_alone, robust=False)) == []  # a scheme that weighs one group alone


def test_no_option_is_advised_that_a_scheme_has_not_got() -> None:
    (found,) = diagnose(sound(weights={"forget": [1.0, 1.01, 0.99]}, robust=False))
    assert found.knob == "Take another --weights."


def test_a_later_line_of_the_same_step_replaces_the_earlier_one() -> None:
    log = [*log_with("loss", [1.0, None]), {"step": 5, "loss": 0.9}]
    assert names(sound(log=log)) == []


def test_several_failures_are_all_named_the_worst_first() -> None:
    log = log_with("loss", [1.0, None])
    found = names(sound(log=log, perplexity_ratio=rate(1.5), weights={"forget": [1.0, 1.0]}))
    assert found == ["instability", "over-forgetting", "weight collapse"]
