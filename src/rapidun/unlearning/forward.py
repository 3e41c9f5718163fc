"""From a batch of rows to what a method's terms read of it: logits, reference, hidden states; nothing not asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel

from rapidun.errors import ConfigError
from rapidun.gradients.state import evaluating
from rapidun.models.lora import adapter_disabled
from rapidun.models.losses import answer_logits, answer_states
from rapidun.unlearning.answers import Answers
from rapidun.unlearning.registry import Method, Reads
from rapidun.unlearning.sampling import Group

LAYER_SHARE = 7 / 32
"""Where RMU steers: block 7 of the 32 of a 7 billion parameter model."""


def settled_options(model: PeftModel, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with ``layer=None`` replaced by a quarter of the model's blocks, from the bottom.

    Raises:
        ConfigError: If the layer is beyond the model's last.
    """
    if "layer" not in options:
        return dict(options)
    blocks = int(model.get_base_model().config.get_text_config().num_hidden_layers)
    layer = options["layer"] or max(1, round(LAYER_SHARE * blocks))
    if layer > blocks:
        raise ConfigError(f"option layer = {layer}: the model has {blocks} blocks.")
    return {**options, "layer": layer}


def forget_answers(
    model: torch.nn.Module, peft: PeftModel, inputs: Mapping[str, Group], method: Method, layer: int
) -> Answers:
    """The forget rows of a batch, with the wanted answers of those that have one.

    Args:
        model: The model in training, as the trainer wrapped it.
        peft: The same, unwrapped: where the adapter is switched off.
        inputs: A batch of `RoleCollator`.
        method: Whose forget term will read it.
        layer: Whose hidden states, where they are read.
    """
    reads = method.forget.reads
    wanted = None
    if Reads.WANTED in reads and "alternative" in inputs:
        of_wanted = Reads.REFERENCE if Reads.WANTED_REFERENCE in reads else Reads.NOTHING
        wanted = answers(model, peft, inputs["alternative"], of_wanted, layer)
    group = inputs["forget"]
    return answers(model, peft, group, reads, layer, alternative=wanted, has_alternative=group["has_alternative"])


def answers(model: torch.nn.Module, peft: PeftModel, group: Group, reads: Reads, layer: int, **more: Any) -> Answers:
    """What ``reads`` asks for of the rows of ``group``; ``more`` are further fields of `Answers`."""
    inputs = group["input_ids"], group["attention_mask"], group["labels"]
    reference_logits = reference_hidden = hidden = None
    if Reads.REFERENCE_HIDDEN in reads:
        reference_logits, reference_hidden = _reference(peft, inputs, layer)
    elif Reads.REFERENCE in reads:
        reference_logits, _ = _reference(peft, inputs, None)
    if Reads.HIDDEN in reads:
        logits, hidden, labels = answer_states(model, *inputs, layer)
    else:
        logits, labels = answer_logits(model, *inputs)
    return Answers(logits, labels, reference_logits, hidden=hidden, reference_hidden=reference_hidden, **more)


@torch.no_grad()
def _reference(
    peft: PeftModel, inputs: tuple[torch.Tensor, ...], layer: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits, and hidden states where a layer is given, of the model with its adapter off and no dropout."""
    input_ids, attention_mask, labels = inputs
    with evaluating(peft), adapter_disabled(peft):
        if layer is None:
            return answer_logits(peft, input_ids, attention_mask, labels)[0], None
        logits, hidden, _ = answer_states(peft, input_ids, attention_mask, labels, layer)
        return logits, hidden
