"""Check a statement: signature, every hash, and every aggregate from the rows that it was computed from.

Offline and without torch. What is found is a `Check` for each thing; one that could not be checked says what it needs.
A statement is not believed here: it is read within limits, its paths stay inside the run, and no file of it is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapidun.errors import InputError, RapidunError
from rapidun.files import file_sha256
from rapidun.lifecycle import IDENTITY
from rapidun.reading import inside, is_regular, parse_json, read_kind
from rapidun.statement.attacks import attacks_of, budget_of
from rapidun.statement.content import BOM, EXCLUSION, SALT, Predicate, Statement, StoredFile, read_statement, subjects
from rapidun.statement.dsse import Envelope, compact, read_envelope
from rapidun.statement.exclusion import read_exclusion
from rapidun.statement.salting import Salt
from rapidun.statement.stored import (
    METRICS,
    aggregates,
    differences,
    judges_of,
    measured,
    reported,
    run_files,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MATCHES, DIFFERS, UNCHECKED = "matches", "DOES NOT MATCH", "not checked"
NAMED = 20
"""Most things that are named one by one where many differ."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        name: What.
        result: `MATCHES`, `DIFFERS` or `UNCHECKED`.
        text: In a sentence, with what it would take where it was not checked.
        needed: Whether a statement is only as good as this check: unchecked, it counts against it.
    """

    name: str
    result: str
    text: str
    needed: bool = False

    @property
    def holds(self) -> bool:
        """Whether it does not speak against the statement."""
        return self.result == MATCHES or (self.result == UNCHECKED and not self.needed)


def verify(
    path: Path, *, run: Path | None = None, key: Ed25519PublicKey | None = None, base: Path | None = None
) -> Iterator[Check]:
    """Everything that can be checked of a statement, one after the other, the quick things first.

    Args:
        path: The statement's file, or the folder that holds it.
        run: The run that it is of.
        key: The public key of who should have signed it, from a source that is not the statement's.
        base: Folder or file of the base model.

    Raises:
        InputError: If a file cannot be read at all; names it.
    """
    envelope, as_written = read_envelope(path)
    statement = read_statement(envelope, path)
    yield _form(envelope, statement, as_written)
    yield _signature(envelope, key)
    yield _expiry(statement.predicate)
    yield _subjects(statement)
    yield from _beside(path.parent, statement.predicate)
    yield _base(statement.predicate, base)
    salt, salted = _salt(path.parent / SALT, statement.predicate)
    yield salted
    if run is None:
        yield Check("run", UNCHECKED, "the files of the run, and its numbers from its rows: give --run RUN.")
    else:
        yield from _files(run, statement.predicate, salt)
        yield from _numbers(run, statement.predicate)


def _form(envelope: Envelope, statement: Statement, as_written: bool) -> Check:
    """Whether file and payload are to the byte as they are written, so that nothing in them can be said twice."""
    try:
        payload = compact(parse_json(envelope.payload.decode(), "payload")) == envelope.payload == statement.payload()
    except (ValueError, RecursionError):
        payload = False
    if as_written and payload:
        return Check("form", MATCHES, "the file is to the byte as a statement is written.", needed=True)
    what = "the file" if not as_written else "the payload in it"
    return Check("form", DIFFERS, f"{what} is not to the byte as a statement is written: it was changed since.")


def _signature(envelope: Envelope, key: Ed25519PublicKey | None) -> Check:
    if not envelope.signature:
        return Check("signature", DIFFERS, "NOT SIGNED: anybody can have written this, and changed any of it.")
    if key is None:
        named = envelope.key_id[:16]
        return Check(
            "signature",
            UNCHECKED,
            f"signed, it says, with the key {named}. Without --key PUBLIC, a key that you got from the signer and not "
            "with the statement, nothing shows who signed it.",
            needed=True,
        )
    from rapidun.statement.keys import is_signed_by, key_id

    own = key_id(key)
    if not is_signed_by(key, envelope.signature, envelope.signed):
        return Check("signature", DIFFERS, f"not this key's ({own[:16]}) of this statement: one of them is another.")
    if envelope.key_id != own:
        return Check("signature", DIFFERS, f"the file names the key {envelope.key_id[:16]!r}, and it is {own[:16]}'s.")
    return Check("signature", MATCHES, f"ed25519, by the key {own[:16]}.", needed=True)


def _expiry(predicate: Predicate) -> Check:
    if predicate.expires < date.today():
        return Check("expiry", DIFFERS, f"expired on {predicate.expires}: have it measured and signed again.")
    return Check("expiry", MATCHES, f"valid until {predicate.expires}.")


def _subjects(statement: Statement) -> Check:
    if statement.subject == subjects(statement.predicate.models):
        return Check("subjects", MATCHES, f"{len(statement.subject)} files, as the statement lists them.")
    return Check("subjects", DIFFERS, "the subjects are not the files that the statement is about.")


def _beside(folder: Path, predicate: Predicate) -> Iterator[Check]:
    """The exclusion manifest, the page and the ML-BOM, which may be handed on without the statement."""
    wanted = {} if predicate.beside is None else predicate.beside.digests()
    for name, digest in wanted.items():
        path = folder / name
        if not is_regular(path):
            yield Check(name, UNCHECKED, f"{path} is not here.")
        else:
            yield _named(name, [] if file_sha256(path) == digest else [name], "as it was written")
    if BOM not in wanted and is_regular(folder / BOM):
        yield Check(BOM, DIFFERS, "the statement knows of none: it was made for another, or by somebody else.")
    if is_regular(folder / EXCLUSION) and read_exclusion(folder / EXCLUSION).rows != predicate.rows.hashes:
        yield Check(EXCLUSION, DIFFERS, "its rows are not those of the statement.")


def _salt(path: Path, predicate: Predicate) -> tuple[Salt | None, Check]:
    if not is_regular(path):
        return None, Check(SALT, UNCHECKED, f"{path} is not here: hashes of rows and of the run need it.")
    salt = Salt.read(path)
    if salt.mark != predicate.salted.salt:
        return None, Check(SALT, DIFFERS, "it is the salt of another statement.")
    return salt, Check(SALT, MATCHES, "it is this statement's.")


def _base(predicate: Predicate, source: Path | None) -> Check:
    wanted = predicate.models.base.files
    if source is None or not wanted:
        why = "give --base FOLDER." if wanted else "its files were not at hand when the statement was made."
        return Check("base", UNCHECKED, f"the files of the base model: {why}")
    folder = source if source.is_dir() else source.parent
    places = {name: inside(folder, name, "the statement") for name in wanted}
    wrong = [name for name, path in places.items() if not is_regular(path) or file_sha256(path) != wanted[name]]
    return _named("base", wrong, f"{len(wanted)} files")


def _files(run: Path, predicate: Predicate, salt: Salt | None) -> Iterator[Check]:
    """Every file of the run: there, of its size and content, and no other beside them."""
    for each in (*(stored.path for stored in predicate.files), *predicate.models.after):
        inside(run, each, "the statement")
    there = set(run_files(run)) if run.is_dir() else set()
    if not there:
        raise InputError(f"{run}: no run here. Give the directory that the statement is of.")
    stored = {each.path: each for each in predicate.files}
    for name in sorted(stored.keys() - there)[:NAMED]:
        yield Check(name, DIFFERS, "missing in the run.")
    for name in sorted(there - stored.keys())[:NAMED]:
        yield Check(name, DIFFERS, "in the run and not in the statement.")
    after = predicate.models.after
    of_model = {name for name in there if name.split("/")[0] in ("adapter", "model")} | after.keys()
    wrong = [name for name in sorted(of_model) if name not in there or file_sha256(run / name) != after.get(name)]
    yield _named("adapter", wrong, f"{len(after)} files")
    if salt is None:
        text = f"{len(stored)} files of the run: their hashes need the statement's salt."
        yield Check("files", UNCHECKED, text, needed=True)
        return
    wrong = [name for name in sorted(there & stored.keys()) if not _is_stored(run / name, stored[name], salt)]
    yield _named("files", wrong, f"{len(stored)} files")
    yield _datasets(run, predicate, salt)


def _is_stored(path: Path, stored: StoredFile, salt: Salt) -> bool:
    return path.stat().st_size == stored.bytes and salt.of_file(path) == stored.hash


def _datasets(run: Path, predicate: Predicate, salt: Salt) -> Check:
    identity = read_kind(run / IDENTITY, dict[str, str])
    said = {f"rows {name}": mark for name, mark in predicate.rows.datasets.items()}
    names = said.keys() | {name for name in identity if name.startswith("rows ")}
    wrong = [name for name in sorted(names) if salt.of_bytes(identity.get(name, "").encode()) != said.get(name)]
    if predicate.models.base.fingerprint != identity.get("model"):
        wrong.append("model")
    return _named("fingerprints", wrong, f"{len(names)} row files and the base model")


def _numbers(run: Path, predicate: Predicate) -> Iterator[Check]:
    """What the rows say, against the statement and against what the run reported."""
    try:
        found = aggregates(run)
        ours, said = measured(found, run), reported(run, found)
        judges = judges_of(run)
    except RapidunError as error:
        yield Check("numbers", DIFFERS, f"they cannot be computed from the rows: {error}")
        return
    for name, one, other in (
        ("numbers", ours.model_dump(mode="json"), predicate.measured.model_dump(mode="json")),
        (METRICS, found, said),
    ):
        wrong = list(differences(one, other))
        for place, value, claimed in wrong[:NAMED]:
            yield Check(name, DIFFERS, f"{place} is {value!r:.80} by the rows, and {claimed!r:.80} is stated.")
        if not wrong:
            yield Check(name, MATCHES, f"{_count(one)} numbers follow from the rows.")
    wrong_attacks = (attacks_of(run) or "none were run", budget_of(run)) != (predicate.attacks, predicate.attack_budget)
    yield _named("attacks", ["verdicts, numbers or budget"] * wrong_attacks, "as the run has them")
    yield _named("judges", [] if judges == predicate.judges else ["floor or ceiling"], f"{len(judges)} judges")


def _count(value: Any) -> int:
    """Numbers below ``value``."""
    if isinstance(value, dict | list):
        return sum(map(_count, value.values() if isinstance(value, dict) else value))
    return int(isinstance(value, int | float) and not isinstance(value, bool))


def _named(name: str, wrong: list[str], what: str) -> Check:
    if not wrong:
        return Check(name, MATCHES, f"{what}.")
    more = f", and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    return Check(name, DIFFERS, f"changed since: {', '.join(wrong[:NAMED])}{more}.")
