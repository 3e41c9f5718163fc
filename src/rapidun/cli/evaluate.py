"""``rapidun evaluate``: attack success rates and perplexity of a model as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapidun.cli import options as o
from rapidun.cli.common import make_settings
from rapidun.cli.console import ConsoleReporter, print_json, quiet_libraries
from rapidun.cli.shared import Shared, with_shared
from rapidun.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "evaluate",
        epilog=o.examples(
            "rapidun evaluate --model M --adapter A --data held_out.jsonl --suite perplexity --out runs/after",
            "rapidun evaluate --model M --data held_out.jsonl --poisoned bad.jsonl --clean good.jsonl --out E",
        ),
    )(evaluate)


@with_shared
def evaluate(
    model: o.Model,
    data: Annotated[
        Path, typer.Option("--data", help="File of clean rows that nothing was trained on.", rich_help_panel="Rows")
    ],
    out: o.Out,
    adapter: o.Adapter = None,
    suite: Annotated[
        str, typer.Option("--suite", help="backdoor (attack success and perplexity) or perplexity alone.")
    ] = "backdoor",
    poisoned: Annotated[
        Path | None,
        typer.Option("--poisoned", help="Rows with unwanted answers, to fit the judges.", rich_help_panel="Rows"),
    ] = None,
    clean: Annotated[
        Path | None,
        typer.Option("--clean", help="Rows with wanted answers, to fit the judges.", rich_help_panel="Rows"),
    ] = None,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    *,
    shared: Shared,
) -> int:
    """Measure a model: attack success on seen triggers, unseen variants and no trigger, and clean perplexity.

    The backdoor suite fits its judges on --poisoned and --clean and prints each judge's floor and ceiling.
    """
    if suite == "backdoor" and (poisoned is None or clean is None):
        raise ConfigError("--suite backdoor needs --poisoned and --clean rows to fit its judges on.")
    quiet_libraries()
    raw = shared.raw(model, evaluation=data, judge_poisoned=poisoned, validation=clean)
    raw["evaluation"] = {"suite": suite}
    from rapidun.pipeline import MeasureConfig, evaluate_only

    settings = make_settings(raw, MeasureConfig, shared.overrides)
    from rapidun.cli.tables import print_measurement

    with ConsoleReporter(dry_run=dry_run, as_json=shared.as_json) as reporter:
        metrics = evaluate_only(settings, out, adapter=adapter, overwrite=overwrite, reporter=reporter)
    if shared.as_json:
        print_json(metrics)
    else:
        print_measurement(metrics["values"], metrics["primary_judge"])
    return 0
