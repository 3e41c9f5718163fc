"""What gradient collection and the sketch cost: ratios measured in one run, one thread, processor seconds.

    python benchmarks/gradient_speed.py        # writes docs/benchmarks/gradients.md, all but the section on bergson

* Collecting per-example sketched gradients against a plain forward and backward pass of the same batch that gives the
  same tensors' summed gradients (LoRA factors, or the linear layers of a base model whose other weights are frozen);
  the readout against the same, though it needs the forward pass alone.
* Where the time of a collection goes: the same passes with one step of the work after the other.
* Sketching a gradient of 4.2 million values to K = 65,536.
* The sketch's error on real LoRA gradients against the theory's 1/sqrt(K), and its empty coordinates.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from provenance import current_commit
from transformers import AutoConfig, AutoModelForCausalLM

from rapidun.data import Batch, Example, collate
from rapidun.files import atomic_write
from rapidun.gradients import (
    Exact,
    FactoredSketch,
    GradientCollector,
    RapidGrad,
    Readout,
    Sketch,
    collect_vectors,
    make_collector,
)
from rapidun.gradients.backward import differentiable_inputs, frozen
from rapidun.gradients.factors import Gradients
from rapidun.gradients.norms import divisors, row_norms
from rapidun.models.losses import answer_logits, mean_answer_loss

K = 65_536
REPEATS = 5
SHORT_REPEATS = 15  # of one row at a time
SHAPES = ((256, 704, 6, 128), (512, 1408, 8, 256))  # hidden, mlp, layers, length
BATCHES = ((1, 8, 32), (1,))  # rows, for each shape
BROKEN_DOWN = (("lora", 1), ("linear", 1), ("linear", 8))  # targets and rows of the first shape
SECTION = "## Against bergson"  # kept from here on: benchmarks/bergson_speed.py writes it
PARTS = (
    "plain pass",
    "of it, all but the weights' gradients",
    "of it, the weights' summed gradients",
    "the collector's own pass and hooks, more than a pass without weights' gradients",
    "forming every example's gradients",
    "their norms, and dividing by them",
    "buckets and signs",
    "changing signs and adding to the buckets",
    "collecting, all of it",
)
TRIED = (
    "Tried and left out: forming and sketching a few rows of a weight at a time, so that 1 MB of cache holds them (no",
    "gain at 8 rows); fewer rows of the batch at a time (3% slower at 8 rows). On the sketch alone, one row, from main",
    "memory: halves and quarters of its chunks (1.60 and 1.85 ns a value, not 1.32); remembering buckets instead of",
    "hashes (three times the memory, no gain); twice the buckets in place of signs (0.55 ns a value against",
    "0.47 + 0.11). The rest at one row is probably memory traffic: adding to the buckets takes 0.47 ns a value in",
    "cache and 0.70 from main memory. These figures are of single trials, not of this script.",
)
SKETCHES = ((1, 65_536), (8, 65_536), (16, 65_536), (8, 4_194_304))  # rows, values a tensor; 4,194,304 in all


def make_model(hidden: int, mlp: int, layers: int, targets: str = "lora", vocabulary: int = 4096) -> torch.nn.Module:
    """A random Llama, for ``"lora"`` with rank-16 adapters whose B is not 0; only the targets require gradients."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=1024,
    )
    model = AutoModelForCausalLM.from_config(config)
    if targets == "lora":
        lora = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
        return get_peft_model(model, lora).eval()
    tracked = set(GradientCollector(model, targets).tracked)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in tracked)
    return model.eval()


def make_batch(rows: int, length: int) -> Batch:
    """Random rows, the second half of each its answer."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 4096, (rows, length), generator=generator).tolist()
    return collate([Example(str(number), row, length // 2) for number, row in enumerate(ids)], 0)


def seconds(job: Callable[[], object]) -> float:
    """Median processor seconds of a job, after one run to warm up."""
    job()
    taken = []
    for _ in range(REPEATS):
        began = time.process_time()
        job()
        taken.append(time.process_time() - began)
    return float(np.median(taken))


def alternating(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Processor seconds of every job, in turn, after one round to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats + 1):
        for name, job in jobs.items():
            began = time.process_time()
            job()
            taken[name].append(time.process_time() - began)
    return {name: np.array(values[1:]) for name, values in taken.items()}


def plain_pass(model: torch.nn.Module, batch: Batch) -> None:
    """The summed gradients of what requires one."""
    logits, labels = answer_logits(model, batch.input_ids, batch.attention_mask, batch.labels)
    mean_answer_loss(logits, labels).sum().backward()
    model.zero_grad(set_to_none=True)


def pass_without_gradients(model: torch.nn.Module, batch: Batch) -> None:
    """Forward and backward to every layer, for no weight's gradient."""
    with frozen(model), differentiable_inputs(model):
        logits, labels = answer_logits(model, batch.input_ids, batch.attention_mask, batch.labels)
        mean_answer_loss(logits, labels).sum().backward()


