"""``rapidun unlearn``: weigh the rows and train the adapter that forgets them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rapidun.cli import options as o
from rapidun.cli.common import make_settings
from rapidun.cli.console import ConsoleReporter, parse_method_options, print_json, quiet_libraries, say
from rapidun.cli.shared import Shared, with_shared
from rapidun.errors import ConfigError

if TYPE_CHECKING:
    from rapidun.pipeline.ledger import Entry

LEDGER = "Several requests"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "unlearn",
        epilog=o.examples(
            "rapidun unlearn --model M --forget bad.jsonl --retain good.jsonl --out runs/first",
            "rapidun unlearn --model M --requests requests/ --retain good.jsonl --out runs/ledger",
            "rapidun unlearn --out runs/ledger --undo 2",
        ),
    )(unlearn)


@dataclass(frozen=True)
class TrainingOptions:
    """How the model is made to forget."""

    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="rapidun, finetune, ga, graddiff, kl, npo, simnpo, dpo, idk, rmu, undial, ceu, wga, satimp, loreun, "
            "pdu, fisher_ewc, task_vector, fisher or retrain: docs/methods.md compares them.",
        ),
    ] = "rapidun"
    option: Annotated[
        list[str],
        typer.Option("--option", help="Option of the method: beta=0.2. Repeatable; an unknown one lists the valid."),
    ] = field(default_factory=list)
    scheme: Annotated[
        str,
        typer.Option("--weights", help="A scheme (influence, uniform, ...: docs/weights.md), or a weights.jsonl."),
    ] = "influence"
    steps: Annotated[int, typer.Option("--steps", help="Optimiser steps.")] = 64
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Rows a step, forget and retain together; lower it to save memory.")
    ] = 8
    learning_rate: Annotated[
        str,
        typer.Option(
            "--learning-rate", help="Peak learning rate of AdamW; auto derives one from the gradient of retain rows."
        ),
    ] = "auto"
    lora_targets: Annotated[
        list[str],
        typer.Option("--lora-target", help="Name of a layer that gets an adapter. Repeatable; default all linear."),
    ] = field(default_factory=list)

    @property
    def weights_file(self) -> Path | None:
        """The file of weights, where ``--weights`` names one rather than a scheme."""
        return Path(self.scheme) if self.scheme.endswith(".jsonl") else None

    def sections(self) -> dict[str, Any]:
        """The sections ``unlearning``, ``lora`` and ``weights`` of the configuration."""
        own = {name: getattr(self, name) for name in ("method", "steps", "batch_size", "learning_rate")}
        found: dict[str, Any] = {"unlearning": {**own, "options": parse_method_options(self.option)}}
        if self.lora_targets:
            found["lora"] = {"targets": self.lora_targets}
        if self.weights_file is None:
            found["weights"] = {"scheme": self.scheme}
        return found


@dataclass(frozen=True)
class LedgerOptions:
    """Several forget requests, in sequence."""

    requests: Annotated[
        Path | None,
        typer.Option(
            "--requests",
            help="In the place of --forget: a directory of forget sets, or a text file that lists them. Carried out in "
            "order, each an adapter; OUT/adapter is their sum, OUT/ledger.json the record.",
            rich_help_panel=LEDGER,
        ),
    ] = None
    undo: Annotated[
        int | None,
        typer.Option(
            "--undo", help="Number of a request in OUT/ledger.json, from 1: take it out.", rich_help_panel=LEDGER
        ),
    ] = None
    redo: Annotated[
        int | None, typer.Option("--redo", help="Number of an undone request: put it back.", rich_help_panel=LEDGER)
    ] = None


@with_shared
def unlearn(
    out: o.Out,
    model: o.ModelIfNeeded = None,
    forget: o.ForgetIfNeeded = None,
    retain: o.RetainIfNeeded = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            "--validation",
            help="File of clean rows that watch the retain budget; default the retain rows.",
            rich_help_panel="Rows",
        ),
    ] = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    *,
    training: TrainingOptions,
    ledger: LedgerOptions,
    shared: Shared,
) -> int:
    """Make a model forget some rows: influence, weights, and a LoRA adapter in OUT/adapter.

    The methods fisher and retrain leave no adapter but a whole model, in OUT/model. Several forget requests in
    sequence: --requests DIR; take one back: --undo N.
    """
    if ledger.undo is not None or ledger.redo is not None:
        if dry_run:
            raise ConfigError("--dry-run: --undo and --redo only add adapters up; leave it out.")
        return _turn(out, ledger, shared.as_json)
    if model is None or retain is None or (forget is None) == (ledger.requests is None):
        raise ConfigError("give --model, --retain and either --forget or --requests; or --undo N with --out.")
    quiet_libraries()
    from rapidun.pipeline import RunConfig, unlearn_only
    from rapidun.pipeline.ledger import request_files, unlearn_requests

    asked = request_files(ledger.requests) if ledger.requests is not None else []
    if asked and training.weights_file is not None:
        raise ConfigError("--weights FILE belongs to one forget set; with --requests name a scheme.")
    raw = shared.raw(model, forget=forget or asked[0], retain=retain, validation=validation) | training.sections()
    settings = make_settings(raw, RunConfig, shared.overrides)
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite}
    with ConsoleReporter(dry_run=dry_run, as_json=shared.as_json) as reporter:
        if asked:
            entries = unlearn_requests(settings, asked, out, **how, reporter=reporter)
            return _say_ledger(entries, out, shared.as_json)
        outcome = unlearn_only(settings, out, weights=training.weights_file, **how, reporter=reporter)
    return _say(outcome, out, shared.as_json)


def _say(outcome: dict[str, Any], out: Path, as_json: bool) -> int:
    from rapidun.cli.tables import print_signatures

    if as_json:
        print_json({"directory": str(out), **outcome})
        return 0
    print_signatures(outcome["signatures"])
    say(f"{outcome['saved']}: {out / outcome['saved']}")
    for name, title in (("forget", "forget rows"), ("held", "held retain rows")):
        before, after = (outcome[f"{name}_loss_{when}"] for when in ("before", "after"))
        say(f"loss on {title}: {_loss(before)} -> {_loss(after)}")
    return 0


def _loss(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"


def _turn(out: Path, ledger: LedgerOptions, as_json: bool) -> int:
    """``--undo`` or ``--redo``."""
    if ledger.undo is not None and ledger.redo is not None:
        raise ConfigError("--undo and --redo: choose one.")
    from rapidun.pipeline.ledger import undo

    number = ledger.undo if ledger.undo is not None else ledger.redo
    return _say_ledger(undo(out, int(number or 0), again=ledger.redo is not None), out, as_json)


def _say_ledger(entries: Sequence[Entry], out: Path, as_json: bool) -> int:
    from rapidun.pipeline.ledger import describe, summary

    if as_json:
        print_json({"directory": str(out), **summary(entries)})
        return 0
    for entry in entries:
        say(describe(entry))
    active = sum(entry.active for entry in entries)
    say(f"adapter of {active} active requests: {out / 'adapter'}" if active else "no request is active")
    return 0
