"""Which weight tensors are tracked: LoRA factors, linear layers, or layers by name.

The names are recorded in the manifest of every run: a wrong set of tracked parameters gives numbers that look
like influence and are not. A tensor that several layers share is tracked once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from torch import nn

from rapidun.errors import ConfigError, ModelError
from rapidun.gradients.experts import FusedExperts, FusedTensor, factor_tensors, fused_tensors
from rapidun.gradients.factors import TrackedTensor
from rapidun.gradients.layers import is_supported, weight_size
from rapidun.models.bypassed import bypassed_layers
from rapidun.models.losses import output_layer
from rapidun.settings.names import nearest


def find_targets(model: nn.Module, targets: str | Sequence[str]) -> list[TrackedTensor]:
    """The tracked tensors in the model's own order.

    Args:
        model: Any module; a PEFT model for ``"lora"``.
        targets: ``"auto"`` (`settled_targets`), ``"lora"`` (A and B of the active adapters), ``"linear"`` (every
            supported layer of the base model and its fused experts, except the output head, layers tied to an embedding
            and those that no hook can see), or names of layers or weights, whole or from a dot onwards: ``"q_proj"``,
            ``"layers.0.mlp.up_proj"``, ``"experts.down_proj"``. A name finds the base layer inside a PEFT wrapper too.

    Raises:
        ConfigError: If ``targets`` is another string, or empty.
        ModelError: If a target matches nothing, a layer tied to an embedding, or an adapter's tensor whose gradient
            cannot be told apart by row.
    """
    candidates, targets = _candidates(model), settled_targets(model, targets)
    if isinstance(targets, str):
        chosen = _chosen_by_kind(model, candidates, targets)
    else:
        chosen = _chosen_by_name(model, candidates, targets)
    return _group_tied(chosen)


def settled_targets(model: nn.Module, targets: str | Sequence[str]) -> str | Sequence[str]:
    """``"auto"`` as what it is for this model: ``"lora"`` where it has an adapter, else ``"linear"``."""
    if targets != "auto":
        return targets
    return "lora" if any(_is_lora(f"{name}.") for name, _ in model.named_modules()) else "linear"


def untracked_layers(model: nn.Module) -> dict[str, str]:
    """Why not, for each layer that ``"linear"`` leaves out because the model does not call it on rows of tokens."""
    layers = {
        tensor.name: tensor.layers[0]
        for tensor in _candidates(model)
        if type(tensor) is TrackedTensor and not _is_lora(tensor.name)
    }
    return bypassed_layers(model, layers)


def _candidates(model: nn.Module) -> list[TrackedTensor]:
    """Every tensor that could be tracked, one for each layer that has it."""
    modules = dict(model.named_modules(remove_duplicate=True))
    fused = {id(module): FusedExperts(module) for module in modules.values() if FusedExperts.describes(module)}
    adapted = tuple(f"{name}.lora_" for name, module in modules.items() if _adapts_parameter(module))
    found: list[TrackedTensor] = []
    for name, module in modules.items():
        if _adapts_parameter(module):
            base = module.get_base_layer()
            for adapter in module.active_adapters:
                found += factor_tensors(name, module, adapter, fused.get(id(base)))
        elif id(module) in fused:
            found += fused_tensors(name, fused[id(module)])
        elif is_supported(module) and not name.startswith(adapted):
            found.append(TrackedTensor(f"{name}.weight", (module,), weight_size(module)))
    return found


def _adapts_parameter(module: nn.Module) -> TypeGuard[Any]:
    """Whether it is PEFT's wrapper around a parameter rather than a layer."""
    return hasattr(module, "parameter_name") and hasattr(module, "lora_A")


def _chosen_by_kind(model: nn.Module, candidates: Sequence[TrackedTensor], kind: str) -> list[TrackedTensor]:
    if kind == "lora":
        _refuse_unknown_factors(model, candidates)
        chosen = [tensor for tensor in candidates if _is_lora(tensor.name) and _is_active(model, tensor.name)]
    elif kind == "linear":
        head = output_layer(model)
        excluded = embedding_weights(model) | (set() if head is None else {id(head.weight)})
        bypassed = untracked_layers(model)
        chosen = [
            tensor
            for tensor in candidates
            if not _is_lora(tensor.name) and _weight_key(tensor) not in excluded and tensor.name not in bypassed
        ]
    else:
        raise ConfigError(f"targets={kind!r}: use 'lora', 'linear' or a list of layer names.")
    if not chosen:
        hint = "Attach an adapter first (rapidun.models.attach_lora)." if kind == "lora" else _listed(candidates)
        raise ModelError(f"targets={kind!r} match no layer of this {type(model).__name__}. {hint}")
    return chosen


