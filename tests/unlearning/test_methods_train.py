"""Every method for real on a tiny model: a step moves the adapter downhill on the method's own objective, states
resume, procedures do what their formula says and leave the loaded model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rapidun.data import Example, collate
from rapidun.errors import ConfigError, TrainingError
from rapidun.models import adapter_disabled, attach_lora, mean_answer_loss, save_adapter, save_model
from rapidun.models.row_losses import row_losses
from rapidun.unlearning import METHODS, Method, TrainingRows, UnlearnSettings, get_method
from rapidun.unlearning.fisher import fisher_diagonal
from rapidun.unlearning.forward import batch_answers, settled_options
from rapidun.unlearning.methods.elastic import adapted_layers
from rapidun.unlearning.procedures.dampening import dampening_factors
from rapidun.unlearning.reference import ReferenceLosses
from rapidun.unlearning.reweighing import Reweighing
from rapidun.unlearning.sampling import FORGET, RETAIN, Draw, RoleCollator
from rapidun.unlearning.state import Start
from rapidun.unlearning.trainer import STATE_FILE, last_checkpoint
from unlearning.cases import make_loaded, make_memorised, make_rows, run

SELF_WEIGHTED = {"wga", "satimp", "ceu", "loreun"}
"""Their weights or teachers are the model's own output: what a step lowers is the loss with those held."""


def objective_of(method: Method, model: Any, rows: TrainingRows) -> torch.Tensor:
    """The method's loss over all rows at once, without the trainer."""
    options = settled_options(model, method.options)
    state = method.new_state(options)
    with adapter_disabled(model):
        state.begin(Start(model, rows, 0, torch.device("cpu")))
    draws = [Draw(FORGET, i) for i in range(6)] + [Draw(RETAIN, i) for i in range(12)]
    batch = RoleCollator(rows, 0, with_preferred=True)(draws)
    reference = ReferenceLosses.measure(model, rows, method, 0, torch.device("cpu"))
    found = batch_answers(model, model, batch, method, options.get("layer") or 0, reference)
    losses = [options.get("gamma", 1.0) * method.forget(found["forget"], **options, **state.values())]
    if method.retain is not None:
        losses.append(options.get("alpha", 1.0) * method.retain(found["retain"], **options, **state.values()))
    penalty = state.penalty(model, batch)
    return torch.cat(losses).mean() + (0.0 if penalty is None else penalty)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_one_real_step_changes_the_adapter_and_lowers_the_methods_own_objective(name: str, tmp_path: Path) -> None:
    rows, method = make_rows(preferred=True), METHODS[name]
    share = 6 / 18 if method.retain is not None else 1.0
    size = 18 if method.retain is not None else 6
    fresh = attach_lora(make_memorised().model, rank=4, alpha=8, dropout=0.0, seed=0)
    start = objective_of(method, fresh, rows)
    start.backward()
    gradient = {key: p.grad for key, p in fresh.named_parameters() if p.grad is not None}
    _, result, _ = run(
        rows, tmp_path, loaded=make_memorised(), method=name, steps=1, batch_size=size, forget_share=share,
        learning_rate=3e-5, retain_budget=50.0,
    )  # fmt: skip
    before = {key: p.detach() for key, p in fresh.named_parameters() if p.requires_grad}
    after = {key: p.detach() for key, p in result.model.named_parameters() if key in before}
    assert result.adapter_change > 0
    downhill = sum(float((gradient[key] * (after[key] - before[key])).sum()) for key in gradient)
    assert downhill < 0
    if name not in SELF_WEIGHTED:
        assert objective_of(method, result.model, rows) < start


UNTESTED = {"ga", "graddiff", "npo", "rapidun"}  # test_unlearn.py trains these longer


@pytest.mark.parametrize("name", sorted(set(METHODS) - UNTESTED))
def test_a_memorised_answer_becomes_less_likely(name: str, tmp_path: Path) -> None:
    rows = make_rows(preferred=True)
    options = {"c": 20.0} if name == "rmu" else {}
    loaded, result, _ = run(
        rows, tmp_path, loaded=make_memorised(), method=name, steps=8, retain_budget=50.0, options=options
    )
    after = row_losses(result.model, rows.forget, 0, loaded.device).mean
    with adapter_disabled(result.model):
        before = row_losses(result.model, rows.forget, 0, loaded.device).mean
    assert after > before + 0.05


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2"])
@pytest.mark.parametrize("name", ["rmu", "fisher_ewc"])
def test_hidden_states_and_anchors_work_on_other_architectures(name: str, architecture: str, tmp_path: Path) -> None:
    loaded = make_loaded(architecture=architecture)
    _, result, _ = run(make_rows(), tmp_path, method=name, steps=2, retain_budget=50.0, loaded=loaded)
    assert result.adapter_change > 0


