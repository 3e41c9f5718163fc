"""``rapidun report RUN``: write the HTML report of a run directory again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rapidun.cli.console import say
from rapidun.cli.options import examples

EXAMPLES = examples(
    "rapidun report runs/demo",
)


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Directory that `rapidun run`, demo, reveal or value wrote.")
    ],
) -> int:
    """Write RUN/report.html again, one file that opens in any browser, from the files of a run directory."""
    from rapidun.report import write_report

    say(write_report(run))
    return 0
