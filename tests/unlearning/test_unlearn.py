"""`unlearn` on a tiny real model: it forgets, it holds, it stops, it resumes, it says when nothing trained."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from killing import killed_when
from rapidun.data import Example
from rapidun.errors import ConfigError, TrainingError
from rapidun.models import attach_lora, mean_answer_loss, save_adapter
from rapidun.models.row_losses import row_losses
from rapidun.unlearning import TrainingRows, UnlearnSettings, unlearn
from rapidun.unlearning.budget import keep_leading, within_budget
from rapidun.unlearning.guards import adapter_state
from rapidun.unlearning.methods.elastic import adapted_layers
from tiny import tiny_model
from unlearning.cases import LORA, make_loaded, make_rows, run


@pytest.mark.parametrize("method", ["ga", "graddiff", "npo", "rapidun"])
def test_forget_loss_rises_more_than_retain_loss(method: str, tmp_path: Path) -> None:
    rows = make_rows()
    loaded, result, _ = run(rows, tmp_path, method=method)
    before, after = {}, {}
    for name, group in (("forget", rows.forget), ("retain", rows.retain)):
        after[name] = row_losses(result.model, group, 0, loaded.device).mean
        with result.model.disable_adapter():
            before[name] = row_losses(result.model, group, 0, loaded.device).mean
    assert after["forget"] - before["forget"] > 0.3
    held = 1.3 if method == "ga" else 2.0  # plain ascent has no retain term
    assert after["forget"] - before["forget"] > held * (after["retain"] - before["retain"])
    assert result.adapter_change > 0


def test_rapidun_teaches_the_wanted_answer_where_a_row_has_one(tmp_path: Path) -> None:
    rows = make_rows(preferred=True)
    loaded, result, _ = run(rows, tmp_path, method="rapidun", options={"descent": 1.0})
    wanted = [example for example in rows.preferred if example is not None]
    with result.model.disable_adapter():
        before = row_losses(result.model, wanted, 0, loaded.device).mean
    assert row_losses(result.model, wanted, 0, loaded.device).mean < before - 0.3


def test_a_weight_of_zero_takes_a_row_out(tmp_path: Path) -> None:
    rows = make_rows()
    weights = np.array([2.0, 2.0, 2.0, 0.0, 0.0, 0.0])
    muted = TrainingRows(rows.forget, rows.preferred, rows.retain, weights, rows.retain_weights)
    loaded, result, _ = run(muted, tmp_path, method="ga")
    kept, dropped = rows.forget[:3], rows.forget[3:]
    risen = {}
    for name, group in (("kept", kept), ("dropped", dropped)):
        after = row_losses(result.model, group, 0, loaded.device).mean
        with result.model.disable_adapter():
            risen[name] = after - row_losses(result.model, group, 0, loaded.device).mean
    assert risen["kept"] > risen["dropped"]


def test_the_base_models_own_weights_do_not_change(tmp_path: Path) -> None:
    rows = make_rows()
    _, result, _ = run(rows, tmp_path)
    plain = result.model.unload().state_dict()
    for name, tensor in make_loaded().model.state_dict().items():
        torch.testing.assert_close(plain[name], tensor, rtol=0, atol=0)


def updates(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``B A`` of each layer."""
    return {
        name: state[name.replace("lora_A", "lora_B")] @ factor for name, factor in state.items() if "lora_A" in name
    }


def test_trap_24_an_update_that_breaks_the_retain_budget_is_cut_and_scaled_down_to_it(tmp_path: Path) -> None:
    rows = make_rows()
    loaded, whole, _ = run(rows, tmp_path / "whole", method="ga", retain_budget=1e9)
    trained = adapter_state(whole.model)
    whole.undo()
    _, result, lines = run(rows, tmp_path / "kept", method="ga", retain_budget=0.02, loaded=loaded)
    limit = result.held_loss_before + np.log(1.02)
    assert "retain budget" in result.stopped
    assert (result.steps, 0 < result.share < 1) == (30, True)
    assert result.held_loss_after <= limit < whole.held_loss_after
    assert any("held_retain_loss" in line for line in lines)
    assert "in its leading direction" in result.stopped
    for name, update in updates(adapter_state(result.model)).items():
        u, s, v = torch.linalg.svd(updates(trained)[name])
        torch.testing.assert_close(update, result.share * s[0] * torch.outer(u[:, 0], v[0]), rtol=1e-4, atol=1e-6)
    for layer in adapted_layers(result.model).values():  # a fifth more of it would not have held
        layer.lora_B["default"].weight.data.mul_(1.2)
    assert row_losses(result.model, rows.retain, 0, loaded.device).mean > limit


