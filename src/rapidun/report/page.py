"""The report: one HTML file that needs no network, written from the files of a run directory.

The style sheet, plotly.js and the scripts are inside the file; see `rapidun.report.html`.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from rapidun.files import atomic_write, remove_half_written
from rapidun.reading import made_from
from rapidun.report.charts import to_script_json
from rapidun.report.formats import moment
from rapidun.report.html import asset, environment, licence, plotly_script, policy, style
from rapidun.report.packing import packed, packed_once
from rapidun.report.palette import dark_partners
from rapidun.report.run_files import RunFiles, read_run
from rapidun.report.section import Section, SectionBuilder
from rapidun.report.sections import (
    attacks,
    cost,
    influence,
    memorisation,
    outcome,
    provenance,
    revealing,
    samples,
    trace,
    training,
    value,
    value_rows,
    value_sources,
    value_student,
    variants,
    verdict,
    weights,
)
from rapidun.report.titles import model_of, title_of
from rapidun.report.visible import LONGEST

SECTIONS: tuple[SectionBuilder, ...] = (
    verdict.build,
    revealing.build,
    outcome.build,
    variants.build,
    attacks.build,
    memorisation.build,
    samples.build,
    influence.build,
    weights.build,
    trace.build,
    training.build,
    cost.build,
    provenance.build,
)
VALUATION_SECTIONS: tuple[SectionBuilder, ...] = (
    value.build,
    value_student.build,
    value_rows.build,
    value_sources.build,
    cost.build,
    provenance.build,
)


LARGEST = 2_000_000
"""Bytes of a page. Where it would be more, texts of rows are cut further and what is folded away is left out."""
_DETAILS = ((LONGEST, True), (1_000, True), (150, True), (150, False), (50, False))
"""Characters of the longest text, and whether folded rows are in the page: tried in this order."""


def write_report(run_directory: Path) -> Path:
    """Write ``run_directory/report.html`` and return its path.

    The same files give the same bytes, at most `LARGEST` of them but for a run of very many rows and triggers.

    Raises:
        InputError: If ``run_directory`` is not a run directory or one of its files is broken.
        OutputError: If the report cannot be written.
    """
    run = read_run(Path(run_directory))
    with made_from(run.directory):
        page = render(run)
    path = run.directory / "report.html"
    remove_half_written(path)
    with atomic_write(path) as file:
        file.write(page)
    return path


def render(run: RunFiles) -> str:
    """The page of a run."""
    builders = SECTIONS if run.valuation is None else VALUATION_SECTIONS
    sections = [section for build in builders if (section := build(run)) is not None]
    if run.reveal is not None:  # what other runs have and this one lacks is nothing to remark on
        sections = [section for section in sections if section.template is not None]
    for longest, folded in _DETAILS:
        page = _page(run, sections, environment(longest, folded))
        if len(page.encode("utf-8")) <= LARGEST:
            break
    return page


def _page(run: RunFiles, sections: list[Section], templates: Environment) -> str:
    charts = [chart for section in sections for chart in section.charts]
    drawn = ",".join(f'"{chart.id}":{chart.json}' for chart in charts)
    script, library = asset("report.js"), plotly_script()
    page: str = templates.get_template("page.html.j2").render(
        title=title_of(run),
        kind="Unlearning report" if run.valuation is None else "Valuation report",
        subtitle=_subtitle(run),
        sections=sections,
        style=Markup(style("report.css")),
        script=Markup(script),
        licence=Markup(licence(library)),
        library=packed_once(library),
        figures=packed(f"{{{drawn}}}") if charts else None,
        policy=policy([script, library] if charts else [script]),
        dark=Markup(to_script_json(dark_partners())),
    )
    return page


def _subtitle(run: RunFiles) -> list[str]:
    if run.manifest is None:
        return []
    version, seed = run.manifest.text("rapidun_version"), run.manifest.text("seed")
    parts = [
        model_of(run),
        moment(run.manifest.text("created")),
        version and f"rapidun {version}",
        seed and f"seed {seed}",
    ]
    return [part for part in parts if part]
