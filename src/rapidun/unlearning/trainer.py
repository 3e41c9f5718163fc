"""The Hugging Face Trainer with one change: the loss is ``mean_i w_i * l_i`` of a registered method.

Checkpoints, resume, clipping, schedules and multi-device training come with the Trainer. The reference model
is the same model with its adapter off, run only for the forget rows and only where the method asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer

from rapidun.models.lora import adapter_disabled
from rapidun.unlearning.objectives import Answers, Method
from rapidun.unlearning.sampling import ALTERNATIVE, FORGET, RETAIN

Record = Callable[[dict[str, Any]], None]


class UnlearningTrainer(Trainer):
    """Trains on batches of `RoleCollator`; hands each log line to ``record``."""

    def __init__(self, *args: Any, method: Method, options: dict[str, Any], record: Record, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.method, self.options, self.record = method, options, record
        self.model_accepts_loss_kwargs = False
        self._sums = {"forget_loss": [0.0, 0], "retain_loss": [0.0, 0]}

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        """The plan is already in its order."""
        return SequentialSampler(self.train_dataset)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Weighted mean over the forget and retain rows of the batch."""
        ids, mask, labels, role = (inputs[name] for name in ("input_ids", "attention_mask", "labels", "role"))
        logits = model(input_ids=ids, attention_mask=mask).logits
        forget, retain = role == FORGET, role == RETAIN
        losses = []
        if forget.any():
            rows = self._forget_rows(logits, inputs)
            losses.append(self._weighted("forget_loss", self.method.forget(rows, **self.options), inputs, forget))
        if retain.any() and self.method.retain is not None:
            rows = Answers(logits[retain], labels[retain])
            losses.append(self._weighted("retain_loss", self.method.retain(rows), inputs, retain))
        loss = torch.cat(losses).mean() if losses else logits.sum() * 0.0
        return (loss, {"logits": logits}) if return_outputs else loss

    def _forget_rows(self, logits: torch.Tensor, inputs: dict[str, torch.Tensor]) -> Answers:
        labels, role = inputs["labels"], inputs["role"]
        forget, alternative = role == FORGET, role == ALTERNATIVE
        reference = None
        if self.method.needs_reference:
            reference = self._reference_logits(inputs["input_ids"][forget], inputs["attention_mask"][forget])
        wanted = Answers(logits[alternative], labels[alternative]) if alternative.any() else None
        return Answers(logits[forget], labels[forget], reference, wanted, inputs["has_alternative"])

    @torch.no_grad()
    def _reference_logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        try:
            with adapter_disabled(model):
                logits: torch.Tensor = model(input_ids=input_ids, attention_mask=attention_mask).logits
        finally:
            model.train(was_training)
        return logits

    def _weighted(
        self, name: str, losses: torch.Tensor, inputs: dict[str, torch.Tensor], rows: torch.Tensor
    ) -> torch.Tensor:
        sums = self._sums[name]
        sums[0] += float(losses.detach().sum())
        sums[1] += len(losses)
        return losses * inputs["weight"][rows]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the unweighted group losses since the last line, and record the line."""
        if "loss" in logs:
            line = {"step": self.state.global_step, "loss": logs["loss"], "learning_rate": logs.get("learning_rate")}
            for name, (total, count) in self._sums.items():
                if count:
                    line[name] = total / count
                self._sums[name] = [0.0, 0]
            self.record(line)
        super().log(logs, *args, **kwargs)
