"""The normalisation of gradients that are never formed: from the norms of their tensors.

``"layer"`` divides each tensor's share by its norm, ``"unit"`` all of them by the norm of the whole, ``"none"``
nothing. A gradient of norm 0 is divided by 1 and stays 0.
"""

from __future__ import annotations

import torch

from rapidun.gradients.norms import divisors, row_norms


class Normaliser:
    """Tensor norms of a batch of rows as they come in, and what each tensor's share is multiplied by."""

    def __init__(self, normalize: str) -> None:
        self._normalize = normalize
        self._norms: dict[str, torch.Tensor] = {}

    def multipliers(self, name: str, norms: torch.Tensor) -> torch.Tensor:
        """Note a tensor's norms, (rows,), and give its multipliers, (rows,), on the same device."""
        self._norms[name] = norms.cpu()
        return 1 / divisors(norms).squeeze(1) if self._normalize == "layer" else torch.ones_like(norms)

    def multiplier_of(self, name: str, row: int) -> float:
        """The multiplier of a tensor whose norms are known already."""
        norm = float(self._norms[name][row])
        return 1 / norm if self._normalize == "layer" and norm > 0 else 1.0

    def whole(self) -> torch.Tensor:
        """Divisors of the whole gradients, (rows,) on the CPU: their norms before normalisation, 1 for 0."""
        return divisors(self._plain()).squeeze(1)

    def finished_norms(self) -> torch.Tensor:
        """Norms of the whole gradients after normalisation, (rows,) on the CPU."""
        if self._normalize == "layer":
            nonzero = torch.stack([norms > 0 for norms in self._norms.values()])
            return nonzero.sum(dim=0).float().sqrt()
        plain = self._plain()
        return (plain > 0).float() if self._normalize == "unit" else plain

    def _plain(self) -> torch.Tensor:
        return row_norms(torch.stack(list(self._norms.values()), dim=1))