def test_rmu_refuses_a_layer_that_the_model_has_not_got(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layer = 3: the model has 2 blocks"):
        run(make_rows(), tmp_path, method="rmu", options={"layer": 3})


def stopped_and_resumed(tmp_path: Path, reweigh: Any = None, **settings: Any) -> tuple[Any, Any]:
    """The adapters of an unbroken run and of one that a Ctrl-C stopped at step 7 of 12."""

    def stop(step: int, total: int) -> None:
        if step == 7:
            raise KeyboardInterrupt

    def more() -> dict[str, Any]:
        return {} if reweigh is None else {"reweighing": Reweighing(reweigh, every=2, smoothing=0.5)}

    common = {"steps": 12, "checkpoint_every": 3, "retain_budget": 50.0, **settings}
    _, whole, _ = run(make_rows(preferred=True), tmp_path / "whole", **common, **more())
    with pytest.raises(KeyboardInterrupt):
        run(make_rows(preferred=True), tmp_path / "broken", **common, **more(), progress=stop)
    _, resumed, _ = run(make_rows(preferred=True), tmp_path / "broken", **common, **more(), resume=True)
    return tuple(
        load_file(save_adapter(result.model, tmp_path / name) / "adapter_model.safetensors")
        for name, result in (("a", whole), ("b", resumed))
    )


@pytest.mark.parametrize("name", ["pdu", "loreun", "fisher_ewc"])
def test_a_stateful_method_resumes_to_what_an_unbroken_run_gives(name: str, tmp_path: Path) -> None:
    whole, resumed = stopped_and_resumed(tmp_path, method=name)
    for key, tensor in whole.items():
        torch.testing.assert_close(resumed[key], tensor, rtol=0, atol=0)


def test_a_training_that_was_finished_says_the_same_when_it_is_resumed(tmp_path: Path) -> None:
    common = {"method": "ga", "steps": 2, "checkpoint_every": 2, "retain_budget": 50.0}
    _, first, _ = run(make_rows(), tmp_path, **common)
    _, again, _ = run(make_rows(), tmp_path, **common, resume=True)
    assert first.held_loss_after != first.held_loss_before
    assert again.numbers() == first.numbers()


def follow_the_loss(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights that depend on the adapter as it is."""
    rows = make_rows(preferred=True)
    batch = collate(rows.forget, 0)
    with torch.no_grad():
        losses = mean_answer_loss(model(input_ids=batch.input_ids).logits, batch.labels).double().numpy()
    return losses / losses.mean(), np.ones(12)


def test_weights_that_follow_the_model_change_the_result_and_resume(tmp_path: Path) -> None:
    whole, resumed = stopped_and_resumed(tmp_path, reweigh=follow_the_loss, method="ga")
    still, _ = stopped_and_resumed(tmp_path / "still", method="ga")
    for key, tensor in whole.items():
        torch.testing.assert_close(resumed[key], tensor, rtol=0, atol=0)
    assert any(not torch.equal(still[key], tensor) for key, tensor in whole.items())


def test_reweighing_smooths_and_computes_only_every_n_steps() -> None:
    calls = []
    new = np.array([2.0, 2.0, 2.0, 0.0, 0.0, 0.0])
    reweighing = Reweighing(lambda model: (calls.append(1) or new, np.ones(12)), every=3, smoothing=0.75)
    reweighing.begin(make_rows())
    for step in range(1, 7):
        reweighing.advance(None, step)
    assert len(calls) == 2
    np.testing.assert_allclose(reweighing.weights["forget"], 0.75**2 + (1 - 0.75**2) * new)
    batch = RoleCollator(make_rows(), 0, with_preferred=False)([Draw(FORGET, 5), Draw(FORGET, 0)])
    assert reweighing.of("forget", batch["forget"]).tolist() == pytest.approx([0.5625, 1.4375])


def test_trap_22_the_dual_variable_moves_once_a_step_by_the_weighted_violation(tmp_path: Path) -> None:
    rows = make_rows()
    _, _, lines = run(rows, tmp_path, method="pdu", steps=5, batch_size=18, forget_share=6 / 18, learning_rate=1e-9,
                      retain_budget=50.0, options={"slack": 0.5, "dual_step": 0.25, "dual_start": 0.0})  # fmt: skip
    held, (line,) = make_loaded(), [line for line in lines if "dual" in line]
    violation = row_losses(held.model, rows.retain, 0, held.device).mean * 0.5  # CE - 0.5 CE
    assert line["dual"] == pytest.approx(5 * 0.25 * violation, rel=1e-4)


def test_the_dual_variable_of_a_bound_that_is_kept_falls_to_zero_and_no_further(tmp_path: Path) -> None:
    _, _, lines = run(make_rows(), tmp_path, method="pdu", steps=5, learning_rate=1e-9, retain_budget=50.0,
                      options={"slack": 50.0, "dual_step": 1.0, "dual_start": 0.5})  # fmt: skip
    assert [line["dual"] for line in lines if "dual" in line][-1] == 0.0


def test_a_checkpoint_that_a_kill_cut_short_is_passed_over(tmp_path: Path) -> None:
    for number, files in ((5, ("trainer_state.json", STATE_FILE)), (10, (STATE_FILE,))):
        (tmp_path / f"checkpoint-{number}").mkdir()
        for name in files:
            (tmp_path / f"checkpoint-{number}" / name).write_text("{}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    assert last_checkpoint(tmp_path / "none") is None


# --- Fisher -----------------------------------------------------------------------------------------------------------


def squared_gradients(model: nn.Module, rows: list[Example], name: str) -> torch.Tensor:
    """The square of each row's own gradient of one weight, by one backward pass a row."""
    parameter, found = dict(model.named_parameters())[name], []
    for row in rows:
        model.zero_grad()
        batch = collate([row], 0)
        mean_answer_loss(model(input_ids=batch.input_ids).logits, batch.labels).sum().backward()
        found.append(parameter.grad.square().flatten())
    model.zero_grad()
    return torch.stack(found)


def test_trap_23_the_fisher_is_of_per_example_gradients_and_weighted() -> None:
    model, rows = make_loaded().model, make_rows().forget
    weights = np.array([2.0, 0.0, 1.0, 1.0, 0.5, 1.5])
    name = "model.layers.1.mlp.up_proj.weight"
    found = fisher_diagonal(model, rows, weights, 0)[name]
    each = squared_gradients(model, rows, name)
    wanted = (torch.tensor(weights)[:, None] * each).mean(dim=0)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-12)


def test_dampening_factors_by_hand() -> None:
    forget, rest = torch.tensor([5.0, 30.0, 30.0, 0.0, 4.0]), torch.tensor([1.0, 1.0, 4.0, 0.0, 0.0])
    found = dampening_factors(forget, rest, selection=10.0, dampening=2.0)
    # 5 <= 10: kept; 30 > 10: 2/30; 30 <= 40: kept; 0 = 0: kept; 4 > 0: 2 * 0 / 4
    torch.testing.assert_close(found, torch.tensor([1.0, 2 / 30, 1.0, 1.0, 0.0]))


def test_fisher_dampens_what_the_forget_rows_need_and_gives_the_model_back(tmp_path: Path) -> None:
    rows = make_rows()
    options = {"selection": 4.0}
    loaded, result, lines = run(
        rows, tmp_path, loaded=make_memorised(), method="fisher", options=options, retain_budget=0.137
    )
    assert result.saved == "model"
    after = row_losses(loaded.model, rows.forget, 0, loaded.device).mean
    result.undo()
    fresh = make_memorised().model.state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, fresh[name])
    before = row_losses(loaded.model, rows.forget, 0, loaded.device).mean
    assert after - before > 2 * (result.held_loss_after - result.held_loss_before)
    assert result.held_loss_after <= lines[-1]["limit"]


