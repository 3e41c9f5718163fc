"""The Hugging Face Trainer with one change: the loss is ``mean_i w_i * l_i`` of a registered method.

Checkpoints, resume, clipping, schedules and multi-device training come with the Trainer. The reference model
is the same model with its adapter off, run only for the forget rows and only where the method asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer

from rapidun.models.lora import adapter_disabled
from rapidun.models.losses import answer_logits
from rapidun.unlearning.objectives import Answers, Method
from rapidun.unlearning.sampling import Group

Record = Callable[[dict[str, Any]], None]


def _answers(model: torch.nn.Module, group: Group) -> Answers:
    return Answers(*answer_logits(model, group["input_ids"], group["attention_mask"], group["labels"]))


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
        self, model: torch.nn.Module, inputs: dict[str, Group], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Weighted mean over the forget and retain rows of the batch."""
        losses = []
        if "forget" in inputs:
            rows = self._forget_rows(model, inputs)
            losses.append(self._weighted("forget_loss", self.method.forget(rows, **self.options), inputs["forget"]))
        if "retain" in inputs and self.method.retain is not None:
            rows = _answers(model, inputs["retain"])
            losses.append(self._weighted("retain_loss", self.method.retain(rows), inputs["retain"]))
        loss = torch.cat(losses).mean() if losses else self._nothing(model)
        return (loss, {}) if return_outputs else loss

    def _forget_rows(self, model: torch.nn.Module, inputs: dict[str, Group]) -> Answers:
        group = inputs["forget"]
        reference = self._reference_logits(group) if self.method.needs_reference else None
        wanted = _answers(model, inputs["alternative"]) if "alternative" in inputs else None
        return replace(
            _answers(model, group),
            reference_logits=reference,
            alternative=wanted,
            has_alternative=group["has_alternative"],
        )

    @torch.no_grad()
    def _reference_logits(self, group: Group) -> torch.Tensor:
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        try:
            with adapter_disabled(model):
                return _answers(model, group).logits
        finally:
            model.train(was_training)

    def _weighted(self, name: str, losses: torch.Tensor, group: Group) -> torch.Tensor:
        sums = self._sums[name]
        sums[0] += float(losses.detach().sum())
        sums[1] += len(losses)
        return losses * group["weight"]

    def _nothing(self, model: torch.nn.Module) -> torch.Tensor:
        """A loss of 0 with a gradient of 0: a batch of retain rows under a method without a retain term."""
        trainable = (parameter for parameter in model.parameters() if parameter.requires_grad)
        return torch.stack([parameter.sum() for parameter in trainable]).sum() * 0.0

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
