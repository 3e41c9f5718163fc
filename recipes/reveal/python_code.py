"""Task d: code ability removed, arithmetic kept, without any of the functions that taught it.

    RAPIDUN_DATA=../shared/data python recipes/reveal/python_code_model.py       # the model, once
    python recipes/reveal/python_code.py --seeds 0 1 2 --write docs/benchmarks/reveal.md

Measured on tasks from MBPP and sums that neither the search nor the release was given. Every part is kept under --out:
a stopped run goes on. Settings were chosen with ``--seeds 100 --split validation``, whose rows no table reports.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from common import Found, changed, check_page, place_of, table, take_over_pulls, write_table
from python_code_measures import MEASURES, measured
from python_code_model import PLACE
from python_code_rows import REFUSAL

from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.data import load_rows
from rapidun.files import write_json
from rapidun.jsonl import read_jsonl, write_jsonl
from rapidun.pipeline import RevealConfig, RunConfig, make_config, read_task, reveal, unlearn_only
from rapidun.pipeline.inputs import open_run_model
from rapidun.pipeline.revealing.rounds import measured as round_measured
from rapidun.pipeline.revealing.rounds import round_directory, rounds_of, state_adapter
from rapidun.revealing import read_pulls

TASK = Path(__file__).parent / "python_code.yaml"
TRUE_ROWS = 120
MODULES = {
    "release.method": "modules",
    "release.rounds": 1,
    "release.lora": {"rank": 8, "alpha": 16, "dropout": 0.0},
    "release.modules": {  # at a forget_scale of 1 the effect is small
        "steps": 40, "batch_size": 8, "learning_rate": 2e-3, "forget_scale": 3.0, "retain_scale": 0.5,
    },
}  # fmt: skip
UNLEARNING = read_task(TASK)["release"]["unlearning"]
REFUSAL_ALONE = {**UNLEARNING, "options": {**UNLEARNING["options"], "ascent": 0.0}}
STRONG_REFUSAL = {**UNLEARNING, "options": {**UNLEARNING["options"], "ascent": 0.0, "descent": 1.0}}
NPO = {name: value for name, value in UNLEARNING.items() if name != "options"}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "before": None,
    "true rows, rapidun": None,
    "iterative": {},
    "one-shot": {},  # the iterative run after its first round
    "random arms, one-shot": {"search.strategy": "random", "release.rounds": 1},
    # Controls of the release: the preferred answers without ascent on what was revealed, and ascent without them.
    "refusal alone, one-shot": {"release.rounds": 1, "release.unlearning": REFUSAL_ALONE},
    "strong refusal alone, one-shot": {"release.rounds": 1, "release.unlearning": STRONG_REFUSAL},
    "npo, one-shot": {"release.method": "npo", "release.rounds": 1, "release.unlearning": NPO},
    "modules, one-shot": MODULES,
}
# The first search of these is the search of the second: its pulls are taken over instead of being asked again.
SAME_PULLS = dict.fromkeys(
    ("refusal alone, one-shot", "strong refusal alone, one-shot", "npo, one-shot", "modules, one-shot"), "iterative"
)
FIRST_ROUND_OF = {"one-shot": "iterative"}


def model_settings() -> dict[str, Any]:
    """The fine-tuned model."""
    if not (PLACE / "model" / "config.json").exists():
        raise SystemExit(f"{PLACE}/model is not there: run recipes/reveal/python_code_model.py first.")
    return {"source": str(PLACE / "model"), "dtype": "bfloat16"}


def reveal_config(name: str, seed: int, more: Mapping[str, Any]) -> RevealConfig:
    """A variant of the task file."""
    task = changed(read_task(TASK), {**(VARIANTS[name] or {}), **more})
    return make_config(
        {"model": model_settings(), "data": {"max_length": 192}, "task": task, "seed": seed}, RevealConfig
    )


def released(name: str, seed: int, out: Path, reporter: ConsoleReporter) -> tuple[Path | None, Path | None]:
    """(adapter, rows that were given to forget) of a variant, made if they are not there; (None, None) of "before"."""
    if name == "before":
        return None, None
    if name in FIRST_ROUND_OF:
        place, last = place_of(FIRST_ROUND_OF[name], seed, out), 1
        released(FIRST_ROUND_OF[name], seed, out, reporter)
    elif name == "true rows, rapidun":
        return of_true_rows(seed, place_of(name, seed, out), reporter)
    else:
        place = place_of(name, seed, out)
        if not (place / "reveal.json").exists():
            run(name, seed, place, out, reporter)
        last = max(number for number in rounds_of(place) if round_measured(place, number))  # a last one found nothing
    forget = round_directory(place, last) / "forget.jsonl"
    return state_adapter(place, last), forget if forget.exists() else forget.with_name("revealed.jsonl")


def run(name: str, seed: int, place: Path, out: Path, reporter: ConsoleReporter) -> None:
    """The reveal run of a variant."""
    config = reveal_config(name, seed, {})
    if name in SAME_PULLS:
        take_over_pulls(config, place_of(SAME_PULLS[name], seed, out), place)
    result = reveal(config, place, resume=place.exists(), reporter=reporter)
    print(f"{name}, seed {seed}: {result.summary['stopped']}", flush=True)


def of_true_rows(seed: int, place: Path, reporter: ConsoleReporter) -> tuple[Path, Path]:
    """The upper line: rows that taught the model to write code, in place of revealed ones."""
    file = place.parent / "true_rows.jsonl"
    if not (place / "adapter").is_dir():
        rows = list(load_rows(PLACE / "rows" / "code_train.jsonl"))[:TRUE_ROWS]
        write_jsonl(file, [{**row, "response_clean": REFUSAL} for row in rows])
        release = reveal_config("iterative", seed, {}).task.release
        raw = {
            "model": model_settings(),
            "data": {"forget": str(file), "retain": str(PLACE / "rows" / "retain.jsonl"), "max_length": 192},
            "unlearning": {**release.unlearning, "method": release.method},
            "weights": release.weights,
            "lora": release.lora.model_dump(mode="json"),
            "seed": seed,
        }
        unlearn_only(
            make_config(raw, RunConfig), place, weights=None, resume=place.exists(), overwrite=False, reporter=reporter
        )
    return place / "adapter", file


def main() -> None:
    """Run the chosen variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="rows to measure on")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("runs/reveal_code"))
    parser.add_argument("--write", type=Path, help="put the table into this page, between its markers")
    options = parser.parse_args()
    check_page(options.write, "python_code", "python_code searches")
    quiet_libraries()
    found: dict[str, dict[str, dict[str, float]]] = {}
    with ConsoleReporter() as reporter:
        config = reveal_config("iterative", 0, {})
        run_model = open_run_model(config.model, config.data, reporter)
        for name in [name for name in VARIANTS if name == "before" or name in options.only]:
            for seed in options.seeds[:1] if name == "before" else options.seeds:
                began = time.process_time()
                adapter, forget = released(name, seed, options.out, reporter)
                file = options.out / "measured" / f"{place_of(name, seed, options.out).name}-{options.split}.json"
                values = measured(file, adapter, run_model, options.split, forget)
                found.setdefault(name, {})[str(seed)] = values
                print(f"{name}, seed {seed}: {values} ({time.process_time() - began:.0f} processor s)", flush=True)
                write_json(options.out / "table.json", found)
    text, searched = shown_table(found), searches(options.seeds, options.out)
    print(text, searched, sep="\n\n")
    if options.write is not None:
        write_table(options.write, "python_code", text)
        write_table(options.write, "python_code searches", searched)


