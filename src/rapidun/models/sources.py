"""What stands at the place a user named, looked at before anything is loaded.

A directory is checked by hand, because "no config.json" and "these are pickles" are clearer than what a failed
load says. Pickled weights can run any code when they are read, so they need the user's word. A ``.gguf`` file holds
weights, tokenizer and chat template together; transformers dequantises it. Whether the hub can be reached is asked
once, briefly, instead of minutes of retries where it cannot.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from rapidun.errors import ModelError
from rapidun.reading import path_fault

PATIENCE = 3.0
"""Seconds that a connection to the hub may take."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def is_local(source: str) -> bool:
    """Whether ``source`` means a path: it exists, or it cannot be a hub id (``name`` or ``owner/name``).

    Raises:
        ModelError: If no system can have such a path.
    """
    if fault := path_fault(source):
        raise ModelError(f"{source[:200]}: no path and no hub id: it {fault}.")
    return _path(source).exists() or source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source


def _path(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError as error:
        raise ModelError(f"{source}: {error} Write the directory out.") from error


def is_gguf(source: str) -> bool:
    """Whether ``source`` means a GGUF file."""
    return source.lower().endswith(".gguf")


def check_gguf(source: str) -> Path:
    """The GGUF file, if it is one and the package that reads it is installed.

    Raises:
        ModelError: Says what is missing and what to do.
    """
    path = _path(source)
    if not path.is_file():
        raise ModelError(f"{source}: no such file. Give a .gguf file, a Hugging Face model directory or a hub id.")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelError(f"{source}: not a GGUF file (it begins with {magic!r}). Download it again.")
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"{source}: reading GGUF files needs the package gguf: pip install 'rapidun[gguf]'.")
    return path


def gguf_options(path: Path) -> dict[str, Any]:
    """What ``from_pretrained`` of a model is told to read and dequantise a GGUF file."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)  # before it came, a GGUF file was always dequantised
    return {"gguf_file": path.name, **({"quantization_config": config(dequantize=True)} if config else {})}


def check_directory(source: str, *, allow_pickle: bool) -> Path:
    """The directory, if it holds a configuration, usable weights and a tokenizer.

    Raises:
        ModelError: Says what is missing and what to do.
    """
    folder = _path(source)
    if not folder.is_dir():
        state = "is a file, not a model directory" if folder.exists() else "no such directory"
        raise ModelError(f"{source}: {state}. Give a Hugging Face model directory or a hub id such as owner/name.")
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(f"{source}: this is an adapter. Give its base model as --model and this as --adapter.")
        raise ModelError(
            f"{source}: no config.json, so not a Hugging Face model directory. Give the one that save_pretrained wrote."
        )
    _check_weights(folder, source, allow_pickle=allow_pickle)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"{source}: no tokenizer (tokenizer.json is missing). Save the model's tokenizer there with "
            "tokenizer.save_pretrained(DIR)."
        )
    return folder


def _check_weights(folder: Path, source: str, *, allow_pickle: bool) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if not pickles:
        raise ModelError(f"{source}: no weights (*.safetensors) beside config.json.")
    if not allow_pickle:
        raise ModelError(
            f"{source}: the weights are a pickle ({pickles[0]}), which can run any code when it is read. Convert them "
            "to safetensors, or pass --dangerously-allow-pickle if you trust where they come from."
        )


def hub_options() -> dict[str, Any]:
    """What ``from_pretrained`` is told of a hub id: to look in the local cache alone where there is no hub."""
    return {} if hub_answers() else {"local_files_only": True}


def hub_answers() -> bool:
    """Whether a connection to the hub can be opened; taken for granted behind a proxy."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    if getproxies():
        return True
    from huggingface_hub.constants import ENDPOINT

    place = urlsplit(ENDPOINT)
    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        socket.create_connection((place.hostname or "", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True
