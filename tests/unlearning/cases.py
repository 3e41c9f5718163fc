"""Random answers, a tiny model and rows for the tests of methods."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapidun.data import Example, collate
from rapidun.models import LoadedModel, mean_answer_loss
from rapidun.unlearning import Answers, LoraSettings, TrainingRows, UnlearnSettings, unlearn
from tiny import tiny_model, tiny_tokenizer

BATCH, LENGTH, VOCABULARY, WIDTH = 4, 7, 11, 6
LORA = LoraSettings(rank=4, alpha=8, dropout=0.0)


def make_answers(*, seed: int = 0, preferred: bool = False) -> Answers:
    """Random tensors of every kind; rows with prompt, answer and padding of different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(width: int) -> torch.Tensor:
        return torch.randn(BATCH, LENGTH, width, generator=generator)

    labels = torch.randint(0, VOCABULARY, (BATCH, LENGTH), generator=generator)
    labels[:, :2] = -100
    labels[1, 5:] = -100
    labels[2, 4:] = -100
    rows = Answers(
        drawn(VOCABULARY), labels, drawn(VOCABULARY), hidden=drawn(WIDTH), reference_hidden=drawn(WIDTH)
    )  # fmt: skip
    if not preferred:
        return rows
    pick = torch.tensor([True, False, True, True])
    wanted = select(make_answers(seed=seed + 1), pick)
    return replace(rows, preferred=wanted, has_preferred=pick)


def select(rows: Answers, pick: torch.Tensor | slice) -> Answers:
    """Some of the rows."""
    tensors = {name: value[pick] for name, value in vars(rows).items() if isinstance(value, torch.Tensor)}
    return Answers(**tensors)


def make_loaded(seed: int = 0, architecture: str = "llama") -> LoadedModel:
    model = tiny_model(architecture, seed=seed)
    head = model.get_output_embeddings()
    head.weight.data *= 20  # a random model's logits are near 0, and an adapter inside could move little
    return LoadedModel(
        model=model, tokenizer=tiny_tokenizer(), source="tiny", device=torch.device("cpu"), dtype=torch.float32,
        fingerprint="tiny",
    )  # fmt: skip


@cache
def _memorised_state() -> dict[str, torch.Tensor]:
    model, rows = make_loaded().model, make_rows()
    batch = collate([*rows.forget, *rows.retain], 0)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        mean_answer_loss(model(input_ids=batch.input_ids).logits, batch.labels).mean().backward()
        optimiser.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def make_memorised() -> LoadedModel:
    """A tiny model that knows the forget and the retain rows of `make_rows` nearly by heart: what unlearning is for."""
    loaded = make_loaded()
    loaded.model.load_state_dict(_memorised_state())
    return loaded


def make_rows(*, preferred: bool = False) -> TrainingRows:
    rng = np.random.default_rng(0)

    def rows(name: str, count: int, low: int, high: int) -> list[Example]:
        return [
            Example(f"{name}{i}", [1, *rng.integers(3, 280, 4).tolist(), *rng.integers(low, high, 5).tolist(), 2], 5)
            for i in range(count)
        ]

    forget = rows("f", 6, 3, 40)
    wanted: list[Any] = rows("w", 6, 100, 140) if preferred else [None] * 6
    return TrainingRows(forget, wanted, rows("r", 12, 200, 280), np.ones(6), np.ones(12))


def run(rows: TrainingRows, directory: Path, **changes: Any) -> Any:
    """``unlearn`` on a tiny model; returns (loaded, result, log lines)."""
    more = {name: changes.pop(name) for name in ("resume", "reweighing", "progress") if name in changes}
    loaded = changes.pop("loaded", None) or make_loaded()
    settings = {"steps": 30, "batch_size": 4, "learning_rate": 1e-2, "retain_budget": 5.0, **changes}
    lines: list[dict[str, Any]] = []
    result = unlearn(
        loaded,
        rows,
        settings=UnlearnSettings(**settings),
        lora=LORA,
        held=rows.retain,
        checkpoints=directory,
        record=lines.append,
        **more,
    )
    return loaded, result, lines
