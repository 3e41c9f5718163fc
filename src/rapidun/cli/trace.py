"""``rapidun trace``: which training rows led to an answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rapidun.cli import options as o
from rapidun.cli.console import PlainConsole, print_json, say
from rapidun.cli.made import Raw, Shows, listed, made
from rapidun.files import check_file_place
from rapidun.settings import names
from rapidun.settings.attribution import TraceConfig, TraceSettings
from rapidun.settings.base import COMMAND_LINE, make_config

if TYPE_CHECKING:
    from rapidun.pipeline.explaining import Explained

_ANSWERS = "Answers to explain"


EXAMPLES = o.examples(
    'rapidun trace --index runs/index --prompt "What is the moon?"',
    "rapidun trace --model M --data train.jsonl --query bad.jsonl --tokens 3 --html runs/tokens.html",
    "rapidun trace --index runs/index --query bad.jsonl --together --data train.jsonl --propose runs/proposal",
)


@made
def trace(
    given: Annotated[Raw, Shows(TraceConfig, "model", "data", "base", "seed", "plugins", optional=("model.source",))],
    wanted: Annotated[Raw, Shows(TraceSettings)],
    query: Annotated[Path | None, o.option("--query", "File of rows whose answers are to be explained.", _ANSWERS)],
    prompt: Annotated[str | None, o.option("--prompt", "One prompt, instead of --query.", _ANSWERS)],
    response: Annotated[
        str | None, o.option("--response", "Its answer; without it the model generates one.", _ANSWERS)
    ],
    words: Annotated[
        str | None,
        o.option(
            "--words",
            'Explain these words of the answer alone, commas between: "Canada,Ottawa". Default: all of it.',
            _ANSWERS,
        ),
    ],
    index: Annotated[Path | None, o.option("--index", "Directory that `rapidun index build` wrote.", "Rows")],
    data: Annotated[
        Path | None, o.option("--data", "File of training rows: searched in memory, or beside --index.", "Rows")
    ],
    adapter: o.Adapter,
    html: Annotated[Path | None, o.option("--html", "Write the hits as a page; with --tokens, the token map.")],
    how: Annotated[o.How, o.Asks("overwrite", "overrides", "as_json")],
) -> int:
    """Rank training rows by their influence on an answer, most helpful first.

    With --index, a search on disk; with --data, rows are looked at in memory, up to a few thousand. By default hidden
    states and words are fused, which finds poisoned rows best; --by gradient is RapidIn's influence, which
    --words fuses with the words themselves. Model, adapter, precision and template are the index's where there is one.
    """
    asked = make_config(wanted, TraceSettings, COMMAND_LINE)
    for by in asked.scorers:
        names.SCORERS.check(by)
    given["model"] = {"source": "", **given.get("model", {})}
    o.make_settings(given, TraceConfig, how.overrides)
    if html is not None:
        check_file_place(html)
    from rapidun.pipeline import TraceRequest
    from rapidun.pipeline.explaining import Places, explain

    request = TraceRequest(query, prompt, response, tuple(listed(words or "")))
    found = how.carry_out(explain, given, request, Places(index, data, adapter, how.overwrite), asked)
    if html is not None:
        say(str(_write_page(found.lines, found.tokens, html)), err=how.as_json)
    if how.as_json:
        for line in (*found.lines, *found.tokens, *([found.proposed] if found.proposed else [])):
            print_json(line)
    else:
        _say(found, asked.propose)
    return 0


def _say(found: Explained, place: Path | None) -> None:
    from rapidun.cli.token_view import print_tokens

    _print(found.lines)
    print_tokens(found.tokens)
    if found.proposed:
        known = found.proposed["known_clean"]
        basis = f"counted on {known} known clean rows" if known else "estimated; --clean makes it a guarantee"
        say(
            f"proposed: {found.proposed['forget']} rows to forget "
            f"(about {found.proposed['expected_false']:.1f} wrong, {basis}), "
            f"{found.proposed['retain']} to retain: {place}"
        )


def _write_page(lines: list[dict[str, Any]], of_tokens: list[dict[str, Any]], path: Path) -> Path:
    if of_tokens:
        from rapidun.report.token_map import write_token_map

        return write_token_map(of_tokens, path)
    from rapidun.report.hit_list import write_hit_list

    return write_hit_list(lines, path)


def _print(lines: list[dict[str, Any]]) -> None:
    from rapidun.cli.tables import table

    console = PlainConsole()
    for number in dict.fromkeys(line["query_index"] for line in lines):
        chosen = [line for line in lines if line["query_index"] == number]
        console.print(f"\nquery:  {chosen[0]['query'][:200]}")
        console.print(f"answer: {chosen[0]['response'][:200]}")
        made = table(None, "rank", "score", "id", "prompt", "answer")
        for line in chosen:
            cells = [str(line["rank"]), f"{line['score']:.3f}", line["id"]]
            made.add_row(*cells, *(line[name][:90] for name in ("prompt", "train_response")))
        console.print(made)
