"""Settings on SmolLM2, on tuning draws alone: which become the defaults.

    python benchmarks/real_model/choose.py --arm rapidun/influence "rapidun/uniform unlearning.learning_rate=3e-4"
    python benchmarks/real_model/choose.py --show

Attacks nonsense, badnet and vpi under seeds from 100 on; mtba and the seeds below 100 are for the report. Each arm is a
cell of benchmarks/results/real-model-choose.jsonl: a method, a weighting and settings changed from the defaults.
"""

from __future__ import annotations

import argparse
import time

from worlds import MAIN, ROOT, TUNING_SEED, chat_model, chat_world, open_attack

from experiments import Cell, CellStore, find_arms, run_cells
from experiments.plan import cell_config
from rapidun.cli.console import ConsoleReporter, quiet_libraries

RESULTS = ROOT / "benchmarks" / "results" / "real-model-choose.jsonl"
TUNING_ATTACKS = ("nonsense", "badnet", "vpi")
PROMPTS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", nargs="+", choices=TUNING_ATTACKS, default=list(TUNING_ATTACKS))
    parser.add_argument("--seed", nargs="+", type=int, default=[TUNING_SEED])
    parser.add_argument("--arm", nargs="+", default=["rapidun/influence"])
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no cell after so many")
    parser.add_argument("--show", action="store_true", help="print what is there")
    arguments = parser.parse_args()
    store = CellStore(RESULTS)
    if arguments.show:
        show(store)
        return
    if min(arguments.seed) < TUNING_SEED:
        raise SystemExit(f"seeds below {TUNING_SEED} are the report's")
    quiet_libraries()
    base, until = chat_model(), time.monotonic() + 60 * arguments.minutes
    for seed in arguments.seed:
        for name in arguments.attack:
            world = chat_world(base, open_attack(name, seed), twin=False, reporter=ConsoleReporter())
            arms = [arm for arm in find_arms(arguments.arm) if arm.method != "retrain"]
            cells = [
                Cell(arm.name, MAIN, seed, cell_config(world, arm, seed, min(PROMPTS, len(world.measured))))
                for arm in arms
            ]
            run_cells(world, cells, store, ConsoleReporter(), seconds=until - time.monotonic())


def show(store: CellStore) -> None:
    """One line a cell: rates, perplexity ratio with its interval, seconds."""
    for line in sorted(store.lines, key=lambda line: (line["config"]["world"], line["seed"], line["arm"])):
        found = line["result"]
        if "failed" in found:
            said = found["failed"]
        else:
            rates = " ".join(f"{found[name]['value']:.3f}" for name in ("asr_seen", "asr_unseen", "asr_floor"))
            ratio = found["perplexity_ratio"]
            said = (
                f"{rates}  x{ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]  {found.get('seconds', 0)} s"
            )
            said += f"  {found.get('stopped') or ''}"
        print(f"{line['config']['world']:18s} {line['seed']}  {said}  {line['arm']}")


if __name__ == "__main__":
    main()
