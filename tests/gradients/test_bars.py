"""The promised error of the sketch at full size; its speed is in benchmarks/gradient_speed.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from gradients.cases import examples
from rapidun.gradients import Exact, GradientCollector, RapidGrad, collect_vectors

pytestmark = pytest.mark.slow
K = 65_536


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_no_coordinate_is_dead_and_the_error_holds_for_every_seed_on_a_real_models_lora_gradients(one_thread):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=500,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    model = get_peft_model(
        AutoModelForCausalLM.from_config(config), LoraConfig(r=32, target_modules="all-linear", init_lora_weights=False)
    )
    rows = examples([(24 + i, 10) for i in range(40)])
    collector = GradientCollector(model, "lora")
    exact = torch.from_numpy(collect_vectors(collector, Exact(), rows, 0, max_tokens=1024))
    tensors = dict(zip(collector.tracked, exact.split(list(collector.sizes.values()), dim=1), strict=True))
    assert sum(collector.sizes.values()) > 12 * K  # a bucket is empty by chance with probability exp(-12)
    upper = tuple(torch.triu_indices(len(rows), len(rows), 1))
    truth = torch.nn.functional.normalize(exact.double())
    for seed in range(4):
        total = torch.zeros(len(rows), K)
        for name, values in tensors.items():
            RapidGrad(K, seed).add(total, name, values.clone(), {})
        assert (total.abs().sum(dim=0) == 0).sum() <= 4
        found = torch.nn.functional.normalize(total.double())
        errors = (found @ found.T - truth @ truth.T)[upper].numpy()
        assert np.sqrt((errors**2).mean()) <= 1.05 / np.sqrt(K)
