"""What unlearning cost beside training the reference model again without the poisoned rows.

Two figures for retraining: the recipe's own record (compiled, bfloat16, two cores with nothing else on them) and
an estimate for this machine: real full fine-tuning steps on the recipe's rows are timed here and scaled by the
recipe's number of tokens. Influence time is part of unlearning. On a quiet machine the smaller figure is compared with.
On a busy one, where this process got less than its cores, the record is of another machine in effect: the steps timed
here are compared with, at the load that unlearning had if that was lighter.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from rapidun.data import Template, collate, load_rows, tokenize_rows
from rapidun.models import load_model, mean_answer_loss
from rapidun.pipeline import RunConfig
from rapidun.reading import read_json

TIMED_STEPS = 6
WARM_STEPS = 2
ROWS_A_STEP = 32
UNLEARNING_PHASES = ("weigh", "unlearn")
QUIET = 0.7
"""Share of its cores that a process alone on a CPU gets of work like this; the rest is done by one thread."""


@dataclass(frozen=True)
class Timed:
    """Work on a CPU or a GPU.

    Args:
        seconds: By the clock.
        cpu_seconds: Of this process, all threads.
        threads: That the work had; 0 where it was a GPU's and other processes on the CPU do not count.
    """

    seconds: float
    cpu_seconds: float
    threads: int

    @property
    def share(self) -> float:
        """The share of its cores that it got."""
        return self.cpu_seconds / max(self.seconds * self.threads, 1e-9) if self.threads else 1.0

    @property
    def busy(self) -> bool:
        """Whether other processes had the cores part of the time."""
        return self.share < QUIET


def cost_beside_retraining(config: RunConfig, phases: list[dict[str, Any]], model: Path, rows: Path) -> dict[str, Any]:
    """The ``cost`` part of a demo's metrics."""
    record = read_json(model.parent / "record.json")["reference"]
    tokens, steps = timed_steps(config, model, rows)
    mine = [phase for phase in phases if phase["name"] in UNLEARNING_PHASES]
    seconds, cpu = (sum(phase.get(name, 0.0) for phase in mine) for name in ("seconds", "cpu_seconds"))
    threads = steps.threads if cpu else 0
    return compared(Timed(seconds, cpu, threads), steps, record["answered_tokens"] / tokens, record)


def compared(unlearning: Timed, steps: Timed, times: float, record: dict[str, Any]) -> dict[str, Any]:
    """The figures and their sentence.

    Args:
        unlearning: The phases.
        steps: The steps of retraining that were timed.
        times: How many times as many tokens the whole retraining has.
        record: ``seconds``, ``steps`` and ``answered_tokens`` of the recipe's retraining.
    """
    here = steps.seconds * times
    busy = unlearning.busy or steps.busy
    retrain = here * min(1.0, steps.share / unlearning.share) if busy else min(here, record["seconds"])
    how = (
        "Unlearning is influence, weights and training, measured in this run. Retraining is "
        f"{record['steps']} steps of the reference recipe ({record['answered_tokens']:,} tokens): "
        f"{record['seconds']:.0f} s from the record of the build (compiled, bfloat16, alone on two cores), "
        f"{here:.0f} s estimated here from {TIMED_STEPS} timed steps; "
    )
    how += "the smaller is used." if not busy else "the second is used, at no more than the load of unlearning."
    text = f"cost: {unlearning.seconds:.1f} s of unlearning, influence included; retraining {retrain:.0f} s"
    text += f": {retrain / unlearning.seconds:.0f}x"
    if busy:
        said = (
            f" The machine was busy: unlearning got {unlearning.share:.0%} of its cores, retraining {steps.share:.0%}."
        )
        how, text = how + said, text + "." + said
    return {
        "unlearn_seconds": unlearning.seconds,
        "retrain_seconds": retrain,
        "retrain_seconds_recorded": record["seconds"],
        "retrain_seconds_here": here,
        "busy": busy,
        "ratio": retrain / unlearning.seconds,
        "how": how,
        "text": text,
    }


def timed_steps(config: RunConfig, model: Path, rows: Path) -> tuple[int, Timed]:
    """Some steps of plain full fine-tuning on this machine: their tokens, padding not counted, and their time."""
    loaded = load_model(str(model), device=config.model.device, dtype=config.model.dtype)
    template = Template.resolve("auto", loaded.tokenizer)
    wanted = (WARM_STEPS + TIMED_STEPS) * ROWS_A_STEP
    chosen = list(islice((row for row in load_rows(rows) if not row["poisoned"]), wanted))
    examples = sorted(tokenize_rows(chosen, loaded.tokenizer, template, config.data.max_length), key=len)
    starts = torch.randperm(len(examples) // ROWS_A_STEP, generator=torch.Generator().manual_seed(0)).tolist()
    network = loaded.model.train()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-5)
    tokens, began, cpu = 0, 0.0, 0.0
    for step, start in enumerate(starts):
        if step == WARM_STEPS:
            tokens, began, cpu = 0, time.perf_counter(), _cpu_seconds()
        part = examples[start * ROWS_A_STEP : (start + 1) * ROWS_A_STEP]
        batch = collate(part, loaded.pad_token_id).to(loaded.device)
        logits = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        mean_answer_loss(logits, batch.labels).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        tokens += sum(len(example) for example in part)
    threads = torch.get_num_threads() if loaded.device.type == "cpu" else 0
    return tokens, Timed(time.perf_counter() - began, _cpu_seconds() - cpu, threads)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system
