"""What every page of ours is made with: templates, style, scripts inside the file, and a policy that allows no other.

A content security policy names the hash of each script, so a ``<script>`` that slipped into a page from a data row
would not run, and forbids every connection.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache, partial
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from rapidun.report.palette import css_variables
from rapidun.report.visible import LONGEST, clipped, marked, visible


@lru_cache(maxsize=8)
def environment(longest: int = LONGEST, folded: bool = True) -> Environment:
    """The templates, with escaping on and the filters that make characters visible.

    Args:
        longest: Characters of a text that are shown when it is opened.
        folded: Whether rows that are folded away are in the page; else it says which file has them.
    """
    found = Environment(
        loader=PackageLoader("rapidun.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["folded"] = folded
    found.filters["visible"] = visible
    found.filters["trigger"] = lambda text: visible(text, strict=True)
    found.filters["marked"] = marked
    found.filters["labelled"] = labelled
    found.filters["clipped"] = partial(clipped, longest=longest)
    return found


def labelled(table: Markup) -> Markup:
    """A table of ours with each cell under its column's name, by which it is stacked where the window is narrow.

    Stacked cells are no table to a screen reader unless their roles are said. Texts are laid out on their own.
    """
    if 'class="texts"' in table:
        return table
    names = [Markup(name).striptags() for name in re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table)]
    found = re.sub(r"<tr>.*?</tr>", lambda row: _labelled_row(row[0], names), str(table))
    found = found.replace("<table>", '<table class="stack">').replace("<table ", '<table role="table" ')
    for tag, role in (("thead", "rowgroup"), ("tbody", "rowgroup"), ("tr", "row"), ("td", "cell")):
        found = re.sub(f"<{tag}(?=[ >])", f'<{tag} role="{role}"', found)
    for scope, role in (("col", "columnheader"), ("row", "rowheader")):
        found = found.replace(f'<th scope="{scope}"', f'<th scope="{scope}" role="{role}"')
    return Markup(found)


def _labelled_row(row: str, names: list[str]) -> str:
    of_cells = iter(names)
    return re.sub(r'<(td|th scope="row")', lambda cell: f'<{cell[1]} data-label="{escape(next(of_cells, ""))}"', row)


def asset(name: str) -> str:
    """The text of a file beside the templates."""
    return files("rapidun.report").joinpath("templates", name).read_text(encoding="utf-8")


def style(name: str) -> str:
    """A style sheet with the colours of the light and the dark palette in place."""
    return asset(name).replace("/*light*/", css_variables("light")).replace("/*dark*/", css_variables("dark"))


@lru_cache(maxsize=1)
def plotly_script() -> str:
    """plotly.js with line ends as the browser will see them, so that its hash holds."""
    text: str = get_plotlyjs()
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script")


def licence(script: str) -> str:
    """The notice at the head of a script, as an HTML comment may hold it."""
    return script[: script.index("*/")].strip("/* \n").replace("\n*", "").replace("--", "")


def policy(scripts: list[str]) -> str:
    """A content security policy that allows these scripts, packed ones as they are run, or none, and no connection."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
