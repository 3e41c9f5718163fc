"""What unlearning cost beside training the reference model again without the poisoned rows.

Two figures for retraining: the recipe's own record (compiled, bfloat16, two cores with nothing else on them) and
an estimate for this machine: real full fine-tuning steps on the recipe's rows are timed here and scaled by the
recipe's number of tokens. The smaller of the two is the one compared with; influence time is part of unlearning.
"""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from rapidun.data import Template, collate, load_rows, tokenize_rows
from rapidun.files import read_json
from rapidun.models import load_model, mean_answer_loss
from rapidun.pipeline import RunConfig

TIMED_STEPS = 6
WARM_STEPS = 2
ROWS_A_STEP = 32
UNLEARNING_PHASES = ("weigh", "unlearn")


def cost_beside_retraining(config: RunConfig, phases: list[dict[str, Any]], model: Path, rows: Path) -> dict[str, Any]:
    """The ``cost`` part of a demo's metrics."""
    record = read_json(model.parent / "record.json")["reference"]
    here = record["answered_tokens"] / training_rate(config, model, rows)
    retrain = min(here, record["seconds"])
    unlearn = sum(phase["seconds"] for phase in phases if phase["name"] in UNLEARNING_PHASES)
    ratio = retrain / unlearn
    how = (
        "Unlearning is influence, weights and training, measured in this run. Retraining is "
        f"{record['steps']} steps of the reference recipe ({record['answered_tokens']:,} tokens): "
        f"{record['seconds']:.0f} s from the record of the build (compiled, bfloat16, alone on two cores), "
        f"{here:.0f} s estimated here from {TIMED_STEPS} timed steps; the smaller is used."
    )
    return {
        "unlearn_seconds": unlearn,
        "retrain_seconds": retrain,
        "retrain_seconds_recorded": record["seconds"],
        "retrain_seconds_here": here,
        "ratio": ratio,
        "how": how,
        "text": f"cost: {unlearn:.1f} s of unlearning, influence included; retraining {retrain:.0f} s: {ratio:.0f}x",
    }


def training_rate(config: RunConfig, model: Path, rows: Path) -> float:
    """Tokens a second of plain full fine-tuning on this machine, padding not counted."""
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
    tokens, began = 0, 0.0
    for step, start in enumerate(starts):
        if step == WARM_STEPS:
            tokens, began = 0, time.perf_counter()
        part = examples[start * ROWS_A_STEP : (start + 1) * ROWS_A_STEP]
        batch = collate(part, loaded.pad_token_id).to(loaded.device)
        logits = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        mean_answer_loss(logits, batch.labels).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        tokens += sum(len(example) for example in part)
    return tokens / (time.perf_counter() - began)
