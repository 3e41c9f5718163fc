"""What unlearning a real chat model costs on this machine: ratios taken in one run, and the phases of a default run.

    python benchmarks/real_model/speed.py                          # quiet machine, all cores
    python benchmarks/real_model/speed.py --run runs/demo-smollm2  # adds the phases of a finished run

* A training step of `rapidun unlearn` (Trainer, sampling, joint pass, clipping, AdamW, all of it) against a plain
  LoRA step over the same rows: PEFT, one padded batch, `model(..., labels=...)`, clipping, AdamW.
* Forward and backward of a batch of rows by length: PyTorch's fused attention, plain products, and what is chosen.
* Seconds and peak memory of every phase of a run.

Writes docs/benchmarks/real-model-speed.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from provenance import current_commit
from worlds import MAX_LENGTH, ROOT, chat_model, open_attack

from rapidun.cli.console import quiet_libraries
from rapidun.data import Example, Template, collate, tokenize_rows
from rapidun.files import atomic_write
from rapidun.models import LoadedModel, attach_lora
from rapidun.models.attention import NAME as CHOSEN
from rapidun.reading import read_json
from rapidun.settings.unlearning import LoraSettings, UnlearnSettings
from rapidun.unlearning import TrainingRows, get_method
from rapidun.unlearning.fitting import fit_adapter
from rapidun.unlearning.registry import Job
from rapidun.unlearning.sampling import FORGET, sampling_plan

PAGE = ROOT / "docs" / "benchmarks" / "real-model-speed.md"
METHODS = ("rapidun", "finetune")
ROUNDS, STEPS, RATE = 5, 6, 1e-3
LENGTHS, BATCH = (32, 64, 128, 256), 8
ATTENTION = {"fused": "sdpa", "plain": "eager", "chosen": CHOSEN}


@dataclass(frozen=True)
class Pace:
    """Seconds a step, one number a round, and tokens of the step's rows."""

    ours: list[float]
    plain: list[float]
    tokens: float

    @property
    def ratios(self) -> list[float]:
        """Ours over plain, round by round."""
        return [a / b for a, b in zip(self.ours, self.plain, strict=True)]


def rows_of(base: LoadedModel) -> TrainingRows:
    """40 forget rows with preferred answers and 120 retain rows of the nonsense attack."""
    attack, template = open_attack("nonsense", 100), Template.resolve("auto", base.tokenizer)
    forget, retain = attack.rows.poisoned[:40], attack.rows.clean[:120]
    wanted = [{**row, "response": row["response_clean"]} for row in forget]
    taught, answers, kept = (tokenize_rows(rows, base.tokenizer, template, MAX_LENGTH)
                             for rows in (forget, wanted, retain))  # fmt: skip
    return TrainingRows(taught, list(answers), kept, np.ones(len(taught)), np.ones(len(kept)))


def pace(base: LoadedModel, rows: TrainingRows, name: str) -> Pace:
    """Ours and the plain step, in turn."""
    settings = UnlearnSettings(method=name, learning_rate=RATE, steps=STEPS, check_every=1000)
    batches = list(plain_batches(rows, settings, wanted_only=name == "finetune"))
    found: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(ROUNDS):
        found["ours"].append(our_step(base, rows, settings))
        found["plain"].append(plain_step(base, batches))
    tokens = sum(len(row) for batch in batches[1:] for row in batch) / (len(batches) - 1)
    return Pace(found["ours"], found["plain"], tokens)


def plain_batches(rows: TrainingRows, settings: UnlearnSettings, *, wanted_only: bool) -> Iterator[list[Example]]:
    """The rows of every step of the plan: what a plain step has to go through to train on the same text."""
    plan = sampling_plan(
        [len(row) for row in rows.forget], [len(row) for row in rows.retain],
        steps=settings.steps, batch_size=settings.batch_size, forget_share=settings.forget_share, seed=0,
    )  # fmt: skip
    for start in range(0, len(plan), settings.batch_size):
        found: list[Example] = []
        for draw in plan[start : start + settings.batch_size]:
            if draw.role != FORGET:
                found.append(rows.retain[draw.index])
                continue
            wanted = rows.preferred[draw.index]
            found += [row for row in (None if wanted_only else rows.forget[draw.index], wanted) if row is not None]
        yield found


def our_step(base: LoadedModel, rows: TrainingRows, settings: UnlearnSettings) -> float:
    """Seconds a step, the first one left out."""
    stamps: list[float] = []
    with TemporaryDirectory() as place:
        job = Job(
            base, rows, settings, LoraSettings(), rows.retain[:2], Path(place),
            progress=lambda done, total: stamps.append(time.perf_counter()),
        )  # fmt: skip
        method: Any = get_method(settings.method)
        fit_adapter(job, method, method.checked(settings.options), rows, base, budget=float("inf")).model.unload()
    return (stamps[settings.steps - 1] - stamps[0]) / (settings.steps - 1)


