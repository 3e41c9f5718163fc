"""A tiny model, rows and plans that the tests of this room share."""

from __future__ import annotations

from pathlib import Path

import torch

from rapidun.attribution import GradientScorer, ModelContext
from rapidun.attribution.store import plan_build
from rapidun.data import Template, load_rows
from rapidun.gradients import RapidGrad
from rapidun.models import LoadedModel, model_fingerprint
from tiny import tiny_model, tiny_tokenizer, write_rows


def model_context(architecture: str = "llama", *, seed: int = 0, network=None, **options) -> ModelContext:
    network = tiny_model(architecture, seed=seed) if network is None else network
    tokenizer = tiny_tokenizer()
    loaded = LoadedModel(network, tokenizer, "tiny", torch.device("cpu"), torch.float32, model_fingerprint(network), ())
    return ModelContext(loaded, Template.resolve("plain", tokenizer), **options)


def some_rows(folder: Path, count: int, *, name: str = "rows", start: int = 0):
    return load_rows(
        write_rows(
            folder / f"{name}.jsonl",
            [
                {
                    "id": f"r{i}",
                    "prompt": f"tell me of {i} " + "and more " * (i % 5),
                    "response": "the cat sat " * (i % 3 + 1) + str(i),
                }
                for i in range(start, start + count)
            ],
        )
    )


def gradient_scorer(k: int = 64, seed: int = 0, **settings) -> GradientScorer:
    return GradientScorer(sketch=RapidGrad(k=k, seed=seed).describe(), **settings)


def some_plan(
    folder: Path, count: int = 25, *, out: str = "index", model=None, views=None, shard_rows: int = 8, **more
):
    settings = {"max_length": 96, "max_tokens": 200, **more}
    return plan_build(
        folder / out,
        some_rows(folder, count),
        model or model_context(),
        views or {"gradient": gradient_scorer()},
        shard_rows=shard_rows,
        **settings,
    )


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }
