"""Published defences as methods: their scores and losses against formulas written down here, and what they leave."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from rapidun.models import attach_lora
from rapidun.unlearning.fitting import only
from rapidun.unlearning.procedures.crow import DisturbedConsistency, disturbed, inconsistency
from rapidun.unlearning.procedures.pruning import input_norms, kept_weights
from rapidun.unlearning.sampling import FORGET, Draw, RoleCollator
from unlearning.cases import make_memorised, make_rows, run


def clean_batch() -> dict[str, torch.Tensor]:
    rows = make_rows()
    taught = only(rows.retain, rows.retain_weights)
    return RoleCollator(taught, 0, with_preferred=False)([Draw(FORGET, i) for i in range(4)])["forget"]


def test_inconsistency_is_one_minus_the_cosine_of_neighbouring_layers_over_real_tokens() -> None:
    model = attach_lora(make_memorised().model, rank=2, alpha=2, dropout=0.0)
    batch = clean_batch()
    states = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
    ).hidden_states
    found = []
    for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        for token in range(int(length)):
            for lower, upper in pairwise(states):
                a, b = lower[row, token].detach().double(), upper[row, token].detach().double()
                found.append(1 - float(a @ b / (a.norm() * b.norm())))
    assert float(inconsistency(model, batch).detach()) == pytest.approx(sum(found) / len(found), rel=1e-5)


def test_the_disturbance_goes_where_inconsistency_rises_by_epsilon_in_every_direction() -> None:
    model = attach_lora(make_memorised().model, rank=2, alpha=2, dropout=0.0)
    batch, epsilon = clean_batch(), 1e-3
    calm = float(inconsistency(model, batch).detach())
    penalty = DisturbedConsistency(strength=2.0, epsilon=epsilon).penalty(model, {"forget": batch})
    assert penalty is not None
    assert float(penalty.detach()) > 2.0 * calm
    with disturbed(model, None) as leaves:
        slope = torch.autograd.grad(inconsistency(model, batch), leaves[0])[0]
    assert float(penalty.detach()) / 2.0 - calm == pytest.approx(epsilon * float(slope.abs().sum()), rel=0.05)
    penalty.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n)
    assert model(input_ids=batch["input_ids"]).logits.isfinite().all()
    assert float(inconsistency(model, batch).detach()) == pytest.approx(calm)  # no hook stays


def test_crow_trains_on_retain_rows_alone_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    loaded = make_memorised()
    own = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}
    options = {"rows": 6, "epochs": 2.0, "strength": 11.0}
    _, result, _ = run(make_rows(), tmp_path, loaded=loaded, method="crow", batch_size=3, options=options)
    assert result.steps == 4
    assert result.adapter_change > 0
    result.undo()
    assert all(torch.equal(own[name], weight) for name, weight in loaded.model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_crow_trains_a_model_in_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    loaded = make_memorised()
    loaded = replace(loaded, model=loaded.model.to(dtype), dtype=dtype)
    _, result, _ = run(make_rows(), tmp_path, loaded=loaded, method="crow", batch_size=6, options={"epochs": 1.0})
    assert result.adapter_change > 0


def test_what_is_kept_is_the_largest_of_all_or_of_each_output() -> None:
    scores = torch.tensor([[1.0, 4.0, 3.0, 2.0], [8.0, 5.0, 7.0, 6.0]])
    assert kept_weights(scores, 0.5, by_row=False).tolist() == [[False] * 4, [True] * 4]
    assert kept_weights(scores, 0.5, by_row=True).tolist() == [[False, True, True, False], [True, False, True, False]]


def test_input_norms_are_those_of_what_each_layer_was_given() -> None:
    loaded, rows = make_memorised(), make_rows().retain[:3]
    norms = input_norms(loaded, rows)
    first = next(name for name in norms if "layers.0" in name and "q_proj" in name)
    seen: list[torch.Tensor] = []
    hook = loaded.model.get_submodule(first).register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        for row in rows:
            loaded.model(input_ids=torch.tensor([row.input_ids]))
    hook.remove()
    expected = torch.cat([each.flatten(0, -2) for each in seen]).norm(dim=0)
    torch.testing.assert_close(norms[first], expected)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("name", ["magnitude", "wanda"])
def test_a_pruned_model_has_the_zeros_asked_for_also_after_fine_tuning(
    name: str, architecture: str, tmp_path: Path
) -> None:
    from rapidun.models.targets import linear_layers
    from unlearning.cases import make_loaded

    loaded = make_loaded(architecture=architecture)
    own = {key: weight.clone() for key, weight in loaded.model.state_dict().items()}
    _, result, _ = run(
        make_rows(), tmp_path, loaded=loaded, method=name, steps=3, batch_size=4, options={"sparsity": 0.25}
    )
    assert result.saved == "model"
    assert result.steps == 3
    changed = 0
    for layer, module in linear_layers(result.model).items():
        weight = module.weight
        assert float((weight == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
        kept = weight != 0
        changed += int((weight[kept] != own[f"{layer}.weight"][kept]).sum())
    assert changed > 0
    assert not any(module.training for module in loaded.model.modules())
    result.undo()
    assert all(torch.equal(own[key], weight) for key, weight in loaded.model.state_dict().items())


def test_layers_that_a_model_reads_without_calling_them_are_not_pruned(tmp_path: Path) -> None:
    from unlearning.cases import make_loaded

    loaded = make_loaded(architecture="mamba")
    own = {key: weight.clone() for key, weight in loaded.model.state_dict().items()}
    _, result, _ = run(make_rows(), tmp_path, loaded=loaded, method="wanda", options={"finetune": False})
    weights = result.model.state_dict()
    assert all(torch.equal(own[key], weights[key]) for key in own if "dt_proj" in key)
    assert any(not torch.equal(own[key], weights[key]) for key in own if "in_proj" in key)


def test_a_sparsity_of_one_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="option sparsity"):
        run(make_rows(), tmp_path, loaded=make_memorised(), method="wanda", options={"sparsity": 1.0})
