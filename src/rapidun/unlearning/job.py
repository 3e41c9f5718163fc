"""What a method is given to work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapidun.data.batches import Example
from rapidun.models.loading import LoadedModel
from rapidun.unlearning.reweighing import Reweighing
from rapidun.unlearning.sampling import WeightedRows

if TYPE_CHECKING:  # settings know the methods, and methods take jobs
    from rapidun.settings.unlearning import LoraSettings, UnlearnSettings

Record = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """One unlearning, as `rapidun.unlearning.unlearn` was called."""

    loaded: LoadedModel
    rows: WeightedRows
    settings: UnlearnSettings
    lora: LoraSettings
    held: list[Example]
    checkpoints: Path
    seed: int = 0
    resume: bool = False
    record: Record = lambda line: None
    progress: Callable[[int, int], None] | None = None
    reweighing: Reweighing | None = None
    note: Callable[[str], None] = lambda text: None
