"""One pass over all rows of a step gives the loss and the gradients of a computation row by row, whose reference is
another model: a copy of the base, not the trained one with its adapter off."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from rapidun.data import Example, collate
from rapidun.models import attach_lora, joint_pass
from rapidun.models.joint_pass import answer_states, joint_passes
from rapidun.unlearning import METHODS, Answers, Method, TrainingRows
from rapidun.unlearning.forward import settled_options
from rapidun.unlearning.reference import ReferenceLosses
from rapidun.unlearning.sampling import FORGET, RETAIN, Draw, RoleCollator
from rapidun.unlearning.state import Start
from rapidun.unlearning.trainer import UnlearningTrainer
from tiny import ARCHITECTURES, tiny_model
from unlearning.cases import make_loaded

DRAWS = [Draw(FORGET, 2), Draw(RETAIN, 0), Draw(RETAIN, 3), Draw(FORGET, 1), Draw(RETAIN, 1), Draw(FORGET, 0)]


def make_rows() -> TrainingRows:
    """Rows of many lengths; one forget row has no preferred answer; no two weights are the same."""
    generator = np.random.default_rng(3)

    def row(name: str, length: int, answer: int) -> Example:
        return Example(name, generator.integers(3, 280, length).tolist(), length - answer)

    forget = [row("f0", 9, 3), row("f1", 14, 6), row("f2", 11, 2)]
    wanted = [row("w0", 17, 9), None, row("w2", 10, 1)]
    retain = [row("r0", 22, 12), row("r1", 8, 4), row("r2", 15, 5), row("r3", 40, 7)]
    return TrainingRows(forget, wanted, retain, np.array([0.5, 1.7, 0.8]), np.array([0.2, 1.1, 0.9, 1.8]))


def make_models() -> tuple[Any, Any]:
    """``(base, adapted)``: two models in memory; the adapter's B is far from 0."""
    base = make_loaded().model
    adapted = attach_lora(copy.deepcopy(base), rank=3, alpha=6, dropout=0.0, seed=1)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return base, adapted.train()


def one_row(adapted: Any, base: Any, example: Example, layer: int) -> Answers:
    """Everything a term could read of one row, from passes of its own over all of its positions."""
    batch = collate([example], 0)
    now = adapted(input_ids=batch.input_ids, output_hidden_states=True)
    with torch.no_grad():
        before = base(input_ids=batch.input_ids, output_hidden_states=True)
    hidden, held = now.hidden_states[layer], before.hidden_states[layer]
    return Answers(now.logits, batch.labels, before.logits, hidden=hidden, reference_hidden=held)


def row_by_row(method: Method, options: dict[str, Any], given: dict[str, float], base: Any, adapted: Any) -> Any:
    """The weighted mean over the drawn rows."""
    rows, layer, losses = make_rows(), options.get("layer") or 0, []
    for draw in DRAWS:
        if draw.role == FORGET:
            seen = one_row(adapted, base, rows.forget[draw.index], layer)
            preferred = rows.preferred[draw.index]
            if preferred is not None:
                other = one_row(adapted, base, preferred, layer)
                seen = Answers(**{**vars(seen), "preferred": other, "has_preferred": torch.tensor([True])})
            loss = method.forget(seen, **options, **given) * options.get("gamma", 1.0)
            losses.append(loss * rows.forget_weights[draw.index])
        elif method.retain is not None:
            seen = one_row(adapted, base, rows.retain[draw.index], layer)
            loss = method.retain(seen, **options, **given) * options.get("alpha", 1.0)
            losses.append(loss * rows.retain_weights[draw.index])
    return torch.cat(losses).mean()


def make_trainer(method: Method, options: dict[str, Any], adapted: Any, directory: Path) -> UnlearningTrainer:
    rows, device = make_rows(), torch.device("cpu")
    state = method.new_state(options)
    state.begin(Start(adapted, rows, 0, device))
    return UnlearningTrainer(
        model=adapted,
        args=TrainingArguments(output_dir=str(directory), use_cpu=True, report_to=[], remove_unused_columns=False),
        train_dataset=DRAWS,
        data_collator=RoleCollator(rows, 0, with_preferred=True),
        method=method,
        options=options,
        state=state,
        reference=ReferenceLosses.measure(adapted, rows, method, 0, device),
        record=lambda line: None,
    )


def gradients(adapted: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in adapted.named_parameters() if p.grad is not None}
    adapted.zero_grad()
    return found


@pytest.mark.parametrize("padding", [0, 10_000])  # a pass for each group, one pass for all
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_step_equals_a_computation_row_by_row_on_a_copied_base_model(
    name: str, padding: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_pass, "PASS_TOKENS", padding)
    base, adapted = make_models()
    method = METHODS[name]
    options = settled_options(adapted, method.options)
    trainer = make_trainer(method, options, adapted, tmp_path)
    given = trainer.method_state.values()
    penalty = trainer.method_state.penalty(adapted, {})
    expected = row_by_row(method, options, given, base, adapted) + (0.0 if penalty is None else penalty)
    expected.backward()
    expected_gradients = gradients(adapted)
    loss = trainer.compute_loss(adapted, trainer.data_collator(DRAWS))
    loss.backward()
    torch.testing.assert_close(loss, expected.to(loss.dtype), rtol=1e-4, atol=1e-5)
    found = gradients(adapted)
    assert found.keys() == expected_gradients.keys() and found
    for key, gradient in expected_gradients.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-7)


def test_groups_go_together_as_long_as_their_padding_is_cheaper_than_a_pass() -> None:
    assert joint_passes({"forget": (1, 70), "preferred": (1, 100), "retain": (3, 110)}) == [
        ["forget", "preferred", "retain"]
    ]
    assert joint_passes({"forget": (4, 20), "retain": (2, 300)}) == [["forget"], ["retain"]]
    assert joint_passes({"retain": (2, 10), "forget": (1, 400)}) == [["retain"], ["forget"]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_groups_answers_do_not_depend_on_the_groups_beside_it(architecture: str) -> None:
    model, rows = tiny_model(architecture), make_rows()
    groups = {"one": collate(rows.forget, 0), "other": collate(rows.retain[:3], 0)}
    with torch.no_grad():
        together = answer_states(model, groups, layer=1)
        for name, batch in groups.items():
            alone = answer_states(model, {name: batch}, layer=1)[name]
            torch.testing.assert_close(together[name].labels, alone.labels)
            torch.testing.assert_close(together[name].logits, alone.logits, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(together[name].hidden, alone.hidden, rtol=1e-4, atol=1e-5)


def test_the_output_layer_sees_each_rows_answer_and_no_prompt() -> None:
    model, rows, seen = tiny_model(), make_rows(), []
    handle = model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.shape[1]))
    with torch.no_grad():
        answer_states(model, {"retain": collate(rows.retain[1:3], 0)})
    handle.remove()
    assert seen == [2 * (5 + 1)]


def test_only_the_answer_tokens_that_carry_loss_are_kept_and_in_their_order() -> None:
    masked = Example("m", list(range(10, 18)), 3, loss_mask=[False] * 4 + [True, False, True, True])
    with torch.no_grad():
        found = answer_states(tiny_model(), {"one": collate([masked, Example("n", [5, 6, 7], 2)], 0)})["one"]
    assert found.labels.tolist() == [[-100, 14, 16, 17], [-100, 7, -100, -100]]
