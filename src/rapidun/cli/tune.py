"""``rapidun tune``: learning rate and strength on rows kept apart from those of the report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rapidun.cli import options as o
from rapidun.cli.console import parse_pairs, print_json, say
from rapidun.cli.made import Raw, Shows, made
from rapidun.settings.run import RunConfig, load_config

EXAMPLES = o.examples(
    "rapidun tune config.yaml --tuning tuning.jsonl --trials 12 --out runs/tune",
)


@made
def tune(
    config: Annotated[
        Path, typer.Argument(help="YAML configuration of a run; its data.evaluation is never looked at.")
    ],
    tuning: Annotated[Path, o.option("--tuning", "File of clean rows that decide; none may be in data.evaluation.")],
    out: o.Out,
    probe_steps: Annotated[
        int | None, o.option("--probe-steps", "Steps of each probe; default an eighth of the run's.", min=2)
    ],
    given: Annotated[Raw, Shows(RunConfig, "plugins")],
    how: o.Job,
    trials: Annotated[
        int, o.option("--trials", "Trials of Optuna's TPE (pip install 'rapidun\\[tune]'); 0: probe only.", min=0)
    ] = 12,
) -> int:
    """Find a learning rate and a strength for a configuration: OUT/best.yaml, ready for `rapidun run`.

    First a probe: a few steps at rates from a 16th to 16 times the configured one, looking at losses alone. Then TPE
    trials from what it suggests, each a whole unlearning, measured on the tuning rows. Influence is computed once.
    """
    settings = load_config(config, parse_pairs(how.overrides, "--set"), **given)
    from rapidun.pipeline.tuning import tune as tune_run

    found = how.carry_out(tune_run, settings, tuning, out, trials=trials, probe_steps=probe_steps, **how.place)
    if how.as_json:
        print_json({**asdict(found), "files": [str(path) for path in found.files]})
        return 0
    said = ", ".join(f"{name}={value:.4g}" for name, value in found.best.items())
    say(f"best of {len(found.trials)} trials: {said}" if found.trials else f"the probe suggests {said}")
    say(f"run it: rapidun run {out / 'best.yaml'} --out DIR")
    return 0
