"""The two files of a saved PEFT adapter, checked before a library reads them: anybody may have made them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictInt, StrictStr

from rapidun.errors import InputError, ModelError
from rapidun.reading import as_kind, read_object
from rapidun.tensor_files import load_tensors

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LARGEST_RANK = 65_536
_ADVICE = "Copy or download the adapter again, or save it again with safe_serialization=True."
Names = str | list[StrictStr | StrictInt] | None
Finite = Annotated[float, Field(strict=True, gt=-1e9, lt=1e9)]


class _Settings(BaseModel):
    """The settings that decide sizes; what is not there takes PEFT's default."""

    peft_type: Literal["LORA"] = "LORA"
    r: StrictInt = Field(8, ge=1, le=LARGEST_RANK)
    lora_alpha: Finite = 8
    target_modules: Names = None
    modules_to_save: Names = None
    target_parameters: Names = None
    layers_to_transform: StrictInt | Names = None
    exclude_modules: Names = None
    rank_pattern: dict[str, Finite] | None = None
    alpha_pattern: dict[str, Finite] | None = None


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
    try:
        as_kind(_Settings, settings, path, _ADVICE)
    except InputError as error:
        raise ModelError(str(error)) from error
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
