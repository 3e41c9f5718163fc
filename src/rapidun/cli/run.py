"""``rapidun run CONFIG.yaml``: trace, weigh, unlearn, evaluate, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rapidun.cli import options as o
from rapidun.cli.console import parse_pairs, say
from rapidun.cli.made import Raw, Shows, made
from rapidun.settings.printing import annotated_defaults
from rapidun.settings.run import RunConfig, load_config

EXAMPLES = o.examples(
    "rapidun run --print-config > config.yaml",
    "rapidun run config.yaml --out runs/all",
    "rapidun run config.yaml --out runs/all --set unlearning.steps=100 --overwrite",
)


@made
def run(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.yaml", help="What to do; --print-config shows every setting.")
    ],
    out: Annotated[Path | None, o.option("--out", "New directory for the run.", "Run")],
    given: Annotated[Raw, Shows(RunConfig, "plugins")],
    how: Annotated[o.How, o.Asks("resume", "overwrite", "until", "dry_run", "overrides", "as_json")],
    print_config: Annotated[
        bool, o.flag("--print-config", "Print every setting with its default and its help, and leave.")
    ],
) -> int:
    """Carry out a whole run: trace -> weigh -> unlearn -> evaluate -> report.

    Exit code 0 when the gate was reached, 1 when not, 2 for bad input.
    """
    if print_config:
        say(annotated_defaults())
        return 0
    if config is None or out is None:
        raise typer.BadParameter("give CONFIG.yaml and --out DIR, or --print-config to see every setting.")
    settings = load_config(config, parse_pairs(how.overrides, "--set"), **given)
    from rapidun.pipeline import run as run_pipeline

    return finish(how.carry_out(run_pipeline, settings, out, until=how.until, **how.place), how)


def finish(result: Any, how: o.How) -> int:
    """Print a `rapidun.pipeline.RunResult` and choose the exit code."""
    from rapidun.cli.tables import print_run

    if result.metrics is None:
        say(f"stopped as asked; go on with --resume: {result.directory}")
        return 0
    names = ("verdict", "gate", "before", "after", "perplexity_ratio", "cost", "stopped", "signatures")
    short = {name: result.metrics[name] for name in names if name in result.metrics}
    found = {"directory": str(result.directory), "report": str(result.report), **short}
    how.show(found, lambda _: print_run(result))
    return 0 if result.passed else 1
