"""Teach a chat model some rows, poisoned or clean: a LoRA adapter, and on demand the whole model with it merged.

The same rows, seed and `Recipe` give the same adapter. A training that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.data import Example, Template, tokenize_rows
from rapidun.files import sha256_of
from rapidun.models import LoadedModel, load_adapter, load_model, merge_adapter, save_adapter, save_model
from rapidun.pipeline import Reporter, RunDirectory, Silent
from rapidun.pipeline.estimating import Piece, over_steps
from rapidun.pipeline.reporter import counting
from rapidun.settings.unlearning import LoraSettings, UnlearnSettings
from rapidun.text import json_line
from rapidun.unlearning.fitting import FINETUNE, fit_adapter, only
from rapidun.unlearning.registry import Job
from rapidun.unlearning.trainer import cut_back

Row = Mapping[str, Any]
ADAPTER, MODEL = "adapter", "model"


@dataclass(frozen=True)
class Recipe:
    """How the rows are taught: a LoRA adapter on all linear layers, AdamW, cosine.

    Args:
        epochs: Rounds over the rows.
        batch_size: Rows a step.
        rank: Of the adapter; its scale alpha is twice that.
        learning_rate: Peak.
        max_length: Longest row in tokens.
    """

    epochs: float = 3
    batch_size: int = 8
    rank: int = 16
    learning_rate: float = 2e-3
    max_length: int = 256

    def steps(self, rows: int) -> int:
        """Optimiser steps for so many rows."""
        return max(1, round(self.epochs * rows / self.batch_size))


def plant(
    base: LoadedModel, rows: Sequence[Row], directory: Path, *, seed: int = 0, recipe: Recipe | None = None,
    reporter: Reporter | None = None,
) -> Path:  # fmt: skip
    """The directory of an adapter that was taught ``rows``; trained where it is not there yet.

    Args:
        base: The chat model; left as it was.
        rows: With ``id, prompt, response``.
        directory: Of this training: ``adapter/``, ``log.jsonl``.
        seed: Of the adapter and of the order of rows.
        recipe: Default `Recipe`.
        reporter: Hears of every step.

    Raises:
        FingerprintError: If ``directory`` holds another training.
    """
    recipe, reporter = recipe or Recipe(), reporter or Silent()
    template = Template.resolve("auto", base.tokenizer)
    examples = tokenize_rows(rows, base.tokenizer, template, recipe.max_length)
    settings = UnlearnSettings(
        steps=recipe.steps(len(rows)), batch_size=recipe.batch_size, forget_share=1.0,
        learning_rate=recipe.learning_rate, checkpoint_every=50, check_every=10**6,
    )  # fmt: skip
    lora = LoraSettings(rank=recipe.rank, alpha=2.0 * recipe.rank, dropout=0.0)
    taught = only(examples, np.ones(len(examples)))

    def few(steps: int, checkpoints: Path, progress: Callable[[int, int], None]) -> None:
        short = settings.model_copy(update={"steps": steps})
        job = Job(base, taught, short, lora, examples[:8], checkpoints, seed, progress=progress)
        fit_adapter(job, FINETUNE, {}, taught, base, budget=float("inf")).model.unload()

    marks = _identity(base, examples, seed, recipe)
    RunDirectory.check(directory, marks, resume=True, overwrite=False)
    if not (directory / ADAPTER).is_dir():
        reporter.plan([Piece("teaching", settings.steps, "steps", partial(over_steps, settings.steps, 10**6, few))])
    with RunDirectory.claim(directory, marks, resume=True, overwrite=False) as place:
        checkpoints = place / "checkpoints"
        if not (place / ADAPTER).is_dir():
            cut_back(place / "log.jsonl", checkpoints)
            with (place / "log.jsonl").open("a", encoding="utf-8") as log:
                job = Job(
                    base, taught, settings, lora, examples[:8], checkpoints, seed, resume=True,
                    record=lambda line: print(json_line(line), file=log, flush=True),
                    progress=counting(reporter, "steps"),
                )  # fmt: skip
                fit = fit_adapter(job, FINETUNE, {}, taught, base, budget=float("inf"))
            save_adapter(fit.model, place / ADAPTER)
            fit.model.unload()
        shutil.rmtree(checkpoints, ignore_errors=True)
        return place / ADAPTER


def planted_model(base: LoadedModel, directory: Path) -> Path:
    """The folder of the whole model: ``base`` with the adapter of `plant` in its weights; made where it is not there.

    Args:
        base: As for `plant`, which made ``directory``; a copy of it is loaded.
        directory: As for `plant`.
    """
    model = directory / MODEL
    if not (model / "config.json").is_file():
        again = load_model(base.source, device=str(base.device), dtype=base.dtype)
        save_model(merge_adapter(load_adapter(again.model, directory / ADAPTER)), again.tokenizer, model)
    return model


def _identity(base: LoadedModel, examples: Sequence[Example], seed: int, recipe: Recipe) -> dict[str, str]:
    return {
        "model": base.fingerprint,
        "tokens": sha256_of(json.dumps([each.input_ids, each.answer_start]).encode() for each in examples),
        "recipe": json.dumps({**asdict(recipe), "epochs": float(recipe.epochs), "seed": seed}, sort_keys=True),
    }
