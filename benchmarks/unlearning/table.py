"""The table of unlearning: methods x weightings x scenarios x seeds, over as many sittings as it takes.

    python benchmarks/unlearning/table.py --time-left            # what is missing and how long it should take
    python benchmarks/unlearning/table.py --minutes 60           # compute for an hour, then write the page
    python benchmarks/unlearning/table.py --scenario contaminated_30 --seed 0 --arm npo/uniform
    python benchmarks/unlearning/table.py --world authors        # the second model, where it was built

Cells are lines of benchmarks/results/unlearning-WORLD.jsonl, under the hash of all that decides them; one that is there
is not computed again. The page is docs/benchmarks/unlearning.md (of the second model unlearning-authors.md) with the
numbers beside it. Settings of each method come from src/rapidun/bench/tuned.json, which ``tune.py`` writes from rows
and seeds that the table does not use.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from worlds import ROOT, open_world

from rapidun.bench import CellStore, Results, find_arms, full_plan, make_cells, run_cells, time_left, write_page
from rapidun.bench.plan import PROMPTS, SEEDS
from rapidun.bench.scenarios import SCENARIOS
from rapidun.cli.console import ConsoleReporter, quiet_libraries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=("demo", "authors"), default="demo")
    parser.add_argument("--scenario", nargs="+", default=[], choices=list(SCENARIOS))
    parser.add_argument("--arm", nargs="+", default=[], help="method/weights; default: those of the plan")
    parser.add_argument("--seed", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--limit", type=int, help="compute so many cells and stop")
    parser.add_argument("--minutes", type=float, help="begin no cell after so many")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--time-left", action="store_true")
    arguments = parser.parse_args()
    quiet_libraries()
    world = open_world(arguments.world)
    whole = full_plan(world, prompts=arguments.prompts)
    chosen = full_plan(world, seeds=arguments.seed, prompts=arguments.prompts)
    if arguments.arm:
        names = arguments.scenario or list(SCENARIOS)
        chosen = make_cells(world, find_arms(arguments.arm), names, arguments.seed, arguments.prompts)
    cells = [cell for cell in chosen if not arguments.scenario or cell.scenario in arguments.scenario]
    store = CellStore(arguments.results / f"unlearning-{world.name}.jsonl")
    missing = [cell for cell in cells if cell not in store]
    seconds = time_left(missing, store.lines)
    said = "unknown until the first is computed" if seconds is None else f"{seconds / 3600:.1f} hours"
    print(f"{len(missing)} of {len(cells)} cells are missing: {said}")
    if arguments.time_left:
        return
    limit = None if arguments.minutes is None else 60 * arguments.minutes
    run_cells(world, cells, store, ConsoleReporter(), limit=arguments.limit, seconds=limit)
    planned = list({cell.key: cell for cell in [*whole, *cells]}.values())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    about = f"`python benchmarks/unlearning/table.py --world {world.name}`, commit {commit.stdout.strip()}."
    name = "unlearning" if world.name == "demo" else f"unlearning-{world.name}"
    write_page(Results(planned, store), arguments.page, name=name, title=f"Unlearning: {world.name}", about=[about])


if __name__ == "__main__":
    main()
