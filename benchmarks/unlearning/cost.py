"""Where the seconds of unlearning go, beside training again without the poisoned rows: both here, in one run.

    python benchmarks/unlearning/cost.py        # two idle cores; writes docs/benchmarks/unlearning_cost.md

The embedded model, main scenario, the table's settings. Unlearning is evidence, weights, training and saving; the model
is loaded and rows are read before, as they are for retraining. Retraining is the demo's figure: the smaller of the
record of the reference recipe and of steps timed here. Parts of the training come from a second, profiled run and are
given as shares; beside them stands what its floating-point operations would take at the rate of a plain matrix product.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from worlds import ROOT, open_world

from experiments import Arm, Cell
from experiments.plan import SETTLED, cell_config
from experiments.session import Sitting, Table
from rapidun.cli.console import quiet_libraries
from rapidun.demo.cost import cost_beside_retraining
from rapidun.demo.embedded import asset
from rapidun.files import atomic_write
from rapidun.pipeline import RunConfig, Silent
from rapidun.pipeline.evidence import collect_evidence, weights_from
from rapidun.pipeline.train import train
from rapidun.weighting import get_scheme, write_weights

sys.path.insert(0, str(ROOT / "benchmarks"))
from provenance import current_commit

ARMS = ("rapidun/influence", SETTLED, "rapidun/uniform", "rapidun/uniform unlearning.steps=12")
REPEATS = 3
PARTS = {
    "forward passes with the adapter": ("forward.py", "answers"),
    "of these, forward passes of the reference": ("forward.py", "_reference"),
    "losses": ("trainer.py", "_weighted"),
    "backward": ("graph.py", "_engine_run_backward"),
    "clipping and optimiser": ("optimizer.py", "step"),
    "retain budget": ("fitting.py", "held_loss"),
}


@contextmanager
def timed(found: dict[str, float], name: str) -> Iterator[None]:
    """Wall seconds of the block, under its name."""
    began = time.perf_counter()
    yield
    found[name] = time.perf_counter() - began


def unlearning(table: Table, config: RunConfig, place: Path) -> dict[str, float]:
    """Seconds of each phase of one unlearning."""
    found: dict[str, float] = {}
    groups, subject, silent = table.groups, table.sitting.subject, Silent()
    place.mkdir()
    with timed(found, "evidence"):
        needs = get_scheme(config.weights.scheme).needs
        evidence = collect_evidence(subject, groups, needs, config.influence, config.seed, silent)
    with timed(found, "weights"):
        weights = weights_from(evidence, config.weights, config.seed, silent)
        write_weights(place / "weights.jsonl", weights, forget_rows=groups.forget, retain_rows=groups.retain)
    with timed(found, "training"):
        train(config, groups, subject, place, silent)
    return found


def operations(job: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products of a job."""
    with FlopCounterMode(display=False) as counter:
        job()
    return int(counter.get_total_flops())


def plain_rate(dtype: torch.dtype) -> float:
    """Operations a second of a plain product of the model's shape: (2048, 256) by (256, 704)."""
    left, right = torch.randn(2048, 256).to(dtype), torch.randn(704, 256).to(dtype)
    seconds = []
    for _ in range(30):
        began = time.perf_counter()
        torch.nn.functional.linear(left, right)
        seconds.append(time.perf_counter() - began)
    return 2 * 2048 * 256 * 704 / median(seconds)


def shares(job: Callable[[], object]) -> dict[str, float]:
    """Share of each part in the profiled seconds of a job."""
    profile = cProfile.Profile()
    began = time.perf_counter()
    profile.runcall(job)
    whole = time.perf_counter() - began
    stats: Any = pstats.Stats(profile)

    def cumulative(file: str, name: str) -> float:
        found = [value[3] for key, value in stats.stats.items() if key[0].endswith(file) and key[2] == name]
        return max(found, default=0.0)

    seconds = {part: cumulative(*where) for part, where in PARTS.items()}
    inner = "of these, forward passes of the reference"
    rest = whole - sum(value for part, value in seconds.items() if part != inner)
    return {part: value / whole for part, value in {**seconds, "set-up, collation, saving, the rest": rest}.items()}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    quiet_libraries()
    world = open_world("demo")
    with tempfile.TemporaryDirectory(prefix="rapidun-cost-") as name:
        sitting = Sitting(world, Path(name))
        lines, parts = [], []
        for number, arm in enumerate(ARMS):
            cell = Cell(arm, "main", 0, cell_config(world, Arm.of(arm), 0, 16))
            table = sitting.table(cell)
            config = table.config(cell)
            runs = [unlearning(table, config, Path(name) / f"{number}-{turn}") for turn in range(REPEATS + 1)][1:]
            lines.append((arm, runs))
            print(arm, runs, flush=True)
            if arm == SETTLED:
                parts = training_parts(table, config, Path(name))
                phases = [{"name": "unlearn", "seconds": median(sum(run.values()) for run in runs)}]
                cost = cost_beside_retraining(config, phases, asset("poisoned"), asset("data/train.jsonl.gz"))
    write_page(lines, parts, cost)


def training_parts(table: Table, config: RunConfig, place: Path) -> list[str]:
    """Lines on the training of weights that are already in ``place / "1-0"``."""
    fresh = (place / f"again-{turn}" for turn in count())

    def again() -> None:
        directory = next(fresh)  # a training goes on from its last checkpoint where there is one
        directory.mkdir()
        shutil.copy(place / "1-0" / "weights.jsonl", directory)
        train(config, table.groups, table.sitting.subject, directory, Silent())

    again()
    counted = operations(again)
    rate = plain_rate(table.sitting.subject.loaded.dtype)
    found = [f"| {part} | {share:.0%} |" for part, share in shares(again).items()]
    return [
        "| part of the training | share of its seconds |",
        "|---|---|",
        *found,
        "",
        f"Its matrix products are {counted / 1e9:,.0f} billion operations: {counted / rate:.1f} s at the rate of a",
        f"plain product of the model's shape here ({rate / 1e9:,.0f} billion a second, {config.model.dtype}).",
    ]


def write_page(lines: list[tuple[str, list[dict[str, float]]]], parts: list[str], cost: dict[str, Any]) -> None:
    """The page."""
    commit = current_commit()
    text = [
        "# What unlearning costs",
        "",
        f"`python benchmarks/unlearning/cost.py`, commit {commit}; embedded model, {torch.get_num_threads()} threads.",
        f"Main scenario (40 forget, 120 retain rows), wall seconds, median of {REPEATS} runs [lowest, highest].",
        cost["how"].partition(". ")[2],
        "",
        "| method/weights | evidence | weights | training and saving | all | retraining / all |",
        "|---|---|---|---|---|---|",
    ]
    for arm, runs in lines:
        every = sorted(sum(run.values()) for run in runs)
        middle = [f"{median(run[name] for run in runs):.2f}" for name in ("evidence", "weights", "training")]
        ratio = f"{cost['retrain_seconds'] / median(every):.0f}x"
        text.append(
            f"| {arm} | {' | '.join(middle)} | {median(every):.1f} [{every[0]:.1f}, {every[-1]:.1f}] | {ratio} |"
        )
    text += ["", f"Training with {SETTLED}:", "", *parts]
    reading = Path(__file__).with_name("reading-cost.md")
    if reading.exists():
        text += ["", reading.read_text(encoding="utf-8").strip()]
    with atomic_write(ROOT / "docs" / "benchmarks" / "unlearning_cost.md") as file:
        file.write("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
