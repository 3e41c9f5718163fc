"""What is done to weights and read from layers: NF4, full fine-tuning and its undoing, the logit lens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rapidun.attacks import ATTACKS, CannotRun, Material, Target
from rapidun.attacks.logit_lens import layer_losses, logit_lens
from rapidun.attacks.nf4 import LEVELS, nearest_nf4
from rapidun.attacks.quantise import rounded
from rapidun.attacks.relearn_full import fully_relearned
from rapidun.data import Example, Template, collate, tokenize_rows
from rapidun.errors import ModelError
from rapidun.models import load_model, row_losses, sum_answer_loss
from rapidun.settings.evaluation import GenerationSettings
from rapidun.settings.unlearning import LoraSettings
from tiny import ARCHITECTURES, save_tiny, tiny_model, tiny_tokenizer

CPU = torch.device("cpu")
ROWS = [
    {"id": str(n), "prompt": "what " * n + "is it?", "response": "the cat sat on the mat" + " and the dog ran" * n}
    for n in range(5)
]


def examples() -> list[Example]:
    tokenizer = tiny_tokenizer()
    return tokenize_rows(ROWS, tokenizer, Template.resolve("plain", tokenizer), 128)


def target(place: Path, *, dtype: str = "float32", rate: float = 1e-2, architecture: str = "llama") -> Target:
    loaded = load_model(str(save_tiny(place, architecture)), device="cpu", dtype=dtype)
    material = Material(
        ROWS, ROWS, [], ROWS, [], None, GenerationSettings(), LoraSettings(), rate, 0
    )  # fmt: skip
    return Target("unlearned", loaded, Template.resolve("plain", loaded.tokenizer), 128, material)


# --- NF4 ----------------------------------------------------------------------------------------------------------


def test_every_weight_lies_on_the_nearest_of_its_blocks_16_levels() -> None:
    weight = torch.randn(3, 70, generator=torch.Generator().manual_seed(0))
    weight.view(-1)[64:128] = 0.0
    found = nearest_nf4(weight)
    assert found.shape == weight.shape
    levels = torch.tensor(LEVELS)
    for start in range(0, 210, 64):
        own, rounded = weight.view(-1)[start : start + 64], found.view(-1)[start : start + 64]
        at = levels * own.abs().max()
        assert torch.equal(rounded, at[(own[:, None] - at[None, :]).abs().argmin(dim=1)])
    assert not found.view(-1)[64:128].any()
    assert nearest_nf4(weight.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bitsandbytes_stores_the_very_same_values(dtype: torch.dtype) -> None:
    library = pytest.importorskip("bitsandbytes.functional")
    for shape in ((64, 128), (5, 64), (3, 70)):  # its 0.50.2 gives other values for (64, 96), by dequantising alone
        weight = (0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(1))).to(dtype)
        stored = library.dequantize_4bit(*library.quantize_4bit(weight, blocksize=64, quant_type="nf4"))
        assert torch.equal(stored, nearest_nf4(weight))


def test_the_weights_of_gpt2_are_rounded_in_blocks_of_an_output_as_every_other_models(tmp_path: Path) -> None:
    model = target(tmp_path, architecture="gpt2").loaded.model
    layer = model.transformer.h[0].mlp.c_fc  # stores (inputs, outputs)
    own = layer.weight.detach().clone()
    with rounded(model, nearest_nf4):
        assert torch.equal(layer.weight, nearest_nf4(own.T).T)
        assert not torch.equal(layer.weight, nearest_nf4(own))
    assert torch.equal(layer.weight, own)


@pytest.mark.parametrize("attack", ["quantise", "nf4", "relearn_full"])
def test_weights_that_are_quantised_already_are_not_rounded_or_trained(attack: str, tmp_path: Path) -> None:
    attacked = target(tmp_path)
    layer = attacked.loaded.model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(
        torch.zeros(4, 1, dtype=torch.uint8), requires_grad=False
    )  # as bitsandbytes packs
    with pytest.raises(CannotRun, match="quantised already"):
        ATTACKS[attack].plan(attacked, (4,))


# --- Full fine-tuning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "dtype"), [("llama", "bfloat16"), ("gpt2", "float32")])
def test_full_fine_tuning_changes_every_kind_of_weight_and_puts_all_back_bit_for_bit(
    tmp_path: Path, architecture: str, dtype: str
) -> None:
    attacked = target(tmp_path, dtype=dtype, architecture=architecture)
    model = attacked.merged.model
    held = dict(model.named_parameters())
    before = {name: (value.clone(), value.dtype) for name, value in model.state_dict().items()}
    losses = row_losses(model, examples(), 0, CPU).sums
    with fully_relearned(attacked, ROWS, 2):
        changed = {
            name for name, value in model.state_dict().items() if not torch.equal(value, before[name][0].to(value))
        }
        assert any("emb" in name or "wte" in name for name in changed)
        assert any("norm" in name or "ln_" in name for name in changed)
        assert next(model.parameters()).dtype == torch.float32
        assert row_losses(model, examples(), 0, CPU).sums.sum() < losses.sum()
    for name, value in model.state_dict().items():
        assert value.dtype == before[name][1]
        assert torch.equal(value, before[name][0]), name
    assert all(weight is held[name] and weight.grad is None for name, weight in model.named_parameters())
    assert not model.training
    assert np.array_equal(row_losses(model, examples(), 0, CPU).sums, losses)


def test_a_full_fine_tuning_that_fails_puts_the_weights_back_too(tmp_path: Path) -> None:
    attacked = target(tmp_path)
    before = {name: value.clone() for name, value in attacked.merged.model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), fully_relearned(attacked, ROWS, 1):
        raise ZeroDivisionError
    assert all(torch.equal(value, before[name]) for name, value in attacked.merged.model.state_dict().items())


# --- The logit lens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mixtral", "deepseek_v3", "mamba", "rwkv"])
def test_the_last_layer_read_out_is_the_models_own_loss_whatever_the_architecture(architecture: str) -> None:
    model = tiny_model(architecture)
    own = row_losses(model, examples(), 0, CPU)
    losses, tokens = layer_losses(model, examples(), [1, 2], 0, CPU)
    assert np.array_equal(tokens, own.tokens)
    np.testing.assert_allclose(losses[:, 1], own.sums, rtol=1e-6)
    assert np.abs(losses[:, 0] - own.sums).min() > 1e-4
    np.testing.assert_allclose(row_losses(model, examples(), 0, CPU).sums, own.sums)  # no hook is left


def test_a_middle_layer_is_read_by_the_final_norm_and_the_output_matrix() -> None:
    model: Any = tiny_model("llama")
    losses, _ = layer_losses(model, examples(), [1], 0, CPU)
    for place, example in enumerate(examples()):
        batch = collate([example], 0)
        with torch.no_grad():
            states = model(input_ids=batch.input_ids, output_hidden_states=True).hidden_states[1]
            by_hand = sum_answer_loss(model.lm_head(model.model.norm(states)), batch.labels)
        assert losses[place, 0] == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_model_whose_layers_cannot_be_found_is_told_so_in_a_line(tmp_path: Path) -> None:
    attacked = target(tmp_path)
    attacked.loaded.model.config.num_hidden_layers = 7
    with pytest.raises(CannotRun, match=r"layers cannot be found: .*no list of 7 layers"):
        logit_lens(attacked, (50, 100))


def test_layers_that_do_not_give_a_state_for_each_token_are_refused() -> None:
    model: Any = tiny_model("llama")
    model.model.layers[0].register_forward_hook(lambda block, args, output: output[:, :-1])
    with pytest.raises(ModelError, match="layer 1 gives"):
        layer_losses(model, examples(), [1, 2], 0, CPU)
