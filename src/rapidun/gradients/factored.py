"""FactoredSketch: two small random projections of every layer, never the layer's gradient (LoGRA).

For ``grad W = sum_t g_t a_t^T`` the sketch of a layer is ``P_out (grad W) P_in^T``, computed as
``sum_t (P_out g_t)(P_in a_t)^T``: (inputs + outputs) x p multiplications a token instead of inputs x outputs.
``P_in`` and ``P_out`` have independent entries +-1/sqrt(p), so ``E<sketch(x), sketch(y)> = <x, y>``. The price is
a variance that falls with 1/p and not with 1/p^2 for gradients of rank one. (Choe et al., What is Your Data Worth to
GPT?, arXiv 2405.13954, section 3.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from rapidun.errors import ConfigError
from rapidun.gradients.rapidgrad import hashed_signs
from rapidun.gradients.sketches import SKETCHES, Described


@SKETCHES.register("factored")
@dataclass(frozen=True)
class FactoredSketch(Described):
    """``p x p`` values a tracked tensor, side by side in the model's order: K = tensors x p^2.

    The projections are a function of (seed, tensor name, side, index) and nothing else: the same on every device,
    for every batch and whatever else is tracked.

    Args:
        p: Projected size of a layer's inputs and of its outputs.
        seed: Another seed is another, independent sketch.

    Raises:
        ConfigError: If ``p`` is not between 1 and 4096.
    """

    kind = "factored"

    p: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.p <= 4096:
            raise ConfigError(f"sketch p={self.p}: give a number between 1 and 4096, for example 16.")

    def dimension(self, sizes: Mapping[str, int]) -> int:
        """``p^2`` for every tracked tensor."""
        return len(sizes) * self.p**2

    def add_factors(
        self,
        total: torch.Tensor,
        name: str,
        activations: torch.Tensor,
        errors: torch.Tensor,
        sizes: Mapping[str, int],
    ) -> None:
        """Add ``P_out (sum_t g_t a_t^T) P_in^T`` at the tensor's place."""
        inputs, outputs = (
            (values @ self._signs(name, side, values)).float()
            for side, values in (("in", activations), ("out", errors))
        )
        start = list(sizes).index(name) * self.p**2
        # b t o, b t i -> b o i
        total[:, start : start + self.p**2] += torch.bmm(outputs.transpose(1, 2), inputs).flatten(1).div_(self.p)

    def projection(self, name: str, side: str, features: int, device: torch.device) -> torch.Tensor:
        """``P_in`` (side ``"in"``) or ``P_out`` (``"out"``) of a tensor, transposed: (features, p) float32."""
        return _signs(self.p, self.seed, name, side, features, device, torch.float32) * (1 / math.sqrt(self.p))

    def _signs(self, name: str, side: str, values: torch.Tensor) -> torch.Tensor:
        """The projection's signs, which are exact in the dtype of ``values``."""
        return _signs(self.p, self.seed, name, side, values.shape[2], values.device, values.dtype)


@lru_cache(maxsize=1024)
def _signs(
    p: int, seed: int, name: str, side: str, features: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """(features, p), +1 or -1."""
    return hashed_signs(seed, f"factored.{side}:{name}", features * p, device).view(features, p).to(dtype)