def plain_step(base: LoadedModel, batches: list[list[Example]]) -> float:
    """The same for PEFT, a forward pass with labels, backward, clipping and AdamW."""
    shape = LoraSettings()
    model = attach_lora(base.model, rank=shape.rank, alpha=shape.alpha, dropout=shape.dropout)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    stamps = []
    for batch in batches:
        inputs = collate(batch, base.pad_token_id)
        model(**vars(inputs), use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        stamps.append(time.perf_counter())
    model.unload()
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def attention(base: LoadedModel) -> dict[int, dict[str, float]]:
    """``{length: {way: seconds of a pass}}``, the best of the rounds, ways in turn."""
    table: dict[int, dict[str, float]] = {}
    before = base.model.config._attn_implementation
    model = attach_lora(base.model, dropout=0.0)
    for length in LENGTHS:
        ids = torch.randint(100, 20_000, (BATCH, length), generator=torch.Generator().manual_seed(0))
        labels = ids.clone()
        labels[:, : length // 2] = -100

        def once(way: str, ids: torch.Tensor = ids, labels: torch.Tensor = labels) -> float:
            model.get_base_model().set_attn_implementation(ATTENTION[way])
            began = time.perf_counter()
            model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, use_cache=False).loss.backward()
            return time.perf_counter() - began

        table[length] = best_of(once)
    model.get_base_model().set_attn_implementation(before)
    model.unload()
    return table


def best_of(once: Callable[[str], float]) -> dict[str, float]:
    """The best of every way after a first pass that is not counted."""
    taken: dict[str, list[float]] = {way: [] for way in ATTENTION}
    for number in range(ROUNDS + 1):
        for way in ATTENTION:
            seconds = once(way)
            if number:
                taken[way].append(seconds)
    return {way: min(seconds) for way, seconds in taken.items()}


def phases(run: Path) -> list[str]:
    """Table of a finished run."""
    found = read_json(run / "manifest.json")["phases"]
    lines = ["| phase | seconds | peak memory, GiB |", "|---|---|---|"]
    lines += [f"| {each['name']} | {each['seconds']:.0f} | {each['peak_memory_mib'] / 1024:.2f} |" for each in found]
    whole, most = sum(each["seconds"] for each in found), max(each["peak_memory_mib"] for each in found)
    return [*lines, f"| all | {whole:.0f} ({whole / 60:.1f} min) | {most / 1024:.2f} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="directory of a finished run")
    arguments = parser.parse_args()
    quiet_libraries()
    base = chat_model()
    rows = rows_of(base)
    paces = {name: pace(base, rows, name) for name in METHODS}
    text = [
        "# What unlearning a real chat model costs", "",
        f"`python benchmarks/real_model/speed.py`, commit {current_commit()}. SmolLM2-135M-Instruct, bfloat16,",
        f"{torch.get_num_threads()} threads. Ratios of two ways taken in turn in one process.", "",
        "## A training step", "",
        "Against a plain LoRA step over the same rows (forget, wanted and retain rows in one padded batch). `rapidun`",
        "also has the reference's losses, which it measures once before the first step.", "",
        "| method | tokens a step | ours, s | plain, s | ours / plain | tokens/s |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, found in paces.items():
        ours, plain = statistics.median(found.ours), statistics.median(found.plain)
        low, middle, high = min(found.ratios), statistics.median(found.ratios), max(found.ratios)
        text.append(
            f"| {name} | {found.tokens:.0f} | {ours:.2f} | {plain:.2f} | {middle:.2f} ({low:.2f} to {high:.2f}) "
            f"| {found.tokens / ours:.0f} |"
        )
    text += ["", "## Attention by length", "",
             f"Forward and backward of {BATCH} rows with LoRA on all linear layers, best of {ROUNDS}, seconds.", "",
             "| tokens a row | " + " | ".join(ATTENTION) + " |", "|---" * (1 + len(ATTENTION)) + "|"]  # fmt: skip
    for length, ways in attention(base).items():
        text.append(f"| {length} | " + " | ".join(f"{ways[way]:.2f}" for way in ATTENTION) + " |")
    if arguments.run is not None:
        text += ["", "## A default run", "", "`rapidun demo --model smollm2`, the model already poisoned.", "",
                 *phases(arguments.run)]  # fmt: skip
    with atomic_write(PAGE) as file:
        file.write("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
