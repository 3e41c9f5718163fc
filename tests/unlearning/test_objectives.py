"""Every objective: invariant to a logit offset, blind to prompt and padding, equal to numpy, one value per row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rapidun.errors import ConfigError
from rapidun.models import sum_answer_loss
from rapidun.unlearning import METHODS, Answers, Requires, Term, get_method, method_names
from rapidun.unlearning.methods.terms import bounded_ascent, cross_entropy
from unlearning.cases import BATCH, LENGTH, make_answers, select
from unlearning.formulas import FORGET, PLAIN_RETAIN, RETAIN, as_numpy

NAMES = sorted(METHODS)
TERMS = [(name, side) for name in NAMES for side in ("forget", "retain") if getattr(METHODS[name], side) is not None]
OTHER_OPTIONS: dict[str, dict[str, Any]] = {
    "loreun high": {"direction": "high", "tau": 2.0},
    "loreun static": {"dynamic": False},
    "rapidun_deep other": {"beta": 0.4, "descent": 2.0},
    "rapidun paper": {"bounded": False, "descent": 1.5},
    "satimp other": {"beta1": 0.5, "beta2": 2.0},
    "simnpo margin": {"delta": 1.0, "beta": 2.5},
    "wga other": {"beta": 0.3},
    "rmu other": {"c": 5.0, "direction_seed": 3},
}


def term_of(name: str, side: str) -> Term:
    return getattr(METHODS[name], side)


def settings(name: str, **changes: Any) -> dict[str, Any]:
    """All keyword arguments of a method's terms; what its state gives is set apart from its start."""
    method = METHODS[name]
    given = {key: 0.7 + 0.2 * i for i, key in enumerate(method.new_state(method.options).values())}
    return {**method.checked(changes), **given}


def loss_of(name: str, rows: Answers, side: str = "forget", **changes: Any) -> torch.Tensor:
    return term_of(name, side)(rows, **settings(name, **changes))


def formula_of(name: str, side: str) -> Callable[..., np.ndarray]:
    return FORGET[name] if side == "forget" else RETAIN.get(name, PLAIN_RETAIN)


def test_the_whole_table_of_methods_is_there() -> None:
    table = (
        "ga graddiff kl npo simnpo dpo idk rmu undial wga satimp ceu pdu task_vector loreun fisher fisher_ewc retrain "
        "rapidun rapidun_kl rapidun_deep finetune crow beear magnitude wanda int4"
    )
    assert set(table.split()) == set(method_names())


