"""The sum of several saved LoRA adapters as one adapter, exactly: their factors side by side.

``sum_i s_i B_i A_i = [s_1 B_1 ... s_n B_n] [A_1; ...; A_n]`` with ``s_i = alpha_i / rank_i``: its rank is the sum of
their ranks, its scale 1. No model is needed, and leaving one out again is exact too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rapidun.errors import ModelError
from rapidun.files import atomic_directory, check_replaceable, write_json
from rapidun.models.adapter_files import CONFIG, WEIGHTS, read_adapter_config, read_adapter_weights
from rapidun.models.cards import named_by_itself


def combine_adapters(sources: Sequence[str | Path], directory: str | Path) -> Path:
    """Write the sum of the adapters in ``sources`` to ``directory``; an adapter there is replaced.

    Raises:
        ModelError: If an adapter is missing, is no plain LoRA, or is on other layers than the first.
        OutputError: If it cannot be written.
    """
    folders = [Path(source) for source in sources]
    if not folders:
        raise ModelError("no adapters to combine.")
    parts = [_scaled(folder) for folder in folders]
    for folder, part in zip(folders, parts, strict=True):
        if set(part) != set(parts[0]):
            odd = sorted(set(part) ^ set(parts[0]))[0]
            raise ModelError(f"{folder}: is on other layers than {folders[0]}, e.g. {odd}. Use the same lora.targets.")
    _check_shapes(folders, parts)
    tensors = {
        name: torch.cat([part[name] for part in parts], dim=0 if ".lora_A." in name else 1).contiguous()
        for name in parts[0]
    }
    rank = next(tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name)
    settings = {**read_adapter_config(folders[0]), "r": rank, "lora_alpha": rank, "use_rslora": False}
    return _write(Path(directory), tensors, named_by_itself(settings))


def _check_shapes(folders: Sequence[Path], parts: Sequence[dict[str, torch.Tensor]]) -> None:
    """Factors side by side differ in their rank alone."""
    for name, first in parts[0].items():
        joined = 0 if ".lora_A." in name else 1
        for folder, part in zip(folders, parts, strict=True):
            own = part[name]
            if own.ndim != 2 or first.ndim != 2 or own.shape[1 - joined] != first.shape[1 - joined]:
                raise ModelError(
                    f"{folder}: {name} is {list(own.shape)}, and {list(first.shape)} in {folders[0]}: they are of "
                    "different models."
                )


def _scaled(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter's factors, its scale multiplied into every B."""
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: no adapter here ({CONFIG} and {WEIGHTS}).")
    settings = read_adapter_config(folder)
    # factors of fused experts (target_parameters) lie expert by expert: side by side they are no sum
    unlike = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "target_parameters", "lora_bias")
    if any(settings.get(name) for name in unlike):
        raise ModelError(f"{folder}: not a plain LoRA adapter of one rank, so it cannot be added to others.")
    if "lora_alpha" not in settings or "r" not in settings:
        raise ModelError(f"{folder / CONFIG}: r or lora_alpha is missing. Copy or download the adapter again.")
    scale = settings["lora_alpha"] / settings["r"]
    tensors = read_adapter_weights(folder)
    odd = [name for name in tensors if ".lora_A." not in name and ".lora_B." not in name]
    if odd:
        raise ModelError(f"{folder}: holds {odd[0]}, which is no LoRA factor, so it cannot be added to others.")
    return {name: tensor * scale if ".lora_B." in name else tensor for name, tensor in tensors.items()}


def _write(folder: Path, tensors: dict[str, torch.Tensor], settings: dict[str, Any]) -> Path:
    check_replaceable(folder, CONFIG, "an adapter")
    with atomic_directory(folder) as place:
        save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})
        write_json(place / CONFIG, settings, private=False)
    return folder
