"""``rapidun unlearn``: weigh the rows and train the adapter that forgets them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rapidun.cli import options as o
from rapidun.cli.common import make_settings
from rapidun.cli.console import ConsoleReporter, parse_method_options, print_json, quiet_libraries
from rapidun.cli.shared import Shared, with_shared
from rapidun.errors import ConfigError

if TYPE_CHECKING:
    from rapidun.pipeline.ledger import Entry

LEDGER = "Several requests"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("unlearn")(unlearn)


@with_shared
def unlearn(
    out: o.Out,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Directory or hub id of a causal language model.", rich_help_panel="Model"),
    ] = None,
    forget: Annotated[
        Path | None, typer.Option("--forget", help="Rows with the behaviour to remove.", rich_help_panel="Rows")
    ] = None,
    retain: Annotated[
        Path | None, typer.Option("--retain", help="Rows to keep answering well.", rich_help_panel="Rows")
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option("--validation", help="Clean rows for the retain budget; else retain.", rich_help_panel="Rows"),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="rapidun, ga, graddiff, kl, npo, simnpo, dpo, idk, rmu, undial, ceu, wga, satimp, loreun, pdu, "
            "fisher_ewc, task_vector, fisher or retrain: docs/methods.md compares them.",
        ),
    ] = "rapidun",
    option: Annotated[
        list[str],
        typer.Option("--option", help="Option of the method: beta=0.2. Repeatable; an unknown one lists the valid."),
    ] = [],  # noqa: B006
    scheme: Annotated[
        str,
        typer.Option("--weights", help="A scheme (influence, uniform, ...: docs/weights.md), or a weights.jsonl."),
    ] = "influence",
    steps: Annotated[int, typer.Option("--steps", help="Optimiser steps.")] = 320,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows a step; lower it to save memory.")] = 4,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak rate of AdamW.")] = 6e-5,
    lora_targets: Annotated[
        list[str], typer.Option("--lora-target", help="Layer name that gets an adapter; repeatable; default all.")
    ] = [],  # noqa: B006
    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            help="In the place of --forget: a directory of forget sets, or a text file that lists them. Carried out in "
            "order, each an adapter; OUT/adapter is their sum, OUT/ledger.json the record.",
            rich_help_panel=LEDGER,
        ),
    ] = None,
    undo: Annotated[
        int | None,
        typer.Option("--undo", help="Take this request of the ledger in OUT out again.", rich_help_panel=LEDGER),
    ] = None,
    redo: Annotated[
        int | None, typer.Option("--redo", help="Put an undone request back.", rich_help_panel=LEDGER)
    ] = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    *,
    shared: Shared,
) -> int:
    """Make a model forget some rows: influence, weights, and a LoRA adapter in OUT/adapter.

    The methods fisher and retrain leave no adapter but a whole model, in OUT/model. Several forget requests in
    sequence: --requests DIR; take one back: --undo N.
    """
    if undo is not None or redo is not None:
        return _turn(out, undo, redo, shared.as_json)
    if model is None or retain is None or (forget is None) == (requests is None):
        raise ConfigError("give --model, --retain and either --forget or --requests; or --undo N with --out.")
    quiet_libraries()
    from rapidun.pipeline.ledger import request_files

    asked = request_files(requests) if requests is not None else []
    raw = shared.raw(model, forget=forget or asked[0], retain=retain, validation=validation)
    raw["unlearning"] = {
        "method": method,
        "options": parse_method_options(option),
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    if lora_targets:
        raw["lora"] = {"targets": lora_targets}
    given = Path(scheme) if scheme.endswith(".jsonl") else None
    if given is not None and asked:
        raise ConfigError("--weights FILE belongs to one forget set; with --requests name a scheme.")
    if given is None:
        raw["weights"] = {"scheme": scheme}
    from rapidun.pipeline import RunConfig, unlearn_only
    from rapidun.pipeline.ledger import unlearn_requests

    settings = make_settings(raw, RunConfig, shared.overrides)
    reporter = ConsoleReporter()
    try:
        if asked:
            entries = unlearn_requests(settings, asked, out, resume=resume, overwrite=overwrite, reporter=reporter)
            return _say_ledger(entries, out, shared.as_json)
        outcome = unlearn_only(settings, out, weights=given, resume=resume, overwrite=overwrite, reporter=reporter)
    finally:
        reporter.close()
    return _say(outcome, out, shared.as_json)


def _say(outcome: dict[str, Any], out: Path, as_json: bool) -> int:
    from rapidun.cli.tables import print_signatures

    if as_json:
        print_json({"directory": str(out), **outcome})
        return 0
    before, after = outcome["held_loss_before"], outcome["held_loss_after"]
    print_signatures(outcome["signatures"])
    typer.echo(f"{outcome['saved']}: {out / outcome['saved']}")
    typer.echo(f"kept step {outcome['steps']}; loss on held retain rows {before:.3f} -> {after:.3f}")
    return 0


def _turn(out: Path, undo: int | None, redo: int | None, as_json: bool) -> int:
    """``--undo`` or ``--redo``."""
    if undo is not None and redo is not None:
        raise ConfigError("--undo and --redo: choose one.")
    from rapidun.pipeline.ledger import undo as turn

    number = undo if undo is not None else redo
    return _say_ledger(turn(out, int(number or 0), again=redo is not None), out, as_json)


def _say_ledger(entries: Sequence[Entry], out: Path, as_json: bool) -> int:
    from rapidun.pipeline.ledger import describe, summary

    if as_json:
        print_json({"directory": str(out), **summary(entries)})
        return 0
    for entry in entries:
        typer.echo(describe(entry))
    active = sum(entry.active for entry in entries)
    typer.echo(f"adapter of {active} active requests: {out / 'adapter'}" if active else "no request is active")
    return 0