@pytest.mark.parametrize("preferred", [False, True])
@pytest.mark.parametrize("name,side", TERMS)
def test_equals_an_independent_numpy_formula(name: str, side: str, preferred: bool) -> None:
    rows = make_answers(preferred=preferred)
    wanted = formula_of(name, side)(as_numpy(rows), **settings(name))
    np.testing.assert_allclose(loss_of(name, rows, side).numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize("case", sorted(OTHER_OPTIONS))
def test_options_reach_the_formula(case: str) -> None:
    name, changes = case.split(maxsplit=1)[0], OTHER_OPTIONS[case]
    rows = make_answers(preferred=True)
    found = loss_of(name, rows, **changes).numpy()
    np.testing.assert_allclose(found, FORGET[name](as_numpy(rows), **settings(name, **changes)), rtol=1e-5)
    assert not np.allclose(found, loss_of(name, rows).numpy())


@pytest.mark.parametrize("preferred", [False, True])
@pytest.mark.parametrize("name,side", TERMS)
def test_gives_one_loss_per_row(name: str, side: str, preferred: bool) -> None:
    assert loss_of(name, make_answers(preferred=preferred), side).shape == (BATCH,)


@pytest.mark.parametrize("name,side", TERMS)
def test_trap_20_a_constant_added_to_the_logits_of_a_position_changes_nothing(name: str, side: str) -> None:
    rows = make_answers(preferred=True)
    offset = torch.randn(BATCH, LENGTH, 1, generator=torch.Generator().manual_seed(1)) * 5
    wanted = rows.preferred
    assert wanted is not None
    shifted = replace(
        rows,
        logits=rows.logits + offset,
        reference_logits=rows.reference_logits - 3 * offset,
        preferred=replace(wanted, logits=wanted.logits + offset[:3], reference_logits=wanted.reference_logits - 2),
    )
    torch.testing.assert_close(loss_of(name, shifted, side), loss_of(name, rows, side), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name,side", TERMS)
def test_trap_2_no_gradient_reaches_prompt_or_padding_positions(name: str, side: str) -> None:
    rows = make_answers()
    field = "hidden" if Requires.HIDDEN in term_of(name, side).requires else "logits"
    read = getattr(rows, field).clone().requires_grad_()
    loss_of(name, replace(rows, **{field: read}), side).sum().backward()
    carries = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    carries[:, :-1] = rows.labels[:, 1:] != -100
    assert read.grad[~carries].abs().max() == 0
    if (name, side) != ("finetune", "forget"):  # which learns from the preferred answers alone
        assert (read.grad[carries].abs().amax(dim=-1) > 0).all()


@pytest.mark.parametrize("name,side", TERMS)
def test_trap_21_the_reference_at_prompt_and_padding_positions_is_not_looked_at(name: str, side: str) -> None:
    rows = make_answers()
    silent = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    silent[:, :-1] = rows.labels[:, 1:] == -100
    other = make_answers(seed=9)
    changes = {
        field: getattr(rows, field).where(~silent[..., None], getattr(other, field))
        for field in ("reference_logits", "reference_hidden")
    }
    torch.testing.assert_close(loss_of(name, replace(rows, **changes), side), loss_of(name, rows, side))


@pytest.mark.parametrize("name,side", TERMS)
def test_trap_4_a_rows_loss_does_not_depend_on_the_other_rows(name: str, side: str) -> None:
    rows = make_answers()
    alone = [loss_of(name, select(rows, slice(i, i + 1)), side) for i in range(BATCH)]
    torch.testing.assert_close(torch.cat(alone), loss_of(name, rows, side))


@pytest.mark.parametrize("name,side", TERMS)
def test_a_term_that_reads_more_than_logits_says_what_is_missing(name: str, side: str) -> None:
    rows, reads = make_answers(), term_of(name, side).requires
    changes: dict[str, Any] = {"dynamic": False} if name == "loreun" and side == "forget" else {}
    for flag, field in (
        (Requires.REFERENCE, "reference_logits"),
        (Requires.HIDDEN, "hidden"),
        (Requires.REFERENCE_HIDDEN, "reference_hidden"),
    ):
        bare = replace(rows, **{field: None})
        if flag in reads:
            with pytest.raises(ValueError, match=field):
                loss_of(name, bare, side, **changes)
        else:
            loss_of(name, bare, side, **changes)


def held_weight(name: str, chance: float, row_loss: float) -> float:
    """``w`` in ``d loss / d z_t = -w (p - onehot(y)) / T``, the weights being constants."""
    given = settings(name)
    return {
        "wga": chance,
        "satimp": chance**5 * (1 - chance),
        "loreun": np.exp(-row_loss / 0.8) / given.get("normaliser", 1.0),
        "ceu": chance / (1 - chance),
    }[name]


@pytest.mark.parametrize("name", ["wga", "satimp", "loreun", "ceu"])
def test_weights_and_teachers_made_of_the_models_own_output_carry_no_gradient(name: str) -> None:
    rows = make_answers()
    logits = rows.logits.clone().requires_grad_()
    loss_of(name, replace(rows, logits=logits)).sum().backward()
    row_losses = -loss_of("ga", rows)
    for row, place in (rows.labels[:, 1:] != -100).nonzero().tolist():
        tokens, token = int(rows.token_counts[row]), int(rows.labels[row, place + 1])
        chances = rows.logits[row, place].double().softmax(dim=-1)
        weight = held_weight(name, float(chances[token]), float(row_losses[row]))
        error = chances - torch.nn.functional.one_hot(torch.tensor(token), len(chances))
        torch.testing.assert_close(logits.grad[row, place].double(), -weight * error / tokens, rtol=1e-4, atol=1e-9)


def test_trap_23_loreun_gives_rows_of_smaller_loss_more_weight_and_its_other_direction_less() -> None:
    rows = make_answers()
    losses = -loss_of("ga", rows)
    for direction, sign in (("low", -1), ("high", 1)):
        weights = loss_of("loreun", rows, direction=direction) / -losses
        assert np.corrcoef(np.log(weights.numpy()), losses.numpy())[0, 1] == pytest.approx(sign, abs=1e-4)


def test_bounded_ascent_starts_with_the_gradient_of_plain_ascent_and_fades() -> None:
    rows = make_answers()

    def gradient(logits: torch.Tensor, *, bounded: bool) -> torch.Tensor:
        given = Answers(logits := logits.clone().requires_grad_(), rows.labels, rows.logits)
        (bounded_ascent(given, 0.1) / given.token_counts if bounded else -cross_entropy(given)).sum().backward()
        return logits.grad

    torch.testing.assert_close(gradient(rows.logits, bounded=True), gradient(rows.logits, bounded=False))
    forgotten = shifted(rows, -60)
    assert gradient(forgotten, bounded=True).norm() < 0.01 * gradient(forgotten, bounded=False).norm()


def shifted(rows: Answers, by: float) -> torch.Tensor:
    """The logits with those of the answers' own tokens moved."""
    logits = rows.logits.clone()
    for row in range(BATCH):
        for place in range(1, LENGTH):
            if rows.labels[row, place] != -100:
                logits[row, place - 1, rows.labels[row, place]] += by
    return logits


@pytest.mark.parametrize("name", ["rapidun", "rapidun_kl"])
def test_an_answer_known_by_heart_is_moved_though_nobody_wrote_a_preferred_one(name: str) -> None:
    """The slope of a climbed loss is 1 - p at the answer's own logit: nothing, where the model is sure."""
    rows = make_answers()
    known = shifted(rows, 40)
    slopes = {}
    for ascent in ("with", "without"):
        logits = known.clone().requires_grad_()
        given = Answers(logits, rows.labels, known)
        loss = loss_of(name, given) if ascent == "with" else bounded_ascent(given, 0.1) / given.token_counts
        loss.sum().backward()
        slopes[ascent] = given.row_sums(
            logits.grad[:, :-1][rows.predicting].gather(1, rows.targets[:, None]).squeeze(1)
        )
    torch.testing.assert_close(slopes["with"], torch.ones(BATCH))
    assert slopes["without"].abs().max() < 1e-4


def test_the_descent_fades_with_the_row_and_the_fade_carries_no_gradient() -> None:
    rows = make_answers(preferred=True)
    logits = rows.logits.clone().requires_grad_()
    preferred = replace(rows.preferred, logits=rows.preferred.logits.clone().requires_grad_())
    given = replace(rows, logits=logits, preferred=preferred)
    plain = loss_of("rapidun", given, ascent=0.0, descent=1.0, bounded=False)
    faded = loss_of("rapidun", given, ascent=0.0, descent=1.0, beta=0.3)
    risen = sum_answer_loss(rows.logits, rows.labels) - sum_answer_loss(rows.reference_logits, rows.labels)
    torch.testing.assert_close(faded, plain * 2 * torch.sigmoid(-0.3 * risen))
    faded.sum().backward()
    assert logits.grad is None or not logits.grad.any()
    assert preferred.logits.grad.any()


def test_dpo_without_a_wanted_answer_is_npo() -> None:
    torch.testing.assert_close(loss_of("dpo", make_answers()), loss_of("npo", make_answers()))


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'rapidun'"):
        get_method("rapidnu")


@pytest.mark.parametrize("name", method_names())
def test_an_unknown_option_is_refused_and_the_valid_ones_are_named(name: str) -> None:
    method = get_method(name)
    with pytest.raises(ConfigError, match="has no option 'betta'") as caught:
        method.checked({"betta": 1})
    for known in method.options or ["none"]:
        assert known in str(caught.value)


@pytest.mark.parametrize(
    "name,options,message",
    [
        ("npo", {"beta": "much"}, "option beta = 'much'"),
        ("npo", {"beta": 0}, "greater than 0"),
        ("loreun", {"direction": "up"}, "'low' or 'high'"),
        ("rmu", {"layer": 0}, "layer = 0"),
        ("retrain", {"full": 7}, "full = 7"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_method(name).checked(options)


@pytest.mark.parametrize("name", method_names())
def test_every_method_names_its_paper_and_explains_itself(name: str) -> None:
    method = get_method(name)
    function = method.forget.loss if name in METHODS else method.run
    assert function.__doc__ is not None
    assert method.source
    for option in method.options:
        if option not in ("gamma", "alpha", "direction_seed", "dynamic"):
            assert option.split("_")[0] in function.__doc__, option