def collection_rows(targets: str, hidden: int, mlp: int, layers: int, rows: int, length: int) -> list[str]:
    """One line a sketch: collecting against a plain forward and backward pass of the same targets."""
    model, batch = make_model(hidden, mlp, layers, targets), make_batch(rows, length)
    sketches: dict[str, Sketch] = {"RapidGrad(65,536)": RapidGrad(K), "FactoredSketch(16)": FactoredSketch(16)}
    if targets == "linear":
        sketches["Readout(4,096)"] = Readout(4096)
    jobs: dict[str, Callable[[], object]] = {"plain": partial(plain_pass, model, batch)}
    for name, sketch in sketches.items():
        for normalize in ("layer", "none"):
            collector = make_collector(model, sketch, targets, normalize)
            jobs[f"{name}, {normalize}"] = partial(collector, batch, sketch)
    values = sum(GradientCollector(model, targets).sizes.values())
    seconds = alternating(jobs, SHORT_REPEATS if rows == 1 else REPEATS)
    one = np.median(seconds["plain"])
    start = f"| {targets} | {layers} x {hidden} | {rows} x {length} | {values / 1e6:.2f} M | {one:.3f}"
    return [
        f"{start} | {name} | {np.median(taken):.3f} | {np.median(taken / seconds['plain']):.2f} |"
        for name, taken in seconds.items()
        if name != "plain"
    ]


def breakdown(targets: str, rows: int) -> list[tuple[float, float]]:
    """Milliseconds of each of `PARTS` and share of the plain pass: every job does one part more than the last."""
    hidden, mlp, layers, length = SHAPES[0]
    model, batch = make_model(hidden, mlp, layers, targets), make_batch(rows, length)
    collector, sketch = GradientCollector(model, targets), RapidGrad(K)

    def divide(name: str, rows: slice, gradients: Gradients) -> torch.Tensor:
        values = gradients.formed()
        return values.div_(divisors(row_norms(values)))

    def hash_too(name: str, rows: slice, gradients: Gradients) -> None:
        values = divide(name, rows, gradients)
        for number, chunk in enumerate(values.split(2**16, dim=1)):
            sketch.buckets_and_signs(name, number, chunk.shape[1], chunk.device)

    jobs: dict[str, Callable[[], object]] = {
        "plain": partial(plain_pass, model, batch),
        "without": partial(pass_without_gradients, model, batch),
        "hooks": partial(collector.visit, batch, lambda name, rows, gradients: None),
        "formed": partial(collector.visit, batch, lambda name, rows, gradients: gradients.formed()),
        "divided": partial(collector.visit, batch, divide),
        "hashed": partial(collector.visit, batch, hash_too),
        "all": partial(collector, batch, sketch),
    }
    taken = {name: 1000 * np.median(values) for name, values in alternating(jobs, 3 * REPEATS).items()}
    steps = [taken[after] - taken[before] for before, after in pairwise(list(jobs)[1:])]
    parts = [taken["plain"], taken["without"], taken["plain"] - taken["without"], *steps, taken["all"]]
    return [(part, part / taken["plain"]) for part in parts]


def breakdown_table() -> list[str]:
    """One line a part, one column a case."""
    columns = [breakdown(targets, rows) for targets, rows in BROKEN_DOWN]
    lines = [
        f"| {part} | " + " | ".join(f"{column[row][0]:.1f} ({column[row][1]:.0%})" for column in columns) + " |"
        for row, part in enumerate(PARTS)
    ]
    return [
        "| part | " + " | ".join(f"{targets}, {rows} x {SHAPES[0][3]}" for targets, rows in BROKEN_DOWN) + " |",
        "|---" * (1 + len(columns)) + "|",
        *lines,
    ]


