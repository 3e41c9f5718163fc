"""Rows, models and the slow reference that the tests of this room share."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from rapidun.data.batches import Example
from rapidun.models.losses import mean_answer_loss
from tiny import VOCABULARY, tiny_model

LENGTHS = ((9, 4), (14, 6), (5, 2), (11, 10), (7, 1))


def examples(lengths=LENGTHS, *, seed: int = 0) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Example(str(i), torch.randint(3, VOCABULARY, (length,), generator=generator).tolist(), start)
        for i, (length, start) in enumerate(lengths)
    ]


def lora_model(architecture: str = "llama", *, random_b: bool = True, dropout: float = 0.0, **options):
    """A PEFT model with rank-4 factors on every linear layer; B random, or 0 as at the start of training."""
    model = tiny_model(architecture, **options)
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear")
    model = get_peft_model(model, config)
    if random_b:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
    return model.eval()


def looped_gradients(model: nn.Module, rows: list[Example], names: list[str]) -> dict[str, torch.Tensor]:
    """Autograd's gradient of each row's mean answer loss, one row at a time and without padding."""
    parameters = dict(model.named_parameters())
    tracked = [parameters[name] for name in names]
    flags = [parameter.requires_grad for parameter in tracked]
    for parameter in tracked:
        parameter.requires_grad_(True)
    found = []
    for row in rows:
        ids = torch.tensor([row.input_ids])
        labels = ids.clone()
        labels[:, : row.answer_start] = -100
        loss = mean_answer_loss(model(input_ids=ids, use_cache=False).logits, labels).sum()
        found.append([g.flatten() for g in torch.autograd.grad(loss, tracked)])
    for parameter, flag in zip(tracked, flags, strict=True):
        parameter.requires_grad_(flag)
    return {name: torch.stack([row[i] for row in found]) for i, name in enumerate(names)}


def concatenated(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(gradients.values()), dim=1)
