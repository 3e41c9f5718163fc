"""The demo over five seeds: attack success and perplexity before and after, verdict, cost beside retraining.

    python benchmarks/demo_seeds.py              # writes docs/benchmarks/demo.md and demo.json

Every seed draws its own forget and retain sets, adapter, sketch and order of rows. Numbers are from the test
split; the settings were chosen on the validation split with other seeds (`tune_demo.py`). Beside RapidUn's weights
stand the controls: uniform, random and shuffled weights, with the same rows and steps. Runs that are there are not
run again, so a stopped benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from pathlib import Path
from typing import Any

from provenance import current_commit

from rapidun.cli.console import quiet_libraries
from rapidun.demo import demo_config, run_demo
from rapidun.evaluation import decide, perplexity_ratio
from rapidun.files import atomic_write, write_json
from rapidun.models import load_adapter
from rapidun.pipeline import RunDirectory, Silent
from rapidun.pipeline.evidence import weigh
from rapidun.pipeline.inputs import open_run_model, read_groups
from rapidun.pipeline.measure import Measurement, make_suite, measure
from rapidun.pipeline.train import train
from rapidun.reading import read_json
from rapidun.stats import RATE, over_units

SEEDS = (0, 1, 2, 3, 4)
SCHEMES = ("influence", "uniform", "random", "shuffled")
PROMPTS = 320
NAMES = ("asr_seen", "asr_unseen", "asr_floor", "clean_perplexity")


def demo_run(seed: int, out: Path) -> dict[str, Any]:
    """Metrics and phases of one run of the demo as it ships."""
    directory = out / f"influence-{seed}"
    if not (directory / "metrics.json").exists():
        run_demo(directory, seed=seed, resume=directory.exists())
    metrics: dict[str, Any] = read_json(directory / "metrics.json")
    metrics["phases"] = {phase["name"]: phase["seconds"] for phase in read_json(directory / "phases.json")}
    return metrics


def control_run(seed: int, scheme: str, out: Path) -> dict[str, Any]:
    """The same rows, steps and prompts with other weights; "before" is the demo run's: one model, one measurement."""
    place = out / f"{scheme}-{seed}.json"
    if place.exists():
        saved: dict[str, Any] = read_json(place)
        return saved
    config = demo_config(seed, {"weights.scheme": scheme, "evaluation.prompts": PROMPTS})
    groups, run_model = read_groups(config.data, Silent(), seed), open_run_model(config.model, config.data, Silent())
    directory = RunDirectory.claim(out / f"{scheme}-{seed}", {}, resume=False, overwrite=True)
    weigh(config, groups, run_model, directory.path, Silent())
    train(config, groups, run_model, directory.path, Silent())
    clean = groups.validation
    eval_suite = make_suite(groups.evaluation, config.evaluation, poisoned=groups.judge_poisoned, clean=clean)
    changed = run_model.with_model(load_adapter(run_model.loaded.model, directory / "adapter"))
    after = measure(changed, eval_suite, config.evaluation, Silent(), forget=groups.forget)
    before = Measurement.load(out / f"influence-{seed}" / "before.json")
    ratio = perplexity_ratio(before.perplexity, after.perplexity)
    summaries = {"before": before.summary(eval_suite.primary), "after": after.summary(eval_suite.primary)}
    gate = decide(summaries["before"], summaries["after"], ratio, config.gate)
    metrics = {"verdict": gate.label, **summaries, "perplexity_ratio": ratio._asdict()}
    write_json(place, metrics)
    return metrics


def over_seeds(values: list[float], digits: int, within: tuple[float, float] = (0.0, math.inf)) -> str:
    """Mean and its 95% t interval over seeds, as text."""
    mean = over_units(values, "seeds", within)
    assert mean is not None
    return mean.text(digits)


