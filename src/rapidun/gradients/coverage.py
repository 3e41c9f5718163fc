"""Which share of a model's parameters is tracked, and what is not: influence says nothing of what it does not see.

Shares are of the weights outside the embeddings and the output head. Of an adapter it is the weights that its tracked
factors change that count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from rapidun.gradients.layers import is_supported, weight_size
from rapidun.gradients.targets import embedding_weights
from rapidun.models.losses import output_layer

ENOUGH = 0.9
_OUTSIDE = ("embeddings", "output head")
_NAMED_IN_FULL = 0.001  # a kind with less than this share is named without it


@dataclass(frozen=True)
class Coverage:
    """Numbers of values by kind (``linear layers``, ``experts``, ``norms``, ...).

    Args:
        tracked: Of the parameters whose gradients are collected, or that a tracked adapter changes.
        untracked: Of all others.
    """

    tracked: Mapping[str, int]
    untracked: Mapping[str, int]

    @property
    def share(self) -> float:
        """Of the weights outside the embeddings and the output head, between 0 and 1."""
        return sum(self._share(self.tracked, kind) for kind in self.tracked if kind not in _OUTSIDE)

    @property
    def enough(self) -> bool:
        """Whether what is not tracked is little enough to leave it at saying so."""
        return self.share >= ENOUGH

    def text(self) -> str:
        """One line: the share, what it is made of, and what is not tracked."""
        seen = self._listed(self.tracked)
        line = f"{_percent(self.share)} of the weights outside the embeddings and the output head ({seen})"
        return f"{line}, not {self._listed(self.untracked)}" if self.untracked else line

    def record(self) -> dict[str, Any]:
        """For a manifest."""
        return {"share": round(self.share, 6), "tracked": dict(self.tracked), "untracked": dict(self.untracked)}

    def _listed(self, values: Mapping[str, int]) -> str:
        shares = {kind: self._share(values, kind) for kind, count in values.items() if count}
        ordered = sorted(shares, key=lambda kind: (kind in _OUTSIDE, -values[kind]))
        return ", ".join(
            kind if kind in _OUTSIDE or shares[kind] < _NAMED_IN_FULL else f"{kind} {_percent(shares[kind])}"
            for kind in ordered
        )

    def _share(self, values: Mapping[str, int], kind: str) -> float:
        counted = Counter(self.tracked) + Counter(self.untracked)
        inside = sum(count for name, count in counted.items() if name not in _OUTSIDE)
        return values[kind] / max(1, inside)


def _percent(share: float) -> str:
    """Rounded down, so that 100% is all of it."""
    return f"{int(share * 1000) / 10:g}%"


def coverage_of(model: nn.Module, tracked: Iterable[str]) -> Coverage:
    """The coverage of the tracked parameters (`GradientCollector.tracked`) of ``model``."""
    names = set(tracked)
    adapted = _changed_by(model, names)
    layer = output_layer(model)
    embeddings, head = embedding_weights(model), set(() if layer is None else map(id, layer.parameters()))
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    seen: set[int] = set()
    for name, module, parameter in _parameters(model):
        if id(parameter) in seen or (".lora_" in name and not _left_beside(name, names)):
            continue
        seen.add(id(parameter))
        size = weight_size(module) if name.endswith(".weight") and is_supported(module) else parameter.numel()
        inside, kind = name in names or id(parameter) in adapted, None
        if "modules_to_save" not in name.split("."):
            kind = "embeddings" if id(parameter) in embeddings else "output head" if id(parameter) in head else None
        counts[inside][kind or _kind(name, module, inside)] += size
    return Coverage(dict(counts[True]), dict(counts[False]))


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{prefix}.{name}" if prefix else name, module, parameter


def _left_beside(name: str, tracked: set[str]) -> bool:
    """Whether it is an adapter's tensor that is not tracked although others of the adapter are."""
    return name not in tracked and any(".lora_" in other for other in tracked)


def _changed_by(model: nn.Module, tracked: set[str]) -> set[int]:
    """The parameters that the tracked factors of an adapter change."""
    found = set()
    for name in tracked:
        wrapper, factor, _ = name.partition(".lora_")
        if factor:
            layer: Any = model.get_submodule(wrapper)
            base = layer.get_base_layer()
            found.add(id(getattr(base, getattr(layer, "parameter_name", "weight"))))
    return found


def _kind(name: str, module: nn.Module, tracked: bool) -> str:
    """What a parameter is, from its place and its layer's type."""
    path, kind = name.split("."), type(module).__name__.lower()
    owner = path[-2].lower() if len(path) > 1 else ""
    rules = {
        "modules_to_save": "modules_to_save" in path,
        "adapter factors": ".lora_" in name,
        "biases": path[-1].endswith("bias"),
        "norms": "norm" in kind or "norm" in owner,
        "routers": owner == "gate" or any(word in kind or word in owner for word in ("router", "gating")),
        "experts": "expert" in kind or any("expert" in part and "shared" not in part for part in path),
        "convolutions": isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
        "linear layers": tracked,
    }
    found = next((title for title, holds in rules.items() if holds), None)
    return found or (path[-2] if path[-1] == "weight" else path[-1])
