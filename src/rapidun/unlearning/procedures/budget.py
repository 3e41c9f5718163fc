"""The retain budget of procedures that have no steps to stop at: do less until it holds."""

from __future__ import annotations

import math
from collections.abc import Callable

from rapidun.errors import TrainingError
from rapidun.unlearning.job import Job

TRIES = 8


def weakened(
    apply: Callable[[float], float], value: float, name: str, step: float, start: float, job: Job
) -> tuple[float, float, str | None]:
    """Apply with ``value``, then ``value * step``, and so on until the held retain rows keep within the budget.

    Args:
        apply: Does it with a value and returns the loss on the held retain rows; undoes what it did before.
        value: The first value.
        name: What it is called, for messages.
        step: Factor from one try to the next, in the direction of doing less.
        start: The loss on the held rows before anything was done.
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
        f"retain budget: the loss on held retain rows stays above {limit:.3f} down to {name} {value / step:g}. Allow "
        "more (unlearning.retain_budget), or choose another --method."
    )
