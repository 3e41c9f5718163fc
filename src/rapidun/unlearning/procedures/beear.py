"""BEEAR: find what shifts the inside of the model towards the unwanted behaviour, then train it to behave all the same.

Zeng et al. 2024 (arXiv 2406.17092), section 4, in their letters: ``F^l(x, delta)`` is the model whose hidden states
behind block ``l`` have ``delta`` (n, width) added at the last n tokens of the prompt x, the same for all prompts.

    entrapment  delta* = argmin_delta  mean_i  L(F^l(x_i, delta), y_i unwanted) - L(F^l(x_i, delta), y_i preferred)
    removal     theta* = argmin_theta  mean_i  L(F^l(x_i, delta*), y_i preferred)  +  mean_j L(F(x_j), y_j retain)

The two take turns: ``delta`` is found anew, from zero, then the model is trained for some steps while it stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from rapidun.attribution.pooling import decoder_of, depth_of, width_of
from rapidun.data.batches import IGNORE_INDEX, Batch, Example, collate
from rapidun.errors import ModelError
from rapidun.models.joint_pass import answer_states
from rapidun.models.lora import in_base_dtype
from rapidun.models.losses import mean_answer_loss
from rapidun.models.modes import evaluating
from rapidun.settings.base import NoOptions
from rapidun.unlearning.fitting import fit_adapter, only
from rapidun.unlearning.methods.terms import cross_entropy
from rapidun.unlearning.options import Count, Layer, Positive
from rapidun.unlearning.registry import Job, Method, Term, UnlearnResult, register_procedure
from rapidun.unlearning.sampling import Group
from rapidun.unlearning.state import MethodState, Start

LAYER_SHARE = 9 / 32
Pair = tuple[Example, Example]
"""A prompt with its unwanted and with its preferred answer."""


@contextmanager
def shifted(model: PeftModel, layer: int, delta: torch.Tensor, labels: torch.Tensor) -> Iterator[None]:
    """Inside, ``delta`` (n, width) is added behind block ``layer`` at the n tokens before each row's answer.

    Args:
        model: Whose pass inside is over rows of these ``labels``.
        layer: Counted from 1.
        delta: Its last row is for the last prompt token; a shorter prompt takes its last rows.
        labels: (rows, tokens), -100 on prompt and padding.
    """
    _, blocks = decoder_of(model)
    starts = (labels != IGNORE_INDEX).int().argmax(dim=1)[:, None]
    places = starts - len(delta) + torch.arange(len(delta), device=labels.device)  # (rows, n)
    row, number = (places >= 0).nonzero(as_tuple=True)

    def add(_: torch.nn.Module, __: object, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        if states.shape[:2] != labels.shape:
            raise ModelError(f"block {layer} gives {tuple(states.shape)}, not (rows, tokens, width): beear needs it.")
        added = torch.zeros_like(states).index_put((row, places[row, number]), delta[number].to(states.dtype))
        return (states + added, *output[1:]) if isinstance(output, tuple) else states + added

    handle = blocks[layer - 1].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


class Entrapment(MethodState):
    """``delta``, and the removal's first term; the second is what the trainer minimises.

    Args:
        pairs: Prompts with both answers.
        seed: Of which pairs are drawn.
        layer: Behind which block; counted from 1.
        length: Rows of ``delta``.
        inner_steps: Of Adam, to find ``delta``.
        inner_rate: Of Adam, in units of the root mean square of the hidden states there.
        every: Training steps with one ``delta``.
        batch: Pairs of one step.
    """

    def __init__(
        self, pairs: Sequence[Pair], seed: int, *, layer: int, length: int, inner_steps: int, inner_rate: float,
        every: int, batch: int,
    ) -> None:  # fmt: skip
        self.pairs, self.seed, self.layer, self.length = pairs, seed, layer, length
        self.inner_steps, self.inner_rate, self.every, self.batch = inner_steps, inner_rate, every, batch
        self.step, self.drawn = 0, 0
        self.delta: torch.Tensor | None = None

    def begin(self, start: Start) -> None:
        """What pads, and where the model is."""
        self._pad, self._device = start.pad_token_id, start.device

    def penalty(self, model: PeftModel, inputs: Mapping[str, Group]) -> torch.Tensor:
        """``mean_i L(F^l(x_i, delta*), y_i preferred)`` over the pairs of this step; differentiable in the adapter."""
        if self.delta is None or self.step % self.every == 0:
            self.delta = self.entrapped(model)
        preferred = collate([pair[1] for pair in self._draw()], self._pad).to(self._device)
        return self.loss(model, self.delta, preferred)

    def entrapped(self, model: PeftModel) -> torch.Tensor:
        """``delta*``: (length, width) float32, found from zero."""
        delta = torch.zeros(self.length, width_of(model), device=self._device, requires_grad=True)
        rate = self.inner_rate * self._scale(model)
        optimiser = torch.optim.Adam([delta], lr=rate)
        for _ in range(self.inner_steps):
            pairs = self._draw()
            unwanted, preferred = (
                collate([pair[side] for pair in pairs], self._pad).to(self._device) for side in (0, 1)
            )
            with torch.enable_grad():
                loss = self.loss(model, delta, unwanted) - self.loss(model, delta, preferred)
            (delta.grad,) = torch.autograd.grad(loss, [delta])
            optimiser.step()
        return delta.detach()

    def loss(self, model: PeftModel, delta: torch.Tensor, batch: Batch) -> torch.Tensor:
        """``mean_i L(F^l(x_i, delta), y_i)``: a scalar. In evaluation mode, where no pass is run again, unshifted."""
        here = shifted(model, self.layer, delta, batch.labels)
        with in_base_dtype(model) as forward, forward, evaluating(model), here:
            states = answer_states(model, {"rows": batch})["rows"]
        return mean_answer_loss(states.logits, states.labels).mean()

    @torch.no_grad()
    def _scale(self, model: PeftModel) -> float:
        """Root mean square of the hidden states behind the block."""
        seen: list[float] = []

        def look(_: torch.nn.Module, __: object, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            seen.append(float(states[mask].float().square().mean().sqrt()))

        batch = collate([pair[0] for pair in self._draw()], self._pad).to(self._device)
        mask = batch.attention_mask.bool()
        handle = decoder_of(model)[1][self.layer - 1].register_forward_hook(look)
        try:
            with in_base_dtype(model) as forward, forward, evaluating(model):
                answer_states(model, {"rows": batch})
        finally:
            handle.remove()
        return seen[0]

    def _draw(self) -> list[Pair]:
        """The next pairs: those that follow from the seed and from how many were drawn before."""
        order = np.random.default_rng([self.seed, 21, self.drawn]).permutation(len(self.pairs))
        self.drawn += 1
        return [self.pairs[int(place)] for place in order[: self.batch]]

    def advance(self) -> None:
        """Count the step."""
        self.step += 1

    def logged(self) -> dict[str, Any]:
        """How large ``delta`` is."""
        return {} if self.delta is None else {"delta_norm": float(self.delta.norm())}

    def state_dict(self) -> dict[str, Any]:
        """``delta`` with where it was."""
        delta = None if self.delta is None else self.delta.tolist()
        return {"step": self.step, "drawn": self.drawn, "delta": delta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.step, self.drawn = int(state["step"]), int(state["drawn"])
        self.delta = None if state["delta"] is None else torch.tensor(state["delta"], device=self._device)


@dataclass(frozen=True)
class Removal(Method):
    """Descent on the retain rows, with the entrapment's term beside it."""

    entrapment: Entrapment | None = None

    def new_state(self, options: Mapping[str, Any]) -> MethodState:
        """That of the run."""
        return self.entrapment or MethodState()


