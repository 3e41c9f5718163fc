"""The answer loss: shifted, masked, and the same for a row whatever stands beside it."""

from __future__ import annotations

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model

from rapidun.data import Example, collate
from rapidun.models import (
    answer_logits,
    answer_token_logits,
    answer_token_losses,
    attach_lora,
    mean_answer_loss,
    sum_answer_loss,
)
from tiny import ARCHITECTURES, tiny_model

EXAMPLES = [
    Example("a", [1, 5, 6, 7, 8, 2], 3),
    Example("b", [1, 9, 10, 2], 1),
    Example("c", [1, *range(20, 40), 2], 15),
]


@torch.no_grad()
def logits_of(model, batch):
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trap_1_the_loss_is_the_models_own_loss(architecture):
    model = tiny_model(architecture)
    for example in EXAMPLES:
        batch = collate([example], 0)
        with torch.no_grad():
            expected = model(**vars(batch)).loss
        torch.testing.assert_close(mean_answer_loss(logits_of(model, batch), batch.labels)[0], expected)


def test_trap_1_a_model_that_copies_its_input_does_not_get_loss_zero():
    batch = collate(EXAMPLES[:1], 0)
    copying = torch.nn.functional.one_hot(batch.input_ids, 300).float() * 100
    assert mean_answer_loss(copying, batch.labels)[0] > 50


def test_trap_2_prompt_and_padding_logits_change_nothing():
    batch = collate(EXAMPLES, 0)
    logits = torch.randn(*batch.input_ids.shape, 300, generator=torch.Generator().manual_seed(0)).requires_grad_()
    losses, mask = answer_token_losses(logits, batch.labels)
    assert losses.shape == mask.shape == (3, batch.labels.shape[1] - 1)
    assert mask.sum(dim=1).tolist() == [len(example) - example.answer_start for example in EXAMPLES]
    assert (losses[~mask] == 0).all()
    sum_answer_loss(logits, batch.labels).sum().backward()
    carries = torch.zeros_like(batch.labels, dtype=torch.bool)
    carries[:, :-1] = mask
    assert (logits.grad[~carries] == 0).all() and (logits.grad[carries] != 0).any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trap_4_a_rows_loss_does_not_depend_on_its_batch(architecture):
    model = tiny_model(architecture)
    batch = collate(EXAMPLES, 0)
    together = mean_answer_loss(logits_of(model, batch), batch.labels)
    for index, example in enumerate(EXAMPLES):
        alone = collate([example], 0)
        torch.testing.assert_close(mean_answer_loss(logits_of(model, alone), alone.labels)[0], together[index])


def test_trap_3_the_pad_id_changes_nothing_even_when_it_is_eos():
    model = tiny_model()
    losses = [mean_answer_loss(logits_of(model, b), b.labels) for b in (collate(EXAMPLES, pad) for pad in (0, 2))]
    torch.testing.assert_close(*losses)


def test_a_constant_on_all_logits_changes_nothing_and_half_precision_is_summed_in_float32():
    batch = collate(EXAMPLES, 0)
    logits = torch.randn(*batch.input_ids.shape, 300, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        mean_answer_loss(logits + 3.0, batch.labels), mean_answer_loss(logits, batch.labels), atol=1e-5, rtol=1e-5
    )
    assert sum_answer_loss(logits.to(torch.bfloat16), batch.labels).dtype == torch.float32