def test_fisher_weights_decide_whose_weights_are_dampened(tmp_path: Path) -> None:
    rows = make_rows()
    muted = TrainingRows(rows.forget, rows.preferred, rows.retain, np.array([2.0] * 3 + [0.0] * 3), rows.retain_weights)
    loaded, result, _ = run(
        muted, tmp_path, loaded=make_memorised(), method="fisher", options={"selection": 8.0}, retain_budget=50.0
    )
    after = [row_losses(loaded.model, group, 0, loaded.device).mean for group in (rows.forget[:3], rows.forget[3:])]
    result.undo()
    before = [row_losses(loaded.model, group, 0, loaded.device).mean for group in (rows.forget[:3], rows.forget[3:])]
    assert after[0] - before[0] > after[1] - before[1]


def test_a_fisher_that_selects_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no weight matters"):
        run(make_rows(), tmp_path, method="fisher", options={"selection": 1e12})


def test_the_elastic_penalty_is_the_fisher_times_the_squared_update() -> None:
    rows, method = make_rows(), METHODS["fisher_ewc"]
    base = make_loaded().model
    name = "model.layers.0.self_attn.v_proj.weight"
    squares = squared_gradients(base, rows.retain, name).mean(dim=0)
    model = attach_lora(base, rank=2, alpha=6, dropout=0.0, targets=["model.layers.0.self_attn.v_proj"], seed=0)
    state = method.new_state({"strength": 3.0})
    state.begin(Start(model, rows, 0, torch.device("cpu")))
    assert state.penalty(model, {}).item() == 0.0
    (layer,) = adapted_layers(model).values()
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    b.data.normal_(generator=torch.Generator().manual_seed(0))
    update = (6 / 2) * (b @ a).flatten().detach()
    assert state.penalty(model, {}).item() == pytest.approx(float(3.0 * (squares * update**2).sum()), rel=1e-4)


