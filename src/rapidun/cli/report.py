"""``rapidun report RUN``: write the HTML report of a run directory again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("report")(report)


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]) -> int:
    """Write RUN/report.html from the files of a run directory."""
    from rapidun.report import write_report

    typer.echo(str(write_report(run)))
    return 0