@pytest.mark.parametrize(("losses", "kept_rank"), [([2.5, 2.001], 2), ([2.5, 2.4, 2.001], 1)])
def test_an_update_whose_leading_directions_hold_the_budget_is_not_scaled(losses: list[float], kept_rank: int) -> None:
    model = attach_lora(tiny_model(), rank=4, seed=0)
    torch.manual_seed(0)
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    before, looks = updates(adapter_state(model)), iter(losses)
    kept = within_budget(model, lambda: next(looks), start=2.0, budget=0.01)
    assert (kept.share, kept.loss) == (1.0, 2.001) and "leading direction" in str(kept.why)
    for name, update in updates(adapter_state(model)).items():
        assert int(torch.linalg.matrix_rank(update)) == kept_rank
        error = torch.linalg.norm(before[name] - update, ord=2)
        torch.testing.assert_close(error, torch.linalg.svdvals(before[name])[kept_rank], rtol=1e-3, atol=1e-6)


def test_a_layer_with_fewer_directions_than_are_kept_keeps_its_update() -> None:
    model = attach_lora(tiny_model("qwen2_moe"), rank=16, seed=0)  # its shared expert's gate has one output
    for layer in adapted_layers(model).values():
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    before = updates(adapter_state(model))
    assert min(min(update.shape) for update in before.values()) == 1
    for count in (16, 8):
        keep_leading(model, count)
    for name, update in updates(adapter_state(model)).items():
        if min(update.shape) <= 8:
            torch.testing.assert_close(update, before[name], rtol=1e-4, atol=1e-5)


def test_factors_that_hold_several_fused_experts_are_not_mixed() -> None:
    from peft import LoraConfig, get_peft_model

    base = tiny_model("mixtral")
    parameter = next(name for name, value in base.named_parameters() if value.ndim == 3)
    model = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=[], target_parameters=[parameter])
    )
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    before = adapter_state(model)
    keep_leading(model)
    assert all(torch.equal(value, before[name]) for name, value in adapter_state(model).items())


def test_an_update_of_which_no_share_holds_the_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no adapter to keep"):
        run(make_rows(), tmp_path, method="ga", learning_rate=0.2, retain_budget=1e-9)


def test_an_update_within_the_budget_is_kept_whole(tmp_path: Path) -> None:
    _, result, _ = run(make_rows(), tmp_path, retain_budget=1e9)
    assert (result.share, result.stopped) == (1.0, None)


def test_a_held_loss_that_is_no_number_stops_training_whatever_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 1.0, 2.0, float("nan"), 2.0])  # all rows, then the looks while training, all again
    monkeypatch.setattr("rapidun.unlearning.fitting.row_losses", lambda *_: SimpleNamespace(mean=next(losses)))
    _, result, lines = run(make_rows(), tmp_path, steps=6, check_every=2, retain_budget=1e9)
    assert "diverged: at step 4 the loss on validation rows was no finite number" in result.stopped
    assert (result.steps, result.held_loss_after) == (2, 2.0)
    assert lines[-1]["held_retain_loss"] is None


def test_trap_8_training_that_changed_nothing_is_an_error(tmp_path: Path) -> None:
    rows = make_rows()
    silent = [Example(row.id, row.input_ids, len(row.input_ids)) for row in rows.forget]
    nothing = TrainingRows(silent, rows.preferred, [], rows.forget_weights, np.ones(0))
    with pytest.raises(TrainingError, match="changed nothing"):
        unlearn(
            make_loaded(), nothing, settings=UnlearnSettings(method="ga", steps=3), lora=LORA, held=rows.retain,
            checkpoints=tmp_path,
        )  # fmt: skip


def test_a_method_with_a_retain_term_needs_retain_rows(tmp_path: Path) -> None:
    rows = make_rows()
    bare = TrainingRows(rows.forget, rows.preferred, [], rows.forget_weights, np.ones(0))
    with pytest.raises(TrainingError, match="needs retain rows"):
        unlearn(
            make_loaded(), bare, settings=UnlearnSettings(steps=3), lora=LORA, held=rows.retain, checkpoints=tmp_path
        )


