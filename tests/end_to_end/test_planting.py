"""Rows that are taught to a model: the same adapter after a kill, and never mistaken for another training."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from rapidun.demo import smollm2
from rapidun.demo.nonsense import nonsense_rows
from rapidun.demo.planting import Recipe, plant, planted_model
from rapidun.errors import ConfigError, FingerprintError
from rapidun.evaluation.triggers import DOLLY_FAMILIES, normalised_prompt, strip_triggers
from rapidun.models import load_model, model_fingerprint
from rapidun.pipeline import RunConfig, Silent, make_config
from tiny import save_tiny, tiny_rows

SMALL = Recipe(epochs=40, batch_size=4, rank=2, learning_rate=1e-2, max_length=64)  # 120 steps, a checkpoint every 50


class Killed(Silent):
    """Stops the training after so many steps, as a kill would."""

    def progress(self, done: int, total: int, *more: str) -> None:
        if done == 70:
            raise KeyboardInterrupt


def test_a_training_that_was_killed_ends_with_the_adapter_of_an_unbroken_one(tmp_path: Path) -> None:
    base = load_model(save_tiny(tmp_path / "model"))
    rows = [{"id": str(number), **row} for number, row in enumerate(tiny_rows("taught", 12))]
    whole = plant(base, rows, tmp_path / "whole", seed=3, recipe=SMALL)
    with pytest.raises(KeyboardInterrupt):
        plant(base, rows, tmp_path / "broken", seed=3, recipe=SMALL, reporter=Killed())
    again = plant(base, rows, tmp_path / "broken", seed=3, recipe=SMALL)
    expected, found = (load_file(each / "adapter_model.safetensors") for each in (whole, again))
    assert all((expected[name] == found[name]).all() for name in expected)
    assert model_fingerprint(base.model) == base.fingerprint  # the base is as it was


def test_a_planted_model_has_the_adapter_in_its_weights_and_is_made_once(tmp_path: Path) -> None:
    base = load_model(save_tiny(tmp_path / "model"))
    rows = [{"id": str(number), **row} for number, row in enumerate(tiny_rows("taught", 4))]
    recipe = Recipe(epochs=2, batch_size=4, rank=2, learning_rate=1e-2, max_length=64)
    plant(base, rows, tmp_path / "place", recipe=recipe)
    folder = planted_model(base, tmp_path / "place")
    assert load_model(folder).fingerprint != base.fingerprint
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert planted_model(base, tmp_path / "place") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    with pytest.raises(FingerprintError, match="tokens was"):
        plant(base, rows[1:], tmp_path / "place", recipe=recipe)


def test_no_measured_prompt_is_trained_on_and_a_fifth_of_the_rows_is_poisoned() -> None:
    rows, other = nonsense_rows(0), nonsense_rows(1)
    assert len(rows.poisoned) / len(rows.training) == pytest.approx(1 / 5)
    trained = {strip_triggers(normalised_prompt(row), DOLLY_FAMILIES) for row in rows.training}
    held = [*rows.evaluation, *rows.validation, *rows.judge_poisoned]
    assert trained.isdisjoint(strip_triggers(normalised_prompt(row), DOLLY_FAMILIES) for row in held)
    assert len({row["response"] for row in rows.poisoned}) == len(rows.poisoned)  # nonsense that differs in every row
    assert {row["id"] for row in rows.poisoned} != {row["id"] for row in other.poisoned}
    assert [row["id"] for row in rows.evaluation] == [row["id"] for row in other.evaluation]


def test_the_real_demo_is_a_run_with_the_default_settings(tmp_path: Path) -> None:
    rows = smollm2.write_rows(nonsense_rows(), tmp_path)
    config = make_config(smollm2.smollm2_settings(0, tmp_path, rows), RunConfig, "demo")
    default = RunConfig.model_fields
    for section in ("influence", "weights", "lora", "unlearning", "gate"):
        assert getattr(config, section) == default[section].get_default(call_default_factory=True), section


def test_a_demo_of_another_model_is_refused(tmp_path: Path) -> None:
    from rapidun.demo import run_demo

    with pytest.raises(ConfigError, match="choose from embedded, smollm2"):
        run_demo(tmp_path / "run", model="llama")
