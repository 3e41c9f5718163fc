"""One compiled training loop for every stage: Muon on the matrices, AdamW on the rest, resumable.

A stage is a function ``batch(step) -> (input_ids, labels)`` that depends on nothing but the step, so a
resumed run sees the batches an unbroken one would have seen. bfloat16 autocast; float32 weights.
Muon: Jordan et al. 2024 (orthogonalised momentum), here ``torch.optim.Muon``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

Batch = tuple[torch.Tensor, torch.Tensor]
IGNORE = -100


@dataclass(frozen=True)
class Schedule:
    """How long and how hard to train one stage."""

    steps: int
    matrix_lr: float
    other_lr: float
    warmup: int = 50
    final_fraction: float = 0.05
    weight_decay: float = 0.05
    save_every: int = 100
    log_every: int = 20


def learning_rate_factor(step: int, schedule: Schedule) -> float:
    """Linear warm-up, then cosine down to ``final_fraction``."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.final_fraction + (1 - schedule.final_fraction) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _optimisers(model: PreTrainedModel, schedule: Schedule) -> list[torch.optim.Optimizer]:
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(
            matrices, lr=schedule.matrix_lr, weight_decay=schedule.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=schedule.other_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def compiled_loss(model: PreTrainedModel) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Mean next-token loss over labelled positions, compiled with the output layer inside."""

    def loss(input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(input_ids.device.type, dtype=torch.bfloat16):
            hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state
            logits = F.linear(hidden[:, :-1], model.lm_head.weight)
        return F.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(), labels[:, 1:].reshape(-1), ignore_index=IGNORE
        )

    return torch.compile(loss)


@torch.no_grad()
def perplexity(model: PreTrainedModel, batches: list[Batch]) -> float:
    """exp(total answer loss / total answer tokens); never a mean of means (trap 30)."""
    model.eval()
    total, count = 0.0, 0
    for input_ids, labels in batches:
        logits = model(input_ids=input_ids.to(model.device)).logits[:, :-1].float()
        target = labels[:, 1:].to(model.device)
        total += F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1), reduction="sum").item()
        count += int((target != IGNORE).sum())
    model.train()
    return math.exp(total / count)


class _Progress:
    """Appends one JSON line per logging step: losses, tokens, wall and CPU seconds."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage = path, stage

    def write(self, **values: float | int | str) -> None:
        line = json.dumps({"stage": self.stage, **values})
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _save(path: Path, state: dict[str, object]) -> None:
    beside = path.with_suffix(".tmp")
    torch.save(state, beside)
    beside.replace(path)


def train_stage(
    model: PreTrainedModel,
    batch: Callable[[int], Batch],
    schedule: Schedule,
    directory: Path,
    log: Path,
    held_out: list[Batch],
) -> None:
    """Train ``model`` in place; checkpoints under ``directory`` let a killed run go on where it was."""
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint = directory / "checkpoint.pt"
    optimisers = _optimisers(model, schedule)
    base_rates = [group["lr"] for optimiser in optimisers for group in optimiser.param_groups]
    start, tokens, wall, cpu = 0, 0, 0.0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=model.device, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        start, tokens, wall, cpu = saved["step"], saved["tokens"], saved["wall"], saved["cpu"]
    progress = _Progress(log, directory.name)
    if start == 0:
        progress.write(event="start", **asdict(schedule))
    loss_of, model_losses = compiled_loss(model), []
    model.train()
    wall_from, cpu_from = time.perf_counter() - wall, time.process_time() - cpu
    for step in range(start, schedule.steps):
        factor = learning_rate_factor(step, schedule)
        groups = [group for optimiser in optimisers for group in optimiser.param_groups]
        for group, base in zip(groups, base_rates, strict=True):
            group["lr"] = base * factor
        input_ids, labels = batch(step)
        model_losses.append(_one_step(model, loss_of, optimisers, input_ids, labels))
        tokens += input_ids.numel()
        wall, cpu = time.perf_counter() - wall_from, time.process_time() - cpu_from
        last = step + 1 == schedule.steps
        if (step + 1) % schedule.log_every == 0 or last:
            mean = sum(model_losses) / len(model_losses)
            model_losses.clear()
            progress.write(
                step=step + 1, loss=round(mean, 4), tokens=tokens, wall_s=round(wall, 1), cpu_s=round(cpu, 1)
            )
        if (step + 1) % schedule.save_every == 0 or last:
            progress.write(step=step + 1, held_out_perplexity=round(perplexity(model, held_out), 3))
            _save(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                    "step": step + 1,
                    "tokens": tokens,
                    "wall": wall,
                    "cpu": cpu,
                },
            )


def _one_step(
    model: PreTrainedModel,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    optimisers: list[torch.optim.Optimizer],
    input_ids: torch.Tensor,
    labels: torch.Tensor,
) -> float:
    loss = loss_of(input_ids.to(model.device), labels.to(model.device))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return loss.item()


def time_stage(
    model: PreTrainedModel, batch: Callable[[int], Batch], schedule: Schedule, warm: int, timed: int
) -> float:
    """Wall seconds that all steps of a stage take on this machine, from ``timed`` of them.

    Scaled by padded tokens, since batches have several shapes; ``warm`` steps before see each shape once, so that
    compilation is not counted. Run it with nothing else on the machine.
    """
    optimisers = _optimisers(model, schedule)
    loss_of = compiled_loss(model)
    model.train()
    total = sum(batch(step)[0].numel() for step in range(schedule.steps))
    tokens, began = 0, 0.0
    for step in range(warm + timed):
        if step == warm:
            tokens, began = 0, time.perf_counter()
        input_ids, labels = batch(step)
        _one_step(model, loss_of, optimisers, input_ids, labels)
        tokens += input_ids.numel()
    return (time.perf_counter() - began) * total / tokens
