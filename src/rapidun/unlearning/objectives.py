"""Unlearning objectives: pure functions of tensors that return one loss per sample.

An objective never sees weights, groups or batches of others: it maps the logits and labels of some rows to a
``(batch,)`` loss. Sample weights multiply what it returns, so every weighting scheme works with every
objective (algorithms.md section 3). Methods register by name and pair a forget term with a retain term.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
import torch.nn.functional as F

from rapidun.errors import ConfigError
from rapidun.models.losses import mean_answer_loss, sum_answer_loss


@dataclass(frozen=True)
class Answers:
    """The model's view of some rows.

    Args:
        logits: (batch, length, vocabulary) of the model being trained.
        labels: (batch, length) int64, -100 outside the answer.
        reference_logits: The same with the adapter switched off, without gradient; only where a method asks.
        alternative: The same prompts with the wanted answer, for rows that have one: its rows line up with the
            rows of this object where ``has_alternative`` is True.
        has_alternative: (batch,) bool.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    reference_logits: torch.Tensor | None = None
    alternative: Answers | None = None
    has_alternative: torch.Tensor | None = None


Objective = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Method:
    """A forget term and a retain term, with the options of the forget term and their defaults.

    ``retain`` is None for methods that do not look at retain rows.
    """

    name: str
    forget: Objective
    retain: Objective | None
    needs_reference: bool
    options: Mapping[str, float | bool] = field(default_factory=dict)
    source: str = ""


METHODS: dict[str, Method] = {}


def register_method(
    name: str,
    *,
    retain: Objective | None,
    needs_reference: bool = False,
    source: str = "",
    **options: float | bool,
) -> Callable[[Objective], Objective]:
    """Register the decorated forget objective as method ``name``; ``options`` are its defaults."""

    def decorate(forget: Objective) -> Objective:
        METHODS[name] = Method(name, forget, retain, needs_reference, options, source)
        return forget

    return decorate


def get_method(name: str) -> Method:
    """The registered method.

    Raises:
        ConfigError: If there is none of that name; names the nearest one.
    """
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown method {name!r}: choose from {', '.join(sorted(METHODS))}.{hint}")
    return METHODS[name]


def cross_entropy(rows: Answers) -> torch.Tensor:
    """``CE = mean_t l_t`` over each row's answer tokens: the retain term of most methods. (batch,)."""
    return mean_answer_loss(rows.logits, rows.labels)


def bounded_ascent(rows: Answers, beta: float) -> torch.Tensor:
    """``-(2/beta) log sigmoid(beta * (S - S_0))``: NPO's term, per row; fades as the row is forgotten. (batch,).

    ``S`` is the sum of answer-token losses, subscript 0 = adapter off. Computed from log-probabilities, so a
    constant added to the logits changes nothing (trap 20).

    Raises:
        ValueError: If the reference logits are absent.
    """
    if rows.reference_logits is None:
        raise ValueError("this objective needs reference_logits (adapter off)")
    now = sum_answer_loss(rows.logits, rows.labels)
    before = sum_answer_loss(rows.reference_logits, rows.labels).detach()
    return -(2.0 / beta) * F.logsigmoid(beta * (now - before))


@register_method("ga", retain=None, source="Jang et al. 2023, Knowledge Unlearning, eq. 1")
def gradient_ascent(rows: Answers) -> torch.Tensor:
    """``-CE(y|x)`` on forget rows; retain rows are not looked at. (batch,)."""
    return -cross_entropy(rows)


@register_method("graddiff", retain=cross_entropy, source="Liu et al. 2022, Continual Learning and Private Unlearning")
def gradient_difference(rows: Answers) -> torch.Tensor:
    """``-CE(y|x)`` on forget rows, ``+CE`` on retain rows. (batch,)."""
    return -cross_entropy(rows)


@register_method(
    "npo", retain=cross_entropy, needs_reference=True,
    source="Zhang et al. 2024, Negative Preference Optimization, eq. 3",
    beta=0.1,
)  # fmt: skip
def negative_preference(rows: Answers, *, beta: float) -> torch.Tensor:
    """``-(2/beta) log sigmoid(beta * (S - S_0))`` on forget rows, ``CE`` on retain rows. (batch,)."""
    return bounded_ascent(rows, beta)


@register_method(
    "rapidun", retain=cross_entropy, needs_reference=True,
    source="Zhao et al. 2025, RapidUn, arXiv 2512.04457, eq. 8; bounded ascent: Zhang et al. 2024",
    ascent=1.0, descent=0.5, bounded=True, beta=0.1,
)  # fmt: skip
def rapidun_forget(rows: Answers, *, ascent: float, descent: float, bounded: bool, beta: float) -> torch.Tensor:
    """``descent * CE(y_clean|x) - ascent * CE(y_bad|x)``; without a clean answer the first term is absent. (batch,).

    ``bounded=True`` (ours, the default) replaces ``-CE`` by NPO's term divided by the answer's length, which
    has the same gradient at the start and fades as the row is forgotten; ``False`` is the paper's.
    """
    if bounded:
        tokens = (rows.labels[:, 1:] != -100).sum(dim=1).clamp_min(1)
        loss = ascent * bounded_ascent(rows, beta) / tokens
    else:
        loss = -ascent * cross_entropy(rows)
    if rows.alternative is not None and rows.has_alternative is not None:
        wanted = torch.zeros_like(loss)
        wanted[rows.has_alternative] = cross_entropy(rows.alternative)
        loss = loss + descent * wanted
    return loss
