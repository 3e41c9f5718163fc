"""``rapidun evaluate``: attack success rates and perplexity of a model as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapidun.cli import options as o
from rapidun.cli.common import make_raw, make_settings
from rapidun.cli.console import ConsoleReporter, print_json, quiet_libraries


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("evaluate")(evaluate)


def evaluate(
    model: o.Model,
    data: Annotated[Path, typer.Option("--data", help="Held-out clean rows.", rich_help_panel="Rows")],
    out: o.Out,
    adapter: o.Adapter = None,
    suite: Annotated[str, typer.Option("--suite", help="backdoor or perplexity.")] = "backdoor",
    poisoned: Annotated[
        Path | None,
        typer.Option("--poisoned", help="Rows with unwanted answers, to fit the judges.", rich_help_panel="Rows"),
    ] = None,
    clean: Annotated[
        Path | None,
        typer.Option("--clean", help="Rows with wanted answers, to fit the judges.", rich_help_panel="Rows"),
    ] = None,
    columns: o.Columns = [],  # noqa: B006
    template: o.Template = "auto",
    max_length: o.MaxLength = 512,
    on_bad_row: o.OnBadRow = "error",
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    in_4bit: o.In4Bit = False,
    in_8bit: o.In8Bit = False,
    remote_code: o.RemoteCode = False,
    pickle: o.Pickle = False,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
    overrides: o.Set = [],  # noqa: B006
    as_json: o.Json = False,
) -> int:
    """Measure a model: attack success on seen triggers, unseen variants and no trigger, and clean perplexity.

    The backdoor suite fits its judges on --poisoned and --clean and prints each judge's floor and ceiling.
    """
    from rapidun.errors import ConfigError

    if suite == "backdoor" and (poisoned is None or clean is None):
        raise ConfigError("--suite backdoor needs --poisoned and --clean rows to fit its judges on.")
    quiet_libraries()
    raw = make_raw(
        model=model, device=device, dtype=dtype, in_4bit=in_4bit, in_8bit=in_8bit, remote_code=remote_code,
        pickle=pickle, rows={"evaluation": data, "judge_poisoned": poisoned, "validation": clean},
        columns=columns, template=template, max_length=max_length, on_bad_row=on_bad_row, seed=seed,
    )  # fmt: skip
    raw["evaluation"] = {"suite": suite}
    from rapidun.pipeline import MeasureConfig, evaluate_only

    settings = make_settings(raw, MeasureConfig, overrides)
    from rapidun.cli.tables import print_measurement

    reporter = ConsoleReporter()
    try:
        metrics = evaluate_only(settings, out, adapter=adapter, overwrite=overwrite, reporter=reporter)
    finally:
        reporter.close()
    if as_json:
        print_json(metrics)
    else:
        print_measurement(metrics["values"], metrics["primary_judge"])
    return 0
