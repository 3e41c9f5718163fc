"""``rapidun weigh``: influence in four directions to one weight per row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rapidun.cli import options as o
from rapidun.cli.console import say
from rapidun.cli.made import Raw, Shows, made
from rapidun.errors import ConfigError
from rapidun.settings.run import RunConfig

EXAMPLES = o.examples(
    "rapidun weigh --model M --forget bad.jsonl --retain good.jsonl --out runs/weights",
    "rapidun weigh --from-rapidin results/ --out runs/weights",
)


@made
def weigh(
    out: o.Out,
    given: Annotated[
        Raw,
        Shows(
            RunConfig,
            *("model", "data", "weights.scheme", "seed", "plugins"),
            but=("data.validation",),
            optional=("model.source", "data.forget", "data.retain"),
        ),
    ],
    from_rapidin: Annotated[
        Path | None,
        o.option("--from-rapidin", "Directory of influence_results_N_{FTF,FTR,RTF,RTR}.json; no model needed."),
    ],
    compat: Annotated[
        str | None, o.option("--compat", "released: with --from-rapidin, what RapidUn's released code gives.")
    ],
    how: o.Job,
) -> int:
    """Turn influence into bounded per-row weights of mean 1: OUT/weights.jsonl.

    Either from a model and rows (--model, --forget, --retain), or from RapidIn's result files (--from-rapidin).
    """
    if from_rapidin is not None:
        if how.dry_run:
            raise ConfigError("--dry-run: --from-rapidin loads no model and takes seconds; leave it out.")
        from rapidun.pipeline.single import weigh_rapidin

        scheme, seed = given.get("weights", {}).get("scheme", "influence"), given.get("seed", 0)
        written = weigh_rapidin(from_rapidin, out, compat=compat, scheme=scheme, seed=seed, overwrite=how.overwrite)
        return _say(written, how)
    if compat is not None:
        raise ConfigError("--compat goes with --from-rapidin.")
    if not {"forget", "retain"} <= given.get("data", {}).keys() or "model" not in given:
        raise ConfigError("give --model, --forget and --retain, or --from-rapidin DIR.")
    settings = o.make_settings(given, RunConfig, how.overrides)
    from rapidun.pipeline import weigh_only

    return _say(how.carry_out(weigh_only, settings, out, **how.place), how)


def _say(written: list[Path], how: o.How) -> int:
    files = [str(path) for path in written]
    how.show({"files": files}, lambda _: say("\n".join(files)))
    return 0
