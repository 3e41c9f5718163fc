"""The two files of a saved PEFT adapter, checked before a library reads them: anybody may have made them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapidun.errors import InputError, ModelError
from rapidun.reading import read_object
from rapidun.tensor_files import load_tensors

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LARGEST_RANK = 65_536
_ADVICE = "Copy or download the adapter again, or save it again with safe_serialization=True."
_NAMES = ("target_modules", "modules_to_save", "target_parameters", "layers_to_transform", "exclude_modules")
_TABLES = ("rank_pattern", "alpha_pattern")


def check_adapter_directory(folder: Path) -> None:
    """Refuse a directory that holds no PEFT adapter in safetensors, before a model is loaded.

    Raises:
        ModelError: Says what is missing.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such directory.")
    if not (folder / CONFIG).is_file():
        raise ModelError(
            f"{folder}: no {CONFIG}, so not a PEFT adapter. Give the directory that save_pretrained wrote."
        )
    if not (folder / WEIGHTS).is_file():
        pickled = " Its weights are a pickle, which is not read." if (folder / "adapter_model.bin").exists() else ""
        raise ModelError(f"{folder}: no {WEIGHTS}.{pickled} Save the adapter again with safe_serialization=True.")
    read_adapter_config(folder)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The settings of a saved LoRA adapter; those that decide sizes are of the right type and within reason.

    Raises:
        ModelError: If the file is missing, is no JSON object, or holds a setting that no LoRA adapter can have.
    """
    path = folder / CONFIG
    try:
        settings = read_object(path)
    except InputError as error:
        raise ModelError(f"{error} {_ADVICE}") from error
    fault = _fault(settings)
    if fault is not None:
        raise ModelError(f"{path}: {fault}. {_ADVICE}")
    return settings


def read_adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved adapter, by name.

    Raises:
        ModelError: If the file is missing or damaged.
    """
    try:
        return load_tensors(folder / WEIGHTS, _ADVICE)
    except InputError as error:
        raise ModelError(str(error)) from error


def _fault(settings: dict[str, Any]) -> str | None:
    """What no LoRA adapter can have; None where all is well. What is not there takes PEFT's default."""
    kind, rank, alpha = settings.get("peft_type", "LORA"), settings.get("r", 8), settings.get("lora_alpha", 8)
    if kind != "LORA":
        return f"peft_type is {_shown(kind)}, and only LORA adapters can be used"
    if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
        return f"r is {_shown(rank)}; a rank is a whole number from 1 to {LARGEST_RANK}"
    if not _is_finite(alpha):
        return f"lora_alpha is {_shown(alpha)}; it must be a finite number"
    for name in _NAMES:
        value = settings.get(name)
        parts = value if isinstance(value, list) else [value]
        if not all(part is None or isinstance(part, str | int) for part in parts):
            return f"{name} is {_shown(value)}; it must be a name or a list of names"
    for name in _TABLES:
        value = settings.get(name) or {}
        if not isinstance(value, dict) or not all(map(_is_finite, value.values())):
            return f"{name} is {_shown(value)}; it must hold a number for each layer"
    return None


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9 and math.isfinite(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
