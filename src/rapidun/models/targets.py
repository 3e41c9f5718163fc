"""Which layers LoRA goes on: linear layers by name, checked before PEFT sees them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import nn

from rapidun.errors import ModelError


def is_conv1d(module: nn.Module) -> bool:
    """Whether ``module`` is GPT-2's linear layer, which stores its weight transposed (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """All linear layers (`nn.Linear`, its quantised forms, and Conv1D) but the output head, by full name."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or is_conv1d(module)) and module is not head
    }


def choose_targets(model: Any, targets: str | Sequence[str]) -> list[str]:
    """Names for PEFT's ``target_modules``: short (``q_proj``) where that says the same, else full.

    Args:
        model: A transformers model.
        targets: ``"all-linear"``, or layer names: the last part of a name, several last parts, or all of it.

    Raises:
        ModelError: If a name matches no linear layer; lists those there are and the nearest.
    """
    layers = linear_layers(model)
    if targets == "all-linear":
        return _shortest(model, sorted(layers))
    names = [targets] if isinstance(targets, str) else list(targets)
    if not names:
        raise ModelError("LoRA targets are empty. Use 'all-linear' or name at least one layer.")
    chosen: set[str] = set()
    for target in names:
        matched = [name for name in layers if _matches(name, target)]
        if not matched:
            raise ModelError(_no_match(target, layers))
        chosen.update(matched)
    return _shortest(model, sorted(chosen))


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _shortest(model: Any, chosen: list[str]) -> list[str]:
    """The last parts of the names, if they mean exactly the chosen layers."""
    parts = sorted({name.rpartition(".")[2] for name in chosen})
    meant = [name for name, _ in model.named_modules() if any(_matches(name, part) for part in parts)]
    return parts if sorted(meant) == chosen else chosen


def _no_match(target: str, layers: dict[str, nn.Module]) -> str:
    parts = sorted({name.rpartition(".")[2] for name in layers})
    near = difflib.get_close_matches(target, [*parts, *layers], n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"LoRA target {target!r} matches no linear layer.{hint} Linear layers of this model: {', '.join(parts)}."
