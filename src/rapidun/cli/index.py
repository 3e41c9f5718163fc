"""``rapidun index``: build, append to, look at, check and export an index of training rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rapidun.cli import options as o
from rapidun.cli.console import PlainConsole, print_json, say
from rapidun.cli.made import Raw, Shows, made
from rapidun.errors import ConfigError, InputError
from rapidun.settings.attribution import IndexConfig

if TYPE_CHECKING:
    from rapidun.pipeline import Reporter

_INDEX = "Index"
_OWN_LINES = ("tracked", "coverage", "precondition")
OF_AN_INDEX = Shows(
    IndexConfig, "model", "data", "plugins", but=("data.max_length",), optional=("model.source",)
)  # an index decides the rest for those who come to it
JsonAlone = Annotated[o.How, o.Asks("as_json")]
PluginsAlone = Annotated[Raw, Shows(IndexConfig, "plugins")]  # run when parsed: a scorer of one's own is then known
Directory = Annotated[Path, typer.Argument(metavar="INDEX", help="Directory that `rapidun index build` wrote.")]
Data = Annotated[Path, o.option("--data", "File of training rows: JSONL, JSON, CSV, Parquet.", "Rows")]

verbs = typer.Typer(
    name="index",
    help="Build and keep an index of training rows, for tracing at any size.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@verbs.command(
    "build",
    epilog=o.examples(
        "rapidun index build --model M --data train.jsonl --out runs/index",
        "rapidun index build --model BASE --adapter A --data train.jsonl --views hidden,lexical --out runs/index",
    ),
)
@made
def build(
    data: Data,
    out: o.Out,
    given: Annotated[Raw, Shows(IndexConfig, "model", "data", "index", "seed", "plugins")],
    adapter: o.Adapter,
    engine: Annotated[
        str | None,
        o.option(
            "--engine",
            "Build with many workers: local (processes here), torchrun or ray. Default: this process alone.",
            "Run",
        ),
    ],
    workers: Annotated[int | None, o.option("--workers", "How many; default one for every GPU.", "Run")],
    how: o.Job,
) -> int:
    """Index training rows: one pass over each row gives its gradient sketch, hidden states and words.

    A build that was stopped goes on with --resume and ends with the same bytes.
    """
    settings = o.make_settings(given, IndexConfig, how.overrides)
    from rapidun.pipeline import indexing

    if engine is None and workers is None:
        how.carry_out(indexing.build, settings, data, out, adapter=adapter, **how.place)
        return _show(out, how)
    from rapidun import distributed

    job = distributed.IndexJob(settings, data, out, adapter)

    def build_by_many(reporter: Reporter) -> object:
        told = distributed.Settings(workers, how.resume, how.overwrite, reporter)
        return distributed.build(job, engine or "local", told)

    # where there is None, another process speaks for the build
    return 0 if how.carry_out(build_by_many) is None else _show(out, how)


@verbs.command("append", epilog=o.examples("rapidun index append runs/index --data more.jsonl"))
@made
def append(
    index: Directory,
    data: Data,
    given: Annotated[Raw, OF_AN_INDEX],
    adapter: o.Adapter,
    repeats: Annotated[bool, o.flag("--repeats", "Append rows again whose ids are in the index already.", "Rows")],
    how: Annotated[o.How, o.Asks("resume", "dry_run", "as_json")],
) -> int:
    """Add rows to an index, with the settings it has; old shards stay as they are.

    Model, adapter, precision and template are the index's; what is given must agree with them. Rows whose ids are in
    the index already are refused. A stopped append goes on with --resume; a finished one is said to be so.
    """
    from rapidun.pipeline import indexing

    how.carry_out(indexing.append, given, data, index, adapter=adapter, resume=how.resume, repeats=repeats)
    return _show(index, how)


@verbs.command("info", epilog=o.examples("rapidun index info runs/index"))
@made
def info(index: Directory, plugins: PluginsAlone, how: JsonAlone) -> int:
    """Say what an index is of: rows, features, model, settings, size."""
    return _show(index, how)


@verbs.command("verify", epilog=o.examples("rapidun index verify runs/index"))
@made
def verify(index: Directory, plugins: PluginsAlone, how: JsonAlone) -> int:
    """Check every byte of an index; names the file and the row of what is damaged. Exit code 2 if anything is."""
    from rapidun.pipeline import indexing

    found = how.carry_out(indexing.check_index, index)
    if how.as_json:
        print_json({"whole": not found, "damaged": [damage.as_dict() for damage in found]})
    elif not found:
        say(f"{index}: every file is as it was written.")
    if found:
        listed = "\n  ".join(map(str, found))
        raise InputError(f"{index}: {len(found)} damaged files:\n  {listed}\nBuild the index again, or restore them.")
    return 0


@verbs.command(
    "export",
    epilog=o.examples(
        "rapidun index export runs/index --view hidden --out runs/vectors",
        "rapidun index export runs/index --format rapidin --query bad.jsonl --out runs/rapidin",
    ),
)
@made
def export(
    index: Directory,
    out: o.Out,
    given: Annotated[Raw, OF_AN_INDEX],
    query: Annotated[
        Path | None, o.option("--query", "rapidin: file of rows whose answers are to be explained.", "Rows")
    ],
    adapter: o.Adapter,
    how: JsonAlone,
    form: Annotated[
        str, o.option("--format", "numpy (vectors and ids) or rapidin (influence of rows).", _INDEX)
    ] = "numpy",
    view: Annotated[
        str, o.option("--view", "numpy: the features to write; `rapidun index info` lists them.", _INDEX)
    ] = "gradient",
    keep: Annotated[int, o.option("--keep", "rapidin: rows listed at both ends of the ranking.", _INDEX, min=1)] = 1000,
) -> int:
    """Write an index for other tools: a plain NumPy array with ids, or RapidIn's result file for some queries."""
    if form not in ("numpy", "rapidin"):
        raise ConfigError(f"--format {form}: choose numpy or rapidin.")
    if form == "rapidin" and query is None:
        raise ConfigError("--format rapidin needs --query FILE: it ranks rows for these queries.")
    from rapidun.pipeline import indexing

    if query is not None and form == "rapidin":
        paths = how.carry_out(indexing.export_results, given, index, out, query, adapter=adapter, keep=keep)
    else:
        paths = how.carry_out(indexing.export_vectors, index, out, name=view)
    files = [str(path) for path in paths]
    how.show({"files": files}, lambda _: say("\n".join(files)))
    return 0


