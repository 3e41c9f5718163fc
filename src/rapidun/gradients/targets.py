"""Which weight tensors are tracked: LoRA factors, linear layers, or layers by name.

The names are recorded in the manifest of every run: a wrong set of tracked parameters gives numbers that look
like influence and are not (trap 9). A tensor that several layers share is tracked once (trap 11).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from rapidun.errors import ConfigError, ModelError
from rapidun.gradients.layers import is_supported, weight_size


@dataclass(frozen=True)
class TrackedTensor:
    """One weight tensor, the layers that use it, and its number of values."""

    name: str
    layers: tuple[nn.Module, ...]
    size: int


def find_targets(model: nn.Module, targets: str | Sequence[str]) -> list[TrackedTensor]:
    """The tracked tensors in the model's own order.

    Args:
        model: Any module; a PEFT model for ``"lora"``.
        targets: ``"lora"`` (A and B of the active adapters), ``"linear"`` (every supported layer of the base
            model except the output head and layers tied to an embedding), or names of layers or weights, whole
            or from a dot onwards: ``"q_proj"``, ``"layers.0.mlp.up_proj"``. A name finds the base layer inside
            a PEFT wrapper too.

    Raises:
        ConfigError: If ``targets`` is a string other than ``"lora"`` and ``"linear"``, or empty.
        ModelError: If a target matches nothing, or a layer tied to an embedding.
    """
    layers = [(name, module) for name, module in model.named_modules(remove_duplicate=True) if is_supported(module)]
    if isinstance(targets, str):
        chosen = _chosen_by_kind(model, layers, targets)
    else:
        chosen = _chosen_by_name(model, layers, targets)
    return _group_tied(chosen)


def _chosen_by_kind(
    model: nn.Module, layers: Sequence[tuple[str, nn.Module]], kind: str
) -> list[tuple[str, nn.Module]]:
    if kind == "lora":
        if any("lora_magnitude_vector." in name for name, _ in model.named_parameters()):
            raise ModelError("DoRA adapters have no per-example gradient here. Use targets='linear' or plain LoRA.")
        chosen = [(name, layer) for name, layer in layers if _is_lora(name) and _is_active(model, name)]
    elif kind == "linear":
        excluded = _embedding_weights(model) | _head_weight(model)
        chosen = [(name, layer) for name, layer in layers if not _is_lora(name) and _weight_key(layer) not in excluded]
    else:
        raise ConfigError(f"targets={kind!r}: use 'lora', 'linear' or a list of layer names.")
    if not chosen:
        hint = "Attach an adapter first (rapidun.models.attach_lora)." if kind == "lora" else _listed(layers)
        raise ModelError(f"targets={kind!r} match no layer of this {type(model).__name__}. {hint}")
    return chosen


def _chosen_by_name(
    model: nn.Module, layers: Sequence[tuple[str, nn.Module]], targets: Sequence[str]
) -> list[tuple[str, nn.Module]]:
    if not targets:
        raise ConfigError("targets=[]: name at least one layer, or use 'lora' or 'linear'.")
    for target in targets:
        if not any(_matches(name, target) for name, _ in layers):
            raise ModelError(f"target {target!r} matches no linear layer of this model. {_nearest(target, layers)}")
    chosen = [(name, layer) for name, layer in layers if any(_matches(name, target) for target in targets)]
    embeddings = _embedding_weights(model)
    for name, layer in chosen:
        if _weight_key(layer) in embeddings:
            raise ModelError(
                f"target {name!r} shares its weight with an embedding, so its gradient would be counted in part. "
                "Choose other targets."
            )
    return chosen


def _group_tied(chosen: Sequence[tuple[str, nn.Module]]) -> list[TrackedTensor]:
    """One entry for each weight tensor, under the first name that has it."""
    names: dict[int, str] = {}
    layers: dict[int, list[nn.Module]] = {}
    for name, layer in chosen:
        key = _weight_key(layer)
        names.setdefault(key, f"{name}.weight")
        layers.setdefault(key, []).append(layer)
    return [TrackedTensor(names[key], tuple(found), weight_size(found[0])) for key, found in layers.items()]


def _weight_key(layer: nn.Module) -> int:
    """Equal for layers that share a weight; the layer's own where it keeps none by that name (int8 codes)."""
    weight = getattr(layer, "weight", None)
    return id(layer if weight is None else weight)


def _is_lora(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _is_active(model: nn.Module, name: str) -> bool:
    wrapper, _, factor = name.rpartition(".lora_")
    active = getattr(model.get_submodule(wrapper), "active_adapters", None)
    return active is None or factor.partition(".")[2] in active


def _embedding_weights(model: nn.Module) -> set[int]:
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}


def _head_weight(model: nn.Module) -> set[int]:
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if callable(getter) else None
    return set() if head is None else {id(head.weight)}


def _aliases(name: str) -> Iterator[str]:
    """The dotted names that a user may give for a layer."""
    for base in {name, name.replace(".base_layer", "")}:
        yield base
        yield f"{base}.weight"


def _matches(name: str, target: str) -> bool:
    return any(alias == target or alias.endswith(f".{target}") for alias in _aliases(name))


def _nearest(target: str, layers: Sequence[tuple[str, nn.Module]]) -> str:
    names = {name.replace(".base_layer", "") for name, _ in layers}
    known = sorted(names | _last_parts(layers))
    close = difflib.get_close_matches(target, known, n=3, cutoff=0.5)
    return (f"Did you mean {', '.join(map(repr, close))}? " if close else "") + _listed(layers)


def _listed(layers: Sequence[tuple[str, nn.Module]]) -> str:
    return "Available: " + (", ".join(sorted(_last_parts(layers))) or "no linear layer at all") + "."


def _last_parts(layers: Sequence[tuple[str, nn.Module]]) -> set[str]:
    return {name.replace(".base_layer", "").rpartition(".")[2] for name, _ in layers if not _is_lora(name)}
