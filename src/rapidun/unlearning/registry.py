"""The register of methods: objectives (a forget term, a retain term, what they read and remember) and procedures,
what a method is given (`Job`) and what it gives (`UnlearnResult`).

A term is a pure function ``(rows: Answers, *, option=default, ...) -> (batch,)`` loss. Keyword parameters with a
default are the method's options; those without are what the method's state gives at that step. Sample weights
multiply what a term returns, so every weighting scheme works with every method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from pathlib import Path
from typing import Any, Literal

import torch

from rapidun.data.batches import Example
from rapidun.errors import ConfigError, TrainingError
from rapidun.models.loading import LoadedModel
from rapidun.settings import names
from rapidun.settings.base import Section, make_options
from rapidun.settings.unlearning import LoraSettings, UnlearnSettings
from rapidun.unlearning.answers import Answers
from rapidun.unlearning.options import keywords_of, options_class, options_of
from rapidun.unlearning.reweighing import Reweighing
from rapidun.unlearning.sampling import TrainingRows
from rapidun.unlearning.state import MethodState

Objective = Callable[..., torch.Tensor]
Record = Callable[[dict[str, Any]], None]
Saved = Literal["adapter", "model"]
FORGET_ROWS = 64
"""Forget rows whose loss is reported: enough to see whether they were forgotten, and cheap beside training."""
Preferred = Literal["unused", "optional", "required", "refusal"]


class Requires(Flag):
    """What a term reads besides logits and labels; each costs what it says, and only where a term asks."""

    NOTHING = 0
    REFERENCE = auto()  # logits with the adapter off: one more forward pass
    LOSS_ALONE = auto()  # no more of the reference than its loss: measured once a run
    REFERENCE_LOSS = REFERENCE | LOSS_ALONE
    HIDDEN = auto()  # hidden states of the option ``layer``: memory
    REFERENCE_HIDDEN = auto()  # the same with the adapter off: one more forward pass
    PREFERRED = auto()  # logits on the preferred answers: more rows
    PREFERRED_REFERENCE = auto()  # the same with the adapter off, as far as the forget rows' reference is read


@dataclass(frozen=True)
class Term:
    """One group's loss and what it reads. Called with more options than it has, it takes its own."""

    loss: Objective
    requires: Requires = Requires.NOTHING

    def __call__(self, rows: Answers, **options: Any) -> torch.Tensor:
        """(batch,) losses.

        Raises:
            TrainingError: If what the term gives is anything else.
        """
        own = keywords_of(self.loss)
        losses = self.loss(rows, **{name: value for name, value in options.items() if name in own})
        if not isinstance(losses, torch.Tensor) or losses.shape != rows.labels.shape[:1]:
            shape = f"of shape {tuple(losses.shape)}" if isinstance(losses, torch.Tensor) else ""
            raise TrainingError(
                f"{self.loss.__qualname__} gave a {type(losses).__name__} {shape}".rstrip()
                + f"; a term returns one loss for each row, of shape ({len(rows.labels)},)."
            )
        return losses


@dataclass(frozen=True)
class Registered:
    """What methods of both kinds have: a name, options by name, and the paper and equation they are from."""

    name: str
    known: type[Section]
    source: str

    @property
    def options(self) -> dict[str, Any]:
        """The options' defaults."""
        return {name: field.default for name, field in self.known.model_fields.items()}

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option with its value.

        Raises:
            ConfigError: For an unknown option or a value that does not fit.
        """
        return make_options(f"method {self.name!r}", self.known, given).model_dump()


@dataclass(frozen=True)
class Method(Registered):
    """An unlearning objective.

    Args:
        forget: Loss of forget rows; multiplied by the option ``gamma`` where the method has it.
        retain: Loss of retain rows, multiplied by ``alpha``; None for a method that does not look at them.
        preferred: Whether preferred answers of forget rows are used: "optional" where a row has one, "required" of at
            least one row, "refusal" takes a refusal for every row.
        state: What the method remembers between steps.
    """

    forget: Term
    retain: Term | None
    preferred: Preferred = "unused"
    state: type[MethodState] = MethodState

    @property
    def requires(self) -> Requires:
        """What either term reads."""
        return self.forget.requires | (self.retain.requires if self.retain is not None else Requires.NOTHING)

    def new_state(self, options: Mapping[str, Any]) -> MethodState:
        """A fresh state with this run's options."""
        own = keywords_of(self.state)
        return self.state(**{name: value for name, value in options.items() if name in own})


