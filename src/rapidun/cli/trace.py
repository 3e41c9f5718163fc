"""``rapidun trace``: which training rows led to an answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rapidun.cli import options as o
from rapidun.cli.common import with_overrides
from rapidun.cli.console import ConsoleReporter, PlainConsole, print_json, quiet_libraries, say
from rapidun.cli.shared import Shared, with_shared

if TYPE_CHECKING:
    from rapidun.pipeline import TraceRequest
    from rapidun.pipeline.explaining import Explained
    from rapidun.settings import Wanted

_ANSWERS = "Answers to explain"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "trace",
        epilog=o.examples(
            'rapidun trace --index runs/index --prompt "What is the moon?"',
            "rapidun trace --model M --data train.jsonl --query bad.jsonl --tokens 3 --html runs/tokens.html",
            "rapidun trace --index runs/index --query bad.jsonl --together --data train.jsonl --propose runs/proposal",
        ),
    )(trace)


@dataclass(frozen=True)
class AskedOptions:
    """The answers to explain."""

    query: Annotated[
        Path | None,
        typer.Option("--query", help="File of rows whose answers are to be explained.", rich_help_panel=_ANSWERS),
    ] = None
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="One prompt, instead of --query.", rich_help_panel=_ANSWERS)
    ] = None
    response: Annotated[
        str | None,
        typer.Option("--response", help="Its answer; without it the model generates one.", rich_help_panel=_ANSWERS),
    ] = None
    words: Annotated[
        str,
        typer.Option(
            "--words",
            help='Explain these words of the answer alone, commas between: "Canada,Ottawa". Default: all of it.',
            rich_help_panel=_ANSWERS,
        ),
    ] = ""

    def request(self) -> TraceRequest:
        """As the pipeline takes it."""
        from rapidun.pipeline import TraceRequest

        return TraceRequest(self.query, self.prompt, self.response, tuple(o.listed(self.words)))


@dataclass(frozen=True)
class RankingOptions:
    """How rows are ranked, and what is done with the ranking."""

    k: Annotated[int, typer.Option("--k", min=1, help="Rows shown for each query.")] = 20
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="gradient, change, answer, prompt, lexical; several, with commas, are fused. Default: the best that "
            "there is.",
        ),
    ] = ""
    together: Annotated[bool, o.flag("--together", help="All queries are one symptom, ranked together.")] = False
    tokens: Annotated[
        int, typer.Option("--tokens", min=0, help="Show the tokens behind the first so many rows; needs --data.")
    ] = 0
    token_by: Annotated[
        str,
        typer.Option(
            "--token-by", help="position: where it was read, one pass; loss: RapidIn's, a pass for every token."
        ),
    ] = "position"
    propose: Annotated[
        Path | None,
        typer.Option("--propose", help="New directory for rows to forget and to retain; needs --data."),
    ] = None
    fdr: Annotated[
        float,
        typer.Option(
            "--fdr",
            help="Share (0 to 1) of clean rows that the proposed forget rows may hold: kept on average with --clean, "
            "estimated without.",
        ),
    ] = 0.1
    clean: Annotated[
        Path | None,
        typer.Option(
            "--clean",
            help="File of rows of --data known to be clean, a random sample (a few hundred): makes --fdr a guarantee.",
        ),
    ] = None
    overwrite: o.Overwrite = False

    def wanted(self) -> Wanted:
        """As the pipeline takes it."""
        from rapidun.pipeline import make_config
        from rapidun.settings import Wanted

        same = {name: value for name, value in vars(self).items() if name != "by"}
        return make_config({**same, "scorers": tuple(o.listed(self.by))}, Wanted, "command line")


@with_shared
def trace(
    index: Annotated[
        Path | None,
        typer.Option("--index", help="Directory that `rapidun index build` wrote.", rich_help_panel="Rows"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="File of training rows: searched in memory, or beside --index.", rich_help_panel="Rows"
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", help="Directory or hub id of the model; default the index's.", rich_help_panel="Model"),
    ] = "",
    adapter: o.Adapter = None,
    base: Annotated[
        str,
        typer.Option(
            "--base",
            help="The model before training; default the index's. An adapter brings its own.",
            rich_help_panel="Model",
        ),
    ] = "",
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the hits as a page; with --tokens, the token map.")
    ] = None,
    *,
    asked: AskedOptions,
    ranking: RankingOptions,
    shared: Shared,
) -> int:
    """Rank training rows by their influence on an answer, most helpful first.

    With --index, a search on disk; with --data, rows are looked at in memory, up to a few thousand. By default hidden
    states and words are fused, which finds poisoned rows best; --by gradient is RapidIn's influence, which
    --words fuses with the words themselves.
    """
    quiet_libraries()
    if html is not None:
        from rapidun.files import check_file_place

        check_file_place(html)
    from rapidun.pipeline.explaining import Places, explain

    raw = with_overrides({**shared.raw(model), "base": base}, shared.overrides)
    with ConsoleReporter() as reporter:
        found = explain(raw, asked.request(), Places(index, data, adapter), ranking.wanted(), reporter)
    if html is not None:
        say(str(_write_page(found.lines, found.tokens, html)), err=shared.as_json)
    if shared.as_json:
        for line in (*found.lines, *found.tokens, *([found.proposed] if found.proposed else [])):
            print_json(line)
    else:
        _say(found, ranking.propose)
    return 0


def _say(found: Explained, place: Path | None) -> None:
    from rapidun.cli.token_view import print_tokens

    _print(found.lines)
    print_tokens(found.tokens)
    if found.proposed:
        say(
            f"proposed: {found.proposed['forget']} rows to forget "
            f"(about {found.proposed['expected_false']:.1f} wrong, {_basis(found.proposed)}), "
            f"{found.proposed['retain']} to retain: {place}"
        )


def _basis(proposed: dict[str, Any]) -> str:
    """What the number of wrong rows rests on."""
    known = proposed["known_clean"]
    return f"counted on {known} known clean rows" if known else "estimated; --clean makes it a guarantee"


def _write_page(lines: list[dict[str, Any]], of_tokens: list[dict[str, Any]], path: Path) -> Path:
    if of_tokens:
        from rapidun.report.token_map import write_token_map

        return write_token_map(of_tokens, path)
    from rapidun.report.hit_list import write_hit_list

    return write_hit_list(lines, path)


def _print(lines: list[dict[str, Any]]) -> None:
    from rich.table import Table

    console = PlainConsole()
    for number in dict.fromkeys(line["query_index"] for line in lines):
        chosen = [line for line in lines if line["query_index"] == number]
        console.print(f"\nquery:  {chosen[0]['query'][:200]}")
        console.print(f"answer: {chosen[0]['response'][:200]}")
        table = Table()
        for heading in ("rank", "score", "id", "prompt", "answer"):
            table.add_column(heading, justify="right" if heading in ("rank", "score") else "left")
        for line in chosen:
            cells = [str(line["rank"]), f"{line['score']:.3f}", line["id"]]
            table.add_row(*cells, *(line[name][:90] for name in ("prompt", "train_response")))
        console.print(table)
