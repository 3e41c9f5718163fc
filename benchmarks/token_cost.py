"""What influence between tokens costs beside influence between rows: ratios measured in one run, one thread.

    python benchmarks/token_cost.py        # writes docs/benchmarks/token_cost.md

The row-level computation takes the exact, layer-normalised gradients of a query and its hits and multiplies them;
the token-level one gives the matrix of every pair of positions (``by="position"``, bar 1.5) or of every pair of
predicted tokens (``by="loss"``, one backward pass each). Processor seconds; the two alternate, repeated.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gradient_speed import make_model
from provenance import current_commit

from rapidun.attribution.tokens import trace_tokens_many
from rapidun.data import Example
from rapidun.files import atomic_write
from rapidun.gradients import Exact, GradientCollector, collect_vectors

REPEATS = 5
BAR = 1.5
SHORT = 64  # tokens up to which by="loss" is measured too; it grows with the square
# hidden, mlp, layers, hits, length, tracked tensors
CASES = (
    (256, 704, 6, 20, 64, "lora"),
    (256, 704, 6, 20, 192, "lora"),
    (256, 704, 6, 20, 64, "linear"),
    (256, 704, 6, 20, 192, "linear"),
    (512, 1408, 8, 20, 128, "lora"),
    (512, 1408, 8, 20, 128, "linear"),
)


def make_rows(count: int, length: int) -> list[Example]:
    """Random rows, the second half of each its answer."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 4096, (count, length), generator=generator).tolist()
    return [Example(str(number), row, length // 2) for number, row in enumerate(ids)]


def seconds(job: Callable[[], object]) -> float:
    """Processor seconds of one run."""
    began = time.process_time()
    job()
    return time.process_time() - began


def case(hidden: int, mlp: int, layers: int, hits: int, length: int, targets: str) -> tuple[str, float]:
    """One line of the table and the ratio that has a bar."""
    model = make_model(hidden, mlp, layers)
    query, *trains = make_rows(hits + 1, length)
    collector = GradientCollector(model, targets)

    def by_row() -> np.ndarray:
        asked = collect_vectors(collector, Exact(), [query], 0, max_tokens=1024)
        return collect_vectors(collector, Exact(), trains, 0, max_tokens=1024) @ asked[0]

    def by_token(by: str) -> np.ndarray:
        found = trace_tokens_many(model, query, trains, by=by, targets=targets, max_tokens=1024)
        return np.array([influence.total for influence in found])

    wanted, found = by_row(), by_token("position")
    error = float(np.abs(found - wanted).max() / len(collector.tracked))
    pairs = [(seconds(by_row), seconds(lambda: by_token("position"))) for _ in range(REPEATS)]
    rows, positions = (float(np.median(taken)) for taken in zip(*pairs, strict=True))
    losses = f"{seconds(lambda: by_token('loss')) / rows:.0f}" if length <= SHORT else "-"
    cells = (f"{layers} x {hidden}", targets, f"{hits} x {length}", f"{rows:.2f}", f"{positions:.2f}")
    line = f"| {' | '.join(cells)} | {positions / rows:.2f} | {losses} | {error:.0e} |"
    print(line, flush=True)
    return line, positions / rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    commit = current_commit()
    results = [case(*shape) for shape in CASES]
    worst = max(ratio for _, ratio in results)
    text = [
        "# What influence between tokens costs",
        "",
        f"`python benchmarks/token_cost.py`, commit {commit}; one thread, median processor seconds of {REPEATS}",
        '(`by="loss"`: one run). One query and its hits, half of each row its answer.',
        "",
        f'Bar for `by="position"`: at most {BAR} times the row-level computation (exact, layer-normalised gradients of',
        f"the same rows and their inner products). Highest ratio: **{worst:.2f}**.",
        "",
        "| model | tracked | hits x tokens | rows, s | positions, s | positions / rows | losses / rows | error |",
        "|---|---|---|---|---|---|---|---|",
        *[line for line, _ in results],
        "",
        "Error: the largest difference between a matrix's sum and the row-level influence, as a share of the largest",
        "value that influence can have.",
    ]
    with atomic_write(Path("docs/benchmarks/token_cost.md")) as file:
        file.write("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
