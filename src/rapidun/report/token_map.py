"""The tokens behind the hits of a trace, as one HTML page: point at a query token and the training tokens light up.

Like the report, the page holds its style and script, makes no request, and runs no script but its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rapidun.errors import InputError
from rapidun.files import atomic_write, remove_half_written
from rapidun.report.charts import to_script_json
from rapidun.report.formats import number
from rapidun.report.html import asset, environment, policy, style
from rapidun.report.visible import visible

Line = Mapping[str, Any]
_MEANING = {
    "position": "A token's share is what was learnt where it was read, to predict the next. Prompt tokens count.",
    "loss": "A token's share is that of its own loss: only answer tokens that carry loss have one.",
}


def write_token_map(lines: Iterable[Line], path: Path, *, title: str = "Which tokens taught this answer") -> Path:
    """Write the page for the lines of `rapidun.pipeline.tokens.token_lines` and return its path.

    Args:
        lines: Hits of one query or of several, in the order to show.
        path: The HTML file.
        title: The page's heading.

    Raises:
        InputError: If there is no line.
        OutputError: If the page cannot be written.
    """
    page = render_token_map(list(lines), title)
    remove_half_written(path)
    with atomic_write(path) as file:
        file.write(page)
    return path


def render_token_map(lines: Sequence[Line], title: str) -> str:
    """The page."""
    if not lines:
        raise InputError("No hit to show: a token map needs at least one training row.")
    groups: dict[int, list[Line]] = {}
    for line in lines:
        groups.setdefault(line["query_index"], []).append(line)
    script = asset("token_map.js")
    return (
        environment()
        .get_template("token_map.html.j2")
        .render(
            title=title,
            queries=[_query(group) for group in groups.values()],
            style=Markup(style("token_map.css")),
            script=Markup(script),
            policy=policy([script]),
        )
    )


def _query(lines: Sequence[Line]) -> dict[str, Any]:
    first = lines[0]
    numbers = {
        "rows": first["query"]["traced"],
        "hits": [{"columns": line["train"]["traced"], "matrix": line["matrix"]} for line in lines],
    }
    return {
        "number": first["query_index"] + 1,
        "meaning": _MEANING[first["by"]],
        "words": first["words"],
        "tokens": _tokens(first["query"]),
        "hits": [
            {"rank": line["rank"], "id": line["id"], "score": number(line["score"]), "tokens": _tokens(line["train"])}
            for line in lines
        ],
        "data": Markup(to_script_json(numbers)),
    }


def _tokens(side: Mapping[str, Any]) -> list[dict[str, Any]]:
    traced = set(side["traced"])
    return [
        {"place": place, "text": _drawn(piece), "traced": place in traced, "answer": place >= side["answer_start"]}
        for place, piece in enumerate(side["pieces"])
    ]


def _drawn(piece: str) -> Markup:
    """A token that can be pointed at: line ends have a sign, and a token without text of its own has a box."""
    if not piece:
        return Markup("\u25af")
    return Markup("<i>\u21b5</i>\n").join(visible(part) for part in piece.replace("\r\n", "\n").split("\n"))
