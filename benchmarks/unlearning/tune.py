"""Equal tuning for every method: the same number of TPE trials each, on rows and a seed that the table does not use.

    python benchmarks/unlearning/tune.py --trials 8                    # every method of the plan, the main scenario
    python benchmarks/unlearning/tune.py --arm npo/uniform rapidun/influence

Each arm's search begins at the common learning rate and the method's defaults (`rapidun tune`: a probe, then the
trials), on a draw of the tuning pools. What is found goes into benchmarks/experiments/tuned.json under the method's
name, with the number of trials; every weighting of a method has the method's values, so that weights are compared at
one setting. Finished trials are kept in runs/tune-unlearning, so a stopped tuning goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from worlds import ROOT, open_world

from experiments.plan import OURS, Arm, run_config
from experiments.scenarios import draw
from experiments.world import TUNING_SEED
from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.files import write_json
from rapidun.jsonl import write_jsonl
from rapidun.pipeline.tuning import tune
from rapidun.unlearning import method_names

TUNED = ROOT / "benchmarks" / "experiments" / "tuned.json"
PROMPTS, PROBE_STEPS = 160, 6


def tune_arm(world_name: str, arm: Arm, trials: int, place: Path) -> dict[str, float]:
    """The best values of an arm."""
    report, world = open_world(world_name), open_world(world_name, "tuning")
    drawn = draw("main", world.pools, TUNING_SEED)
    rows = {
        "forget": drawn.forget, "retain": drawn.retain, "validation": world.budget,
        "judge_poisoned": world.judge_poisoned, "evaluation": report.measured, "tuning": world.measured,
    }  # fmt: skip
    for name, group in rows.items():
        write_jsonl(place / "rows" / f"{name}.jsonl", group)
    paths = {name: str(place / "rows" / f"{name}.jsonl") for name in rows if name != "tuning"}
    config = run_config(world, arm, TUNING_SEED, PROMPTS, paths)
    out = place / arm.name.replace("/", "-")
    found = tune(
        config, place / "rows" / "tuning.jsonl", out, trials=trials, probe_steps=PROBE_STEPS, resume=out.exists(),
        overwrite=False, reporter=ConsoleReporter(),
    )  # fmt: skip
    return found.best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=("demo", "authors"), default="demo")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--arm", nargs="+", help="method/weights; default: every method, rapidun with influence")
    arguments = parser.parse_args()
    quiet_libraries()
    every = [f"{name}/{'influence' if name == OURS else 'uniform'}" for name in method_names() if name != "retrain"]
    for arm in map(Arm.of, arguments.arm or every):
        place = ROOT / "runs" / "tune-unlearning" / arguments.world
        known = json.loads(TUNED.read_text(encoding="utf-8"))
        if known.get(arguments.world, {}).get(arm.method, {}).get("trials") == arguments.trials:
            continue
        best = tune_arm(arguments.world, arm, arguments.trials, place)
        known = json.loads(TUNED.read_text(encoding="utf-8"))
        known.setdefault(arguments.world, {})[arm.method] = {
            "values": best, "trials": arguments.trials, "weights": arm.weights, "seed": TUNING_SEED,
        }  # fmt: skip
        write_json(TUNED, known)


if __name__ == "__main__":
    main()
