"""From a batch of rows to what a method's terms read of it: logits, reference, hidden states; nothing not asked for.

All groups of a step go through the model together (`rapidun.models.joint_pass`). The reference is the same model with
its adapter off: a second pass over the rows whose reference logits or states are read, without gradient and without
dropout. Where a term reads no more of the reference than its loss, that is a constant of the run, and no pass at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel

from rapidun.data.batches import Batch
from rapidun.errors import ConfigError
from rapidun.models.joint_pass import AnswerStates, answer_states
from rapidun.models.lora import adapter_disabled
from rapidun.models.modes import evaluating
from rapidun.unlearning.answers import Answers
from rapidun.unlearning.reference import ReferenceLosses
from rapidun.unlearning.registry import Method, Requires
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


def batch_answers(
    model: torch.nn.Module,
    peft: PeftModel,
    inputs: Mapping[str, Group],
    method: Method,
    layer: int,
    reference: ReferenceLosses,
) -> dict[str, Answers]:
    """What a method's terms read of a step's rows: "forget" (with preferred answers) and "retain", those there are."""
    reads = _required(method, inputs)
    tensors = ("input_ids", "attention_mask", "labels")
    groups = {name: Batch(*(inputs[name][tensor] for tensor in tensors)) for name in reads}
    own = answer_states(model, groups, layer if any(Requires.HIDDEN in read for read in reads.values()) else None)
    before = _reference_states(peft, groups, reads, layer)
    found = {name: _answers(own[name], before.get(name)) for name in reads}
    for name, read in reads.items():
        if Requires.LOSS_ALONE in read:
            found[name] = replace(found[name], reference_sums=reference.of(name, inputs[name]))
    wanted = found.pop("preferred", None)
    if "forget" in found:
        has_preferred = inputs["forget"]["has_preferred"]
        found["forget"] = replace(found["forget"], preferred=wanted, has_preferred=has_preferred)
    return found


def _required(method: Method, inputs: Mapping[str, Group]) -> dict[str, Requires]:
    """What is read of each group of a batch; groups that are not read at all are left out."""
    found: dict[str, Requires] = {}
    if "forget" in inputs:
        found["forget"] = method.forget.requires
        if Requires.PREFERRED in method.forget.requires and "preferred" in inputs:
            of_reference = Requires.PREFERRED_REFERENCE in method.forget.requires
            found["preferred"] = method.forget.requires & Requires.REFERENCE_LOSS if of_reference else Requires.NOTHING
    if "retain" in inputs and method.retain is not None:
        found["retain"] = method.retain.requires
    return found


def _reference_states(
    peft: PeftModel, groups: Mapping[str, Batch], reads: Mapping[str, Requires], layer: int
) -> dict[str, AnswerStates]:
    """Of the groups whose reference logits or states are read: the model with its adapter off and no dropout."""
    logits = {name for name, read in reads.items() if Requires.REFERENCE in read and Requires.LOSS_ALONE not in read}
    hidden = {name for name, read in reads.items() if Requires.REFERENCE_HIDDEN in read}
    chosen = {name: groups[name] for name in reads if name in logits | hidden}
    if not chosen:
        return {}
    with torch.no_grad(), evaluating(peft), adapter_disabled(peft):
        return answer_states(peft, chosen, layer if hidden else None)


def _answers(own: AnswerStates, before: AnswerStates | None) -> Answers:
    reference = (None, None) if before is None else (before.logits, before.hidden)
    return Answers(own.logits, own.labels, reference[0], hidden=own.hidden, reference_hidden=reference[1])
