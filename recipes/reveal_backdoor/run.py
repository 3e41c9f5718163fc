"""Task a: the demo's backdoor, knowing only that some inputs make the model babble about outer space.

    python recipes/reveal_backdoor/run.py --seeds 0 1 2 --write docs/benchmarks/reveal_backdoor.md
    python recipes/reveal_backdoor/run.py --seeds 0 --only iterative --prompts 96        # `make demo-reveal`

No trigger and no poisoned row is given to the search or the release. The triggers are used to measure afterwards, and
true forget rows only for the upper line ``true rows``. Every part is kept under --out: a stopped run goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.demo import asset, demo_settings
from rapidun.files import atomic_write, read_json, write_json
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

HERE = Path(__file__).parent
MEASURES = ("asr_seen", "asr_unseen", "asr_floor", "clean_perplexity")
# What differs from the task file. The rows of ``rapidun`` go through its influence weights with the demo's settings.
VARIANTS: dict[str, dict[str, Any]] = {
    "iterative": {},
    "one-shot": {"release.rounds": 1},
    "random arms": {"search.strategy": "random"},
    "seed instruction": {"search.strategy": "seed"},
    "revealed, rapidun": {"release.method": "rapidun"},
}


def changed(task: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The task with ``{"section.key": value}`` put in."""
    found = {name: dict(value) if isinstance(value, dict) else value for name, value in task.items()}
    for dotted, value in changes.items():
        section, key = dotted.split(".")
        found[section][key] = value
    return found


def reveal_config(name: str, seed: int) -> RevealConfig:
    """A variant on the demo model."""
    demo = demo_settings(seed)
    task = changed(read_task(HERE / "task.yaml"), VARIANTS[name])
    if task["release"].get("method") == "rapidun":
        task["release"]["unlearning"] = {**demo["unlearning"], "options": {"beta": 0.04, "descent": 3.0}}
        task["release"]["weights"] = demo["weights"]
        task["release"]["lora"] = demo["lora"]
    raw = {"model": demo["model"], "data": {"max_length": demo["data"]["max_length"]}, "task": task, "seed": seed}
    return make_config(raw, RevealConfig, str(HERE / "task.yaml"))


def adapter_of(name: str, seed: int, out: Path, reporter: ConsoleReporter) -> Path | None:
    """The adapter of a variant, trained if it is not there; None where nothing changed."""
    if name == "before":
        return None
    place = out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    if name == "true rows":
        raw = demo_settings(seed)
        data = {key: value for key, value in raw["data"].items() if key not in ("evaluation", "pool")}
        data["sample"] = {key: value for key, value in data["sample"].items() if key != "pool"}
        raw = {
            **{key: raw[key] for key in ("model", "influence", "weights", "lora", "unlearning", "seed")},
            "data": data,
        }
        if not (place / "adapter").is_dir():
            config = make_config(raw, RunConfig)
            unlearn_only(config, place, weights=None, resume=place.exists(), overwrite=False, reporter=reporter)
    elif not (place / "reveal.json").exists():
        result = reveal(reveal_config(name, seed), place, resume=place.exists(), reporter=reporter)
        print(f"{name}, seed {seed}: {result.summary['stopped']}; report: {result.report}", flush=True)
    return place / "adapter" if (place / "adapter").is_dir() else None


def measured(name: str, seed: int, adapter: Path | None, prompts: int, out: Path, reporter: ConsoleReporter) -> Any:
    """Attack success, false alarms and perplexity on the demo's test rows."""
    place = out / "measured" / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}-{prompts}"
    if not (place / "metrics.json").exists():
        demo = demo_settings(seed)
        data = {
            "evaluation": str(asset("data/test.jsonl")),
            "validation": demo["data"]["validation"],
            "judge_poisoned": demo["data"]["judge_poisoned"],
            "max_length": demo["data"]["max_length"],
        }
        evaluation = {**demo["evaluation"], "prompts": prompts}
        config = make_config({"model": demo["model"], "data": data, "evaluation": evaluation}, MeasureConfig)
        evaluate_only(config, place, adapter=adapter, overwrite=place.exists(), reporter=reporter)
    values = read_json(place / "metrics.json")["values"]
    return {measure: values[measure]["value"] for measure in MEASURES}


def interval(values: list[float]) -> str:
    """Mean and its 95% t-interval over seeds; the value alone where there is one."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.4g}"
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{mean:.4g} [{mean - half:.4g}, {mean + half:.4g}]"


def table(found: Mapping[str, list[dict[str, float]]]) -> str:
    """Markdown."""
    head = ("variant", "seeds", "seen ASR", "unseen ASR", "no trigger", "clean perplexity")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, rows in found.items():
        cells = [interval([row[measure] for row in rows]) for measure in MEASURES]
        lines.append("| " + " | ".join([name, str(len(rows)), *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the chosen variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--prompts", type=int, default=320, help="test prompts of each condition")
    parser.add_argument("--true-rows", action="store_true", help="add the upper line: the demo's own forget rows")
    parser.add_argument("--out", type=Path, default=Path("runs/reveal_backdoor"))
    parser.add_argument("--write", type=Path, help="put the table into this page, between its markers")
    options = parser.parse_args()
    quiet_libraries()
    reporter = ConsoleReporter()
    names = ["before", *(["true rows"] if options.true_rows else []), *options.only]
    found: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for name in names:
            if name == "before" and "before" in found:
                continue
            adapter = adapter_of(name, seed, options.out, reporter)
            found.setdefault(name, []).append(measured(name, seed, adapter, options.prompts, options.out, reporter))
            print(f"{name}, seed {seed}: {found[name][-1]}", flush=True)
    reporter.close()
    print(table(found))
    write_json(options.out / "table.json", found)
    if options.write is not None:
        before, _, rest = options.write.read_text(encoding="utf-8").partition("<!-- table -->")
        with atomic_write(options.write) as file:
            file.write(f"{before}<!-- table -->\n{table(found)}\n<!-- end -->{rest.partition('<!-- end -->')[2]}")


if __name__ == "__main__":
    main()
