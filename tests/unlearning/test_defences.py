"""Published defences as methods: their scores and losses against formulas written down here, and what they leave."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from rapidun.attribution.pooling import decoder_of
from rapidun.data import collate
from rapidun.errors import TrainingError
from rapidun.models import attach_lora
from rapidun.models.targets import linear_layers
from rapidun.unlearning.fitting import only
from rapidun.unlearning.procedures.beear import Entrapment, shifted
from rapidun.unlearning.procedures.crow import DisturbedConsistency, disturbed, inconsistency
from rapidun.unlearning.procedures.pruning import input_norms, kept_weights
from rapidun.unlearning.sampling import FORGET, Draw, RoleCollator
from rapidun.unlearning.state import Start
from unlearning.cases import make_loaded, make_memorised, make_rows, run


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
@pytest.mark.parametrize(("method", "options"), [("crow", {"epochs": 1.0}), ("beear", {"inner_steps": 2, "rounds": 1})])
def test_defences_train_a_model_in_half_precision(
    method: str, options: dict[str, float], dtype: torch.dtype, tmp_path: Path
) -> None:
    loaded = make_memorised()
    loaded = replace(loaded, model=loaded.model.to(dtype), dtype=dtype)
    rows = make_rows(preferred=True)
    _, result, _ = run(rows, tmp_path, loaded=loaded, method=method, steps=2, batch_size=6, options=options)
    assert result.adapter_change > 0


def test_beear_trains_with_gradient_checkpointing_and_other_architectures_as_it_does_without(tmp_path: Path) -> None:
    rows = make_rows(preferred=True)
    how = {"method": "beear", "steps": 3, "options": {"inner_steps": 2, "rounds": 1}}
    _, plain, _ = run(rows, tmp_path / "plain", loaded=make_memorised(), **how)
    _, saving, _ = run(rows, tmp_path / "saving", loaded=make_memorised(), gradient_checkpointing=True, **how)
    ours, theirs = plain.model.state_dict(), saving.model.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)
    for architecture in ("gpt2", "mamba"):
        loaded = make_loaded(architecture=architecture)
        _, result, _ = run(rows, tmp_path / architecture, loaded=loaded, **how)
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
    loaded = make_loaded(architecture="mamba")
    own = {key: weight.clone() for key, weight in loaded.model.state_dict().items()}
    _, result, _ = run(make_rows(), tmp_path, loaded=loaded, method="wanda", options={"finetune": False})
    weights = result.model.state_dict()
    assert all(torch.equal(own[key], weights[key]) for key in own if "dt_proj" in key)
    assert any(not torch.equal(own[key], weights[key]) for key in own if "in_proj" in key)


def test_a_sparsity_of_one_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="option sparsity"):
        run(make_rows(), tmp_path, loaded=make_memorised(), method="wanda", options={"sparsity": 1.0})


def entrapment(model: object, **changes: int) -> Entrapment:
    rows = make_rows(preferred=True)
    pairs = [(bad, good) for bad, good in zip(rows.forget, rows.preferred, strict=True) if good is not None]
    given = {"layer": 1, "length": 2, "inner_steps": 20, "every": 5, "batch": 6, **changes}
    found = Entrapment(pairs, 0, inner_rate=0.05, **given)
    found.begin(Start(model, rows, 0, torch.device("cpu")))  # type: ignore[arg-type]
    return found


def test_the_shift_is_added_behind_its_block_at_the_last_tokens_of_each_prompt_and_nowhere_else() -> None:
    model = attach_lora(make_memorised().model, rank=2, alpha=2, dropout=0.0)
    rows = make_rows().forget[:2]
    short = replace(rows[1], input_ids=rows[1].input_ids[4:], answer_start=1)  # one prompt token for two of the shift
    batch = collate([rows[0], short], 0)
    delta = torch.arange(32.0).view(2, 16)
    seen: list[torch.Tensor] = []

    def states() -> None:
        hook = decoder_of(model)[1][1].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        hook.remove()

    states()
    with shifted(model, 1, delta, batch.labels):
        states()
    states()
    expected = torch.zeros_like(seen[0])
    expected[0, rows[0].answer_start - 2 : rows[0].answer_start] = delta
    expected[1, 0] = delta[1]
    torch.testing.assert_close(seen[1] - seen[0], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen[2], seen[0])  # no hook stays


def test_the_shift_that_is_found_calls_for_unwanted_answers_and_away_from_wanted_ones() -> None:
    model = attach_lora(make_memorised().model, rank=2, alpha=2, dropout=0.0)
    found = entrapment(model)
    unwanted, wanted = (collate([pair[side] for pair in found.pairs], 0) for side in (0, 1))
    none = torch.zeros(2, 16)
    delta = found.entrapped(model)
    towards = found.loss(model, delta, unwanted) - found.loss(model, none, unwanted)
    away = found.loss(model, delta, wanted) - found.loss(model, none, wanted)
    assert float((towards - away).detach()) < -0.2
    assert delta.shape == (2, 16)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_beear_gives_wanted_answers_where_a_new_shift_calls_for_unwanted_ones(tmp_path: Path) -> None:
    loaded, rows = make_memorised(), make_rows(preferred=True)
    own = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}
    before = attach_lora(loaded.model, rank=2, alpha=2, dropout=0.0)
    wanted = collate([example for example in rows.preferred if example is not None], 0)
    found = entrapment(before)
    lost = float(found.loss(before, found.entrapped(before), wanted).detach())
    before.unload()
    options = {"rounds": 4, "inner_steps": 10, "length": 2}
    _, result, lines = run(rows, tmp_path, loaded=loaded, method="beear", steps=40, batch_size=6, options=options)
    found = entrapment(result.model)
    assert float(found.loss(result.model, found.entrapped(result.model), wanted).detach()) < 0.5 * lost
    assert result.held_loss_after < result.held_loss_before + 0.1
    assert all("delta" not in line for line in lines)  # thousands of numbers are for the checkpoint alone
    assert any(line.get("delta_norm", 0) > 0 for line in lines)
    result.undo()
    assert all(torch.equal(own[name], weight) for name, weight in loaded.model.state_dict().items())


def test_a_resumed_beear_is_an_unbroken_one_also_between_two_shifts(tmp_path: Path) -> None:
    rows = make_rows(preferred=True)
    how = {"method": "beear", "steps": 6, "options": {"rounds": 2, "inner_steps": 3}, "checkpoint_every": 4}
    _, whole, _ = run(rows, tmp_path / "whole", loaded=make_memorised(), **how)

    class Killed(Exception):  # noqa: N818
        pass

    def kill(step: int, steps: int) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        run(rows, tmp_path / "cut", loaded=make_memorised(), progress=kill, **how)
    _, resumed, _ = run(rows, tmp_path / "cut", loaded=make_memorised(), resume=True, **how)
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_beear_says_what_it_needs_where_no_forget_row_has_a_wanted_answer(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="needs a preferred answer"):
        run(make_rows(), tmp_path, loaded=make_memorised(), method="beear")


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_int4_leaves_at_most_fifteen_levels_in_every_group_and_can_be_undone(architecture: str, tmp_path: Path) -> None:
    loaded = make_loaded(architecture=architecture)
    own = {key: weight.clone() for key, weight in loaded.model.state_dict().items()}
    _, result, _ = run(make_rows(), tmp_path, loaded=loaded, method="int4", options={"group": 8})
    assert result.saved == "model"
    weights = result.model.state_dict()
    for name, layer in linear_layers(result.model).items():
        turned = architecture == "gpt2"
        weight = (layer.weight.T if turned else layer.weight).detach()
        before = own[f"{name}.weight"].T if turned else own[f"{name}.weight"]
        groups, scales = weight.unflatten(-1, (-1, 8)), before.unflatten(-1, (-1, 8)).abs().amax(-1, keepdim=True) / 7
        levels = groups / scales
        torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
        assert float((weight - before).abs().max()) > 0
    assert torch.equal(weights["lm_head.weight"], own["lm_head.weight"])
    result.undo()
    assert all(torch.equal(own[key], weight) for key, weight in loaded.model.state_dict().items())