def _show(path: Path, how: o.How) -> int:
    from rapidun.attribution.store import open_index
    from rapidun.pipeline import indexing

    how.show(indexing.describe(open_index(path)), _print)
    return 0


def _print(found: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    table.add_column(style="cyan")
    for name, value in _lines(found):
        table.add_row(name, value)
    PlainConsole().print(table)


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    from rapidun.gradients.coverage import Coverage

    fingerprints = found["fingerprints"]
    lines = [
        ("rows", f"{found['rows']} in {found['shards']} shards of {found['shard_rows']}"),
        ("size", f"{found['bytes'] / 2**20:.1f} MiB, {found['bytes'] / max(1, found['rows']):.0f} bytes a row"),
        ("longest row", f"{found['max_length']} tokens"),
        ("precision", (found.get("dtype") or "not recorded") + (f", {found['quantize']}" if found["quantize"] else "")),
    ]
    for name in ("model", "adapter", "template", "tokenizer", "data"):
        lines.append((name, f"{found.get(name) or ''} {fingerprints[name][:16]}".strip()))
    for name, view in found["views"].items():
        settings = {key: value for key, value in view.items() if key not in _OWN_LINES}
        lines.append((f"features {name}", ", ".join(f"{key}={_plain(value)}" for key, value in settings.items())))
        if coverage := view.get("coverage"):
            lines.append(("  tracked", Coverage(coverage["tracked"], coverage["untracked"]).text()))
        if (precondition := view.get("precondition")) is not None:
            fitted = precondition["fitted"]
            said = "{kind} {fingerprint:.16}, damping {damping}, side {side}, {fisher} Fisher of {examples} rows"
            lines.append(("  preconditioner", said.format(**fitted)))
    for name, matrix in found["matrices"].items():
        lines.append((f"  {name}", f"{matrix['width']} x {matrix['dtype']}"))
    return lines


def _plain(value: Any) -> str:
    return "/".join(str(part) for part in value.values()) if isinstance(value, dict) else str(value)