@register_procedure(
    "beear", saves="adapter", needs_retain=True, preferred="required",
    source="Zeng et al. 2024, BEEAR, arXiv 2406.17092, section 4 (entrapment, then removal)",
)  # fmt: skip
def beear(
    job: Job,
    *,
    layer: Layer = None,
    length: Count = 5,
    inner_steps: Count = 20,
    inner_rate: Positive = 0.05,
    rounds: Count = 8,
) -> UnlearnResult:
    """Cross-entropy on retain rows, and on preferred answers while a shift of the states calls for unwanted ones.

    Zeng et al. 2024 (arXiv 2406.17092), section 4: ``rounds`` times the shift is found by ``inner_steps`` of Adam from
    zero, then the adapter is trained for the run's steps over ``rounds``. Their defender knows no trigger, and
    names a behaviour; here forget rows that have a preferred answer are prompts with both answers, and the retain rows
    are what must stay ("performance anchoring"). Of weights only 0 counts: such a row is left out. A baseline as its
    paper has it: the retain budget does not apply. layer: 9 of 32 blocks from the bottom. length 5 tokens,
    inner_steps 20, inner_rate 0.05 (of the states' root mean square there), rounds 8: ours, for models of any width.
    """
    depth = depth_of(job.loaded.model)
    chosen = layer or max(1, round(LAYER_SHARE * depth))
    if chosen > depth:
        raise ModelError(f"option layer = {chosen}: the model has {depth} blocks.")
    rows = zip(job.rows.forget, job.rows.preferred, job.rows.forget_weights, strict=True)
    pairs = [(unwanted, preferred) for unwanted, preferred, weight in rows if preferred is not None and weight > 0]
    settings = job.settings.model_copy(update={"forget_share": 1.0})
    state = Entrapment(
        pairs, job.seed, layer=chosen, length=length, inner_steps=inner_steps, inner_rate=inner_rate,
        every=math.ceil(settings.steps / rounds), batch=settings.batch_size,
    )  # fmt: skip
    method = Removal("beear", NoOptions, "", Term(cross_entropy), None, entrapment=state)
    job = replace(job, settings=settings, reweighing=None)
    retain = only(job.rows.retain, np.ones(len(job.rows.retain)))
    return fit_adapter(job, method, {}, retain, job.loaded, budget=float("inf"))
