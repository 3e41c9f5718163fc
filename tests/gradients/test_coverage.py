"""What is tracked, and what is not, in shares of the weights outside the embeddings and the output head."""

from __future__ import annotations

import pytest
from peft import LoraConfig, get_peft_model

from gradients.cases import lora_model
from rapidun.gradients import GradientCollector
from rapidun.gradients.coverage import coverage_of
from tiny import tiny_model


def covered(model, targets="linear"):
    return coverage_of(model, GradientCollector(model, targets).tracked)


def test_every_parameter_is_counted_once():
    for model in (tiny_model(), tiny_model("gpt2"), tiny_model("mixtral")):
        found = covered(model)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert sum(found.tracked.values()) + sum(found.untracked.values()) == parameters


def test_a_dense_model_is_covered_but_for_its_norms():
    found = covered(tiny_model())
    assert set(found.tracked) == {"linear layers"}
    assert set(found.untracked) == {"norms", "embeddings", "output head"}
    assert found.enough


def test_experts_are_named_whether_they_are_tracked_or_not():
    assert "experts" in covered(tiny_model("mixtral")).tracked
    found = covered(tiny_model("llama4_text"))
    assert not found.enough
    assert "not experts" in found.text()


def test_an_adapter_counts_as_the_weights_that_it_changes():
    assert covered(lora_model(), "lora").share == pytest.approx(covered(tiny_model()).share)
    some = get_peft_model(tiny_model("mixtral"), LoraConfig(r=2, target_modules=["q_proj"]))
    assert covered(some, "lora").share < 0.2


def test_what_an_adapter_trains_beside_its_factors_is_named():
    config = LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"])
    found = covered(get_peft_model(tiny_model(), config), "lora")
    assert {"modules_to_save", "adapter factors"} <= set(found.untracked)
