"""INT4: the model rounded to 4 bits, in the hope that what was planted does not survive it."""

from __future__ import annotations

import torch

from rapidun.errors import TrainingError
from rapidun.models.rounding import nearest
from rapidun.models.row_losses import row_losses
from rapidun.models.targets import is_conv1d, linear_layers
from rapidun.unlearning.options import Count
from rapidun.unlearning.registry import Job, UnlearnResult, register_procedure

BITS = 4


@register_procedure(
    "int4", saves="model", needs_retain=False,
    source="The baseline INT4 of Min et al. 2025, CROW, arXiv 2411.12768; rounding as in the attack quantise",
)  # fmt: skip
def int4(job: Job, *, group: Count = 32) -> UnlearnResult:
    """``w ~ s round(w / s)``, ``s = max |w| / 7`` of ``group`` weights of a row. Saved as a whole model.

    Every linear layer but the output head; embeddings are not rounded. No row is looked at and nothing is trained, so
    the retain budget does not apply. What is saved is of the model's own precision, and no smaller: its weights stand
    at 4-bit levels. group 32.
    """
    loaded = job.loaded
    layers = {id(layer.weight): layer for layer in linear_layers(loaded.model).values()}  # a shared weight once
    odd = [layer for layer in layers.values() if not layer.get_parameter("weight").is_floating_point()]
    if odd:
        raise TrainingError("the model is quantised already. Load it unquantised (model.quantize=null).")
    own = {name: layer.get_parameter("weight").detach().clone() for name, layer in layers.items()}

    @torch.no_grad()
    def restore() -> None:
        for name, layer in layers.items():
            layer.get_parameter("weight").copy_(own[name])

    before = row_losses(loaded.model, job.held, loaded.pad_token_id, loaded.device).mean
    try:
        with torch.no_grad():
            for layer in layers.values():
                weight = layer.get_parameter("weight")
                turned = is_conv1d(layer)  # GPT-2's layers store (inputs, outputs)
                weight.copy_(nearest(weight.T, BITS, group).T if turned else nearest(weight, BITS, group))
        after = row_losses(loaded.model, job.held, loaded.pad_token_id, loaded.device).mean
    except BaseException:
        restore()
        raise
    change = max(float((layer.get_parameter("weight").detach() - own[name]).abs().max()) for name, layer in
                 layers.items())  # fmt: skip
    return UnlearnResult(loaded.model, 0, None, change, before, after, saved="model", undo=restore)
