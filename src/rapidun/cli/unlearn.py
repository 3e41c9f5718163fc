"""``rapidun unlearn``: weigh the rows and train the adapter that forgets them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapidun.cli import options as o
from rapidun.cli.common import make_settings
from rapidun.cli.console import ConsoleReporter, print_json, quiet_libraries
from rapidun.cli.shared import Shared, with_shared


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("unlearn")(unlearn)


@with_shared
def unlearn(
    model: o.Model,
    forget: o.Forget,
    retain: o.Retain,
    out: o.Out,
    validation: Annotated[
        Path | None,
        typer.Option("--validation", help="Clean rows for the retain budget; else retain.", rich_help_panel="Rows"),
    ] = None,
    method: Annotated[str, typer.Option("--method", help="rapidun, npo, graddiff or ga.")] = "rapidun",
    scheme: Annotated[
        str, typer.Option("--weights", help="influence, self_only, uniform, random, shuffled, or a weights.jsonl.")
    ] = "influence",
    steps: Annotated[int, typer.Option("--steps", help="Optimiser steps.")] = 320,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows a step; lower it to save memory.")] = 4,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak rate of AdamW.")] = 6e-5,
    lora_targets: Annotated[
        list[str], typer.Option("--lora-target", help="Layer name that gets an adapter; repeatable; default all.")
    ] = [],  # noqa: B006
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    *,
    shared: Shared,
) -> int:
    """Make a model forget some rows: influence, weights, and a LoRA adapter in OUT/adapter."""
    quiet_libraries()
    raw = shared.raw(model, forget=forget, retain=retain, validation=validation)
    raw["unlearning"] = {
        "method": method,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    if lora_targets:
        raw["lora"] = {"targets": lora_targets}
    given = Path(scheme) if scheme.endswith(".jsonl") else None
    if given is None:
        raw["weights"] = {"scheme": scheme}
    from rapidun.pipeline import RunConfig, unlearn_only

    settings = make_settings(raw, RunConfig, shared.overrides)

    reporter = ConsoleReporter()
    try:
        outcome = unlearn_only(settings, out, weights=given, resume=resume, overwrite=overwrite, reporter=reporter)
    finally:
        reporter.close()
    if shared.as_json:
        print_json({"directory": str(out), **outcome})
    else:
        before, after = outcome["held_loss_before"], outcome["held_loss_after"]
        typer.echo(f"adapter: {out / 'adapter'}")
        typer.echo(f"kept step {outcome['steps']}; loss on held retain rows {before:.3f} -> {after:.3f}")
    return 0
