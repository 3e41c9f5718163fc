"""What an adapter says of itself: its model card, and no path of the machine that it was made on."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import Any

from rapidun.files import atomic_write, write_json
from rapidun.models.adapter_files import CONFIG
from rapidun.models.sources import is_local
from rapidun.reading import read_object

CARD = "README.md"
LIMITS = (
    "It stands for the base model, rows and prompts that it was made and measured with, and for no others.",
    "What was removed is gone from the answers as they were measured, not proven gone from the weights: further "
    "training, quantisation or other ways of asking may bring it back.",
    "Merging it into weights of another precision, or adding it to other adapters, is another model: measure again.",
)
_BASE = "base_model_name_or_path"


def settle_files(folder: Path) -> None:
    """Make a PEFT directory the same for the same adapter, and free of local paths.

    PEFT writes ``target_modules`` in a set's order, which differs from run to run, the base model by the path that it
    was loaded from, and a card that is an empty form.
    """
    settings = named_by_itself(read_object(folder / CONFIG))
    if isinstance(settings.get("target_modules"), list):
        settings["target_modules"] = sorted(settings["target_modules"])
    write_json(folder / CONFIG, settings, private=False)
    (folder / CARD).unlink(missing_ok=True)


def named_by_itself(settings: dict[str, Any]) -> dict[str, Any]:
    """An adapter's settings with its base model named without the folders it lies in; a hub id stays."""
    base = settings.get(_BASE)
    return {**settings, _BASE: base_name(base)} if isinstance(base, str) else settings


def base_name(source: str) -> str:
    """The last part of a local path (its own, of either system); a hub id as it is."""
    return PureWindowsPath(source).name if is_local(source) else source


def write_card(folder: Path, *, template: str, method: str, verdict: str) -> None:
    """Write the model card of the adapter in ``folder``: base model, template, method, verdict, limits.

    Raises:
        OutputError: If it cannot be written.
    """
    base = str(read_object(folder / CONFIG).get(_BASE) or "not recorded")
    lines = [
        "---", "library_name: peft", "tags: [lora, unlearning, rapidun]", "---", "",
        "# An adapter that makes a model forget", "",
        f"* **Base model:** {base}", f"* **Template of the rows:** {template}", f"* **Method:** {method}",
        f"* **Verdict:** {verdict}", "", "## Limits", "", *(f"* {limit}" for limit in LIMITS), "",
        "Written by [rapidun](https://github.com/rapidun/rapidun).", "",
    ]  # fmt: skip
    with atomic_write(folder / CARD, private=False) as file:
        file.write("\n".join(lines))
