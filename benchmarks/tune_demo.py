"""Choose the demo's settings, on validation rows and with seeds that no reported table uses.

    python benchmarks/tune_demo.py CANDIDATES.json     # a list of {"unlearning.steps": 40, ...}

Each candidate is trained with seeds 100 and 101 and measured on validation prompts: attack success with seen and
unseen triggers, the ratio of clean perplexity, seconds. The test split is not read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rapidun.cli.console import quiet_libraries
from rapidun.demo import demo_settings
from rapidun.evaluation import perplexity_ratio
from rapidun.models import load_adapter
from rapidun.pipeline import RunConfig, RunDirectory, Silent, make_config
from rapidun.pipeline.evidence import weigh
from rapidun.pipeline.inputs import RowGroups, RunModel, open_run_model, read_groups
from rapidun.pipeline.measure import Measurement, make_suite, measure
from rapidun.pipeline.train import train
from rapidun.settings.base import set_dotted

SEEDS = (100, 101)
PROMPTS = 120


def tuning_config(seed: int, candidate: dict[str, Any]) -> RunConfig:
    """The demo's configuration with validation rows in the place of the test rows, and the candidate on top."""
    raw = demo_settings(seed)
    raw["data"]["evaluation"] = raw["data"]["validation"]
    raw["evaluation"] = {"prompts": PROMPTS}
    raw["data"].pop("pool")
    raw["data"]["sample"].pop("pool")
    for dotted, value in candidate.items():
        set_dotted(raw, dotted, value)
    return make_config(raw, RunConfig)


def measured(config: RunConfig, groups: RowGroups, run_model: RunModel) -> Measurement:
    """Attack success and perplexity on validation rows."""
    assert groups.evaluation is not None
    eval_suite = make_suite(groups.evaluation, config.evaluation, poisoned=groups.judge_poisoned, clean=groups.retain)
    return measure(run_model, eval_suite, config.evaluation, Silent(), forget=groups.forget)


def try_candidate(config: RunConfig, before: dict[int, Measurement]) -> dict[str, Any]:
    """Weigh, train and measure once."""
    groups, run_model = (
        read_groups(config.data, Silent(), config.seed),
        open_run_model(config.model, config.data, Silent()),
    )
    if config.seed not in before:
        before[config.seed] = measured(config, groups, run_model)
    with tempfile.TemporaryDirectory() as place:
        directory = RunDirectory.claim(Path(place) / "run", {}, resume=False, overwrite=False)
        began = time.perf_counter()
        weigh(config, groups, run_model, directory.path, Silent())
        weighed = time.perf_counter()
        outcome = train(config, groups, run_model, directory.path, Silent())
        trained = time.perf_counter()
        after = measured(
            config, groups, run_model.with_model(load_adapter(run_model.loaded.model, directory / "adapter"))
        )
    summary, ratio = after.summary("classifier"), perplexity_ratio(before[config.seed].perplexity, after.perplexity)
    numbers = {name: round(summary[name]["value"], 4) for name in ("asr_seen", "asr_unseen", "asr_floor")}
    return {
        "seed": config.seed,
        **numbers,
        "ratio": [round(value, 4) for value in ratio],
        "forget_perplexity": round(summary["forget_perplexity"]["value"], 2),
        "seconds": [round(weighed - began, 1), round(trained - weighed, 1)],
        "stopped": outcome["stopped"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    arguments = parser.parse_args()
    quiet_libraries()
    before: dict[int, Measurement] = {}
    for candidate in json.loads(arguments.candidates.read_text()):
        for seed in arguments.seeds:
            found = try_candidate(tuning_config(seed, candidate), before)
            print(json.dumps({**candidate, **found}), flush=True)


if __name__ == "__main__":
    main()
