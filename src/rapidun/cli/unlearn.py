"""``rapidun unlearn``: weigh the rows and train the adapter that forgets them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapidun.cli import options as o
from rapidun.cli.common import make_raw, make_settings
from rapidun.cli.console import ConsoleReporter, print_json, quiet_libraries


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("unlearn")(unlearn)


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
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    overrides: o.Set = [],  # noqa: B006
    as_json: o.Json = False,
) -> int:
    """Make a model forget some rows: influence, weights, and a LoRA adapter in OUT/adapter."""
    quiet_libraries()
    raw = make_raw(
        model=model, device=device, dtype=dtype, in_4bit=in_4bit, in_8bit=in_8bit, remote_code=remote_code,
        pickle=pickle, rows={"forget": forget, "retain": retain, "validation": validation}, columns=columns,
        template=template, max_length=max_length, on_bad_row=on_bad_row, seed=seed,
    )  # fmt: skip
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

    settings = make_settings(raw, RunConfig, overrides)

    reporter = ConsoleReporter()
    try:
        outcome = unlearn_only(settings, out, weights=given, resume=resume, overwrite=overwrite, reporter=reporter)
    finally:
        reporter.close()
    if as_json:
        print_json({"directory": str(out), **outcome})
    else:
        before, after = outcome["held_loss_before"], outcome["held_loss_after"]
        typer.echo(f"adapter: {out / 'adapter'}")
        typer.echo(f"kept step {outcome['steps']}; loss on held retain rows {before:.3f} -> {after:.3f}")
    return 0
