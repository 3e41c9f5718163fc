"""How much do the settings of RapidUn matter? One at a time, the others as in the table.

    python benchmarks/unlearning/sensitivity.py               # cells that are missing, then page and picture
    python benchmarks/unlearning/sensitivity.py --minutes 30

All of it on tuning rows and seeds from 100 on, which no table reports, so that what is found may become a default.
Cells go to benchmarks/results/sensitivity.jsonl. Settings of the weights are varied where weights matter (30% of the
forget rows mislabelled), those of the training in the main scenario. The page is docs/benchmarks/sensitivity.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from worlds import ROOT, open_world

from experiments import Arm, Cell, CellStore, Results, World, run_cells
from experiments.page import BOUNDS, value_of
from experiments.plan import cell_config
from experiments.world import TUNING_SEED
from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.files import atomic_write, write_json
from rapidun.reading import read_json
from rapidun.stats import Interval, over_units

sys.path.insert(0, str(ROOT / "benchmarks"))
from pictures import write_picture
from provenance import current_commit

WEIGHTED, SKETCHED, TRAINED = "rapidun/representation", "rapidun/influence", "rapidun/uniform"
KNOBS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "weights.options.forget_temperature": (WEIGHTED, "contaminated_30", (0.35, 0.7, 1.4, 2.0, 4.0)),
    "weights.options.w_min": (WEIGHTED, "contaminated_30", (0.02, 0.1, 0.2, 0.5)),
    "weights.options.w_max": (WEIGHTED, "contaminated_30", (1.5, 3.0, 6.0)),
    "weights.options.beta": (WEIGHTED, "contaminated_30", (0.0, 0.5, 1.0, 2.0)),
    "weights.options.delta": (WEIGHTED, "contaminated_30", (0.0, 0.5, 1.0, 2.0)),
    "influence.sketch_size": (SKETCHED, "contaminated_30", (256, 4096, 65536, 262144)),
    "lora.rank": (TRAINED, "main", (2, 4, 8, 16, 32)),
    "unlearning.forget_share": (TRAINED, "main", (0.125, 0.25, 0.5, 0.75)),
    "unlearning.steps": (TRAINED, "main", (12, 24, 48)),
}
READING = Path(__file__).with_name("reading-sensitivity.md")
RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
ASR_AXIS, RATIO_AXIS = (-0.04, 1.0), (0.95, 1.25)  # the same in every panel, so that flat looks flat
METRICS = {"asr_seen": "seen ASR", "asr_unseen": "unseen ASR", "perplexity_ratio": "clean perplexity ratio"}


def knobs(world: World) -> dict[str, tuple[str, str, tuple[float, ...]]]:
    """`KNOBS` with learning rates around the tuned one."""
    rate = float(world.tuned.get("rapidun", {}).get("learning_rate", world.settings["unlearning"]["learning_rate"]))
    return {**KNOBS, "unlearning.learning_rate": (TRAINED, "main", tuple(float(f"{rate * by:.3g}") for by in RATES))}


def cells_of(world: World, seeds: list[int], prompts: int) -> dict[str, dict[float, list[Cell]]]:
    """{setting: {value: cells over seeds}}."""
    found: dict[str, dict[float, list[Cell]]] = {}
    for name, (arm, scenario, values) in knobs(world).items():
        for value in values:
            changed = Arm.of(f"{arm} {name}={value}")
            found.setdefault(name, {})[value] = [
                Cell(changed.name, scenario, seed, cell_config(world, changed, seed, prompts)) for seed in seeds
            ]
    return found


def measured(store: CellStore, cells: list[Cell], metric: str) -> Interval | None:
    """Over the seeds that are there."""
    lines = [line for cell in cells if (line := store.get(cell)) is not None]
    values = [value_of(line["result"], metric) for line in lines]
    return over_units([value for value in values if value is not None], "draws", BOUNDS.get(metric, (0.0, math.inf)))


def draw(store: CellStore, planned: dict[str, dict[float, list[Cell]]], path: Path) -> None:
    """Seen ASR (left axis) and clean perplexity ratio (right axis) against each setting."""
    columns = 3
    rows = -(-len(planned) // columns)
    grid = make_subplots(rows, columns, subplot_titles=list(planned), specs=[[{"secondary_y": True}] * columns] * rows)
    for place, values in enumerate(planned.values()):
        where: dict[str, Any] = {"row": place // columns + 1, "col": place % columns + 1}
        for metric, colour, right in (("asr_seen", "#d1495b", False), ("perplexity_ratio", "#1b6ca8", True)):
            points = [(value, found) for value, cells in values.items() if (found := measured(store, cells, metric))]
            spread = [(mean.high or mean.value) - mean.value for _, mean in points]
            grid.add_trace(
                go.Scatter(
                    x=[value for value, _ in points], y=[mean.value for _, mean in points], name=METRICS[metric],
                    mode="lines+markers", marker={"color": colour}, error_y={"array": spread, "thickness": 1},
                    showlegend=place == 0,
                ),
                secondary_y=right, **where,
            )  # fmt: skip
        kind = "log" if min(values) > 0 else "linear"
        grid.update_xaxes(type=kind, tickvals=list(values), ticktext=[f"{value:g}" for value in values], **where)
        grid.update_yaxes(range=ASR_AXIS, secondary_y=False, **where)
        grid.update_yaxes(range=RATIO_AXIS, tickvals=[1.0, 1.1, 1.2], secondary_y=True, **where)
    grid.update_layout(template="plotly_white", width=1100, height=260 * rows, margin={"t": 40})
    write_picture(grid, path)


def page(store: CellStore, planned: dict[str, dict[float, list[Cell]]], commit: str) -> list[str]:
    """Lines of the page."""
    lines = [
        "# Settings of RapidUn, one at a time",
        "",
        f"`python benchmarks/unlearning/sensitivity.py`, commit {commit}; the embedded model, the table's settings but",
        "for the one named, on tuning rows and seeds that no table reports. Settings of the weights with 12 of 40",
        "forget rows mislabelled, the others in the main scenario with uniform weights. Mean over draws of rows",
        "and its 95% t interval, none where all draws gave the same; n is the number of draws, all of one model; the",
        "temperature is the forget rows'.",
        "",
        "![Seen ASR and clean perplexity ratio against each setting](../pictures/sensitivity.png)",
        "",
        READING.read_text(encoding="utf-8").strip(),
    ]
    for name, values in planned.items():
        lines += ["", f"## {name}", "", f"| value | n | {' | '.join(METRICS.values())} | failed |"]
        lines.append("|---" * (len(METRICS) + 3) + "|")
        for value, cells in values.items():
            found = [measured(store, cells, metric) for metric in METRICS]
            shown = " | ".join("-" if mean is None else mean.text() for mean in found)
            done = [line["result"] for cell in cells if (line := store.get(cell)) is not None]
            failed = sum("failed" in result for result in done)
            lines.append(f"| {value:g} | {len(done)} | {shown} | {failed} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[TUNING_SEED + place for place in (1, 2, 3)])
    parser.add_argument("--prompts", type=int, default=160)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--stored", action="store_true", help="write the page again from the numbers beside it")
    parser.add_argument("--setting", nargs="+", default=[], help="compute these alone; the page has all")
    arguments = parser.parse_args()
    quiet_libraries()
    if arguments.stored:
        store = CellStore(ROOT / "benchmarks" / "results" / "sensitivity.jsonl")
        numbers = read_json(ROOT / "docs" / "benchmarks" / "sensitivity.json")
        write(store, stored_cells(store, numbers["settings"]), numbers["commit"])
        return
    world = open_world("demo", "tuning")
    planned = cells_of(world, arguments.seeds, arguments.prompts)
    unknown = set(arguments.setting) - set(planned)
    if unknown:
        parser.error(f"unknown setting {min(unknown)}: choose from {', '.join(planned)}")
    chosen = [cell for name in arguments.setting or planned for cells in planned[name].values() for cell in cells]
    chosen.sort(key=lambda cell: (cell.seed, cell.scenario))
    store = CellStore(ROOT / "benchmarks" / "results" / "sensitivity.jsonl")
    run_cells(
        world, chosen, store, ConsoleReporter(), seconds=None if arguments.minutes is None else 60 * arguments.minutes
    )
    commit = current_commit()
    write(store, planned, commit)


def stored_cells(store: CellStore, settings: dict[str, Any]) -> dict[str, dict[float, list[Cell]]]:
    """The cells behind a page's numbers, whatever else has changed since they were computed."""
    lines = [Cell(line["arm"], line["scenario"], line["seed"], line["config"]) for line in store.lines]
    return {
        name: {float(value): [cell for cell in lines if _has(cell, name, float(value))] for value in values}
        for name, values in settings.items()
    }


def _has(cell: Cell, name: str, value: float) -> bool:
    setting, _, text = cell.arm.rpartition(" ")[2].partition("=")
    return setting == name and float(text) == value


def write(store: CellStore, planned: dict[str, dict[float, list[Cell]]], commit: str) -> None:
    """Page, numbers and picture."""
    every = [cell for values in planned.values() for cells in values.values() for cell in cells]
    missing = Results(every, store).missing
    text = page(store, planned, commit)
    if missing:
        text.insert(7, f"{missing} of {len(every)} cells are missing.")
    with atomic_write(ROOT / "docs" / "benchmarks" / "sensitivity.md") as file:
        file.write("\n".join(text) + "\n")
    numbers = {
        name: {str(value): {metric: vars(found) if (found := measured(store, cells, metric)) else None
                            for metric in METRICS} for value, cells in values.items()}
        for name, values in planned.items()
    }  # fmt: skip
    write_json(ROOT / "docs" / "benchmarks" / "sensitivity.json", {"commit": commit, "settings": numbers})
    draw(store, planned, ROOT / "docs" / "pictures" / "sensitivity.png")


if __name__ == "__main__":
    main()
