"""``rapidun verify STATEMENT``: signature, hashes, and numbers from the rows."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rapidun.cli import options as o
from rapidun.cli.console import print_json, say
from rapidun.cli.made import made

if TYPE_CHECKING:
    from rapidun.statement.verify import Check

EXAMPLES = o.examples(
    "rapidun verify runs/demo/statement/statement.json --key signer.pem.pub --run runs/demo",
    "rapidun verify statement.json --key signer.pem.pub --rows next_training_data.jsonl",
)
LINES_SHOWN = 20


@made
def verify(
    statement: Annotated[Path, typer.Argument(metavar="STATEMENT", help="The file statement.json.")],
    key: Annotated[Path | None, o.option("--key", "PEM file of the signer's public key, got from the signer.")],
    run: Annotated[Path | None, o.option("--run", "The run that it is of: its files and numbers.")],
    base: Annotated[Path | None, o.option("--base", "Folder of the base model.")],
    rows: Annotated[Path | None, o.option("--rows", "Rows for training: say which of them were unlearned.")],
    as_json: o.Json,
) -> int:
    """Check a statement: its signature, its hashes, and every number from the stored rows. Offline.

    Says of each thing whether it matches. Exit code 0 when nothing speaks against the statement, 1 when something does
    or nobody's key was given, 2 when it cannot be read.
    """
    from rapidun.statement.keys import read_public
    from rapidun.statement.verify import verify as check

    public = read_public(key) if key is not None else None
    checks = []
    of_rows = (_excluded(statement.parent, each) for each in ([] if rows is None else [rows]))
    for found in chain(check(statement, run=run, key=public, base=base), of_rows):
        checks.append(found)
        if not as_json:
            say(f"{found.result:15} {found.name}: {found.text}")
    holds = all(found.holds for found in checks)
    if as_json:
        print_json({"holds": holds, "checks": [vars(found) for found in checks]})
    else:
        say(f"\n{_verdict(checks)}")
    return 0 if holds else 1


def _verdict(checks: list[Check]) -> str:
    against = [found.name for found in checks if not found.holds]
    if against:
        return f"does not hold: {', '.join(dict.fromkeys(against))}"
    left = [found.name for found in checks if found.result == "not checked"]
    return "everything that was checked matches" + (f"; not checked: {', '.join(left)}" if left else "")


def _excluded(folder: Path, rows: Path) -> Check:
    from rapidun.data import RowStream
    from rapidun.statement.exclusion import Exclusion
    from rapidun.statement.verify import DIFFERS, MATCHES, Check

    lines = list(Exclusion.read(folder).found_in(RowStream(rows, require_response=False).rows()))
    if not lines:
        return Check("rows", MATCHES, f"{rows} holds no row that was unlearned.")
    more = f" and {len(lines) - LINES_SHOWN} more" if len(lines) > LINES_SHOWN else ""
    shown = ", ".join(map(str, lines[:LINES_SHOWN]))
    return Check(
        "rows", DIFFERS, f"{rows} holds {len(lines)} rows that were unlearned: line {shown}{more}. Leave them out."
    )