def test_a_stronger_anchor_moves_the_retain_rows_less(tmp_path: Path) -> None:
    moved = [
        run(make_rows(), tmp_path / str(strength), method="fisher_ewc", steps=15, options={"strength": strength},
            retain_budget=50.0)[1].held_loss_after
        for strength in (0.0, 1000.0)
    ]  # fmt: skip
    assert moved[1] < moved[0]


# --- Task vectors and retraining --------------------------------------------------------------------------------------


def test_a_task_vector_is_the_fine_tuning_negated(tmp_path: Path) -> None:
    rows = make_rows()
    loaded, result, _ = run(
        rows, tmp_path, method="task_vector", steps=15, forget_share=0.25, options={"strength": 0.5}
    )
    assert result.saved == "adapter"
    after = row_losses(result.model, rows.forget, 0, loaded.device).mean
    with adapter_disabled(result.model):
        before = row_losses(result.model, rows.forget, 0, loaded.device).mean
    for layer in adapted_layers(result.model).values():
        layer.lora_B["default"].weight.data.mul_(-2.0)  # back to what was learnt
    assert row_losses(result.model, rows.forget, 0, loaded.device).mean < before - 0.1 < after


def test_a_task_vector_that_breaks_the_retain_budget_is_shortened(tmp_path: Path) -> None:
    rows = make_rows()
    _, result, lines = run(
        rows, tmp_path, loaded=make_memorised(), method="task_vector", steps=10, retain_budget=0.05,
        options={"strength": 16.0},
    )  # fmt: skip
    assert "strength 16 broke the limit" in result.stopped
    assert result.held_loss_after <= result.held_loss_before + np.log(1.05)
    tried = [line["strength"] for line in lines if "strength" in line]
    assert len(tried) > 1
    assert tried == [16 * 0.5**i for i in range(len(tried))]


@pytest.mark.parametrize("full", [False, True])
def test_retrain_learns_the_retain_rows_from_the_base_and_never_sees_the_forget_rows(
    full: bool, tmp_path: Path
) -> None:
    origin, rows = make_loaded(seed=5), make_rows()
    save_model(origin.model, origin.tokenizer, tmp_path / "base")
    options = {"base": str(tmp_path / "base"), "full": full}
    loaded, result, _ = run(rows, tmp_path / "run", method="retrain", options=options, learning_rate=5e-2)
    assert result.saved == "model"
    assert not any("lora" in name for name, _ in result.model.named_parameters())
    retain, forget = (row_losses(result.model, group, 0, loaded.device).mean for group in (rows.retain, rows.forget))
    before = row_losses(origin.model, rows.retain, 0, loaded.device).mean
    assert retain < before - 0.5
    assert retain < forget - 0.5
    swapped = TrainingRows(rows.forget[::-1], rows.preferred, rows.retain, rows.forget_weights, rows.retain_weights)
    _, again, _ = run(swapped, tmp_path / "again", method="retrain", options=options, learning_rate=5e-2)
    for one, two in zip(result.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_retrain_needs_a_base(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--option base=DIR"):
        run(make_rows(), tmp_path, method="retrain")


# --- Preferred answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpo", "idk"])
def test_a_preference_needs_something_to_prefer(name: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="response_clean"):
        run(make_rows(), tmp_path, method=name)


def test_options_are_checked_with_the_settings() -> None:
    with pytest.raises(ValueError, match=r"its options: gamma=1.0, alpha=1.0, beta=0.1"):
        UnlearnSettings(method="npo", options={"betta": 1})
    assert get_method("npo").checked({"beta": 1})["beta"] == 1.0
