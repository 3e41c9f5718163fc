"""Which layers LoRA goes on: linear layers by name, checked before PEFT sees them.

Some linear layers take no adapter: the model reads their weight without calling them, so that what stands beside it is
never run; PEFT refuses them (Mamba's ``out_proj``, which fused kernels read); or PEFT takes their name for that of
fused experts (``gate_proj`` of DeepSeek-V3's dense layers). ``all-linear`` leaves those out; named, they are an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from rapidun.errors import ModelError
from rapidun.models.bypassed import LOOSE_TOKENS, bypassed_layers


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

    Args and errors as for `adapted_layers`.
    """
    return _shortest(model, adapted_layers(model, targets))


def adapted_layers(model: Any, targets: str | Sequence[str]) -> list[str]:
    """Full names of the layers that an adapter goes on, sorted.

    Args:
        model: A transformers model.
        targets: ``"all-linear"`` (those that take an adapter), or layer names: the last part of a name, several last
            parts, or all of it.

    Raises:
        ModelError: If a name matches no linear layer, or one that takes no adapter; lists those there are.
    """
    layers = linear_layers(model)
    unfit = _unfit(model, layers)
    if targets == "all-linear":
        chosen = sorted(layers.keys() - unfit.keys())
        if not chosen:
            raise ModelError("No linear layer of this model takes a LoRA adapter: " + _listed(unfit))
        return chosen
    names = [targets] if isinstance(targets, str) else list(targets)
    if not names:
        raise ModelError("LoRA targets are empty. Use 'all-linear' or name at least one layer.")
    named: set[str] = set()
    for target in names:
        matched = [name for name in layers if _matches(name, target)]
        if not matched:
            raise ModelError(_no_match(target, layers))
        if odd := {name: unfit[name] for name in matched if name in unfit}:
            raise ModelError(
                f"LoRA target {target!r} takes no adapter: {_listed(odd)} Use 'all-linear' or other layers."
            )
        named.update(matched)
    return sorted(named)


def _unfit(model: Any, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Why not, for each of ``layers`` that takes no adapter."""
    unfit = bypassed_layers(model, layers) | bypassed_layers(model, layers, training=True)
    unfit = {name: why for name, why in unfit.items() if why != LOOSE_TOKENS}
    last_parts = {name: name.rpartition(".")[2] for name in layers}
    refused = {part: why for part in sorted(set(last_parts.values())) if (why := _refusal(model, part))}
    return unfit | {name: refused[part] for name, part in last_parts.items() if part in refused}


def _refusal(model: Any, part: str) -> str:
    """Why PEFT would not put an adapter on layers of this name; empty where it would."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    config = LoraConfig(target_modules=[part])
    try:
        LoraModel._check_target_module_compatiblity(None, config, model, part)
    except ValueError:
        return "PEFT refuses it, since fused kernels of this architecture read its weight"
    try:
        _convert(config, model)
    except ValueError:  # "cannot convert gate_proj without up_proj": both would become the experts' gate_up_proj
        return "PEFT takes its name for that of fused experts"
    return "" if part in config.target_modules else "PEFT takes its name for that of fused experts"


def _convert(config: Any, model: Any) -> None:
    """What PEFT does to the targets of a mixture of experts before it looks for them, from 0.19 on."""
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:
        return
    convert_peft_config_for_transformers(config, model=model, conversions=None)


def _listed(unfit: Mapping[str, str]) -> str:
    """Each reason once, with the last parts of the layers' names."""
    reasons = {why: sorted({name.rpartition(".")[2] for name in unfit if unfit[name] == why}) for why in unfit.values()}
    return " ".join(f"{', '.join(parts)} ({why})." for why, parts in reasons.items())


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
