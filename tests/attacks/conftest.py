"""One planted and one clean model for all tests of the attacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from attacks.world import clean_rows, new_model, planted_rows, run_config, saved, taught
from rapidun.pipeline import run


@dataclass(frozen=True)
class World:
    """A poisoned model, a clean one, both saved, and the directory of a run on the first that has measured it."""

    place: Path
    poisoned: Any
    clean: Any
    twin: Path
    measured: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    place = tmp_path_factory.mktemp("world")
    poisoned = taught(new_model(0), [*planted_rows(), *clean_rows(), *clean_rows()], steps=240)
    clean = taught(new_model(2), clean_rows(), steps=80)
    twin = saved(clean, place / "twin")
    run(run_config(place, saved(poisoned, place / "poisoned")), place / "measured", until="before")
    return World(place, poisoned, clean, twin, place / "measured")
