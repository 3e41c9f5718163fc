"""A section of the report: an anchor, a title, a template and what the template needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rapidun.report.charts import Chart
from rapidun.report.run_files import RunFiles


@dataclass(frozen=True)
class Section:
    """What one section shows. A section with a ``note`` and no template says only that."""

    id: str
    title: str
    template: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    charts: tuple[Chart, ...] = ()
    note: str | None = None


# None: the section has nothing to say about this run and leaves no trace in the page.
SectionBuilder: TypeAlias = Callable[[RunFiles], Section | None]
