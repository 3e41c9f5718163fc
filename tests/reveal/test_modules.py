"""Retain and forget modules: the penalty, the arithmetic, and that they do what they are for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rapidun.data import Example
from rapidun.errors import TrainingError
from rapidun.models import load_adapter, model_fingerprint
from rapidun.models.row_losses import row_losses
from rapidun.revealing.modules import (
    FORGET,
    RETAIN,
    module_stack,
    orthogonality_penalty,
    subspace_overlap,
    train_round,
)
from rapidun.settings.reveal import ReleaseSettings
from rapidun.unlearning import LoraSettings
from reveal.house import tiny_loaded

LORA = LoraSettings(rank=3, alpha=6, dropout=0.0)


def settings(**changes: float) -> ReleaseSettings:
    return ReleaseSettings(lora=LORA, modules={"steps": 8, "batch_size": 4, "learning_rate": 1e-2, **changes})


def rows(name: str, low: int, high: int, count: int = 6) -> list[Example]:
    rng = np.random.default_rng(low)
    tokens = [[1, *rng.integers(3, 280, 3).tolist(), *rng.integers(low, high, 4).tolist(), 2] for _ in range(count)]
    return [Example(f"{name}{i}", ids, 4) for i, ids in enumerate(tokens)]


def factors(model: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found = dict(model.named_parameters())
    pairs = [(p, found[n.replace(".default.", ".forget.")]) for n, p in found.items() if ".lora_A.default." in n]
    assert pairs
    return pairs


def test_the_penalty_is_the_sum_over_layers_and_zero_for_orthogonal_modules():
    with module_stack(tiny_loaded().model, LORA, None, 0) as model:
        by_hand = sum((one @ other.T).abs().sum().item() for one, other in factors(model))
        assert orthogonality_penalty(model).item() == pytest.approx(by_hand, rel=1e-5)
        assert by_hand > 1
        for one, other in factors(model):
            basis = torch.linalg.qr(torch.randn(one.shape[1], 6, generator=torch.Generator().manual_seed(0)))[0].T
            one.data, other.data = 5 * basis[:3], 0.3 * basis[3:]
        assert orthogonality_penalty(model).item() == pytest.approx(0, abs=1e-4)
        assert subspace_overlap(model) == pytest.approx(0, abs=1e-6)
        for one, other in factors(model):
            other.data = -2 * one.data.flip(0)
        assert subspace_overlap(model) == pytest.approx(1, abs=1e-5)


def test_the_penalty_pulls_the_forget_module_alone():
    with module_stack(tiny_loaded().model, LORA, None, 0) as model:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        orthogonality_penalty(model).backward()
        for one, other in factors(model):
            assert one.grad is None
            torch.testing.assert_close(other.grad, torch.sign(other @ one.T) @ one)


def test_a_stack_leaves_the_model_as_it_was():
    loaded = tiny_loaded()
    before = model_fingerprint(loaded.model)
    names = [name for name, _ in loaded.model.named_modules()]
    with module_stack(loaded.model, LORA, None, 0) as model:
        assert {RETAIN, FORGET} <= set(model.peft_config)
    assert model_fingerprint(loaded.model) == before
    assert [name for name, _ in loaded.model.named_modules()] == names


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of modules on a tiny model; retain rows speak in high tokens, revealed ones in low tokens."""
    folder = tmp_path_factory.mktemp("rounds")
    loaded = tiny_loaded()
    for number, state in ((1, None), (2, folder / "1" / "adapter")):
        (folder / str(number)).mkdir()
        change = settings(forget_scale=0.7, retain_scale=0.4)
        train_round(loaded, state, rows("r", 200, 280), rows("f", 3, 40), change, folder / str(number), seed=number)
    return folder


def delta(adapter: Path) -> dict[str, torch.Tensor]:
    """``scale * B A`` of every layer of a saved adapter."""
    from safetensors.torch import load_file

    from rapidun.reading import read_json

    tensors, config = load_file(adapter / "adapter_model.safetensors"), read_json(adapter / "adapter_config.json")
    scale = config["lora_alpha"] / config["r"]
    names = [name for name in tensors if ".lora_A." in name]
    return {name: scale * tensors[name.replace(".lora_A.", ".lora_B.")] @ tensors[name] for name in names}


def test_a_round_is_what_was_there_minus_forget_plus_retain(two_rounds: Path):
    first, second = (delta(two_rounds / number / "adapter") for number in "12")
    for number, before in (("1", dict.fromkeys(first, 0.0)), ("2", first)):
        kept, forgotten = (delta(two_rounds / number / module) for module in ("retain", "forget"))
        for name, found in {"1": first, "2": second}[number].items():
            expected = before[name] + 0.4 * kept[name] - 0.7 * forgotten[name]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_any_verb_can_load_the_sum_and_it_forgets(two_rounds: Path):
    loaded = tiny_loaded()
    groups = {"forget": rows("f", 3, 40), "retain": rows("r", 200, 280)}
    before = {name: row_losses(loaded.model, group, 0, loaded.device).mean for name, group in groups.items()}
    model = load_adapter(loaded.model, two_rounds / "2" / "adapter")
    after = {name: row_losses(model, group, 0, loaded.device).mean for name, group in groups.items()}
    assert after["forget"] > before["forget"] + 0.5
    assert after["retain"] < before["retain"]


def test_the_same_seed_gives_the_same_bytes(two_rounds: Path, tmp_path: Path):
    change = settings(forget_scale=0.7, retain_scale=0.4)
    train_round(tiny_loaded(), None, rows("r", 200, 280), rows("f", 3, 40), change, tmp_path, seed=1)
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / name).read_bytes() == (two_rounds / "1" / name).read_bytes()


def test_a_heavy_penalty_holds_the_modules_apart(tmp_path: Path):
    found = {}
    for weight in (0.0, 5.0):
        (tmp_path / str(weight)).mkdir()
        outcome = train_round(
            tiny_loaded(), None, rows("r", 200, 280), rows("f", 3, 40), settings(orthogonality=weight),
            tmp_path / str(weight), seed=0,
        )  # fmt: skip
        found[weight] = outcome
    assert found[5.0].penalty < 0.8 * found[0.0].penalty
    assert set(found[0.0].losses) == {"retain", "forget"}


def test_an_empty_group_is_refused(tmp_path: Path):
    with pytest.raises(TrainingError, match="no revealed rows"):
        train_round(tiny_loaded(), None, rows("r", 200, 280), [], settings(), tmp_path, seed=0)
