"""The table of unlearning: methods x weightings x scenarios x seeds, over as many sittings as it takes.

    python benchmarks/unlearning/table.py --time-left            # what is missing and how long it should take
    python benchmarks/unlearning/table.py --minutes 60           # compute for an hour, then write the page
    python benchmarks/unlearning/table.py --quick --out runs/bench    # controls, two baselines, two seeds: minutes
    python benchmarks/unlearning/table.py --scenario contaminated_30 --seed 0 --arm npo/uniform
    python benchmarks/unlearning/table.py --world authors        # another model, where it was built
    python benchmarks/unlearning/table.py --stored               # the page again, from the cells that are there

Cells are lines of benchmarks/results/unlearning-WORLD.jsonl, under the hash of all that decides them; one that is there
is not computed again. The page is docs/benchmarks/unlearning.md (of another world unlearning-WORLD.md) with the
numbers beside it, the words of reading-WORLD.md in front and a picture. Settings of each method come from
benchmarks/experiments/tuned.json, which ``tune.py`` writes from rows and seeds that the table does not use.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from plotly.subplots import make_subplots
from worlds import ROOT, WORLDS, open_world

from experiments import (
    Cell,
    CellStore,
    Results,
    World,
    find_arms,
    full_plan,
    make_cells,
    quick_plan,
    run_cells,
    time_left,
    write_page,
)
from experiments.page import numbers
from experiments.plan import CONTROLS, OURS, PROMPTS, QUICK_PROMPTS, QUICK_SEEDS, SEEDS, SETTLED
from experiments.scenarios import SCENARIOS
from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.reading import read_json

sys.path.insert(0, str(ROOT / "benchmarks"))
from pictures import write_picture
from provenance import current_commit

TITLES = {
    "demo": "Unlearning on the embedded model",
    "authors": "Unlearning on the RapidUn authors' rows",
    "mistral": "Unlearning on another architecture and a pool of 50,000 rows",
}
CARRIED = (*(f"{OURS}/{name}" for name in ("influence", *CONTROLS)), SETTLED, "dpo", "npo", "idk")
LOWEST = 0.002
COLOURS = defaultdict(lambda: "#5b6770", ours="#d1495b", rapidun="#e39b4b", poisoned="#111111", retrain="#2a7f3f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=list(WORLDS), default="demo")
    parser.add_argument("--scenario", nargs="+", default=[], choices=list(SCENARIOS))
    parser.add_argument("--arm", nargs="+", default=[], help="method/weights; default: those of the plan")
    parser.add_argument("--quick", action="store_true", help="main scenario, controls, two baselines, two seeds")
    parser.add_argument("--seed", nargs="+", type=int, help=f"default: {SEEDS}, with --quick {QUICK_SEEDS}")
    parser.add_argument("--prompts", type=int, help=f"measured rows; default {PROMPTS}, with --quick {QUICK_PROMPTS}")
    parser.add_argument("--limit", type=int, help="compute so many cells and stop")
    parser.add_argument("--minutes", type=float, help="begin no cell after so many")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--out", type=Path, help="cells and page into one directory of their own")
    parser.add_argument("--time-left", action="store_true", help="only say how many cells are missing")
    parser.add_argument("--json", action="store_true", help="print the table's numbers")
    parser.add_argument("--stored", action="store_true", help="write the page again from the numbers beside it")
    arguments = parser.parse_args()
    quiet_libraries()
    if arguments.out:
        arguments.results = arguments.page = arguments.out
    if arguments.stored:
        write(arguments.world, stored(arguments), arguments, stored_commit(arguments))
        return
    world = open_world(arguments.world)
    whole, cells = planned(world, arguments)
    store = CellStore(arguments.results / f"unlearning-{world.name}.jsonl")
    missing = [cell for cell in cells if cell not in store]
    seconds = time_left(missing, store.lines)
    said = "unknown until the first is computed" if seconds is None else f"{seconds / 3600:.1f} hours"
    print(f"{len(missing)} of {len(cells)} cells are missing: {said}")
    if arguments.time_left:
        return
    limit = None if arguments.minutes is None else 60 * arguments.minutes
    run_cells(world, cells, store, ConsoleReporter(), limit=arguments.limit, seconds=limit)
    shown = list({cell.key: cell for cell in [*whole, *cells]}.values())
    results = Results(shown, CellStore(store.path))  # read again: others add cells too
    write(world.name, results, arguments, current_commit())
    if arguments.json:
        print(json.dumps(numbers(results, SETTLED)))


def planned(world: World, arguments: argparse.Namespace) -> tuple[list[Cell], list[Cell]]:
    """The cells of the page (without --out: of the whole table, whatever is computed now), and those to compute."""
    prompts = arguments.prompts or (QUICK_PROMPTS if arguments.quick else PROMPTS)
    make = partial(quick_plan if arguments.quick else plan, world, prompts=prompts)
    seeds = arguments.seed or (QUICK_SEEDS if arguments.quick else SEEDS)
    cells = make(seeds=seeds)
    if arguments.arm:
        names = arguments.scenario or (["main"] if arguments.quick else list(SCENARIOS))
        cells = make_cells(world, find_arms(arguments.arm), names, seeds, prompts)
    cells = [cell for cell in cells if not arguments.scenario or cell.scenario in arguments.scenario]
    return ([] if arguments.out else plan(world, seeds=SEEDS, prompts=prompts)), cells


def page_name(world: str) -> str:
    """Of the page's files, without their ending."""
    return "unlearning" if world == "demo" else f"unlearning-{world}"


