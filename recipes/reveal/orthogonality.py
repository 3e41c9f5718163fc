"""Does it matter that the forget module is held apart from the retain module? Penalties 0, 0.1, 0.5 and 5 on task d.

    python recipes/reveal/orthogonality.py --seeds 0 1 2 --write docs/benchmarks/reveal.md

The rows are those that the first round of task d revealed (`python_code.py`, which must have run); only ``lambda_o``
differs. Overlap of the modules, how much code is forgotten and how much arithmetic stays. A stopped run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import check_page, place_of, table, write_table
from python_code import reveal_config
from python_code_measures import MEASURES, measured
from python_code_model import PLACE

from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.data import load_rows
from rapidun.files import write_json
from rapidun.pipeline.inputs import RunModel, open_run_model
from rapidun.pipeline.revealing.rounds import round_directory
from rapidun.reading import read_json
from rapidun.revealing import train_round

# The last subtracts less of a module without a penalty: is the penalty more than a weaker release?
SETTINGS: dict[str, dict[str, float]] = {
    **{f"{penalty:g}": {"release.modules.orthogonality": penalty} for penalty in (0.0, 0.1, 0.5, 5.0)},
    "0, a = 2": {"release.modules.orthogonality": 0.0, "release.modules.forget_scale": 2.0},
}


def trained(name: str, seed: int, rows: Path, run_model: RunModel, out: Path, reporter: ConsoleReporter) -> Path:
    """One round of modules of `SETTINGS`; ``outcome.json`` beside them says how much they overlap."""
    place = place_of(f"penalty {name}".replace(" = ", "-"), seed, out)
    if not (place / "outcome.json").exists():
        task = reveal_config("modules, one-shot", seed, SETTINGS[name]).task
        retain = run_model.tokenize(load_rows(PLACE / "rows" / "retain.jsonl"))
        reporter.phase("modules", f"Modules with penalty {name}, seed {seed}")
        outcome = train_round(
            run_model.loaded, None, retain, run_model.tokenize(load_rows(rows)), task.release, place,
            seed=1000 * seed + 1, progress=reporter.progress,
        )  # fmt: skip
        write_json(place / "outcome.json", {"overlap": outcome.overlap, "forget loss": outcome.losses["forget"]})
    return place


def main() -> None:
    """All penalties and seeds, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="rows to measure on")
    parser.add_argument("--revealed", type=Path, default=Path("runs/reveal_code"), help="--out of python_code.py")
    parser.add_argument("--out", type=Path, default=Path("runs/reveal_orthogonality"))
    parser.add_argument("--write", type=Path, help="put the table into this page, between its markers")
    options = parser.parse_args()
    check_page(options.write, "orthogonality")
    quiet_libraries()
    found: dict[str, dict[str, dict[str, float]]] = {}
    with ConsoleReporter() as reporter:
        config = reveal_config("modules, one-shot", 0, {})
        run_model = open_run_model(config.model, config.data, reporter)
        for seed in options.seeds:
            rows = round_directory(place_of("iterative", seed, options.revealed), 1) / "revealed.jsonl"
            if not rows.exists():
                raise SystemExit(f"{rows} is not there: run recipes/reveal/python_code.py --seeds {seed} first.")
            for name in SETTINGS:
                place = trained(name, seed, rows, run_model, options.out, reporter)
                file = options.out / "measured" / f"{place.name}-{options.split}.json"
                values = measured(file, place / "adapter", run_model, options.split, rows)
                found.setdefault(name, {})[str(seed)] = {**read_json(place / "outcome.json"), **values}
                print(name, seed, found[name][str(seed)], flush=True)
    names = ("overlap", "forget loss", *(name for name in MEASURES if "refused" not in name))  # modules never refuse
    columns: dict[str, Any] = {name: (lambda row, name=name: row[name]) for name in names}
    text = table(found, columns)
    print(text.replace("| variant |", "| penalty |"))
    if options.write is not None:
        write_table(options.write, "orthogonality", text.replace("| variant |", "| penalty |"))


if __name__ == "__main__":
    main()
