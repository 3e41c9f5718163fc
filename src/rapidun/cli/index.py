"""``rapidun index``: build, append to, look at, check and export an index of training rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rapidun.cli import options as o
from rapidun.cli.common import make_settings
from rapidun.cli.console import ConsoleReporter, print_json, quiet_libraries
from rapidun.cli.shared import Shared, shared_without, with_shared
from rapidun.errors import ConfigError, InputError

_INDEX, _PRECONDITIONER = "Index", "Preconditioner"
_OF_THE_INDEX = ("max_length", "seed", "overrides")  # what an index decides for those who come to it
Directory = Annotated[Path, typer.Argument(metavar="INDEX", help="Directory of an index.")]
Data = Annotated[Path, typer.Option("--data", help="Training rows.", rich_help_panel="Rows")]

verbs = typer.Typer(
    name="index",
    help="Build and keep an index of training rows, for tracing at any size.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.add_typer(verbs, name="index")


@verbs.command("build")
@with_shared
def build(
    model: o.Model,
    data: Data,
    out: o.Out,
    shared: Shared,
    adapter: o.Adapter = None,
    views: Annotated[
        str, typer.Option("--views", help="Any of gradient, hidden, lexical.", rich_help_panel=_INDEX)
    ] = "gradient,hidden,lexical",
    base: Annotated[
        str,
        typer.Option(
            "--base",
            help="The model before training: also index what it changed. An adapter is its own.",
            rich_help_panel=_INDEX,
        ),
    ] = "",
    k: Annotated[int, typer.Option("--k", help="Length of a gradient sketch.", rich_help_panel=_INDEX)] = 65_536,
    sketch: Annotated[
        str, typer.Option("--sketch", help="Kind of the sketch; rapidgrad is the default.", rich_help_panel=_INDEX)
    ] = "rapidgrad",
    normalize: Annotated[
        str, typer.Option("--normalize", help="layer, unit or none.", rich_help_panel=_INDEX)
    ] = "layer",
    targets: Annotated[
        str,
        typer.Option(
            "--targets", help="auto (lora with an adapter, else linear), or layer names.", rich_help_panel=_INDEX
        ),
    ] = "auto",
    store_dtype: Annotated[
        str, typer.Option("--store-dtype", help="float16, bfloat16 or int8.", rich_help_panel=_INDEX)
    ] = "float16",
    shard_rows: Annotated[
        int | None,
        typer.Option("--shard-rows", help="Rows of a shard; about 128 MiB without it.", rich_help_panel=_INDEX),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Padded tokens in a batch.", rich_help_panel=_INDEX)
    ] = 4096,
    precondition: Annotated[
        str, typer.Option("--precondition", help="none, adam, kfac or ekfac.", rich_help_panel=_PRECONDITIONER)
    ] = "none",
    damping: Annotated[
        float,
        typer.Option("--damping", help="Times the mean eigenvalue, above 0.", rich_help_panel=_PRECONDITIONER),
    ] = 0.1,
    precondition_rows: Annotated[
        int,
        typer.Option("--precondition-rows", help="Rows that it is fitted to, once.", rich_help_panel=_PRECONDITIONER),
    ] = 512,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="Many workers: local, torchrun or ray.", rich_help_panel="Run"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="Worker processes; every GPU without it.", rich_help_panel="Run"),
    ] = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
) -> int:
    """Index training rows: one pass over each row gives its gradient sketch, hidden states and words.

    A build that was stopped goes on with --resume and ends with the same bytes.
    """
    quiet_libraries()
    raw = shared.raw(model)
    raw["index"] = {
        "views": _names(views), "base": base, "k": k, "sketch": sketch, "normalize": normalize,
        "targets": _targets(targets), "dtype": store_dtype, "shard_rows": shard_rows, "max_tokens": max_tokens,
        "precondition": precondition, "damping": damping, "precondition_rows": precondition_rows,
    }  # fmt: skip
    from rapidun.pipeline import indexing

    settings = make_settings(raw, indexing.IndexConfig, shared.overrides)
    reporter = ConsoleReporter()
    try:
        if engine is None and workers is None:
            indexing.build(settings, data, out, adapter=adapter, resume=resume, overwrite=overwrite, reporter=reporter)
        elif not _build_on(engine or "local", workers, settings, data, out, adapter, resume, overwrite, reporter):
            return 0  # another process speaks for the build
    finally:
        reporter.close()
    return _show(out, shared.as_json)


def _build_on(
    engine: str,
    workers: int | None,
    config: Any,
    data: Path,
    out: Path,
    adapter: Path | None,
    resume: bool,
    overwrite: bool,
    reporter: ConsoleReporter,
) -> bool:
    """Build with many workers; whether this process is the one that shows the result."""
    from rapidun import distributed

    job = distributed.IndexJob(config, data, out, adapter)
    settings = distributed.Settings(workers, resume, overwrite, reporter)
    return distributed.build(job, engine, settings) is not None


@verbs.command("append")
@shared_without(*_OF_THE_INDEX)
def append(
    index: Directory,
    model: o.Model,
    data: Data,
    shared: Shared,
    adapter: o.Adapter = None,
    resume: o.Resume = False,
) -> int:
    """Add rows to an index, with the settings it has; old shards stay as they are."""
    quiet_libraries()
    from rapidun.pipeline import indexing

    settings = make_settings(shared.raw(model), indexing.IndexConfig, [])
    reporter = ConsoleReporter()
    try:
        indexing.append(settings, data, index, adapter=adapter, resume=resume, reporter=reporter)
    finally:
        reporter.close()
    return _show(index, shared.as_json)


@verbs.command("info")
def info(index: Directory, as_json: o.Json = False) -> int:
    """Say what an index is of: rows, views, model, settings, size."""
    return _show(index, as_json)


@verbs.command("verify")
def verify(index: Directory, as_json: o.Json = False) -> int:
    """Check every byte of an index; names the file and the row of what is damaged. Exit code 2 if anything is."""
    from rapidun.pipeline import indexing

    reporter = ConsoleReporter()
    try:
        found = indexing.check_index(index, reporter)
    finally:
        reporter.close()
    if as_json:
        print_json({"whole": not found, "damaged": [damage.as_dict() for damage in found]})
    elif not found:
        typer.echo(f"{index}: every file is as it was written.")
    if found:
        listed = "\n  ".join(map(str, found))
        raise InputError(f"{index}: {len(found)} damaged files:\n  {listed}\nBuild the index again, or restore them.")
    return 0


@verbs.command("export")
@shared_without(*_OF_THE_INDEX)
def export(
    index: Directory,
    out: o.Out,
    shared: Shared,
    form: Annotated[str, typer.Option("--format", help="numpy or rapidin.", rich_help_panel=_INDEX)] = "numpy",
    view: Annotated[str, typer.Option("--view", help="View to export (numpy).", rich_help_panel=_INDEX)] = "gradient",
    query: Annotated[
        Path | None, typer.Option("--query", help="Rows to explain (rapidin).", rich_help_panel="Rows")
    ] = None,
    keep: Annotated[int, typer.Option("--keep", help="Length of both lists (rapidin).", rich_help_panel=_INDEX)] = 1000,
    model: Annotated[
        str | None, typer.Option("--model", help="The index's model (rapidin).", rich_help_panel="Model")
    ] = None,
    adapter: o.Adapter = None,
) -> int:
    """Write an index for other tools: a plain NumPy array with ids, or RapidIn's result file for some queries."""
    quiet_libraries()
    if form not in ("numpy", "rapidin"):
        raise ConfigError(f"--format {form}: choose numpy or rapidin.")
    if form == "rapidin" and (query is None or model is None):
        raise ConfigError("--format rapidin needs --query FILE and --model DIR: it ranks rows for these queries.")
    from rapidun.pipeline import indexing

    reporter = ConsoleReporter()
    try:
        if query is not None and model is not None and form == "rapidin":
            settings = make_settings(shared.raw(model), indexing.IndexConfig, [])
            paths = indexing.export_results(settings, index, out, query, adapter=adapter, keep=keep, reporter=reporter)
        else:
            paths = indexing.export_vectors(index, out, view=view, reporter=reporter)
    finally:
        reporter.close()
    if shared.as_json:
        print_json({"files": [str(path) for path in paths]})
    else:
        typer.echo("\n".join(map(str, paths)))
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _targets(text: str) -> str | list[str]:
    return text if text in ("auto", "linear", "lora") else _names(text)


