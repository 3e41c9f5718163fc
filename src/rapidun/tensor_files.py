"""Safetensors files, whoever wrote them: their tensors, or one line that names the file.

A file may be cut off, be of another format, or hold a type that this side does not know; the library then raises one of
half a dozen types, and its message names no file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapidun.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch


def load_tensors(path: Path, advice: str = "Copy or download it again.") -> dict[str, torch.Tensor]:
    """Every tensor of a file, by name, on the CPU.

    Raises:
        InputError: If it is missing or damaged; ends in ``advice``.
    """
    from safetensors.torch import load_file

    return dict(_loaded(load_file, path, advice))


def load_arrays(path: Path, advice: str = "Copy or download it again.") -> dict[str, np.ndarray]:
    """The same as NumPy arrays. Raises as `load_tensors`, and for bfloat16, which NumPy does not have."""
    from safetensors.numpy import load_file

    return dict(_loaded(load_file, path, advice))


def tensor_names(path: Path, advice: str = "Copy or download it again.") -> list[str]:
    """The names alone, from the file's header. Raises as `load_tensors`."""
    from safetensors import safe_open

    def names(file: Path) -> list[str]:
        with safe_open(str(file), framework="np") as opened:
            return list(opened.keys())

    found: list[str] = _loaded(names, path, advice)
    return found


def _loaded(load: Callable[[Path], Any], path: Path, advice: str) -> Any:
    from safetensors import SafetensorError

    try:
        return load(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. {advice}") from error
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: not a whole safetensors file ({reason}). {advice}") from error
