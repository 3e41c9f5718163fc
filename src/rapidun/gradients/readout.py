"""Readout: the output layer's gradient in two count-sketch channels, from one forward pass and nothing else.

The gradient of the output layer is ``sum_t e_t h_t^T / T``: the error ``e_t = p_t - onehot(y_t)`` of each of the T
answer tokens times the last hidden state ``h_t``. Both are hashed to k buckets, and their outer product's sketch is
the circular convolution of the two (Pham and Pagh, KDD 2013, TensorSketch): value ``(v, i)`` of the gradient goes, with
sign ``r_e(v) r_h(i)``, to bucket ``h_e(v) + h_h(i) mod k``. It is a count-sketch whose hash is a sum, so a matrix given
by factors never exists; ``E<sketch(x), sketch(y)> = <x, y>``, with an error of the order of 1/sqrt(k).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from rapidun.gradients.rapidgrad import RapidGrad
from rapidun.gradients.sketches import SKETCHES, Hashed

_MAX_VALUES = 2**24  # 64 MiB of float32 a channel at a time


@SKETCHES.register("readout")
@dataclass(frozen=True)
class Readout(Hashed):
    """Tensor sketch to ``k`` values of gradients that are sums of outer products; made for the output layer.

    `rapidun.gradients.ReadoutCollector` gives it the output layer's factors without a backward pass. It takes those
    of any layer from a `GradientCollector` too, and is then a sketch of all tracked layers.

    Args:
        k: Number of buckets; a power of two is fastest.
        seed: Another seed is another, independent sketch.

    Raises:
        ConfigError: If ``k`` is not between 1 and 2^31 - 1.
    """

    kind = "readout"

    k: int = 4096

    def add_factors(
        self,
        total: torch.Tensor,
        name: str,
        activations: torch.Tensor,
        errors: torch.Tensor,
        sizes: Mapping[str, int],
    ) -> None:
        """Add ``sum_t sketch(g_t) * sketch(a_t)``, summed over the tokens before the one inverse transform."""
        spectrum = torch.zeros(len(total), self.k // 2 + 1, dtype=torch.complex64, device=total.device)
        step = max(1, _MAX_VALUES // (len(total) * self.k))
        for inputs, outputs in zip(activations.split(step, dim=1), errors.split(step, dim=1), strict=True):
            product = self._channel(f"in:{name}", inputs).mul_(self._channel(f"out:{name}", outputs))
            spectrum += product.sum(dim=1)
        total += torch.fft.irfft(spectrum, n=self.k)

    def _channel(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Spectrum of each token's count-sketch, (batch, tokens, k/2 + 1) complex64."""
        flat = values.flatten(0, 1).float()
        hashed = torch.zeros(len(flat), self.k, device=values.device)
        RapidGrad(self.k, self.seed).add(hashed, name, flat.clone(), {})  # which changes what it is given
        spectrum: torch.Tensor = torch.fft.rfft(hashed)
        return spectrum.view(*values.shape[:2], -1)