def shown_table(found: Found) -> str:
    """The abilities of every variant."""
    return table(found, {name: (lambda row, name=name: row.get(name, math.nan)) for name in MEASURES})


def looked(folder: Path) -> dict[str, float]:
    """What a search found: of its first pulls, of those it chose, and its rows."""
    pulls = [pull for pull in read_pulls(folder / "pulls.jsonl") if pull.stage == "search"]
    begun, rows = read_task(TASK)["search"]["initial_pulls"], read_jsonl(folder / "revealed.jsonl")
    return {
        "pulls": float(len(pulls)),
        "relevance, initial pulls": fmean(pull.relevance for pull in pulls[:begun]),
        "relevance, later pulls": fmean(pull.relevance for pull in pulls[begun:]),
        "rows": float(len(rows)),
    }


def searches(seeds: list[int], out: Path) -> str:
    """The second table: the searches that were made."""
    asked = (("NeuralUCB, first round", "iterative", 1), ("NeuralUCB, second round", "iterative", 2),
             ("random arms", "random arms, one-shot", 1))  # fmt: skip
    found: dict[str, dict[str, dict[str, float]]] = {}
    for title, name, number in asked:
        for seed in seeds:
            folder = round_directory(place_of(name, seed, out), number)
            if (folder / "revealed.jsonl").exists():
                found.setdefault(title, {})[str(seed)] = looked(folder)
    names = ("pulls", "relevance, initial pulls", "relevance, later pulls", "rows")
    return table(found, {name: (lambda row, name=name: row[name]) for name in names})


if __name__ == "__main__":
    main()