def seed_table(runs: dict[int, dict[str, Any]]) -> list[str]:
    """One line for each seed of the demo as it ships."""
    lines = [
        "| seed | verdict | seen ASR | unseen ASR | floor | clean perplexity | ratio [95%] | cost | run, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for seed, metrics in runs.items():
        before, after, ratio = metrics["before"], metrics["after"], metrics["perplexity_ratio"]
        cells = [f"{before[n]['value']:.3f} -> {after[n]['value']:.3f}" for n in NAMES[:3]]
        cells.append(f"{before['clean_perplexity']['value']:.2f} -> {after['clean_perplexity']['value']:.2f}")
        cells.append(f"{ratio['value']:.4f} [{ratio['low']:.4f}, {ratio['high']:.4f}]")
        cost = metrics["cost"]
        cells.append(f"{cost['unlearn_seconds']:.1f} s, {cost['ratio']:.0f}x")
        lines.append(f"| {seed} | {metrics['verdict']} | {' | '.join(cells)} | {sum(metrics['phases'].values()):.0f} |")
    return lines


def control_table(runs: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """Mean and interval over seeds for each weighting scheme."""
    lines = ["| weights | seen ASR after | unseen ASR after | perplexity ratio | PASS |", "|---|---|---|---|---|"]
    for scheme, of_seed in runs.items():
        cells = []
        for name in NAMES[:2]:
            cells.append(over_seeds([metrics["after"][name]["value"] for metrics in of_seed.values()], 4, RATE))
        cells.append(over_seeds([metrics["perplexity_ratio"]["value"] for metrics in of_seed.values()], 4))
        passed = sum(metrics["verdict"] == "PASS" for metrics in of_seed.values())
        lines.append(f"| {scheme} | {' | '.join(cells)} | {passed}/{len(of_seed)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-demo"), help="where the runs go")
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES), help="influence must be first")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    quiet_libraries()
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for scheme in arguments.schemes:
        for seed in SEEDS:
            found = demo_run(seed, arguments.out) if scheme == "influence" else control_run(seed, scheme, arguments.out)
            runs.setdefault(scheme, {})[seed] = found
            print(scheme, seed, runs[scheme][seed]["verdict"], flush=True)
    commit = current_commit()
    first = runs["influence"][0]
    text = [
        "# The demo over five seeds",
        "",
        f"`python benchmarks/demo_seeds.py`, commit {commit}, {platform.processor() or platform.machine()}, two cores.",
        f"{first['after']['asr_seen']['n']} held-out test prompts a condition; judge: {first['primary_judge']}.",
        "Each seed draws its own 84 forget and 90 retain rows, adapter, sketch and order.",
        "",
        *seed_table(runs["influence"]),
        "",
        "## Controls: the same rows and steps with other weights",
        "",
        "Mean over seeds and 95% t interval.",
        "",
        *control_table(runs),
        "",
        "## Tracing",
        "",
        *trace_table(runs["influence"]),
        "",
        f"Cost: {first['cost']['how']}",
    ]
    with atomic_write(Path("docs/benchmarks/demo.md")) as file:
        file.write("\n".join(text) + "\n")
    slim = {s: {k: {n: m[n] for n in ("verdict", "before", "after", "perplexity_ratio", "cost", "phases", "trace")
                    if n in m} for k, m in r.items()} for s, r in runs.items()}  # fmt: skip
    with atomic_write(Path("docs/benchmarks/demo.json")) as file:
        json.dump({"commit": commit, "runs": slim}, file, indent=1)


def trace_table(runs: dict[int, dict[str, Any]]) -> list[str]:
    """Retrieval of poisoned rows from the pool, mean over seeds."""
    lines = ["| method | precision@5 | precision@20 | AUROC | average precision |", "|---|---|---|---|---|"]
    tables = [metrics["trace"] for metrics in runs.values() if metrics.get("trace")]
    for rows in zip(*tables, strict=True):
        cells = []
        for name in ("precision_at_5", "precision_at_20", "auroc", "average_precision"):
            cells.append(over_seeds([_value(row[name]) for row in rows], 3, RATE))
        lines.append(f"| {rows[0]['method']} | {' | '.join(cells)} |")
    return lines


def _value(entry: Any) -> float:
    return float(entry["value"] if isinstance(entry, dict) else entry)


if __name__ == "__main__":
    main()
