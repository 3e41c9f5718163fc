"""A whole model and its tokenizer, written beside their place and renamed into it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from rapidun.errors import OutputError
from rapidun.files import disk_error
from rapidun.models.quiet import quiet


def save_model(model: Any, tokenizer: Any, directory: str | Path) -> Path:
    """Write ``model`` and ``tokenizer`` as a Hugging Face directory with safetensors; a saved model there is replaced.

    Raises:
        OutputError: If something else is at ``directory``, or it cannot be written.
    """
    folder = Path(directory)
    if folder.exists() and not (folder / "config.json").is_file():
        raise OutputError(f"{folder}: holds something that is not a model. Choose another place.")
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        with quiet():
            model.save_pretrained(beside, safe_serialization=True)
            tokenizer.save_pretrained(beside)
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
    except OSError as error:
        raise disk_error(error, folder) from error
    finally:
        for leftover in (beside, old):
            shutil.rmtree(leftover, ignore_errors=True)
    return folder