def stored(arguments: argparse.Namespace) -> Results:
    """The cells of the page's table as they were computed, whatever settings have changed since."""
    store = CellStore(arguments.results / f"unlearning-{arguments.world}.jsonl")
    table = read_json(arguments.page / f"{page_name(arguments.world)}.json")["table"]
    lines: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in sorted(store.lines, key=lambda line: line["seed"]):
        lines[line["scenario"], line["arm"]].append(line)
    cells = [
        Cell(line["arm"], line["scenario"], line["seed"], line["config"])
        for entry in table
        for line in lines[entry["scenario"], entry["arm"]]
    ]
    return Results(cells, store)


def stored_commit(arguments: argparse.Namespace) -> str:
    """The commit that the page names."""
    text = (arguments.page / f"{page_name(arguments.world)}.md").read_text(encoding="utf-8")
    return re.findall(r", commit ([0-9a-f]+)\.", text)[0]


def write(world: str, results: Results, arguments: argparse.Namespace, commit: str) -> None:
    """Page, numbers and picture."""
    about = f"`python benchmarks/unlearning/table.py --world {world}`, commit {commit}."
    name = page_name(world)
    reading = Path(__file__).with_name(f"reading-{world}.md")
    said = [reading.read_text(encoding="utf-8").strip()] if reading.exists() else []
    picture = (
        f"![Seen ASR against clean perplexity](../pictures/{name}.png)\n\n"
        "Red: ours; orange: RapidUn with other weights. Filled: on the Pareto front. Points in a crowd have no name."
    )
    write_page(results, arguments.page, name=name, title=TITLES[world], about=[about, *said, picture])
    draw(results, arguments.page.parent / "pictures" / f"{name}.png")


def plan(world: World, *, seeds: Sequence[int], prompts: int) -> list[Cell]:
    """All of the table; of the worlds that ask whether it carries over, the leading arms in two scenarios."""
    if world.name != "demo":
        return make_cells(world, find_arms(CARRIED), ["main", "contaminated_30"], seeds, prompts)
    return full_plan(world, seeds=seeds, prompts=prompts)


def draw(results: Results, path: Path) -> None:
    """Seen ASR against clean perplexity, one square a scenario, means over seeds; filled: on the Pareto front.

    The scale is logarithmic; what is below its lowest value is drawn there. Points in a crowd go without a name.
    """
    found = {scenario: points for scenario, points in numbers(results, SETTLED)["pareto"].items() if points}
    columns = 2
    rows = max(1, -(-len(found) // columns))
    grid = make_subplots(rows, columns, subplot_titles=list(found), vertical_spacing=0.25 / rows)
    for place, points in enumerate(found.values()):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        named = with_room(points)
        for number, point in enumerate(sorted(points, key=lambda point: float(point["clean_perplexity"]))):
            name = point["arm"]
            colour = COLOURS["ours" if name == SETTLED else name.split("/")[0]]
            shown = "ours" if name == SETTLED else name.removeprefix("rapidun/").removesuffix("/uniform")
            grid.add_scatter(
                x=[point["clean_perplexity"]], y=[max(point["asr_seen"], LOWEST)],
                text=[shown if name in named else ""],
                mode="markers+text", textposition=("top center", "bottom center")[number % 2],
                textfont={"size": 9, "color": colour}, **where,
                marker={"color": colour, "size": 9, "symbol": "circle" if point["front"] else "circle-open"},
            )  # fmt: skip
        grid.update_yaxes(type="log", range=[math.log10(LOWEST / 2), 0.1], title="seen ASR", **where)
        grid.update_xaxes(title="clean perplexity", **where)
    grid.update_layout(template="plotly_white", showlegend=False, width=1200, height=480 * rows, margin={"t": 40})
    write_picture(grid, path)


def with_room(points: list[dict[str, Any]]) -> set[str]:
    """The points whose names do not lie on another's: ours and the references first, then the Pareto front."""
    across = [float(point["clean_perplexity"]) for point in points]
    spread = (max(across) - min(across)) or 1.0
    places: dict[str, tuple[float, float]] = {}
    first = (SETTLED, "poisoned", "retrain")
    for point in sorted(points, key=lambda point: (point["arm"] not in first, not point["front"])):
        x, y = float(point["clean_perplexity"]) / spread, math.log10(max(point["asr_seen"], LOWEST))
        if all(abs(x - other) > 0.12 or abs(y - height) > 0.12 for other, height in places.values()):
            places[point["arm"]] = (x, y)
    return set(places)


if __name__ == "__main__":
    main()
