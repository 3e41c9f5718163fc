"""Content fingerprints: equal exactly when the numbers are, however they are stored.

An index, a run and an adapter name the model they belong to by these. They are taken from the loaded tensors,
so that saving again, sharding differently or moving the folder changes nothing, and one flipped bit does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from rapidun.errors import ModelError
from rapidun.files import sha256_of
from rapidun.models.adapter_files import WEIGHTS, read_adapter_config, read_adapter_weights

# What PEFT records about where and by whom an adapter was written, not what it computes.
_NOT_CONTENT = {"base_model_name_or_path", "inference_mode", "peft_version", "revision", "auto_mapping"}


def tensors_fingerprint(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes in order of name; one tensor on the CPU at a time."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_fingerprint(model: torch.nn.Module) -> str:
    """Fingerprint of the model's own parameters, with or without a LoRA adapter attached.

    Tied parameters count once. The dtype counts: a bfloat16 copy of a float32 model is another model.
    """
    return tensors_fingerprint(
        (_own_name(name), parameter) for name, parameter in model.named_parameters() if ".lora_" not in name
    )


def _own_name(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def adapter_fingerprint(directory: str | Path) -> str:
    """Fingerprint of a saved PEFT adapter: its tensors and the settings that decide what they compute.

    Raises:
        ModelError: If the directory holds no safetensors adapter.
    """
    folder = Path(directory)
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: no adapter here ({WEIGHTS} is missing).")
    settings = {name: value for name, value in read_adapter_config(folder).items() if value}
    content = {name: settings[name] for name in settings.keys() - _NOT_CONTENT}
    if isinstance(content.get("target_modules"), list):
        content["target_modules"] = sorted(content["target_modules"], key=str)
    tensors = tensors_fingerprint(read_adapter_weights(folder).items())
    return sha256_of([json.dumps(content, sort_keys=True).encode(), tensors.encode()])


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Fingerprint of how the tokenizer maps text to ids: its ``tokenizer.json`` without formatting, BOS and EOS.

    Padding and truncation settings do not count: they change with use.

    Raises:
        ModelError: If the tokenizer is a slow one and has no such content.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{type(tokenizer).__name__} is a slow tokenizer: it has no tokenizer.json to fingerprint.")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    for setting in ("padding", "truncation"):
        content.pop(setting, None)
    special = [tokenizer.bos_token, tokenizer.eos_token]
    return sha256_of([json.dumps(part, sort_keys=True).encode() for part in (content, special)])
