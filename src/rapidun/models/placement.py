"""Where a model runs and in which precision, when the user leaves the choice to us."""

from __future__ import annotations

import torch

from rapidun.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """The device called ``name``; ``auto`` is the first of cuda, mps, cpu that this machine has.

    Raises:
        ModelError: If the name is unknown or the device is not there.
    """
    if name == "auto":
        has_mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device {name!r} is unknown. Choose auto, cpu, cuda, cuda:N or mps.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA GPUs. Use --device auto.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError(f"device {name!r}: this machine has no MPS. Use --device auto.")
    return device


def choose_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype called ``name``; ``auto`` is bfloat16 on a GPU that computes in it, and float32 everywhere else.

    Never float16 by itself: small gradients would flush to zero. On a CPU bfloat16 is mostly slower.

    Raises:
        ModelError: If the name is unknown.
    """
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise ModelError(f"dtype {name!r} is unknown. Choose auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def cpu_computes_in_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices natively (AVX512-BF16 or AMX); elsewhere it is slow."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in probes)
