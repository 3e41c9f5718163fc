"""A whole model and its tokenizer, written beside their place and renamed into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rapidun.files import atomic_directory, check_replaceable
from rapidun.models.quiet import quiet


def save_model(model: Any, tokenizer: Any, directory: str | Path) -> Path:
    """Write ``model`` and ``tokenizer`` as a Hugging Face directory with safetensors; a saved model there is replaced.

    Raises:
        OutputError: If something else is at ``directory``, or it cannot be written.
    """
    folder = Path(directory)
    check_replaceable(folder, "config.json", "a model")
    with atomic_directory(folder) as place, quiet():
        model.save_pretrained(place, safe_serialization=True)
        tokenizer.save_pretrained(place)
    return folder
