"""``rapidun weigh``: influence in four directions to one weight per row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapidun.cli import options as o
from rapidun.cli.common import make_settings
from rapidun.cli.console import ConsoleReporter, print_json, quiet_libraries, say
from rapidun.cli.shared import Shared, with_shared
from rapidun.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "weigh",
        epilog=o.examples(
            "rapidun weigh --model M --forget bad.jsonl --retain good.jsonl --out runs/weights",
            "rapidun weigh --from-rapidin results/ --out runs/weights",
        ),
    )(weigh)


@with_shared
def weigh(
    out: o.Out,
    model: o.ModelIfNeeded = None,
    forget: o.ForgetIfNeeded = None,
    retain: o.RetainIfNeeded = None,
    from_rapidin: Annotated[
        Path | None,
        typer.Option(
            "--from-rapidin", help="Directory of influence_results_N_{FTF,FTR,RTF,RTR}.json; no model needed."
        ),
    ] = None,
    compat: Annotated[
        str | None,
        typer.Option("--compat", help="released: with --from-rapidin, what RapidUn's released code gives."),
    ] = None,
    scheme: Annotated[
        str,
        typer.Option(
            "--scheme",
            help="Evidence to weights: influence, self_only, released, dynamic, loss, representation, consistency, "
            "consistency_hidden, trusted_influence, or the controls uniform, random, shuffled: docs/weights.md.",
        ),
    ] = "influence",
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    *,
    shared: Shared,
) -> int:
    """Turn influence into bounded per-row weights of mean 1: OUT/weights.jsonl.

    Either from a model and rows (--model, --forget, --retain), or from RapidIn's result files (--from-rapidin).
    """
    if from_rapidin is not None:
        if dry_run:
            raise ConfigError("--dry-run: --from-rapidin loads no model and takes seconds; leave it out.")
        from rapidun.pipeline.rapidin import weigh_rapidin

        written = weigh_rapidin(from_rapidin, out, compat=compat, scheme=scheme, seed=shared.seed, overwrite=overwrite)
        return _say(written, shared.as_json)
    if compat is not None:
        raise ConfigError("--compat goes with --from-rapidin.")
    if model is None or forget is None or retain is None:
        raise ConfigError("give --model, --forget and --retain, or --from-rapidin DIR.")
    quiet_libraries()
    raw = shared.raw(model, forget=forget, retain=retain)
    raw["weights"] = {"scheme": scheme}
    from rapidun.pipeline import RunConfig, weigh_only

    settings = make_settings(raw, RunConfig, shared.overrides)
    with ConsoleReporter(dry_run=dry_run, as_json=shared.as_json) as reporter:
        written = weigh_only(settings, out, resume=resume, overwrite=overwrite, reporter=reporter)
    return _say(written, shared.as_json)


def _say(written: list[Path], as_json: bool) -> int:
    if as_json:
        print_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            say(path)
    return 0