def test_a_row_without_answer_tokens_has_loss_zero():
    labels = torch.full((1, 4), -100)
    assert mean_answer_loss(torch.randn(1, 4, 10), labels).tolist() == [0.0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cut_logits_give_the_same_losses(architecture: str) -> None:
    model = tiny_model(architecture)
    examples = [Example("a", list(range(3, 12)), 5), Example("b", list(range(4, 20)), 9)]
    batch = collate(examples, pad_token_id=0)
    whole = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    logits, labels = answer_logits(model, batch.input_ids, batch.attention_mask, batch.labels)
    assert logits.shape[1] == batch.labels.shape[1] - 4
    torch.testing.assert_close(sum_answer_loss(logits, labels), sum_answer_loss(whole, batch.labels))


def test_a_model_that_cannot_cut_its_logits_gives_all_of_them() -> None:
    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_model("llama")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> object:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    batch = collate([Example("a", list(range(3, 12)), 5)], pad_token_id=0)
    logits, labels = answer_logits(Whole(), batch.input_ids, batch.attention_mask, batch.labels)
    assert logits.shape[1] == labels.shape[1] == 9


@pytest.mark.parametrize("adapted", [False, True])
def test_the_output_layer_gets_the_kept_positions_in_one_piece(adapted):
    model = tiny_model()
    model = attach_lora(model, rank=2) if adapted else model
    batch = collate([EXAMPLES[0], EXAMPLES[2]], 0)
    seen = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    logits, labels = answer_logits(model, batch.input_ids, batch.attention_mask, batch.labels)
    handle.remove()
    assert seen[0].is_contiguous() and seen[0].shape[1] == labels.shape[1] < batch.labels.shape[1]
    assert not head._forward_pre_hooks
    with torch.no_grad():
        whole = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    torch.testing.assert_close(logits, whole[:, -labels.shape[1] :])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_output_layer_sees_the_positions_that_predict_answer_tokens_and_no_others(architecture):
    model, batch, seen = tiny_model(architecture), collate(EXAMPLES, 0), []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape[:2].numel()))
    with torch.no_grad():
        logits, target = answer_token_logits(model, batch.input_ids, batch.attention_mask, batch.labels)
    handle.remove()
    assert seen == [len(logits)] == [sum(len(example) - example.answer_start for example in EXAMPLES)]
    assert not head._forward_pre_hooks
    assert target[target != -100].tolist() == [token for e in EXAMPLES for token in e.input_ids[e.answer_start :]]
    torch.testing.assert_close(logits, logits_of(model, batch)[target != -100], atol=1e-5, rtol=1e-5)


def test_a_model_that_names_no_output_layer_gives_the_same_answer_logits():
    class Unnamed(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, **inputs):
            return self.inner(**inputs)

    model, batch = tiny_model(), collate(EXAMPLES, 0)
    inputs = batch.input_ids, batch.attention_mask, batch.labels
    with torch.no_grad():
        torch.testing.assert_close(answer_token_logits(Unnamed(model), *inputs), answer_token_logits(model, *inputs))


def test_the_virtual_tokens_of_a_tuned_prompt_are_no_answer_tokens():
    tuned = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model, batch = get_peft_model(tiny_model(), tuned).eval(), collate(EXAMPLES, 0)
    with torch.no_grad():
        logits, target = answer_token_logits(model, batch.input_ids, batch.attention_mask, batch.labels)
        whole, labels = answer_logits(model, batch.input_ids, batch.attention_mask, batch.labels)
    torch.testing.assert_close(logits, whole[:, :-1][labels[:, 1:] != -100])
    assert target.shape == batch.labels.shape


def test_an_output_layer_that_is_called_by_keyword_gives_the_same_answer_logits():
    model, batch = tiny_model(), collate(EXAMPLES, 0)
    inputs = batch.input_ids, batch.attention_mask, batch.labels
    with torch.no_grad():
        expected = answer_logits(model, *inputs)[0], answer_token_logits(model, *inputs)[0]
        head, model.lm_head = model.lm_head, ByKeyword(model.lm_head)
        model.get_output_embeddings = lambda: head
        found = answer_logits(model, *inputs)[0], answer_token_logits(model, *inputs)[0]
    torch.testing.assert_close(found, expected)


class ByKeyword(torch.nn.Module):
    """Hands on what it is given by the parameter's name; the layer inside is the one that the model names."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, states):
        return self.layer(input=states)
