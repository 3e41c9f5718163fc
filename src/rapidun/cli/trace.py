"""``rapidun trace``: which training rows led to an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rapidun.cli import options as o
from rapidun.cli.common import make_settings
from rapidun.cli.console import ConsoleReporter, print_json, quiet_libraries
from rapidun.cli.shared import Shared, with_shared
from rapidun.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("trace")(trace)


@with_shared
def trace(
    model: o.Model,
    data: Annotated[Path, typer.Option("--data", help="Training rows to search.", rich_help_panel="Rows")],
    query: Annotated[
        Path | None, typer.Option("--query", help="Rows with the answers to explain.", rich_help_panel="Rows")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="One prompt, instead of --query.")] = None,
    response: Annotated[
        str | None, typer.Option("--response", help="Its answer; without it the model generates one.")
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Rows shown for each query.")] = 20,
    adapter: o.Adapter = None,
    *,
    shared: Shared,
) -> int:
    """Rank training rows by their influence on an answer (RapidIn), most helpful first.

    Gradients are taken in memory, for up to a few thousand rows.
    """
    if (query is None) == (prompt is None):
        raise ConfigError("give either --query FILE or --prompt TEXT.")
    quiet_libraries()
    raw = shared.raw(model)
    from rapidun.pipeline import TraceConfig, trace_only

    settings = make_settings(raw, TraceConfig, shared.overrides)

    reporter = ConsoleReporter()
    try:
        lines = trace_only(
            settings, data, query=query, prompt=prompt, response=response, adapter=adapter, k=k, reporter=reporter
        )
    finally:
        reporter.close()
    for line in lines:
        print_json(line) if shared.as_json else None
    if not shared.as_json:
        _print(lines)
    return 0


def _print(lines: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for number in dict.fromkeys(line["query_index"] for line in lines):
        chosen = [line for line in lines if line["query_index"] == number]
        console.print(f"\nquery:  {chosen[0]['query'][:200]}", markup=False)
        console.print(f"answer: {chosen[0]['response'][:200]}", markup=False)
        table = Table()
        for heading in ("rank", "influence", "id", "prompt", "answer"):
            table.add_column(heading, justify="right" if heading in ("rank", "influence") else "left")
        for line in chosen:
            cells = [str(line["rank"]), f"{line['score']:.3f}", line["id"]]
            table.add_row(*cells, *(_escape(line[name][:90]) for name in ("prompt", "train_response")))
        console.print(table)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
