"""What every page of ours is made with: templates, style, scripts inside the file, and a policy that allows no other.

A content security policy names the hash of each script, so a ``<script>`` that slipped into a page from a data row
would not run, and forbids every connection.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from rapidun.report.palette import css_variables
from rapidun.report.visible import clipped, marked, visible


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates, with escaping on and the filters that make characters visible."""
    found = Environment(
        loader=PackageLoader("rapidun.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["visible"] = visible
    found.filters["trigger"] = lambda text: visible(text, strict=True)
    found.filters["marked"] = marked
    found.filters["clipped"] = clipped
    return found


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


def policy(scripts: list[str]) -> str:
    """A content security policy that allows these scripts, or none, and no connection."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
