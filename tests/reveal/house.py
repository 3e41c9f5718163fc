"""A tiny real model to reveal from, and its parts, for the tests of this room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rapidun.data import Template
from rapidun.models import LoadedModel
from rapidun.revealing import Asker, Input, Puller, PullLog, SoftArms, SoftPrompts
from rapidun.settings.reveal import ArmSettings
from tiny import tiny_model, tiny_tokenizer

ARMS = ArmSettings(pool=12, options={"dimension": 4, "tokens": 2})


def tiny_loaded(seed: int = 0) -> LoadedModel:
    model = tiny_model("llama", seed=seed)
    model.lm_head.weight.data *= 20  # a random model's logits are near 0, and all its answers alike
    return LoadedModel(
        model=model, tokenizer=tiny_tokenizer(), source="tiny", device=torch.device("cpu"), dtype=torch.float32,
        fingerprint="tiny",
    )  # fmt: skip


def make_asker(loaded: LoadedModel, **options: Any) -> Asker:
    template = Template.resolve("plain", loaded.tokenizer)
    soft = SoftPrompts(loaded.model.get_input_embeddings().weight, ARMS.own, seed=0)
    return Asker(loaded, template, soft, **{"max_new_tokens": 6, **options})


def make_puller(folder: Path, judge: Any) -> Puller:
    inputs = [Input(f"the cat {i}", f"ref {i}") for i in range(7)]
    asker = make_asker(tiny_loaded())
    return Puller(asker, judge, inputs, PullLog(folder / "pulls.jsonl"), answers=3, weight=0.5, seed=0)


def soft_arms() -> SoftArms:
    return SoftArms("say {input}", ARMS, seed=0)
