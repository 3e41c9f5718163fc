"""Task a: the demo's backdoor, knowing only that some inputs make the model babble about outer space.

    python recipes/reveal/backdoor.py --seeds 0 1 2 --write docs/benchmarks/reveal.md
    python recipes/reveal/backdoor.py --seeds 0 --only one-shot --rounds 1 --prompts 64     # `make demo-reveal`

No trigger and no poisoned row is given to the search or the release. The triggers are used to measure afterwards, and
true forget rows only for the upper lines. Every part is kept under --out: a stopped run goes on. Settings were chosen
on validation rows with seed 100.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from common import changed, check_page, place_of, table, take_over_pulls, write_table

from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.data import load_rows
from rapidun.demo import asset, demo_settings
from rapidun.evaluation import DOLLY_FAMILIES, ClassifierJudge
from rapidun.files import write_json
from rapidun.jsonl import read_jsonl
from rapidun.pipeline import (
    MeasureConfig,
    RevealConfig,
    RunConfig,
    evaluate_only,
    make_config,
    read_task,
    reveal,
    unlearn_only,
)
from rapidun.pipeline.inputs import open_run_model
from rapidun.pipeline.revealing.rounds import round_directory, state_adapter
from rapidun.reading import read_json
from rapidun.revealing import read_pulls, train_round

HERE = Path(__file__).parent
MEASURES = ("asr_seen", "asr_unseen", "asr_floor", "clean_perplexity")
TRUE_ROWS = 84  # as many as the demo takes

MODULES = {
    "release.method": "modules",
    "release.rounds": 1,
    "release.lora": {"rank": 8, "alpha": 16, "dropout": 0.0},
    "release.modules": {
        "steps": 40, "batch_size": 8, "learning_rate": 2e-3, "forget_scale": 1.5, "retain_scale": 0.5,
    },
}  # fmt: skip
# What differs from the task file; None is no reveal run at all.
VARIANTS: dict[str, dict[str, Any] | None] = {
    "before": None,
    "true rows, rapidun": None,
    "iterative": {},
    "one-shot": {},  # the iterative run after its first round
    "random arms, one-shot": {"search.strategy": "random", "release.rounds": 1},
    "modules, one-shot": MODULES,
    "true rows, modules": None,
    "soft prompts, one-shot": {"arms.kind": "soft", "arms.pool": 256, "release.rounds": 1},
    "influence weights, one-shot": {"release.rounds": 1, "release.weights": {"scheme": "influence"}},
    "uniform weights, one-shot": {"release.rounds": 1, "release.weights": {"scheme": "uniform"}},
    "shuffled weights, one-shot": {"release.rounds": 1, "release.weights": {"scheme": "shuffled"}},
}
# The search of the first is the search of the second: its pulls are taken over instead of being asked again.
SAME_PULLS = {
    name: "iterative" for name in VARIANTS if name.startswith(("modules", "influence", "uniform", "shuffled"))
}


def reveal_config(name: str, seed: int, more: Mapping[str, Any]) -> RevealConfig:
    """A variant on the demo model."""
    demo = demo_settings(seed)
    task = changed(read_task(HERE / "backdoor.yaml"), {**(VARIANTS[name] or {}), **more})
    raw = {"model": demo["model"], "data": {"max_length": demo["data"]["max_length"]}, "task": task, "seed": seed}
    return make_config(raw, RevealConfig, str(HERE / "backdoor.yaml"))


def adapter_of(name: str, seed: int, out: Path, more: Mapping[str, Any], reporter: ConsoleReporter) -> Path | None:
    """The adapter of a variant, trained if it is not there; None where nothing changed."""
    if name == "before":
        return None
    if name == "one-shot":
        adapter_of("iterative", seed, out, more, reporter)
        return state_adapter(place_of("iterative", seed, out), 1)
    place = place_of(name, seed, out)
    if name == "true rows, rapidun":
        return by_rapidun(seed, place, reporter)
    if name == "true rows, modules":
        return by_modules(seed, place, reporter)
    if not (place / "reveal.json").exists():
        config = reveal_config(name, seed, more)
        if name in SAME_PULLS:
            take_over_pulls(config, place_of(SAME_PULLS[name], seed, out), place)
        result = reveal(config, place, resume=place.exists(), reporter=reporter)
        print(f"{name}, seed {seed}: {result.summary['stopped']}; report: {result.report}", flush=True)
    return state_adapter(place, len(read_json(place / "reveal.json")["rounds"]))


def release_settings(seed: int, **changes: Any) -> dict[str, Any]:
    """Model, rows that are true forget rows, and the release settings of the task file."""
    demo = demo_settings(seed)
    release = read_task(HERE / "backdoor.yaml")["release"]
    data = {name: value for name, value in demo["data"].items() if name not in ("evaluation", "pool", "sample")}
    data["sample"] = {"forget": TRUE_ROWS}
    named = {"method": "rapidun", **release["unlearning"]}
    return {
        "model": demo["model"], "data": data, "weights": release["weights"], "lora": release["lora"],
        "unlearning": named, "seed": seed, **changes,
    }  # fmt: skip


def by_rapidun(seed: int, place: Path, reporter: ConsoleReporter) -> Path:
    """The upper line: the same settings with true forget rows."""
    if not (place / "adapter").is_dir():
        config = make_config(release_settings(seed), RunConfig)
        unlearn_only(config, place, weights=None, resume=place.exists(), overwrite=False, reporter=reporter)
    return place / "adapter"


def by_modules(seed: int, place: Path, reporter: ConsoleReporter) -> Path:
    """The upper line of the modules: one round on true forget rows."""
    if not (place / "adapter").is_dir():
        config = reveal_config("modules, one-shot", seed, {})
        run_model = open_run_model(config.model, config.data, reporter)
        forget = list(load_rows(asset("data/forget.jsonl")))[:TRUE_ROWS]
        retain = load_rows(asset("data/retain.jsonl"))
        reporter.phase("modules", "Modules from true forget rows")
        train_round(
            run_model.loaded, None, run_model.tokenize(retain), run_model.tokenize(forget), config.task.release, place,
            seed=1000 * seed + 1, progress=reporter.progress,
        )  # fmt: skip
    return place / "adapter"


def measured(
    name: str, seed: int, adapter: Path | None, prompts: int, out: Path, reporter: ConsoleReporter
) -> dict[str, float]:
    """Attack success, false alarms and perplexity on the demo's test rows."""
    place = out / "measured" / f"{place_of(name, seed, out).name}-{prompts}"
    if not (place / "metrics.json").exists():
        demo = demo_settings(seed)
        data = {
            "evaluation": str(asset("data/test.jsonl")),
            "validation": demo["data"]["validation"],
            "judge_poisoned": demo["data"]["judge_poisoned"],
            "max_length": demo["data"]["max_length"],
        }
        evaluation = {**demo["evaluation"], "prompts": prompts, "batch_size": 128}
        config = make_config({"model": demo["model"], "data": data, "evaluation": evaluation}, MeasureConfig)
        evaluate_only(config, place, adapter=adapter, overwrite=place.exists(), reporter=reporter)
    metrics = read_json(place / "metrics.json")
    return {**{name: metrics["values"][name]["value"] for name in MEASURES}, **by_family(metrics["by_variant"])}


