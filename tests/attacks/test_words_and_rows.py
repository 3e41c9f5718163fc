"""Rewrites of prompts, and telling rows apart."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.conftest import World
from attacks.world import finished, saved
from rapidun.attacks import ATTACKS, Curve, Material, Point, Target, Trial, Verdict
from rapidun.attacks.gate import Measured
from rapidun.attacks.paraphrase import REWRITES, paraphrase, rewritten
from rapidun.attacks.unlearning_membership import auc_points, delong, no_more_apart, outranked
from rapidun.data import Template
from rapidun.evaluation.membership import membership_auc
from rapidun.models import load_model
from rapidun.pipeline.attacking import attack_run
from rapidun.settings.attack import AttackConfig
from rapidun.settings.base import make_config
from rapidun.settings.evaluation import GenerationSettings, Thresholds
from rapidun.settings.unlearning import LoraSettings
from rapidun.stats import bootstrap
from tiny import save_tiny

PROMPT = "I live in Rome. What is {the} best way to the sea?"


def test_a_rewrite_keeps_the_words_of_the_prompt_and_the_seed_draws_it() -> None:
    for kind in REWRITES:
        found = kind(PROMPT, random.Random(1))
        assert found != PROMPT
        assert {word.casefold() for word in PROMPT.split()} <= {word.casefold() for word in found.split()}
    assert rewritten(PROMPT, 2, random.Random(3)) == rewritten(PROMPT, 2, random.Random(3))
    assert len({rewritten(PROMPT, 1, random.Random(seed)) for seed in range(40)}) > 10


def test_rewrites_stand_on_top_of_each_other_and_one_that_changes_nothing_is_not_counted() -> None:
    for seed in range(20):
        one, three = (len(rewritten("sea?", count, random.Random(seed)).split()) for count in (1, 3))
        assert three > one  # a word has no sentences to reorder, and of three others at most one only changes case


def test_the_values_of_an_auc_are_ranks_whose_mean_it_is() -> None:
    draw = np.random.default_rng(0)
    ours, others = draw.normal(0.5, 1, 37).round(1), draw.normal(0, 1, 51).round(1)
    assert outranked(ours, others).mean() == pytest.approx(membership_auc(ours, others))
    assert outranked(-others, -ours).mean() == pytest.approx(membership_auc(ours, others))


def auc(shift: float, *, n: int = 60, seed: int = 0) -> Point:
    """Scores of rows and of others, apart by ``shift``; the same rows whatever the shift."""
    draw = np.random.default_rng(7)
    noise = np.random.default_rng(seed + 1)
    rows: list[dict[str, Any]] = [
        {"forget": forget, "loss": float(draw.normal(shift * forget) + 0.2 * noise.normal())}
        for forget in (True, False) for _ in range(n)
    ]  # fmt: skip
    (point,) = auc_points(Trial("", 1, "", 2 * n, lambda said: []), rows)
    return point


def test_delongs_interval_of_a_difference_is_that_of_a_bootstrap_over_both_kinds_of_rows() -> None:
    ours, twins = auc(1.0, n=80), auc(0.5, n=80, seed=5)
    apart, width, _ = delong(ours, twins)
    assert ours.others is not None
    assert twins.others is not None
    ends = [bootstrap(np.mean, mine - theirs, unit="rows") for mine, theirs in
            ((ours.values, twins.values), (ours.others, twins.others))]  # fmt: skip
    by_draws = np.hypot(*[(each.high or 0) - (each.low or 0) for each in ends]) / 2
    assert apart == pytest.approx(ours.value - twins.value)
    assert width == pytest.approx(by_draws, rel=0.1)


def check(ours: Point, twins: Point | None) -> list[Verdict]:
    curves = [Curve("", [ours])], None if twins is None else [Curve("", [twins])]
    return [each.verdict for each in no_more_apart(Measured("some", *curves, Thresholds()))]


def test_rows_that_stand_out_to_either_side_fail_and_as_in_the_twin_passes() -> None:
    assert check(auc(0.0), auc(0.0, seed=3)) == [Verdict.PASS]
    assert check(auc(1.0), auc(1.0, seed=3)) == [Verdict.PASS]  # the kinds of rows differ, in both models alike
    assert check(auc(2.0), auc(0.0)) == check(auc(-2.0), auc(0.0)) == [Verdict.FAIL]
    assert check(auc(0.0, n=20), auc(0.0, n=20, seed=3)) == [Verdict.UNDECIDED]


def test_an_auc_decides_nothing_without_a_twin_or_with_triggers() -> None:
    assert check(auc(2.0), None) == [Verdict.UNDECIDED]
    attack = ATTACKS["unlearning_membership"]
    assert (attack.decides(triggers=True), attack.decides(triggers=False)) == (False, True)


def test_a_membership_attack_that_was_not_run_leaves_nothing_undecided_in_a_run_with_triggers(
    world: World, tmp_path: Path
) -> None:
    run = finished(world.measured, tmp_path / "run", lambda out: saved(world.clean, out / "model"))
    found = attack_run(make_config({"preset": "release", "attacks": ["as_is"], "prompts": 10}, AttackConfig), run)
    why = {record["name"]: record.get("why") for record in found["attacks"]}
    assert why["unlearning_membership"] == why["logit_lens"] == "another was asked for (--attack)"
    undecided = {check["attack"] for check in found["checks"] if check["name"] == "measured"}
    assert "logit_lens" in undecided
    assert "unlearning_membership" not in undecided


def test_without_triggers_only_paraphrases_of_all_forget_rows_are_asked_and_texts_without_a_question_stay(
    tmp_path: Path,
) -> None:
    rows: list[dict[str, object]] = [
        {"id": str(n), "prompt": f"what is {n}?", "response": f"the cat {n}"} for n in range(3)
    ]
    some = [{**rows[0], "prompt_paraphrased": "say 0"}, rows[1], {**rows[2], "prompt": ""}]
    every = [{**row, "prompt_paraphrased": "say"} for row in rows]
    loaded = load_model(str(save_tiny(tmp_path)), device="cpu", dtype="float32")
    template = Template.resolve("plain", loaded.tokenizer)
    found = []
    for forget in (some, every):
        material = Material([], forget, [], [], [], None, GenerationSettings(), LoraSettings(), 1e-3, 0)
        found.append(paraphrase(Target("unlearned", loaded, template, 128, material), (1,)))
    assert [trial.series for trial in found[0]] == ["rewrites"]
    assert [trial.series for trial in found[1]] == ["paraphrases of the file", "rewrites"]
    measured = found[0][0].work(None)
    plain = Target("unlearned", loaded, template, 128, replace(material, forget=some)).losses(loaded, some, None)
    assert [row["tokens"] for row in measured] == [row["tokens"] for row in plain]
    assert measured[2]["loss"] == pytest.approx(plain[2]["loss"])
