"""The register of objectives: a forget term, a retain term, what they read, what they remember, their options.

A term is a pure function ``(rows: Answers, *, option=default, ...) -> (batch,)`` loss. Keyword parameters with a
default are the method's options; those without are what the method's state gives at that step. Sample weights
multiply what a term returns, so every weighting scheme works with every method (algorithms.md section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any, Literal

import torch

from rapidun.settings import names
from rapidun.unlearning.answers import Answers
from rapidun.unlearning.options import Option, checked, keywords_of, merged, options_of
from rapidun.unlearning.state import MethodState

Objective = Callable[..., torch.Tensor]
Wanted = Literal["unused", "optional", "required", "refusal"]


class Reads(Flag):
    """What a term reads besides logits and labels; each costs what it says, and only where a term asks."""

    NOTHING = 0
    REFERENCE = auto()  # logits with the adapter off: one more forward pass
    LOSS_ALONE = auto()  # no more of the reference than its loss: measured once a run
    REFERENCE_LOSS = REFERENCE | LOSS_ALONE
    HIDDEN = auto()  # hidden states of the option ``layer``: memory
    REFERENCE_HIDDEN = auto()  # the same with the adapter off: one more forward pass
    WANTED = auto()  # logits on the wanted answers: more rows
    WANTED_REFERENCE = auto()  # the same with the adapter off, as far as the forget rows' reference is read


@dataclass(frozen=True)
class Term:
    """One group's loss and what it reads. Called with more options than it has, it takes its own."""

    loss: Objective
    reads: Reads = Reads.NOTHING

    def __call__(self, rows: Answers, **options: Any) -> torch.Tensor:
        """(batch,) losses."""
        own = keywords_of(self.loss)
        return self.loss(rows, **{name: value for name, value in options.items() if name in own})


@dataclass(frozen=True)
class Method:
    """An unlearning objective.

    Args:
        name: As registered.
        forget: Loss of forget rows; multiplied by the option ``gamma`` where the method has it.
        retain: Loss of retain rows, multiplied by ``alpha``; None for a method that does not look at them.
        known: The options.
        wanted: Whether wanted answers of forget rows are used: "optional" where a row has one, "required" of at
            least one row, "refusal" takes a refusal for every row.
        state: What the method remembers between steps.
        source: Paper and equation.
    """

    name: str
    forget: Term
    retain: Term | None
    known: Mapping[str, Option]
    wanted: Wanted = "unused"
    state: type[MethodState] = MethodState
    source: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """The options' defaults."""
        return {name: option.default for name, option in self.known.items()}

    @property
    def reads(self) -> Reads:
        """What either term reads."""
        return self.forget.reads | (self.retain.reads if self.retain is not None else Reads.NOTHING)

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option with its value.

        Raises:
            ConfigError: For an unknown option or a value that does not fit.
        """
        return checked(self.name, self.known, given)

    def new_state(self, options: Mapping[str, Any]) -> MethodState:
        """A fresh state with this run's options."""
        own = keywords_of(self.state)
        return self.state(**{name: value for name, value in options.items() if name in own})


METHODS: dict[str, Method] = {}


def register_method(
    name: str,
    *,
    retain: Term | None,
    reads: Reads = Reads.NOTHING,
    wanted: Wanted = "unused",
    state: type[MethodState] = MethodState,
    gamma: float | None = None,
    source: str,
) -> Callable[[Objective], Objective]:
    """Register the decorated forget objective as method ``name``.

    Args:
        name: What users call it.
        retain: The retain term, or None.
        reads: What the forget term reads.
        wanted: Whether it uses wanted answers.
        state: What it remembers.
        gamma: The default factor of the forget term; None for a method whose terms have no factors. With it comes
            ``alpha``, the factor of the retain term, 1 by default.
        source: Paper and equation.
    """

    def decorate(forget: Objective) -> Objective:
        factors = {} if gamma is None else {"gamma": Option(gamma, float), "alpha": Option(1.0, float)}
        parts = [factors, options_of(forget), options_of(retain.loss) if retain else {}, options_of(state)]
        names.METHODS.add(name)
        METHODS[name] = Method(name, Term(forget, reads), retain, merged(parts), wanted, state, source)
        return forget

    return decorate