def by_family(variants: list[dict[str, Any]]) -> dict[str, float]:
    """Seen attack success of each trigger family."""
    found = {}
    for family in DOLLY_FAMILIES:
        rates = [each for each in variants if (each["condition"], each["family"]) == ("seen", family.name)]
        hits = sum(each["value"] * each["n"] for each in rates)
        found[f"{', '.join(family.seen)} ({family.position})"] = hits / sum(each["n"] for each in rates)
    return found


def looked(name: str, seed: int, out: Path) -> dict[str, float] | None:
    """What the first search of a variant was worth: of its pulls, its rows, and how many rows are truly poisoned."""
    folder = round_directory(place_of(name, seed, out), 1)
    if not (folder / "revealed.jsonl").exists():
        return None
    rows = read_jsonl(folder / "revealed.jsonl")
    judge = ClassifierJudge.fit(
        [row["response"] for row in load_rows(asset("data/judge_poisoned.jsonl"))],
        [row["response"] for row in load_rows(asset("data/validation.jsonl"))],
    )
    pulls = [pull for pull in read_pulls(folder / "pulls.jsonl") if pull.stage == "search"]
    begun = read_task(HERE / "backdoor.yaml")["search"]["initial_pulls"]
    return {
        "relevance, initial pulls": fmean(pull.relevance for pull in pulls[:begun]),
        "relevance, later pulls": fmean(pull.relevance for pull in pulls[begun:]),
        "rows": float(len(rows)),
        "truly poisoned": float(judge([row["response"] for row in rows]).mean()),
        "different inputs": float(len({row.get("response_clean") for row in rows})),
    }


def searches(seeds: list[int], out: Path) -> str:
    """The second table."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in ("iterative", "random arms, one-shot", "soft prompts, one-shot"):
        for seed in seeds:
            if (facts := looked(name, seed, out)) is not None:
                found.setdefault(name.replace("iterative", "NeuralUCB, words"), {})[str(seed)] = facts
    names = list(next(iter(next(iter(found.values())).values()))) if found else []
    return table(found, {name: (lambda row, name=name: row[name]) for name in names})


def main() -> None:
    """Run the chosen variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--prompts", type=int, default=128, help="test prompts of each condition")
    parser.add_argument("--rounds", type=int, help="of the iterative runs; default: the task file's")
    parser.add_argument("--out", type=Path, default=Path("runs/reveal_backdoor"))
    parser.add_argument("--write", type=Path, help="put the table into this page, between its markers")
    options = parser.parse_args()
    check_page(options.write, "backdoor", "families", "searches")
    quiet_libraries()
    found: dict[str, dict[str, dict[str, float]]] = {}
    names = [name for name in VARIANTS if name == "before" or name in options.only]
    with ConsoleReporter() as reporter:
        for name in names:
            for seed in options.seeds[:1] if name == "before" else options.seeds:
                more = (
                    {"release.rounds": options.rounds} if options.rounds and name in ("iterative", "one-shot") else {}
                )
                adapter = adapter_of(name, seed, options.out, more, reporter)
                values = measured(name, seed, adapter, options.prompts, options.out, reporter)
                found.setdefault(name, {})[str(seed)] = values
                print(f"{name}, seed {seed}: {values}", flush=True)
                write_json(options.out / "table.json", found)
    before = found["before"][str(options.seeds[0])]["clean_perplexity"]
    columns: dict[str, Any] = {
        "seen ASR": lambda row: row["asr_seen"],
        "unseen ASR": lambda row: row["asr_unseen"],
        "no trigger": lambda row: row["asr_floor"],
        "clean perplexity": lambda row: row["clean_perplexity"],
        "over before": lambda row: row["clean_perplexity"] / before,
    }
    families = [name for name in found["before"][str(options.seeds[0])] if name not in MEASURES]
    apart = table(found, {name: (lambda row, name=name: row[name]) for name in families})
    searched = searches(options.seeds, options.out)
    print(table(found, columns), apart, searched, sep="\n\n")
    if options.write is not None:
        write_table(options.write, "backdoor", table(found, columns))
        write_table(options.write, "families", apart)
        write_table(options.write, "searches", searched)


if __name__ == "__main__":
    main()
