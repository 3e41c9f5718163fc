"""Two guards around training: did it diverge, and did anything train?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rapidun.errors import TrainingError

AdapterState = dict[str, torch.Tensor]
DIVERGED = 1.5
"""A training whose loss on validation rows is so many times that before, and above that of guessing, has failed."""


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


class HeldLoss(TrainerCallback):
    """Looks at the loss on validation rows while training, and ends a training that diverged.

    What a peak learning rate costs for a while is mostly won back as the rate falls, so a rise alone ends nothing:
    `within_budget` settles it at the end. A loss that is no number does, and one above that of guessing every token
    after a look that was good: the last good state is put back.

    Args:
        model: The model in training.
        loss: Returns the present loss on the validation rows.
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
            f"training diverged: at step {step} the loss on validation rows was {found}; kept the adapter of step "
            f"{self.good_step}"
        )
