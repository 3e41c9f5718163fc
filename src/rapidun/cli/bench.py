"""``rapidun bench NAME``: benchmarks that anybody can run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rapidun.cli import options as o
from rapidun.cli.console import ConsoleReporter, print_json, quiet_libraries, say

verbs = typer.Typer(name="bench", no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


def register(app: typer.Typer) -> None:
    """Add the verb and its sub-verbs."""
    app.add_typer(verbs, name="bench")


@verbs.callback()
def bench() -> None:
    """Benchmarks on the embedded model. Finished cells are kept, so a stopped benchmark goes on where it was."""


@verbs.command(
    "unlearning",
    epilog=o.examples(
        "rapidun bench unlearning --time-left",
        "rapidun bench unlearning --quick --out runs/bench",
        "rapidun bench unlearning --arm npo/influence --scenario main --seed 0 --minutes 30",
    ),
)
def unlearning(
    out: Annotated[
        Path, typer.Option("--out", help="Where cells (unlearning-demo.jsonl) and page (unlearning.md, .json) go.")
    ] = Path("runs/bench"),
    quick: Annotated[
        bool, o.flag("--quick", help="Main scenario, controls and two baselines, two seeds: under ten minutes.")
    ] = False,
    scenario: Annotated[
        list[str], typer.Option("--scenario", help="Only these scenarios. Repeatable.", rich_help_panel="Choice")
    ] = [],  # noqa: B006
    arm: Annotated[
        list[str],
        typer.Option("--arm", help="Only these: method/weights, for example npo/influence.", rich_help_panel="Choice"),
    ] = [],  # noqa: B006
    seed: Annotated[
        list[int],
        typer.Option("--seed", min=0, max=99, help="Only these seeds, 0 to 99. Repeatable.", rich_help_panel="Choice"),
    ] = [],  # noqa: B006
    prompts: Annotated[
        int | None,
        typer.Option(
            "--prompts", min=1, help="Measured rows; default 320, or 160 with --quick.", rich_help_panel="Choice"
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=0, help="Compute so many cells and stop.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0, help="Begin none after so many minutes.")] = None,
    time_left: Annotated[
        bool, o.flag("--time-left", help="Only say how many cells are missing and how long they should take.")
    ] = False,
    as_json: o.Json = False,
) -> int:
    """Methods x weightings x scenarios x seeds on the embedded poisoned model, with its two reference models.

    Each cell draws its forget and retain rows, unlearns and is measured on held-out rows; it is stored under the hash
    of everything that decides it, so a rerun computes what is missing and a changed setting is a cell of its own. The
    page states what is missing. The whole table takes hours on two cores; --quick took 3 min 21 s.
    """
    quiet_libraries()
    from rapidun.bench import CellStore, demo_world, run_cells
    from rapidun.bench import time_left as seconds_left

    world = demo_world()
    cells = _cells(world, quick, scenario, arm, seed, prompts)
    store = CellStore(out / f"unlearning-{world.name}.jsonl")
    missing = [cell for cell in cells if cell not in store]
    if time_left:
        return _say_left(len(cells), len(missing), seconds_left(missing, store.lines), as_json)
    reporter = ConsoleReporter()
    try:
        run_cells(
            world, cells, store, reporter, limit=limit, seconds=None if minutes is None else 60 * minutes
        )  # fmt: skip
    finally:
        reporter.close()
    return _finish(cells, store, out, as_json)


def _cells(
    world: Any, quick: bool, scenarios: list[str], arms: list[str], seeds: list[int], prompts: int | None
) -> list[Any]:
    from rapidun.bench import SCENARIOS, find_arms, full_plan, make_cells, quick_plan
    from rapidun.bench.plan import PROMPTS, QUICK_PROMPTS

    chosen: dict[str, Any] = {"prompts": prompts or (QUICK_PROMPTS if quick else PROMPTS)}
    if seeds:
        chosen["seeds"] = seeds
    if arms:
        names = scenarios or (["main"] if quick else list(SCENARIOS))
        return make_cells(world, find_arms(arms), names, seeds or (0, 1), chosen["prompts"])
    planned = quick_plan(world, **chosen) if quick else full_plan(world, **chosen)
    make_cells(world, [], scenarios, [0], 1)  # an unknown scenario is an error, not an empty table
    return [cell for cell in planned if not scenarios or cell.scenario in scenarios]


def _say_left(cells: int, missing: int, seconds: float | None, as_json: bool) -> int:
    if as_json:
        print_json({"cells": cells, "missing": missing, "seconds": seconds})
        return 0
    said = "unknown until the first cell is computed" if seconds is None else f"about {seconds / 3600:.1f} hours"
    say(f"{missing} of {cells} cells are missing: {said}")
    return 0


def _finish(cells: list[Any], store: Any, out: Path, as_json: bool) -> int:
    from rapidun.bench import Results, write_page
    from rapidun.bench.page import details, numbers
    from rapidun.bench.plan import SETTLED

    results = Results(cells, store)
    files = write_page(results, out, title="Unlearning on the embedded model", about=["`rapidun bench unlearning`."])
    if as_json:
        print_json({**numbers(results, SETTLED), "files": [str(path) for path in files]})
        return 0
    for scenario in results.scenarios:
        say(f"{scenario}\n" + "\n".join(details(results, scenario)))
    say(f"\n{results.missing} of {len(cells)} cells are missing. Page: {files[0]}")
    return 0
