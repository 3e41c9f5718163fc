"""``rapidun unlearn``: weigh the rows and train the adapter that forgets them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rapidun.cli import options as o
from rapidun.cli.console import say
from rapidun.cli.made import Raw, Shows, made
from rapidun.errors import ConfigError
from rapidun.settings.run import RunConfig

if TYPE_CHECKING:
    from rapidun.pipeline.ledger import Entry

LEDGER = "Several requests"


EXAMPLES = o.examples(
    "rapidun unlearn --model M --forget bad.jsonl --retain good.jsonl --out runs/first",
    "rapidun unlearn --model M --requests requests/ --retain good.jsonl --out runs/ledger",
    "rapidun unlearn --out runs/ledger --undo 2",
)


@made
def unlearn(
    out: o.Out,
    given: Annotated[
        Raw,
        Shows(
            RunConfig,
            *("model", "data", "unlearning", "weights.scheme", "lora.targets", "seed", "plugins"),
            optional=("model.source", "data.forget", "data.retain"),
        ),
    ],
    requests: Annotated[
        Path | None,
        o.option(
            "--requests",
            "In the place of --forget: a directory of forget sets, or a text file that lists them. Carried out in "
            "order, each an adapter; OUT/adapter is their sum, OUT/ledger.json the record.",
            LEDGER,
        ),
    ],
    undo: Annotated[
        int | None, o.option("--undo", "Number of a request in OUT/ledger.json, from 1: take it out.", LEDGER)
    ],
    redo: Annotated[int | None, o.option("--redo", "Number of an undone request: put it back.", LEDGER)],
    how: o.Job,
) -> int:
    """Make a model forget some rows: influence, weights, and a LoRA adapter in OUT/adapter.

    The methods fisher and retrain leave no adapter but a whole model, in OUT/model. Several forget requests in
    sequence: --requests DIR; take one back: --undo N.
    """
    if undo is not None or redo is not None:
        if how.dry_run:
            raise ConfigError("--dry-run: --undo and --redo only add adapters up; leave it out.")
        return _turn(out, undo, redo, how)
    rows = given.setdefault("data", {})
    if "model" not in given or "retain" not in rows or ("forget" in rows) != (requests is None):
        raise ConfigError("give --model, --retain and either --forget or --requests; or --undo N with --out.")
    weights = _weights_file(given)
    if requests is not None:
        if weights is not None:
            raise ConfigError("--weights FILE belongs to one forget set; with --requests name a scheme.")
        rows["forget"] = requests
    settings = o.make_settings(given, RunConfig, how.overrides)
    from rapidun.pipeline import unlearn_only
    from rapidun.pipeline.ledger import request_files, unlearn_requests

    if requests is not None:
        entries = how.carry_out(unlearn_requests, settings, request_files(requests), out, **how.place)
        return _say_ledger(entries, out, how)
    outcome = how.carry_out(unlearn_only, settings, out, weights=weights, **how.place)
    how.show({"directory": str(out), **outcome}, partial(_say, out=out))
    return 0


def _weights_file(given: Raw) -> Path | None:
    """The file of weights, where ``--weights`` names one rather than a scheme; taken out of what was given."""
    if not str(given.get("weights", {}).get("scheme", "")).endswith(".jsonl"):
        return None
    return Path(given.pop("weights")["scheme"])


def _say(outcome: dict[str, Any], out: Path) -> None:
    from rapidun.cli.tables import print_signatures

    print_signatures(outcome["signatures"])
    say(f"{outcome['saved']}: {out / outcome['saved']}")
    for name, title in (("forget", "forget rows"), ("held", "validation rows")):
        losses = (outcome[f"{name}_loss_{when}"] for when in ("before", "after"))
        said = ("not finite" if loss is None else f"{loss:.3f}" for loss in losses)
        say(f"loss on {title}: {' -> '.join(said)}")


def _turn(out: Path, undo: int | None, redo: int | None, how: o.How) -> int:
    if undo is not None and redo is not None:
        raise ConfigError("--undo and --redo: choose one.")
    from rapidun.pipeline.ledger import undo as turn

    number = undo if undo is not None else redo
    return _say_ledger(turn(out, int(number or 0), again=redo is not None), out, how)


def _say_ledger(entries: Sequence[Entry], out: Path, how: o.How) -> int:
    from rapidun.pipeline.ledger import describe, summary

    found = {"directory": str(out), **summary(entries)}
    active = f"adapter of {found['active']} active requests: {out / 'adapter'}" if found["active"] else None
    how.show(found, lambda _: say("\n".join([*map(describe, entries), active or "no request is active"])))
    return 0
