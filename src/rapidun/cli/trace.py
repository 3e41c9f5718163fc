"""``rapidun trace``: which training rows led to an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rapidun.cli import options as o
from rapidun.cli.common import make_settings, with_overrides
from rapidun.cli.console import ConsoleReporter, print_json, quiet_libraries
from rapidun.cli.shared import Shared, with_shared
from rapidun.errors import ConfigError, OutputError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("trace")(trace)


@with_shared
def trace(
    model: Annotated[
        str, typer.Option("--model", help="Directory or hub id; default the index's.", rich_help_panel="Model")
    ] = "",
    adapter: o.Adapter = None,
    base: Annotated[
        str,
        typer.Option(
            "--base",
            help="The model before training; default the index's. An adapter is its own.",
            rich_help_panel="Model",
        ),
    ] = "",
    index: Annotated[
        Path | None, typer.Option("--index", help="Index made by rapidun index build.", rich_help_panel="Rows")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Training rows: searched in memory, or for --tokens.", rich_help_panel="Rows"),
    ] = None,
    query: Annotated[
        Path | None, typer.Option("--query", help="Rows with the answers to explain.", rich_help_panel="Rows")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="One prompt, instead of --query.", rich_help_panel="Rows")
    ] = None,
    response: Annotated[
        str | None,
        typer.Option("--response", help="Its answer; without it the model generates one.", rich_help_panel="Rows"),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Rows shown for each query.")] = 20,
    by: Annotated[
        str,
        typer.Option("--by", help="gradient, change, answer, prompt, lexical; several are fused."),
    ] = "",
    together: Annotated[
        bool, typer.Option("--together", help="All queries are one symptom: one ranking. With --index.")
    ] = False,
    tokens: Annotated[int, typer.Option("--tokens", min=0, help="Show the tokens behind the first so many rows.")] = 0,
    token_by: Annotated[
        str, typer.Option("--token-by", help="position (one pass), or loss (the paper's; a pass a token).")
    ] = "position",
    words: Annotated[
        str,
        typer.Option("--words", help='Ask about these words of the answer alone: "Canada,Ottawa".'),
    ] = "",
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the hits as a page; with --tokens, the token map.")
    ] = None,
    propose: Annotated[
        Path | None,
        typer.Option("--propose", help="New directory for the rows to forget and to retain. With --index and --data."),
    ] = None,
    fdr: Annotated[
        float, typer.Option("--fdr", help="Share of clean rows that the proposed forget rows may hold.")
    ] = 0.1,
    overwrite: o.Overwrite = False,
    *,
    shared: Shared,
) -> int:
    """Rank training rows by their influence on an answer, most helpful first.

    With --index, a search on disk; with --data, rows are looked at in memory, up to a few thousand. By default hidden
    states and words are fused, which finds poisoned rows best; --by gradient is RapidIn's influence, which
    --words fuses with the words themselves.
    """
    _check(model, index, data, query, prompt, tokens, token_by, propose)
    if propose is not None and propose.exists() and not overwrite:
        raise OutputError(f"{propose}: exists. Replace it by --overwrite, or choose another --propose.")
    quiet_libraries()
    reporter = ConsoleReporter()
    try:
        lines, of_tokens, proposed = _trace(
            {**shared.raw(model), "base": base}, shared.overrides, reporter, index=index, data=data, adapter=adapter,
            k=k, question=(query, prompt, response), by=_listed(by), together=together, tokens=tokens,
            token_by=token_by, words=_listed(words), propose=propose, fdr=fdr, overwrite=overwrite,
        )  # fmt: skip
    finally:
        reporter.close()
    if html is not None:
        typer.echo(str(_write_page(lines, of_tokens, html)), err=shared.as_json)
    if shared.as_json:
        for line in (*lines, *of_tokens, *([proposed] if proposed else [])):
            print_json(line)
    else:
        from rapidun.cli.token_view import print_tokens

        _print(lines)
        print_tokens(of_tokens)
        if proposed:
            typer.echo(
                f"proposed: {proposed['forget']} rows to forget (about {proposed['expected_false']:.1f} wrong), "
                f"{proposed['retain']} to retain: {propose}"
            )
    return 0


def _check(
    model: str, index: Path | None, data: Path | None, query: Path | None, prompt: str | None, tokens: int,
    token_by: str, propose: Path | None,
) -> None:  # fmt: skip
    """Refuse combinations that cannot work, before anything is loaded."""
    if (query is None) == (prompt is None):
        raise ConfigError("give either --query FILE or --prompt TEXT.")
    if index is None and data is None:
        raise ConfigError("give --index DIR to search an index, or --data FILE to search rows in memory.")
    if index is None and not model:
        raise ConfigError("--data needs --model.")
    if index is not None and tokens and data is None:
        raise ConfigError("--tokens with --index needs --data: an index holds previews, not whole rows.")
    if propose is not None and (index is None or data is None):
        raise ConfigError("--propose needs --index and --data: the rows that were indexed.")
    if token_by not in ("position", "loss"):
        raise ConfigError(f"--token-by {token_by}: use position or loss.")


def _trace(
    raw: dict[str, Any], overrides: list[str], reporter: ConsoleReporter, *, index: Path | None, data: Path | None,
    adapter: Path | None, k: int, question: tuple[Path | None, str | None, str | None], by: list[str], together: bool,
    tokens: int, token_by: Any, words: list[str], propose: Path | None, fdr: float, overwrite: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any] | None]:  # fmt: skip
    """Lines of the trace and of its tokens, and what is proposed."""
    from rapidun.pipeline import Question, TraceConfig, settings_of, tokens_of, trace_index, trace_memory

    asked = Question(*question, words=tuple(words))
    if index is not None:
        settings, adapter = settings_of(index, with_overrides(raw, overrides), adapter)
        answer = trace_index(
            settings, index, asked, adapter=adapter, looks=by, k=k, together=together, reporter=reporter
        )
    else:
        settings = make_settings(raw, TraceConfig, overrides)
        answer = trace_memory(settings, data or Path(), asked, adapter=adapter, looks=by, k=k, reporter=reporter)
    of_tokens = (
        tokens_of(answer, settings, data, by=token_by, words=words, rows=tokens, reporter=reporter)
        if tokens and data is not None
        else []
    )
    proposed = None
    if propose is not None and data is not None:
        from rapidun.pipeline.proposing import write_proposal

        proposed = write_proposal(
            answer, settings, data, propose, fdr=fdr, retain=None, overwrite=overwrite, reporter=reporter
        )
    return answer.lines, of_tokens, proposed


def _write_page(lines: list[dict[str, Any]], of_tokens: list[dict[str, Any]], path: Path) -> Path:
    if of_tokens:
        from rapidun.report.token_map import write_token_map

        return write_token_map(of_tokens, path)
    from rapidun.report.hit_list import write_hit_list

    return write_hit_list(lines, path)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _print(lines: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for number in dict.fromkeys(line["query_index"] for line in lines):
        chosen = [line for line in lines if line["query_index"] == number]
        console.print(f"\nquery:  {chosen[0]['query'][:200]}", markup=False)
        console.print(f"answer: {chosen[0]['response'][:200]}", markup=False)
        table = Table()
        for heading in ("rank", "score", "id", "prompt", "answer"):
            table.add_column(heading, justify="right" if heading in ("rank", "score") else "left")
        for line in chosen:
            cells = [str(line["rank"]), f"{line['score']:.3f}", line["id"]]
            table.add_row(*cells, *(_escape(line[name][:90]) for name in ("prompt", "train_response")))
        console.print(table)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