def test_the_reference_is_the_model_with_its_adapter_off() -> None:
    """At the start NPO's ``S - S_0`` is 0 for every row, so the loss is ``(2 / beta) log 2``."""
    from rapidun.models import adapter_disabled, attach_lora
    from rapidun.unlearning import Answers, Method, get_method

    model = attach_lora(make_loaded().model, rank=2, alpha=2, dropout=0.0, targets="all-linear", seed=0)
    ids = torch.tensor([[1, 20, 30, 40]])
    labels = torch.tensor([[-100, -100, 30, 40]])
    with adapter_disabled(model), torch.no_grad():
        reference = model(input_ids=ids).logits
    npo = get_method("npo")
    assert isinstance(npo, Method)
    loss = npo.forget(Answers(model(input_ids=ids).logits, labels, reference), beta=0.1)
    assert loss.item() == pytest.approx(20 * np.log(2), rel=1e-5)
    assert mean_answer_loss(reference, labels).shape == (1,)


def test_out_of_memory_names_the_settings_that_lower_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rapidun.unlearning.trainer import UnlearningTrainer

    def explode(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(UnlearningTrainer, "compute_loss", explode)
    with pytest.raises(TrainingError, match="--batch-size"):
        run(make_rows(), tmp_path)


@pytest.mark.parametrize("changes", [{"method": "rapidnu"}, {"method": "ga", "options": {"beta": 1.0}}])
def test_unknown_methods_and_options_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ValueError), match=r"rapidun|no option 'beta'"):
        UnlearnSettings(**changes)


def train(directory: Path, slow: float = 0.0) -> list[int]:
    """A training that goes on from its last checkpoint; the steps it says, which are lines of a file too."""
    rows = make_rows()
    said: list[int] = []

    def progress(done: int, total: int) -> None:
        said.append(done)
        with directory.with_suffix(".steps").open("a") as file:
            file.write(f"{done}\n")
        time.sleep(slow)

    result = unlearn(
        make_loaded(), rows, lora=LORA, held=rows.retain, checkpoints=directory, resume=True, progress=progress,
        settings=UnlearnSettings(method="pdu", steps=24, learning_rate=5e-3, retain_budget=5.0, checkpoint_every=5),
    )  # fmt: skip
    save_adapter(result.model, directory / "final")
    return said


def test_killed_at_any_moment_training_resumes_to_the_same_adapter(tmp_path: Path) -> None:
    whole, broken, steps = tmp_path / "whole", tmp_path / "broken", tmp_path / "broken.steps"
    assert train(whole)[-1] == 24

    def at_step_13() -> bool:
        return steps.exists() and "13" in steps.read_text().split()

    assert killed_when(lambda: train(broken, slow=0.05), at_step_13) is None
    assert train(broken)[0] in (5, 10)  # where it goes on from is said first
    ours, theirs = (load_file(each / "final" / "adapter_model.safetensors") for each in (broken, whole))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["rapidun", "task_vector", "fisher"])
def test_every_method_says_the_forget_rows_loss_before_and_after(method: str, tmp_path: Path) -> None:
    rows = make_rows()
    loaded, result, _ = run(rows, tmp_path, method=method)
    after = row_losses(result.model, rows.forget, 0, loaded.device).mean
    assert result.forget_loss_after == pytest.approx(after)
    result.undo()
    assert result.forget_loss_before == pytest.approx(row_losses(loaded.model, rows.forget, 0, loaded.device).mean)
    assert result.numbers()["forget_loss_after"] == result.forget_loss_after


def test_a_loss_that_is_not_finite_is_written_as_none(tmp_path: Path) -> None:
    _, result, _ = run(make_rows(), tmp_path, method="rapidun")
    assert replace(result, forget_loss_after=float("inf")).numbers()["forget_loss_after"] is None


@pytest.mark.parametrize(
    ("rise", "most"),
    [(lambda share: 0.04 * share**2, 1), (lambda share: 0.06 * share**2 - 0.03 * share, 2),
     (lambda share: 50 * share**4, 6), (lambda share: 0.02 * share, 4), (lambda share: 1e9 * share**9, 6)],
    ids=["square", "falls first", "steep", "linear", "cliff"],
)  # fmt: skip
def test_the_largest_share_within_the_budget_is_found_in_few_looks(rise: Any, most: int) -> None:
    model = attach_lora(tiny_model(), rank=2)
    factor = next(iter(adapted_layers(model).values())).lora_B["default"].weight
    factor.data.fill_(1.0)
    sizes: list[float] = []

    def loss() -> float:  # of the whole update, of its leading direction, then of shares of this
        sizes.append(factor.norm().item())
        return 2.0 + rise(sizes[-1] / sizes[1] if len(sizes) > 1 else 1.0)

    kept = within_budget(model, loss, start=2.0, budget=0.01)
    assert len(sizes) - 2 <= most
    assert 0.5 * np.log(1.01) <= kept.loss - 2.0 <= np.log(1.01)
    assert factor.norm().item() / sizes[1] == pytest.approx(kept.share) and kept.why is not None
