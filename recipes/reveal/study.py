"""One study: variants of a reveal run on a model of our own, the upper line with true rows, and a measurement of each.

Every part is kept under the study's directory: a stopped one goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Found, Values, changed, place_of, with_adapter

from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.data import load_rows
from rapidun.files import write_json
from rapidun.jsonl import write_jsonl
from rapidun.pipeline import RevealConfig, RunConfig, make_config, read_task, reveal, unlearn_only
from rapidun.pipeline.inputs import RunModel, open_run_model
from rapidun.pipeline.revealing.rounds import state_adapter
from rapidun.reading import read_json

BEFORE, TRUE, ITERATIVE, ONE_SHOT, RANDOM, SEED_ALONE = (
    "before", "true rows", "iterative", "one-shot", "random arms, one-shot", "seed instruction, one-shot",
)  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    BEFORE: {},
    TRUE: {},
    ITERATIVE: {},
    ONE_SHOT: {},  # the iterative run after its first round
    RANDOM: {"search.strategy": "random", "release.rounds": 1},
    SEED_ALONE: {"search.strategy": "seed", "release.rounds": 1},
}


Measure = Callable[[RunModel, Path], dict[str, float]]


@dataclass(frozen=True)
class Study:
    """What a task's script decides.

    Args:
        task: The task file.
        model: Directory of the model.
        true_rows: Rows that really taught it, with ``response_clean``; the upper line takes as many as a round may
            reveal.
        max_length: Longest row in tokens.
        measures: Of the model as it stands, by rows that nobody was given; the path is the place for its answers. What
            each found is kept in a file of its name.
    """

    task: Path
    model: Path
    true_rows: Path
    max_length: int
    measures: Mapping[str, Measure]

    def config(self, name: str, seed: int) -> RevealConfig:
        """The reveal run of a variant."""
        task = changed(read_task(self.task), VARIANTS[name])
        model = {"source": str(self.model), "dtype": "bfloat16"}
        return make_config(
            {"model": model, "data": {"max_length": self.max_length}, "task": task, "seed": seed},
            RevealConfig,
            str(self.task),
        )

    def adapter(self, name: str, seed: int, out: Path, reporter: ConsoleReporter) -> Path | None:
        """The adapter of a variant, trained if it is not there; None where nothing changed or nothing was revealed."""
        if name == BEFORE:
            return None
        if name == ONE_SHOT:
            self.adapter(ITERATIVE, seed, out, reporter)
            return state_adapter(place_of(ITERATIVE, seed, out), 1)
        place = place_of(name, seed, out)
        if name == TRUE:
            return self._of_true_rows(seed, place, reporter)
        if not (place / "reveal.json").exists():
            result = reveal(self.config(name, seed), place, resume=place.exists(), reporter=reporter)
            print(f"{name}, seed {seed}: {result.summary['stopped']}", flush=True)
        trained = [line["round"] for line in read_json(place / "reveal.json")["rounds"] if line["rows"]]
        return state_adapter(place, max(trained)) if trained else None

    def _of_true_rows(self, seed: int, place: Path, reporter: ConsoleReporter) -> Path:
        if (place / "adapter").is_dir():
            return place / "adapter"
        task = self.config(ITERATIVE, seed).task
        file = place.parent / f"true_rows-{seed}.jsonl"
        rows = list(load_rows(self.true_rows))
        start = (seed * task.search.rows) % max(len(rows) - task.search.rows, 1)
        write_jsonl(file, rows[start : start + task.search.rows])
        raw = {
            "model": {"source": str(self.model), "dtype": "bfloat16"},
            "data": {
                "forget": str(file),
                "retain": str(task.retain),
                "validation": str(task.utility.rows) if task.utility.rows else None,
                "max_length": self.max_length,
            },
            "unlearning": {**task.release.unlearning, "method": task.release.method},
            "weights": task.release.weights,
            "lora": task.release.lora.model_dump(mode="json"),
            "seed": seed,
        }
        config = make_config(raw, RunConfig, str(self.task))
        unlearn_only(config, place, weights=None, resume=place.exists(), overwrite=False, reporter=reporter)
        return place / "adapter"

    def values(self, name: str, seed: int, adapter: Path | None, run_model: RunModel, out: Path) -> dict[str, float]:
        """What was measured of a variant, kept."""
        place = out / "measured" / place_of(name, seed, out).name
        missing = [each for each in self.measures if not (place / f"{each}.json").exists()]
        if missing:
            place.mkdir(parents=True, exist_ok=True)
            with with_adapter(run_model, adapter) as model:
                for each in missing:
                    write_json(place / f"{each}.json", self.measures[each](model, place))
        return {key: value for each in self.measures for key, value in read_json(place / f"{each}.json").items()}


def arguments(description: str | None, out: str) -> argparse.ArgumentParser:
    """The options that every study has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--write", type=Path, help="put the tables into this page, between their markers")
    return parser


def carry_out(study: Study, seeds: list[int], only: list[str], out: Path) -> Found:
    """Every chosen variant with every seed; the model as it was is measured once."""
    if not (study.model / "config.json").exists():
        raise SystemExit(f"{study.model} is not there: build it first (the README beside this script says how).")
    quiet_libraries()
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Values]] = {}
    with ConsoleReporter() as reporter:
        config = study.config(ITERATIVE, 0)
        run_model = open_run_model(config.model, config.data, reporter)
        for name in [name for name in VARIANTS if name == BEFORE or name in only]:
            for seed in seeds[:1] if name == BEFORE else seeds:
                began = time.process_time()
                adapter = study.adapter(name, seed, out, reporter)
                values = study.values(name, seed, adapter, run_model, out)
                found.setdefault(name, {})[str(seed)] = values
                print(f"{name}, seed {seed}: {values} ({time.process_time() - began:.0f} processor s)", flush=True)
                write_json(out / "table.json", found)
    return found


def column(name: str, row: Values) -> float:
    """One value of a line, for `table`."""
    return row[name]


def searched(names: list[str], seeds: list[int], out: Path) -> dict[str, dict[str, dict[str, float]]]:
    """What the first round of the variants revealed: mean relevance of its pulls, rows, and relevance after it."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        for seed in seeds:
            place = place_of(name, seed, out)
            if not (place / "reveal.json").exists():
                continue
            for line in read_json(place / "reveal.json")["rounds"]:
                found.setdefault(f"{name}, round {line['round']}", {})[str(seed)] = {
                    "rows": float(line["rows"]),
                    "relevance before": line.get("relevance_before", float("nan")),
                    "relevance after": line.get("relevance_after", float("nan")),
                    "kept": float(line.get("accepted", False)),
                }
    return found
