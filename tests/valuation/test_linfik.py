"""LinFiK is the inner product of two mean gradients, and what one small step on a row does to the task's loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rapidun.data import Template, collate, tokenize_rows
from rapidun.errors import ConfigError, InputError
from rapidun.gradients import GradientCollector, RapidGrad, fit_preconditioner
from rapidun.models import mean_answer_loss
from rapidun.valuation import LinFiK, spearman
from tiny import tiny_model, tiny_tokenizer

WORDS = ["the", "cat", "sat", "on", "the", "mat", "and", "a", "dog", "ran", "to", "another", "red", "house"]


def examples(count, *, seed=0):
    generator = np.random.default_rng(seed)
    tokenizer = tiny_tokenizer()
    rows = [
        {"id": str(i), "prompt": f"say {i}", "response": " ".join(generator.choice(WORDS, generator.integers(2, 9)))}
        for i in range(count)
    ]
    return tokenize_rows(rows, tokenizer, Template.resolve("plain", tokenizer), 96)


def loss(model, rows):
    batch = collate(rows, 0)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return mean_answer_loss(logits, batch.labels).mean()


def tracked(model):
    names = GradientCollector(model, "linear").tracked
    return [model.get_parameter(name) for name in names]


def autograd(model, rows):
    """The mean loss's gradient, (parameters,), without any of our collection."""
    found = torch.autograd.grad(loss(model, rows), tracked(model))
    return torch.cat([part.flatten() for part in found])


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def rows():
    return examples(7)


@pytest.fixture(scope="module")
def task():
    return examples(5, seed=9)


def test_it_is_the_gradient_product_that_autograd_gives_by_hand(model, rows, task):
    of_task = autograd(model, task)
    by_hand = [float(autograd(model, [row]) @ of_task) for row in rows]
    found = LinFiK(model, similarity="dot").fit(task, 0).values(rows, 0)
    assert found.shape == (7, 1)
    np.testing.assert_allclose(found[:, 0], by_hand, rtol=2e-4)


@pytest.mark.parametrize("normalize", ["none", "unit", "layer"])
def test_the_cosine_divides_by_both_norms_whatever_the_normalisation(model, rows, task, normalize):
    def normalised(examples):
        parts = [autograd(model, [one]).split([p.numel() for p in tracked(model)]) for one in examples]
        if normalize == "layer":
            parts = [[part / part.norm() for part in each] for each in parts]
        whole = torch.stack([torch.cat(list(each)) for each in parts])
        return whole / whole.norm(dim=1, keepdim=True) if normalize == "unit" else whole

    expected = torch.nn.functional.cosine_similarity(normalised(rows), normalised(task).mean(dim=0, keepdim=True))
    found = LinFiK(model, normalize=normalize).fit(task, 0).values(rows, 0)[:, 0]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_it_predicts_what_one_small_step_on_the_row_does_to_the_task(task):
    """The bar of the project: Spearman of at least 0.99 against the finite difference."""
    model, rows = tiny_model(seed=3), examples(24, seed=4)
    values = LinFiK(model, similarity="dot").fit(task, 0).values(rows, 0)[:, 0]
    parameters, step = tracked(model), 0.02
    with torch.no_grad():
        before = float(loss(model, task).double())
    drops = []
    for row in rows:
        gradients = torch.autograd.grad(loss(model, [row]), parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-step)
            drops.append(before - float(loss(model, task).double()))
            torch._foreach_add_(parameters, gradients, alpha=step)
    assert spearman(values, np.array(drops)) >= 0.99


def test_a_sketch_stays_close_to_the_exact_values_and_a_wide_one_closer(model, task):
    rows = examples(40, seed=2)
    exact = LinFiK(model).fit(task, 0).values(rows, 0)
    far, near = (np.abs(LinFiK(model, RapidGrad(k)).fit(task, 0).values(rows, 0) - exact).max() for k in (64, 16_384))
    assert near < 0.05 < far


def test_gradients_for_matching_give_the_mean_value_over_tasks(model, rows, task):
    teacher = LinFiK(model, RapidGrad(512)).fit(task, 0, tasks=["b", "a", "b", "a", "b"])
    gradients, along = teacher.gradients(rows, 0)
    assert gradients.shape == (len(rows), 512)
    np.testing.assert_allclose(np.linalg.norm(gradients, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(along, teacher.values(rows, 0).mean(axis=1), atol=1e-5)
    with pytest.raises(ConfigError, match="sketch"):
        LinFiK(model).fit(task, 0).gradients(rows, 0)
    with pytest.raises(InputError, match="fit"):
        LinFiK(model, RapidGrad(512)).gradients(rows, 0)


def test_every_task_has_a_value_of_its_own_and_rows_of_a_task_may_stand_anywhere(model, rows, task):
    names = ["b", "a", "b", "a", "b"]
    found = LinFiK(model).fit(task, 0, tasks=names)
    assert found.tasks == ["b", "a"]
    values = found.values(rows, 0)
    for place, name in enumerate(found.tasks):
        alone = [one for one, of in zip(task, names, strict=True) if of == name]
        np.testing.assert_allclose(values[:, place], LinFiK(model).fit(alone, 0).values(rows, 0)[:, 0], atol=1e-6)


@pytest.mark.parametrize("sketch", [None, RapidGrad(512)])
def test_a_value_does_not_depend_on_the_other_rows(model, rows, task, sketch):
    teacher = LinFiK(model, sketch).fit(task, 0)
    together = teacher.values(rows, 0)
    alone = np.concatenate([teacher.values([row], 0) for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_checkpoints_are_averaged_and_the_model_is_left_as_it_was(rows, task):
    model, other = tiny_model(), tiny_model(seed=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value.clone() for name, value in other.named_parameters()}
    found = LinFiK(model, checkpoints=[state]).fit(task, 0).values(rows, 0)
    both = [LinFiK(each).fit(task, 0).values(rows, 0) for each in (model, other)]
    np.testing.assert_allclose(found, (both[0] + both[1]) / 2, atol=1e-5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_adam_aware_form_divides_the_candidates_gradient_by_the_root_second_moment(model, rows, task):
    collector = GradientCollector(model, "linear", normalize="none")
    adam = fit_preconditioner(collector, examples(12, seed=7), 0, "adam", damping=1e-3)
    moments = []
    for name in collector.tracked:
        moment = adam.statistics[name]["second_moment"]
        moments.append((moment + 1e-3 * moment.mean()).sqrt())
    root, of_task = torch.cat(moments), autograd(model, task)
    expected = [float((autograd(model, [row]) / root) @ of_task) for row in rows]
    found = LinFiK(model, similarity="dot", transform=adam.power(-0.5)).fit(task, 0).values(rows, 0)
    np.testing.assert_allclose(found[:, 0], expected, rtol=2e-3)


def test_without_a_task_there_is_no_value(model, rows):
    with pytest.raises(InputError, match="at least one task row"):
        LinFiK(model).fit([], 0)
    with pytest.raises(InputError, match="call fit"):
        LinFiK(model).values(rows, 0)
