"""The retain budget: what an update may cost the rows that are to be kept, and how it is made to cost no more.

An adapter that costs more is first cut to the leading directions of each layer's update, then scaled. What a few noisy
steps of AdamW have in common lies in few directions; the rest of the update costs perplexity and forgets little: on
`badnet`, a tuning draw of SmolLM2, at a rise of 0.15% the leading direction left 8% of the attack, and a share of the
whole update 45% (benchmarks/real_model/directions.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper

from rapidun.errors import TrainingError
from rapidun.unlearning.registry import Job

LOOKS, MOST, NEARLY, LEAST = 6, 12, 0.8, 0.01
"""`within_budget` looks so often at the validation rows, or `MOST` times where no share holds yet and `LEAST` of the
update is left; a share that uses so much of the budget is enough."""
TRIES = 8
"""How often a procedure without steps is weakened before it fails."""


class Kept(NamedTuple):
    """How much of an update was kept: its share, the validation loss with it, why it is not all (None where it is)."""

    share: float
    loss: float
    why: str | None


def within_budget(model: PeftModel, loss: Callable[[], float], *, start: float, budget: float) -> Kept:
    """Make an adapter cost no more than the retain budget: half of its directions, a quarter, ... one, a share of one.

    Args:
        model: After training; changed in place where the whole update costs more.
        loss: Returns the present loss on the validation rows.
        start: That before training.
        budget: Allowed relative rise of the validation rows' perplexity.

    Raises:
        TrainingError: If no share holds it.
    """
    limit, whole = start + math.log1p(budget), loss()
    if whole <= limit:
        return Kept(1.0, whole, None)
    count, leading = _fewer_directions(model, loss, whole, limit)
    kept = Kept(1.0, leading, None) if leading <= limit else scaled_down(model, loss, leading, start, budget)
    directions = f"{count} leading directions" if count > 1 else "its leading direction"
    return kept._replace(why=(
        f"retain budget: the whole update raised perplexity on validation rows by {_rise(whole - start)}, "
        f"and {budget:.1%} is allowed; kept {kept.share:.2f} of it in {directions} "
        f"({math.expm1(kept.loss - start):+.1%})"
    ))  # fmt: skip


def _fewer_directions(model: PeftModel, loss: Callable[[], float], whole: float, limit: float) -> tuple[int, float]:
    """Halve the number of directions until the loss is within the limit or one is left; that number and the loss."""
    count, found = max(module.r[name] for module, name in _adapted(model)), whole
    while count > 1 and found > limit:
        count //= 2
        keep_leading(model, count)
        found = loss()
    return count, found


@torch.no_grad()
def keep_leading(model: PeftModel, count: int = 1) -> None:
    """Cut the update ``B A`` of each layer to its ``count`` largest singular values: the nearest of that rank.

    A layer with fewer keeps them all. Factors that hold the matrices of several fused experts are left as they are.
    """
    for module, name in _adapted(model):
        if isinstance(module, ParamWrapper) and module.num_experts > 1:
            continue
        first, second = module.lora_A[name].weight, module.lora_B[name].weight
        left, upper = torch.linalg.qr(second.float())
        right, lower = torch.linalg.qr(first.float().T)
        u, s, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        b, a = torch.zeros_like(second), torch.zeros_like(first)
        own = min(count, len(s))
        b[:, :own] = ((left @ u)[:, :own] * s[:own]).to(b.dtype)
        a[:own] = (v @ right.T)[:own].to(a.dtype)
        second.copy_(b)
        first.copy_(a)


def scaled_down(model: PeftModel, loss: Callable[[], float], whole: float, start: float, budget: float) -> Kept:
    """``B`` times the largest share that holds the budget.

    Weight interpolation (Wortsman et al. 2022, WiSE-FT, arXiv 2109.01903, section 3): what forgets goes on forgetting
    well below the whole update; what harms falls faster, about as ``a share + b share^2``, by which the next share to
    look at is found.
    """
    factors = [module.lora_B[name].weight for module, name in _adapted(model)]
    trained = [factor.detach().clone() for factor in factors]
    limit, best, high, rise = start + math.log1p(budget), Kept(0.0, start, None), 1.0, whole - start
    for looks in range(MOST):
        if looks >= LOOKS and (best.share or high < LEAST):
            break
        share = _next_share(best, high, rise, start, limit - start)
        _scale(factors, trained, share)
        found = loss()
        if found <= limit:
            best = Kept(share, found, None)
            if found - start >= NEARLY * (limit - start):
                break
        else:
            high, rise = share, found - start
    if best.share == 0.0:
        raise TrainingError(
            f"retain budget: with {high:.3f} of the update perplexity on validation rows still rises by "
            f"{_rise(found - start)}, above {budget:.1%}: there is no adapter to keep. Allow more "
            "(unlearning.retain_budget), lower --learning-rate, or choose another --method."
        )
    _scale(factors, trained, best.share)
    return best


def _next_share(best: Kept, high: float, rise: float, start: float, allowed: float) -> float:
    """Between a share that holds and one that does not: where the parabola through both and 0 uses .9 of the budget."""
    low, below = best.share, best.loss - start
    curve = (rise / high - below / low) / (high - low) if low else rise / high**2
    slope = rise / high - curve * high
    share = 0.0
    if curve > 0 and math.isfinite(rise):
        share = (math.sqrt(slope**2 + 4 * curve * 0.9 * allowed) - slope) / (2 * curve)
    margin = 0.1 * (high - low)
    return share if low + margin <= share <= high - margin else (low + high) / 2


def weakened(
    apply: Callable[[float], float], value: float, name: str, step: float, start: float, job: Job
) -> tuple[float, float, str | None]:
    """Apply with ``value``, then ``value * step``, and so on until the validation rows keep within the budget.

    Args:
        apply: Does it with a value and returns the loss on the validation rows; undoes what it did before.
        value: The first value.
        name: What it is called, for messages.
        step: Factor from one try to the next, in the direction of doing less.
        start: The loss on the validation rows before anything was done.
        job: The job, for its budget and log.

    Returns:
        The value that was kept, the loss with it, and why it is not the first one (None where it is).

    Raises:
        TrainingError: If none of the tries keeps within the budget.
    """
    limit, asked = start + math.log1p(job.settings.retain_budget), value
    for number in range(TRIES):
        loss = apply(value)
        finite = loss if math.isfinite(loss) else None
        job.record({"step": number, name: value, "held_retain_loss": finite, "limit": limit})
        if finite is not None and finite <= limit:
            why = f"retain budget: {name} {asked:g} broke the limit {limit:.3f}; kept {name} {value:g}"
            return value, finite, why if number else None
        value *= step
    raise TrainingError(
        f"retain budget: the loss on validation rows stays above {limit:.3f} down to {name} {value / step:g}. Allow "
        "more (unlearning.retain_budget), or choose another --method."
    )


def _rise(of_loss: float) -> str:
    """Relative rise of perplexity, in percent; of a model that is destroyed it is too large for a number."""
    return f"{math.expm1(of_loss):.1%}" if of_loss < 20 else f"a factor of e^{of_loss:.0f}"


def _adapted(model: PeftModel) -> list[tuple[LoraLayer, str]]:
    return [
        (module, name)
        for module in model.modules()
        if isinstance(module, LoraLayer)
        for name in module.active_adapters
        if name in module.lora_B
    ]


@torch.no_grad()
def _scale(factors: Sequence[torch.Tensor], trained: Sequence[torch.Tensor], share: float) -> None:
    for factor, whole in zip(factors, trained, strict=True):
        factor.copy_(share * whole)
