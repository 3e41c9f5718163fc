"""Two guards around training: a retain-loss budget and "did anything train"."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rapidun.data.batches import Example
from rapidun.errors import TrainingError
from rapidun.models.row_losses import row_losses
from rapidun.unlearning.job import Job

AdapterState = dict[str, torch.Tensor]
LOOKS, NEARLY = 6, 0.8
"""`within_budget` looks so often at the held rows at most; a share that uses so much of the budget is enough."""
TRIES = 8
"""How often a procedure without steps is weakened before it fails."""
DIVERGED = 1.5
"""A training whose loss on held rows is so many times that before, and above that of guessing, has failed."""


def adapter_state(model: PeftModel) -> AdapterState:
    """A copy of the adapter's tensors."""
    return {name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(model).items()}


def largest_change(before: AdapterState, after: AdapterState) -> float:
    """The largest absolute change of any element of the adapter."""
    return max(float((after[name].float() - tensor.float()).abs().max()) for name, tensor in before.items())


def require_change(before: AdapterState, model: PeftModel) -> float:
    """The largest change since ``before``.

    Raises:
        TrainingError: If no tensor moved, or one holds a value that is not finite.
    """
    after = adapter_state(model)
    bad = [name for name, tensor in after.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise TrainingError(
            f"training diverged: {bad[0]} holds values that are not finite. Lower --learning-rate or the retain budget."
        )
    change = largest_change(before, after)
    if change == 0.0:
        raise TrainingError(
            "training changed nothing: every adapter tensor is as it was. Check that the LoRA targets are used by the "
            "model, that forget rows have answer tokens, and that the learning rate is not 0."
        )
    return change


def mean_loss(model: torch.nn.Module, examples: list[Example], pad_token_id: int, device: torch.device) -> float:
    """Answer loss per token over all ``examples``, in evaluation mode; the mode is restored."""
    return row_losses(model, examples, pad_token_id, device).mean


class HeldLoss(TrainerCallback):
    """Looks at the loss on held retain rows while training, and ends a training that diverged.

    What a peak learning rate costs for a while is mostly won back as the rate falls, so a rise alone ends nothing:
    `within_budget` settles it at the end. A loss that is no number does, and one above that of guessing every token
    after a look that was good: the last good state is put back.

    Args:
        model: The model in training.
        loss: Returns the present loss on the held rows.
        every: Steps between two looks; the last step is always looked at.
        record: Receives ``{"step", "held_retain_loss", "limit"}`` of each look.
        start: The loss with the adapter off: the same number in a fresh and in a resumed run.
        limit: The loss that the budget allows.
    """

    def __init__(
        self,
        model: PeftModel,
        loss: Callable[[], float],
        *,
        every: int,
        record: Callable[[dict[str, Any]], None],
        start: float,
        limit: float,
    ) -> None:
        self.model, self.loss, self.every, self.record, self.limit = model, loss, every, record, limit
        vocabulary: int = model.get_base_model().config.get_text_config().vocab_size
        self.worst = max(DIVERGED * start, math.log(vocabulary))
        self.good = adapter_state(model)
        self.good_step, self.good_loss = 0, start
        self.sound = False
        self.stopped: str | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After a resume, the loaded adapter is the last good one: only good states are checkpointed."""
        self.good, self.good_step = adapter_state(self.model), state.global_step
        if state.global_step:
            self.good_loss = self.loss()
            self.sound = self.good_loss <= self.worst

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look every ``every`` steps, at the last step, and before a checkpoint is written."""
        step = state.global_step
        if step % self.every and step != state.max_steps and not control.should_save:
            return
        loss = self.loss()
        limit = self.limit if math.isfinite(self.limit) else None
        self.record({"step": step, "held_retain_loss": loss if math.isfinite(loss) else None, "limit": limit})
        sound = loss <= self.worst
        if sound or (math.isfinite(loss) and not self.sound):  # what was bad from the start is scaled down at the end
            self.sound = sound
            self.good, self.good_step, self.good_loss = adapter_state(self.model), step, loss
            return
        set_peft_model_state_dict(self.model, self.good)
        control.should_training_stop = True
        control.should_save = False
        found = f"{loss:.3f}, worse than guessing every token" if math.isfinite(loss) else "no finite number"
        self.stopped = (
            f"training diverged: at step {step} the loss on held retain rows was {found}; kept the adapter of step "
            f"{self.good_step}"
        )


class Kept(NamedTuple):
    """How much of an update was kept: its share, the held loss with it, and why it is not all (None where it is)."""

    share: float
    loss: float
    why: str | None


def within_budget(model: PeftModel, loss: Callable[[], float], *, start: float, budget: float) -> Kept:
    """Scale the adapter down to the largest share that holds the retain budget: ``B`` times the share, exactly.

    Weight interpolation (Wortsman et al. 2022, WiSE-FT, arXiv 2109.01903, section 3): what forgets goes on forgetting
    well below the whole update; what harms falls faster, about as ``a share + b share^2``, by which the next share to
    look at is found.

    Args:
        model: After training.
        loss: Returns the present loss on the held rows.
        start: That before training.
        budget: Allowed relative rise of the held rows' perplexity.

    Raises:
        TrainingError: If no share holds it.
    """
    limit, whole = start + math.log1p(budget), loss()
    if whole <= limit:
        return Kept(1.0, whole, None)
    factors = [module.lora_B[name].weight for module, name in _adapted(model)]
    trained = [factor.detach().clone() for factor in factors]
    best, high, rise = Kept(0.0, start, None), 1.0, whole - start
    for _ in range(LOOKS):
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
            f"retain budget: with {high:.3f} of the update perplexity on held retain rows still rises by "
            f"{_rise(found - start)}, above {budget:.1%}: there is no adapter to keep. Allow more "
            "(unlearning.retain_budget), lower --learning-rate, or choose another --method."
        )
    _scale(factors, trained, best.share)
    return best._replace(why=(
        f"retain budget: the whole update raised perplexity on held retain rows by {_rise(whole - start)}, "
        f"and {budget:.1%} is allowed; kept {best.share:.2f} of it ({math.expm1(best.loss - start):+.1%})"
    ))  # fmt: skip


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
