"""Which weighting is RapidUn's own? Chosen on tuning rows and seeds from 100 on, which no table reports.

    python benchmarks/unlearning/choose.py

Cells go to benchmarks/results/choose.jsonl; the means are printed.
"""

from __future__ import annotations

import argparse

from worlds import ROOT, open_world

from experiments import Arm, Cell, CellStore, run_cells
from experiments.page import value_of
from experiments.plan import cell_config
from experiments.world import TUNING_SEED
from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.stats import over_units

CANDIDATES = (
    "rapidun/uniform",
    "rapidun/influence",
    "rapidun/representation",
    "rapidun/representation weights.negative=drop",
    "rapidun/consistency_hidden",
    "rapidun/consistency_hidden weights.negative=drop",
    "rapidun/consistency_hidden weights.negative=retain",
    "rapidun/trusted_influence",
)
METRICS = ("score", "asr_seen", "asr_unseen", "perplexity_ratio", "auc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", nargs="+", default=["contaminated_30", "contaminated_50", "small"])
    parser.add_argument("--arm", nargs="+", default=list(CANDIDATES))
    parser.add_argument("--seed", nargs="+", type=int, default=[TUNING_SEED, TUNING_SEED + 1])
    parser.add_argument("--prompts", type=int, default=160)
    arguments = parser.parse_args()
    quiet_libraries()
    world = open_world("demo", "tuning")
    arms = [Arm.of(name) for name in arguments.arm]
    cells = [
        Cell(arm.name, scenario, seed, cell_config(world, arm, seed, arguments.prompts))
        for seed in arguments.seed
        for scenario in arguments.scenario
        for arm in arms
    ]
    store = CellStore(ROOT / "benchmarks" / "results" / "choose.jsonl")
    run_cells(world, cells, store, ConsoleReporter())
    print("scenario arm n " + " ".join(METRICS))
    for scenario in arguments.scenario:
        for arm in arms:
            lines = [store.get(cell) for cell in cells if (cell.arm, cell.scenario) == (arm.name, scenario)]
            results = [line["result"] for line in lines if line is not None]
            means = [
                over_units([v for r in results if (v := value_of(r, name)) is not None], "draws") for name in METRICS
            ]
            print(scenario, arm.name, len(results), *("-" if mean is None else f"{mean.value:.3f}" for mean in means))


if __name__ == "__main__":
    main()