def _show(path: Path, as_json: bool) -> int:
    from rapidun.index import open_index
    from rapidun.pipeline import indexing

    found = indexing.describe(open_index(path))
    if as_json:
        print_json(found)
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in _lines(found):
        table.add_row(f"[cyan]{name}[/]", value)
    Console(highlight=False).print(table)
    return 0


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    from rich.markup import escape

    fingerprints = found["fingerprints"]
    lines = [
        ("rows", f"{found['rows']} in {found['shards']} shards of {found['shard_rows']}"),
        ("size", f"{found['bytes'] / 2**20:.1f} MiB, {found['bytes'] / max(1, found['rows']):.0f} bytes a row"),
        ("longest row", f"{found['max_length']} tokens"),
    ]
    for name in ("model", "adapter", "template", "tokenizer", "data"):
        lines.append((name, f"{escape(found.get(name) or '')} {fingerprints[name][:16]}".strip()))
    for name, view in found["views"].items():
        settings = {key: value for key, value in view.items() if key not in ("tracked", "precondition")}
        lines.append((f"view {name}", escape(", ".join(f"{key}={_plain(value)}" for key, value in settings.items()))))
        if (precondition := view.get("precondition")) is not None:
            lines.append(("  preconditioner", _preconditioner(precondition["fitted"])))
    for name, matrix in found["matrices"].items():
        lines.append((f"  {name}", f"{matrix['width']} x {matrix['dtype']}"))
    return lines


def _preconditioner(fitted: dict[str, Any]) -> str:
    return (
        f"{fitted['kind']} {fitted['fingerprint'][:16]}, damping {fitted['damping']}, side {fitted['side']}, "
        f"{fitted['fisher']} Fisher of {fitted['examples']} rows"
    )


def _plain(value: Any) -> str:
    return "/".join(str(part) for part in value.values()) if isinstance(value, dict) else str(value)