@dataclass(frozen=True)
class Job:
    """One unlearning, as `rapidun.unlearning.unlearn` was called."""

    loaded: LoadedModel
    rows: TrainingRows
    settings: UnlearnSettings
    lora: LoraSettings
    held: list[Example]
    checkpoints: Path
    seed: int = 0
    resume: bool = False
    record: Record = lambda line: None
    progress: Callable[[int, int], None] | None = None
    reweighing: Reweighing | None = None
    note: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class UnlearnResult:
    """What training did.

    Args:
        model: The model after unlearning, in evaluation mode: a PEFT model with its adapter active where ``saved`` is
            "adapter", else a model whose own weights are the result.
        steps: Optimiser steps of what was kept.
        stopped: Why training ended before its last step, or why less was done than asked; None otherwise.
        adapter_change: Largest absolute change of an element that was trained.
        held_loss_before: Loss on the validation rows before.
        held_loss_after: The same with what was kept.
        forget_loss_before: Loss on forget rows (at most `FORGET_ROWS`) before, per answer token.
        forget_loss_after: The same with what was kept; infinite or no number where training diverged.
        learning_rate: The peak, as set or derived; None for a method that trains nothing.
        share: Of the trained update, the part that holds the retain budget and was kept.
        saved: What has to be saved: the adapter alone, or the whole model.
        undo: Gives the loaded model its own weights again; ``model`` is of no use afterwards.
    """

    model: Any
    steps: int
    stopped: str | None
    adapter_change: float
    held_loss_before: float
    held_loss_after: float
    learning_rate: float | None = None
    share: float = 1.0
    saved: Saved = "adapter"
    undo: Callable[[], Any] = lambda: None
    forget_loss_before: float = math.nan
    forget_loss_after: float = math.nan

    def numbers(self) -> dict[str, Any]:
        """All but the model, for ``unlearning.json``; None for a loss that is not finite."""
        found = {name: value for name, value in vars(self).items() if name not in ("model", "undo")}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in found.items()
        }


Run = Callable[..., UnlearnResult]


@dataclass(frozen=True)
class Procedure(Registered):
    """No loss to train on: ``(job, *, option=default, ...) -> UnlearnResult`` acts on weights or trains something else.

    Args:
        run: Does it.
        saves: Whether its result is a PEFT adapter or a whole model.
        needs_retain: Whether there must be retain rows.
        preferred: Whether it uses preferred answers, as for `Method`.
    """

    run: Run
    saves: Saved
    needs_retain: bool
    preferred: Preferred = "unused"


METHODS: dict[str, Method] = {}
PROCEDURES: dict[str, Procedure] = {}


def register_method(
    name: str,
    *,
    retain: Term | None,
    requires: Requires = Requires.NOTHING,
    preferred: Preferred = "unused",
    state: type[MethodState] = MethodState,
    gamma: float | None = None,
    source: str,
) -> Callable[[Objective], Objective]:
    """Register the decorated forget objective as method ``name``.

    Args:
        name: What users call it.
        retain: The retain term, or None.
        requires: What the forget term reads.
        preferred: Whether it uses preferred answers.
        state: What it remembers.
        gamma: The default factor of the forget term; None for a method whose terms have no factors. With it comes
            ``alpha``, the factor of the retain term, 1 by default.
        source: Paper and equation.

    Examples:
        >>> import rapidun
        >>> from rapidun.unlearning.methods.terms import RETAIN_LOSS, cross_entropy
        >>> @rapidun.register_method("gentle", retain=RETAIN_LOSS, source="an example")
        ... def gentle(rows, *, strength=0.1):
        ...     return -strength * cross_entropy(rows)
        >>> adapted = rapidun.unlearn("model", forget="bad.jsonl", retain="good.jsonl", method="gentle", steps=2)
        >>> adapted.unlearning.steps
        2
    """

    def decorate(forget: Objective) -> Objective:
        factors = {} if gamma is None else {"gamma": (float, gamma), "alpha": (float, 1.0)}
        known = options_class(factors, options_of(forget), options_of(retain.loss) if retain else {}, options_of(state))
        method = Method(name, known, source, Term(forget, requires), retain, preferred, state)
        given = {*known.model_fields, *method.new_state(method.options).values()}
        if lacking := sorted(keywords_of(forget) - given):
            raise ConfigError(
                f"method {name!r}: {forget.__name__} needs {lacking[0]!r}; give that parameter a default."
            )
        names.METHODS.add(name)
        METHODS[name] = method
        return forget

    return decorate


def register_procedure(
    name: str, *, saves: Saved, needs_retain: bool, source: str, preferred: Preferred = "unused"
) -> Callable[[Run], Run]:
    """Register the decorated function as method ``name``; the arguments are those of `Procedure`."""

    def decorate(run: Run) -> Run:
        names.METHODS.add(name)
        PROCEDURES[name] = Procedure(name, options_class(options_of(run)), source, run, saves, needs_retain, preferred)
        return run

    return decorate