def above_bar(lines: list[str], bar: float = 1.15) -> str:
    """Which lines of the table miss the bar."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    missed = [f"{row[0]} {row[1]}, {row[2]}, {row[5]} ({row[7]})" for row in cells if float(row[7]) > bar]
    return f"Above the bar: {'; '.join(missed) or 'none'}."


def sketch_time(rows: int, size: int) -> str:
    """One line: milliseconds an example to sketch 4,194,304 values."""
    tensors = 4_194_304 // size
    gradients, total = torch.randn(rows, size), torch.zeros(rows, K)

    def job() -> None:
        for number in range(tensors):
            RapidGrad(K).add(total, f"layers.{number}", gradients, {})

    return f"| {rows} | {tensors} x {size:,} | {1000 * seconds(job) / rows:.1f} |"


def sketch_error(k: int, seeds: int = 8) -> str:
    """One line: root mean squared error of cosines times sqrt(k), and coordinates that stay empty."""
    model = make_model(256, 704, 6)
    rows = [make_batch(1, 24 + number) for number in range(48)]
    examples = [Example(str(i), batch.input_ids[0].tolist(), 10) for i, batch in enumerate(rows)]
    collector = GradientCollector(model, "lora")
    exact = torch.from_numpy(collect_vectors(collector, Exact(), examples, 0, max_tokens=1024))
    parts = dict(zip(collector.tracked, exact.split(list(collector.sizes.values()), dim=1), strict=True))
    unit = F.normalize(exact.double())
    upper = tuple(torch.triu_indices(len(examples), len(examples), 1))
    errors, empty = [], 0
    for seed in range(seeds):
        total = torch.zeros(len(examples), k)
        for name, part in parts.items():
            RapidGrad(k, seed).add(total, name, part.clone(), {})
        sketched = F.normalize(total.double())
        difference = (sketched @ sketched.T - unit @ unit.T)[upper]
        errors.append(float(difference.square().mean().sqrt()) * k**0.5)
        empty = max(empty, int((total.abs().sum(dim=0) == 0).sum()))
    chance = k * float(np.exp(-exact.shape[1] / k))
    return f"| {k:,} | {np.mean(errors):.3f} | {min(errors):.3f} to {max(errors):.3f} | {empty} | {chance:.1f} |"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    commit = current_commit()
    collected = [
        line
        for shape, batches in zip(SHAPES, BATCHES, strict=True)
        for targets in ("lora", "linear")
        for rows in batches
        for line in collection_rows(targets, *shape[:3], rows, shape[3])
    ]
    text = [
        "# Gradient collection and the sketch",
        "",
        f"`python benchmarks/gradient_speed.py`, commit {commit}; one thread, median processor seconds of {REPEATS}",
        f"({SHORT_REPEATS} for one row), in turn with the plain pass. The plain pass computes logits from the batch's",
        "first answer token on, the collector at the answer tokens alone.",
        "",
        "## Collecting against a plain forward and backward pass of the same batch (bar 1.15)",
        "",
        "| targets | model | batch | values tracked | plain, s | sketch, normalisation | collecting, s | ratio |",
        "|---|---|---|---|---|---|---|---|",
        *collected,
        "",
        above_bar(collected),
        "",
        "## Where the time goes: RapidGrad(65,536), layer, model 6 x 256; ms (share of the plain pass)",
        "",
        *breakdown_table(),
        "",
        *TRIED,
        "",
        "## Sketching 4.2 million values to K = 65,536 (bar 10 ms)",
        "",
        "| rows at once | tensors | ms an example |",
        "|---|---|---|",
        *[sketch_time(*shape) for shape in SKETCHES],
        "",
        "## Error on real LoRA gradients, times sqrt(K) (bar 1.05), over 8 seeds",
        "",
        "| K | mean | range | empty coordinates, most | empty by chance |",
        "|---|---|---|---|---|",
        *[sketch_error(k) for k in (4096, 16_384, K)],
        "",
        "The rows of this model correlate, and a cosine's error shrinks with 1 - rho^2: hence values below 1.",
    ]
    page = Path("docs/benchmarks/gradients.md")
    kept = page.read_text(encoding="utf-8").partition(SECTION)
    with atomic_write(page) as file:
        file.write("\n".join(text) + "\n" + (f"\n{SECTION}{kept[2]}" if kept[1] else ""))
    print("\n".join(text))


if __name__ == "__main__":
    main()
