"""Vectors as they are stored: float32 (in memory), float16, bfloat16 or int8, each row with a float32 scale.

``value = stored * scale``. For int8 the scale is the row's largest value over 127. For float16 it is the power of two
that brings the row's largest value into [1, 2), which loses nothing and keeps small gradients from flushing to zero
and large activations from overflowing. For bfloat16, whose range is float32's, and float32 it is 1.
"""

from __future__ import annotations

import torch

from rapidun.errors import ModelError
from rapidun.gradients.norms import scaled_norms
from rapidun.settings.kinds import StoreDtype

TORCH_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
_SMALLEST = 2.0**-126


def encode(values: torch.Tensor, dtype: StoreDtype) -> tuple[torch.Tensor, torch.Tensor]:
    """``(stored (rows, width) of dtype, scale (rows,) float32)`` of float32 ``values`` (rows, width)."""
    largest = values.abs().amax(dim=1) if values.shape[1] else values.new_zeros(len(values))
    scale = _scale(largest, dtype).to(torch.float32)
    scaled = values / scale.unsqueeze(1)
    if dtype == "int8":
        scaled = scaled.round().clamp(-127, 127)
    return scaled.to(TORCH_DTYPES[dtype]), scale


def decode(stored: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(rows, width) float32."""
    return stored.to(torch.float32) * scale.unsqueeze(1)


def _scale(largest: torch.Tensor, dtype: StoreDtype) -> torch.Tensor:
    if dtype == "int8":
        scale = (largest / 127).clamp(min=_SMALLEST)
    elif dtype == "float16":
        scale = torch.ldexp(torch.ones_like(largest), (torch.frexp(largest).exponent - 1).clamp(min=-126))
    else:
        return torch.ones_like(largest)
    return torch.where(largest > 0, scale, 1.0)


class MatrixBuffer:
    """One shard's rows of one matrix, encoded as they come, in any order.

    Args:
        name: The matrix's name; its tensors are ``name``, ``name.scale`` and ``name.norm``.
        rows: Rows of the shard.
        width: Length of a vector.
        dtype: How values are stored.
    """

    def __init__(self, name: str, rows: int, width: int, dtype: StoreDtype) -> None:
        self.name = name
        self._dtype = dtype
        self._stored = torch.zeros(rows, width, dtype=TORCH_DTYPES[dtype])
        self._scale = torch.ones(rows)
        self._norm = torch.zeros(rows)

    def put(self, places: list[int], values: torch.Tensor) -> None:
        """Store ``values`` (len(places), width) float32, on any device, at the rows ``places``.

        Raises:
            ModelError: If a value is not finite.
        """
        stored, scale = encode(values.detach(), self._dtype)
        norms = scaled_norms(decode(stored, scale))
        if not bool(norms.isfinite().all()):
            raise ModelError(f"{self.name}: vectors are not finite. Load the model as bfloat16 or float32.")
        self._stored[places] = stored.cpu()
        self._scale[places] = scale.cpu()
        self._norm[places] = norms.cpu()

    def tensors(self) -> dict[str, torch.Tensor]:
        """``{name, name.scale, name.norm}``; the norms are those of the stored values, for cosines."""
        return {self.name: self._stored, f"{self.name}.scale": self._scale, f"{self.name}.norm": self._norm}
