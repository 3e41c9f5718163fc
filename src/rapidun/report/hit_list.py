"""The hits of a trace as one HTML page: every query with the training rows behind it, best first.

Like the report, the page holds its style and makes no request; it runs no script at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rapidun.errors import InputError
from rapidun.files import atomic_write, remove_half_written
from rapidun.report.formats import number
from rapidun.report.html import environment, policy, style

Line = Mapping[str, Any]


def write_hit_list(lines: Sequence[Line], path: Path, *, title: str = "The rows behind this answer") -> Path:
    """Write the page for the lines of a trace and return its path.

    Args:
        lines: ``query_index, query, response, rank, id, score, prompt, train_response``; in the order to show.
        path: The HTML file.
        title: The page's heading.

    Raises:
        InputError: If there is no line.
        OutputError: If the page cannot be written.
    """
    page = render_hit_list(lines, title)
    remove_half_written(path)
    with atomic_write(path) as file:
        file.write(page)
    return path


def render_hit_list(lines: Sequence[Line], title: str) -> str:
    """The page."""
    if not lines:
        raise InputError("No hit to show: the trace found no training row.")
    groups: dict[int, list[Line]] = {}
    for line in lines:
        groups.setdefault(line["query_index"], []).append(line)
    page: str = (
        environment()
        .get_template("hit_list.html.j2")
        .render(
            title=title,
            queries=[_query(group) for group in groups.values()],
            style=Markup(style("token_map.css")),
            policy=policy([]),
        )
    )
    return page


def _query(lines: Sequence[Line]) -> dict[str, Any]:
    first = lines[0]
    hits = [
        {
            "rank": line["rank"],
            "id": line["id"],
            "score": number(line["score"]),
            "prompt": line["prompt"],
            "response": line["train_response"],
        }
        for line in lines
    ]
    return {"number": first["query_index"] + 1, "prompt": first["query"], "response": first["response"], "hits": hits}
