"""``rapidun attest RUN``: the signed statement of what a run measured."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rapidun.cli import options as o
from rapidun.cli.console import print_json, say
from rapidun.cli.made import made
from rapidun.errors import ConfigError

if TYPE_CHECKING:
    from rapidun.statement.content import Request

EXAMPLES = o.examples(
    'rapidun attest runs/demo --request R-17 --basis "GDPR Art. 17" --approved-by "A. Jones" --new-key signer.pem',
    'rapidun attest runs/demo --request R-17 --basis "poisoned rows" --approved-by "A. Jones" --key signer.pem',
    "rapidun verify runs/demo/statement/statement.json --key signer.pem.pub --run runs/demo",
)
_ASKED, _SIGNED = "Request", "Signature"


@made
def attest(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory that `rapidun run` or demo wrote.")],
    request: Annotated[str, o.option("--request", "The request's number or name.", _ASKED)],
    basis: Annotated[str, o.option("--basis", "Why the rows had to go: a law, a contract, a fault.", _ASKED)],
    approved_by: Annotated[list[str], o.option("--approved-by", "Who approved it. Repeatable.", _ASKED)],
    received: Annotated[str | None, o.option("--received", "Day of the request, 2026-11-30. Default today.", _ASKED)],
    expires: Annotated[str | None, o.option("--expires", "Last day it is valid. Default a year from now.", _ASKED)],
    key: Annotated[Path | None, o.option("--key", "PEM file of an ed25519 private key.", _SIGNED)],
    new_key: Annotated[Path | None, o.option("--new-key", "Make one first: FILE, and FILE.pub to give away.", _SIGNED)],
    unsigned: Annotated[bool, o.flag("--unsigned", "Leave it unsigned. Then it proves nothing.", _SIGNED)],
    forget: Annotated[Path | None, o.option("--forget", "The run's forget rows, if they were moved since.", "Run")],
    out: Annotated[Path | None, o.option("--out", "Folder to write. Default RUN/statement.", "Run")],
    how: Annotated[o.How, o.Asks("overwrite", "as_json")],
) -> int:
    """State what a run measured, signed: for whoever asked that rows be unlearned and whoever answers for it.

    Writes statement.json (an in-toto Statement in a DSSE envelope), statement.html, exclude.json (salted hashes of the
    rows, to keep them out of later training), bom.cdx.json (a CycloneDX ML-BOM of the same, where cyclonedx-python-lib
    is installed) and salt, which is not to be given to everybody.
    """
    if [key is not None, new_key is not None, unsigned].count(True) != 1:
        raise ConfigError("give one of --key FILE, --new-key FILE (to make one) or --unsigned.")
    asked = _request(request, basis, approved_by, received)
    last = _day(expires, "--expires") if expires else None
    from rapidun.statement.attest import attest as make
    from rapidun.statement.attest import check
    from rapidun.statement.keys import is_open_to_others, read_private
    from rapidun.statement.keys import new_key as make_key

    check(run, last, out, how.overwrite)
    if new_key is not None:
        make_key(new_key)
        say(f"new key: {new_key}, for its owner alone; give {new_key}.pub to whoever checks.", err=True)
    file = key or new_key
    private = None if file is None else read_private(file)
    if file is not None and is_open_to_others(file):
        say(f"warning: {file} can be read by others than its owner: chmod 600 it.", err=True)
    found = make(run, asked, key=private, expires=last, forget=forget, out=out, overwrite=how.overwrite)
    _say(found, how)
    return 0


def _say(found: Any, how: o.How) -> None:
    from rapidun.report.statement import headline_of
    from rapidun.statement.bom import MISSING
    from rapidun.statement.content import BOM

    said = found.statement.predicate
    if how.as_json:
        print_json({"statement": str(found.path), "key": found.key_id or None, "verdict": said.measured.verdict})
        return
    for title, lines in (("residual risk", said.residual_risk), ("not tested", said.not_tested)):
        say("\n".join([f"{title}:", *(f"  - {line}" for line in lines)]))
    verdict = headline_of(said.model_dump()).words
    say(f"measured:  {verdict}; {said.rows.count} rows unlearned, valid until {said.expires}")
    say(f"statement: {found.path}")
    there = said.beside is not None and said.beside.bom is not None
    say(f"ML-BOM:    {found.path.parent / BOM if there else MISSING}")
    if not found.key_id:
        say(
            "NOT SIGNED: this statement proves nothing to anybody. Sign it with --key FILE, or --new-key FILE.",
            err=True,
        )


def _request(request: str, basis: str, approved_by: list[str], received: str | None) -> Request:
    from rapidun.reading import as_kind
    from rapidun.statement.content import Request as Kind

    day = _day(received, "--received") if received else date.today()
    raw = {"id": request, "basis": basis, "approved_by": approved_by, "received": day}
    return as_kind(Kind, raw, "the request", "Give --request, --basis and --approved-by.")


def _day(text: str, name: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{name} {text}: write a day as 2026-11-30.") from error
