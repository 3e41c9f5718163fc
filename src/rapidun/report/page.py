"""The report: one HTML file that needs no network, written from the files of a run directory.

The style sheet, plotly.js and the scripts are inside the file. A content security policy names the hash of
each script, so a ``<script>`` that slipped into the page from a data row would not run, and forbids every
connection.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from rapidun.files import atomic_write
from rapidun.report.charts import to_script_json
from rapidun.report.formats import moment
from rapidun.report.palette import css_variables, dark_partners
from rapidun.report.run_files import RunFiles, read_run
from rapidun.report.section import SectionBuilder
from rapidun.report.sections import (
    cost,
    influence,
    outcome,
    provenance,
    samples,
    trace,
    training,
    variants,
    verdict,
    weights,
)
from rapidun.report.visible import clipped, marked, visible

SECTIONS: tuple[SectionBuilder, ...] = (
    verdict.build,
    outcome.build,
    variants.build,
    samples.build,
    influence.build,
    weights.build,
    trace.build,
    training.build,
    cost.build,
    provenance.build,
)


def write_report(run_directory: Path) -> Path:
    """Write ``run_directory/report.html`` and return its path.

    The same files give the same bytes. The file is about 5 MB, nearly all of it plotly.js.

    Raises:
        InputError: If ``run_directory`` is not a run directory or one of its files is broken.
        OutputError: If the report cannot be written.
    """
    run = read_run(Path(run_directory))
    page = render(run)
    path = run.directory / "report.html"
    with atomic_write(path) as file:
        file.write(page)
    return path


def render(run: RunFiles) -> str:
    """The page of a run."""
    sections = [section for build in SECTIONS if (section := build(run)) is not None]
    charts = [chart for section in sections for chart in section.charts]
    scripts = [_plotly_script(), _asset("report.js")] if charts else [_asset("report.js")]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=_title(run),
            subtitle=_subtitle(run),
            sections=sections,
            style=Markup(_style()),
            scripts=[Markup(script) for script in scripts],
            policy=_policy(scripts),
            dark=Markup(to_script_json(dark_partners())),
        )
    )


def _title(run: RunFiles) -> str:
    model = run.manifest.text("model") if run.manifest and not _nested_model(run) else ""
    return model.rstrip("/").rsplit("/", 1)[-1] or run.directory.resolve().name


def _nested_model(run: RunFiles) -> bool:
    return run.manifest is not None and isinstance(run.manifest.fields.get("model"), (dict, list))


def _subtitle(run: RunFiles) -> list[str]:
    if run.manifest is None:
        return []
    version, seed = run.manifest.text("rapidun_version"), run.manifest.text("seed")
    parts = [moment(run.manifest.text("created")), version and f"rapidun {version}", seed and f"seed {seed}"]
    return [part for part in parts if part]


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("rapidun.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    environment.filters["trigger"] = lambda text: visible(text, strict=True)
    environment.filters["marked"] = marked
    environment.filters["clipped"] = clipped
    return environment


def _asset(name: str) -> str:
    return files("rapidun.report").joinpath("templates", name).read_text(encoding="utf-8")


def _style() -> str:
    return _asset("report.css").replace("/*light*/", css_variables("light")).replace("/*dark*/", css_variables("dark"))


@lru_cache(maxsize=1)
def _plotly_script() -> str:
    """plotly.js with line ends as the browser will see them, so that its hash holds."""
    text: str = get_plotlyjs()
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script")


def _policy(scripts: list[str]) -> str:
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
