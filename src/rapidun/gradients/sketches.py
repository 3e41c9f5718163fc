"""Per-example gradients of many tensors, reduced to one vector of k values: the protocols, and the exact form.

A sketch is a linear map of the concatenated gradients. It gets them one tensor at a time, in any order, so the
whole gradient never exists. A `DenseSketch` takes each tensor's gradient, a `FactorSketch` the activations and
output errors whose outer products it is the sum of, so that not even one tensor's gradient exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch

from rapidun.errors import ConfigError
from rapidun.registry import Registry, check_options
from rapidun.settings import names


@runtime_checkable
class Sketch(Protocol):
    """A linear map from gradients, one tensor at a time, to vectors of k values."""

    def dimension(self, sizes: Mapping[str, int]) -> int:
        """Length of the vectors for tensors of these names and sizes."""

    def describe(self) -> dict[str, int | str]:
        """``kind`` and settings, for a manifest; `sketch_from` makes the same sketch of them."""


@runtime_checkable
class DenseSketch(Sketch, Protocol):
    """A sketch of formed gradients."""

    def add(self, total: torch.Tensor, name: str, gradients: torch.Tensor, sizes: Mapping[str, int]) -> None:
        """Add one tensor's share to ``total`` in place.

        Args:
            total: (batch, dimension) float32.
            name: The tensor's name.
            gradients: (batch, size of the tensor) float32, on the device of ``total``; may be overwritten.
            sizes: Number of values of every tracked tensor, in the model's order.
        """


@runtime_checkable
class FactorSketch(Sketch, Protocol):
    """A sketch of gradients ``sum_t g_t a_t^T`` that are never formed."""

    def add_factors(
        self,
        total: torch.Tensor,
        name: str,
        activations: torch.Tensor,
        errors: torch.Tensor,
        sizes: Mapping[str, int],
    ) -> None:
        """Add one tensor's share to ``total`` in place.

        Args:
            total: (batch, dimension) float32.
            name: The tensor's name.
            activations: ``a``, (batch, tokens, inputs), on the device of ``total``; float32, or bfloat16.
            errors: ``g``, (batch, tokens, outputs), of the same dtype.
            sizes: Number of values of every tracked tensor, in the model's order.
        """


SKETCHES: Registry[Callable[..., Sketch]] = Registry(names.SKETCHES)
register_sketch = SKETCHES.__setitem__
"""``(kind, make)``: the arguments of ``make`` are the sketch's settings."""


def sketch_from(description: Mapping[str, Any]) -> Sketch:
    """The sketch that ``describe()`` described.

    Args:
        description: ``{"kind": ..., setting: value}``; settings left out have their defaults.

    Raises:
        ConfigError: If the kind or a setting is unknown, or a value is out of range.
    """
    settings = dict(description)
    kind = str(settings.pop("kind", ""))
    check_options(f"sketch {kind!r}", SKETCHES[kind], settings)
    return SKETCHES[kind](**settings)


class Described:
    """A sketch that is a dataclass of its settings, registered as ``kind``."""

    kind: ClassVar[str]

    def describe(self) -> dict[str, int | str]:
        """Kind and settings, for the manifest of an index."""
        return {"kind": self.kind, **vars(self)}


@dataclass(frozen=True)
class Hashed(Described):
    """A sketch to ``k`` values, whatever is tracked. Raises ConfigError if ``k`` is not between 1 and 2^31 - 1."""

    k: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.k < 2**31:
            raise ConfigError(f"sketch k={self.k}: give a number between 1 and 2147483647, for example 65536.")

    def dimension(self, sizes: Mapping[str, int]) -> int:
        """``k``, whatever is tracked."""
        return self.k


@SKETCHES.register("exact")
class Exact(Described):
    """No sketch: all gradients side by side, in the model's order. For small models and as the reference."""

    kind = "exact"

    def dimension(self, sizes: Mapping[str, int]) -> int:
        """Number of tracked values."""
        return sum(sizes.values())

    def add(self, total: torch.Tensor, name: str, gradients: torch.Tensor, sizes: Mapping[str, int]) -> None:
        """Add ``gradients`` at the tensor's place."""
        start = 0
        for other, size in sizes.items():
            if other == name:
                total[:, start : start + size] += gradients
                return
            start += size
        raise KeyError(name)
