"""Answers of a model that reads padding do not depend on the batch either."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from rapidun.evaluation import generate_answers
from rapidun.evaluation.generation import greedy_settings, stops_of
from rapidun.evaluation.padding import padding_changes_answers, prompt_batches
from tiny import tiny_model, tiny_tokenizer

PROMPTS = ["the cat", "the dog ran to the mat and sat", "a", "on the other cat the dog"]


def loaded(architecture):
    model = tiny_model(architecture)
    with torch.no_grad():  # as far from the start of training as it needs to say something
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return SimpleNamespace(model=model, tokenizer=tiny_tokenizer(), device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("architecture", "changes"), [("llama", False), ("gpt2", False), ("mamba", False), ("rwkv", True)]
)
def test_which_models_read_padding_is_asked_of_them(architecture, changes):
    given = loaded(architecture)
    with greedy_settings(given, stops_of(given), 4) as config:
        assert padding_changes_answers(given, config) is changes


@pytest.mark.parametrize("architecture", ["rwkv", "mamba"])
def test_answers_do_not_depend_on_the_batch(architecture):
    given = loaded(architecture)
    together = generate_answers(given, PROMPTS, max_new_tokens=8, batch_size=8)
    assert together == generate_answers(given, PROMPTS, max_new_tokens=8, batch_size=1)


def test_prompts_of_one_length_share_a_batch_and_every_prompt_comes_once():
    given, lengths = loaded("rwkv"), [3, 5, 3, 3, 5, 2]
    with greedy_settings(given, stops_of(given), 4) as config:
        assert prompt_batches(given, lengths, 2, config) == [[1, 4], [0, 2], [3], [5]]
        assert prompt_batches(loaded("llama"), lengths, 4, config) == [[1, 4, 0, 2], [3, 5]]