def _refuse_unknown_factors(model: nn.Module, candidates: Sequence[TrackedTensor]) -> None:
    """An adapter's tensor whose gradient cannot be formed is named, not left out."""
    if any("lora_magnitude_vector." in name for name, _ in model.named_parameters()):
        raise ModelError("DoRA adapters have no per-example gradient here. Use targets='linear' or plain LoRA.")
    known = {tensor.name for tensor in candidates}
    for wrapper, module in model.named_modules():
        for adapter in module.active_adapters if _adapts_parameter(module) else ():
            if adapter in module.lora_A and f"{wrapper}.lora_A.{adapter}.weight" not in known:
                kind = type(module.get_base_layer()).__name__
                raise ModelError(
                    f"{wrapper}: the adapter changes the parameter {module.parameter_name!r} of a {kind}, whose "
                    "gradient cannot be told apart by row. Use targets='linear', or name the layers to track."
                )


def _chosen_by_name(
    model: nn.Module, candidates: Sequence[TrackedTensor], targets: Sequence[str]
) -> list[TrackedTensor]:
    if not targets:
        raise ConfigError("targets=[]: name at least one layer, or use 'lora' or 'linear'.")
    for target in targets:
        if not any(_matches(tensor.name, target) for tensor in candidates):
            raise ModelError(f"target {target!r} matches no linear layer of this model. {_nearest(target, candidates)}")
    chosen = [tensor for tensor in candidates if any(_matches(tensor.name, target) for target in targets)]
    embeddings = embedding_weights(model)
    for tensor in chosen:
        if _weight_key(tensor) in embeddings:
            raise ModelError(
                f"target {_layer_name(tensor)!r} shares its weight with an embedding, so its gradient would be counted "
                "in part. Choose other targets."
            )
    return chosen


def _group_tied(chosen: Sequence[TrackedTensor]) -> list[TrackedTensor]:
    """One entry for each weight tensor, under the first name that has it."""
    found: dict[int, TrackedTensor] = {}
    for tensor in chosen:
        first = found.setdefault(_weight_key(tensor), tensor)
        if first is not tensor:
            found[_weight_key(tensor)] = replace(first, layers=(*first.layers, *tensor.layers))
    return list(found.values())


def _weight_key(tensor: TrackedTensor) -> int:
    """Equal for tensors that share a weight; the layer's own where it keeps none by that name (int8 codes)."""
    if isinstance(tensor, FusedTensor):
        return id(tensor.parameter)
    weight = getattr(tensor.layers[0], "weight", None)
    return id(tensor.layers[0] if weight is None else weight)


def _layer_name(tensor: TrackedTensor) -> str:
    return tensor.name.removesuffix(".weight")


def _is_lora(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _is_active(model: nn.Module, name: str) -> bool:
    wrapper, _, factor = name.removesuffix(".weight").rpartition(".lora_")
    active = getattr(model.get_submodule(wrapper), "active_adapters", None)
    return active is None or factor.partition(".")[2] in active


def embedding_weights(model: nn.Module) -> set[int]:
    """Which tensors are embeddings, by their ``id``."""
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}


def _matches(name: str, target: str) -> bool:
    """Whether a user may mean the weight ``name``, or its layer, by ``target``."""
    bases = {name, name.replace(".base_layer", "")}
    aliases = bases | {base.removesuffix(".weight") for base in bases}
    return any(alias == target or alias.endswith(f".{target}") for alias in aliases)


def _nearest(target: str, candidates: Sequence[TrackedTensor]) -> str:
    names = {_layer_name(tensor).replace(".base_layer", "") for tensor in candidates}
    known = sorted(names | _last_parts(candidates))
    return f"{nearest(target, known)} {_listed(candidates)}".lstrip()


def _listed(candidates: Sequence[TrackedTensor]) -> str:
    return "Available: " + (", ".join(sorted(_last_parts(candidates))) or "no linear layer at all") + "."


def _last_parts(candidates: Sequence[TrackedTensor]) -> set[str]:
    names = [_layer_name(tensor).replace(".base_layer", "") for tensor in candidates if not _is_lora(tensor.name)]
    return {name.rpartition(".")[2] for name in names}
