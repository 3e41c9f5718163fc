"""Make the statement of a run: from its own files, checked first, to a folder with the signed envelope and what belongs
to it.

Nothing is computed again but what `verify` will compute again; nothing is taken from ``metrics.json`` that does not
follow from the stored rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from rapidun.errors import InputError
from rapidun.files import atomic_directory, atomic_write, check_place, file_sha256
from rapidun.lifecycle import CONFIG, IDENTITY, check_free
from rapidun.reading import RESTORE, as_kind, read_kind, read_object
from rapidun.report.run_files import read_run
from rapidun.report.statement import render_statement
from rapidun.report.titles import title_of
from rapidun.sealed import altered, read_sealed
from rapidun.statement.attacks import attacks_of, budget_of
from rapidun.statement.bom import bom_text
from rapidun.statement.content import (
    BOM,
    EXCLUSION,
    FILE,
    FIRST,
    PAGE,
    SALT,
    WITH_BOM,
    Attack,
    Base,
    Beside,
    How,
    Measured,
    Models,
    Predicate,
    Request,
    Rows,
    Salted,
    Statement,
    StoredFile,
    subjects,
)
from rapidun.statement.dsse import LARGEST, Envelope
from rapidun.statement.exclusion import exclusion_text
from rapidun.statement.forgotten import forget_rows
from rapidun.statement.keys import key_id
from rapidun.statement.salting import ALGORITHM, Salt
from rapidun.statement.stored import (
    STATEMENTS,
    aggregates,
    check_run,
    differences,
    judges_of,
    measured,
    reported,
    run_files,
)
from rapidun.statement.words import not_tested, residual_risk
from rapidun.yaml_files import read_yaml

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LASTS = timedelta(days=365)
"""Until when a statement is valid, where nobody says."""
SETTINGS = ("influence", "weights", "lora", "unlearning", "evaluation", "gate")
"""Sections that are stated, but for what may hold words of rows, or paths."""
NOT_SAID = {"evaluation": ("triggers", "keywords"), "influence": ("checkpoints",)}
SAID = {"data": ("max_length", "sample", "on_bad_row"), "model": ("dtype", "quantize")}
"""Of sections that are paths for the most part, what is none."""
SAID_NOWHERE = "not said"


@dataclass(frozen=True)
class Made:
    """A statement that was written: its file, what it says, and the id of the key; "" where it is not signed."""

    path: Path
    statement: Statement
    key_id: str


def attest(
    run: Path,
    request: Request,
    *,
    key: Ed25519PrivateKey | None,
    expires: date | None = None,
    forget: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> Made:
    """Write the statement of a measured run into a folder of its own.

    Args:
        run: What `rapidun run` wrote.
        request: Who asked for it, why, and who approved.
        key: What it is signed with; None leaves it unsigned.
        expires: The last day on which it is valid; a year from today without.
        forget: The forget rows, where they are no longer where the run read them.
        out: The folder; ``RUN/statement`` without.
        overwrite: Replace a statement that is there.

    Raises:
        InputError: If the run is not whole, or its numbers do not follow from its rows.
        OutputError: If the folder cannot be written.
    """
    out = check(run, expires, out, overwrite)
    expires = expires or date.today() + LASTS
    salt = Salt.new()
    predicate = _predicate(run, request, expires, salt, forget)
    exclusion = exclusion_text(predicate.rows, predicate.salted)
    signer = "" if key is None else key_id(key.public_key())
    page = render_statement(predicate.model_dump(mode="json"), signer)
    bom = bom_text(predicate)
    beside = Beside(exclusion=_sha256(exclusion), page=_sha256(page), bom=None if bom is None else _sha256(bom))
    predicate = predicate.model_copy(update={"beside": beside})
    form = FIRST if bom is None else WITH_BOM
    statement = Statement(subject=subjects(predicate.models), predicate_type=form, predicate=predicate)
    envelope = _enveloped(statement, key, signer)
    with atomic_directory(out) as folder:
        texts = {FILE: envelope, EXCLUSION: exclusion, PAGE: page, SALT: salt.text(), BOM: bom}
        for name, text in texts.items():
            if text is not None:
                with atomic_write(folder / name) as file:
                    file.write(text)
    return Made(out / FILE, statement, signer)


def check(run: Path, expires: date | None, out: Path | None, overwrite: bool) -> Path:
    """The folder that `attest` would write; refuses at once what it would refuse, and changes nothing. Raises as it."""
    out = out if out is not None else run / STATEMENTS
    check_run(run)
    check_free(run)
    check_place(out, [FILE], "a statement", resume=False, overwrite=overwrite, resumable=False)
    if expires is not None and expires < date.today():
        raise InputError(f"--expires {expires}: is in the past.")
    return out


def _enveloped(statement: Statement, key: Ed25519PrivateKey | None, signer: str) -> str:
    envelope = Envelope(statement.payload())
    if key is not None:
        envelope = Envelope(envelope.payload, signer, key.sign(envelope.signed))
    text = envelope.text()
    if len(text) > LARGEST:
        raise InputError(f"the statement would have {len(text)} bytes, and {LARGEST} is the most that is read again.")
    return text


def _predicate(run: Path, request: Request, expires: date, salt: Salt, forget: Path | None) -> Predicate:
    manifest, whole = read_sealed(run / "manifest.json")
    if whole is False:
        raise altered(run / "manifest.json")
    config = read_yaml(run / CONFIG)
    if not isinstance(config, dict):
        raise InputError(f"{run / CONFIG}: not a configuration. {RESTORE}")
    identity = read_kind(run / IDENTITY, dict[str, str])
    numbers, judges = _numbers(run), judges_of(run)
    rows = _rows(run, config, identity, salt, forget)
    attacks, models = attacks_of(run), _models(run, manifest, identity)
    twin = _twin(attacks)
    return Predicate(
        about=title_of(read_run(run))[:2000],
        made=datetime.now(timezone.utc).replace(microsecond=0),
        expires=expires,
        request=request,
        models=models,
        rows=rows,
        salted=Salted(algorithm=ALGORITHM, salt=salt.mark),
        how=_how(run, config, manifest),
        measured=numbers,
        judges=judges,
        attacks=attacks or "none were run",
        attack_budget=budget_of(run),
        twin=twin or "none",
        residual_risk=residual_risk(numbers, judges, attacks, bool(twin), _wrote_adapter(models)),
        not_tested=not_tested(attacks, bool(numbers.after.rates)),
        files=[_stored(run, name, salt) for name in run_files(run)],
    )


def _numbers(run: Path) -> Measured:
    found = aggregates(run)
    wrong = list(differences(found, reported(run, found)))
    if wrong:
        name, now, said = wrong[0]
        raise InputError(
            f"{run / 'metrics.json'}: {name} is {said!r:.80} there and {now!r:.80} by the stored rows, and "
            f"{len(wrong) - 1} more differ. {RESTORE}"
        )
    return measured(found, run / "metrics.json")


def _rows(run: Path, config: dict[str, Any], identity: dict[str, str], salt: Salt, forget: Path | None) -> Rows:
    hashes = sorted({salt.of_row(row) for row in forget_rows(run, config, identity, forget)})
    groups = {name.removeprefix("rows "): mark for name, mark in identity.items() if name.startswith("rows ")}
    datasets = {name: salt.of_bytes(mark.encode()) for name, mark in groups.items()}
    return Rows(count=len(hashes), hashes=hashes, datasets=datasets)


def _models(run: Path, manifest: dict[str, Any], identity: dict[str, str]) -> Models:
    source = str(manifest.get("model", SAID_NOWHERE))
    base = Base(
        name=PurePath(source.replace("\\", "/")).name,
        dtype=str(manifest.get("dtype", SAID_NOWHERE)),
        fingerprint=identity.get("model", SAID_NOWHERE),
        files=base_files(Path(source)),
    )
    names = [name for name in run_files(run) if name.split("/")[0] in ("adapter", "model")]
    if not names:
        raise InputError(f"{run}: holds neither adapter/ nor model/, so there is nothing to state. {RESTORE}")
    return Models(base=base, after={name: file_sha256(run / name) for name in names})


def base_files(source: Path) -> dict[str, str]:
    """SHA-256 of the files of a model's folder, or of its one file; none where it is elsewhere."""
    if source.is_file():
        return {source.name: file_sha256(source)}
    if not source.is_dir():
        return {}
    places = [path for path in sorted(source.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return {path.name: file_sha256(path) for path in places}


def _how(run: Path, config: dict[str, Any], manifest: dict[str, Any]) -> How:
    settings = _settings(config)
    outcome = read_object(run / "unlearning.json").get("stopped") or "as planned"
    phases = as_kind(list[dict[str, Any]], manifest.get("phases"), run / "manifest.json: phases", RESTORE)
    raw = {
        "method": settings.get("unlearning", {}).get("method"),
        "settings": settings,
        "seed": manifest.get("seed"),
        "template": PurePath(str(manifest.get("template"))).name,
        "rapidun": manifest.get("rapidun_version"),
        "versions": manifest.get("versions"),
        "hardware": manifest.get("hardware"),
        "seconds": {str(phase.get("name")): phase.get("seconds") for phase in phases},
        "ended": outcome,
    }
    return as_kind(How, raw, run / "manifest.json", RESTORE)


def _settings(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    sections = {name: section for name, section in config.items() if isinstance(section, dict)}
    stated = {name: set(sections[name]) - set(NOT_SAID.get(name, ())) for name in SETTINGS if name in sections}
    stated |= {name: set(sections[name]) & set(names) for name, names in SAID.items() if name in sections}
    return {
        section: {name: value for name, value in sections[section].items() if name in names}
        for section, names in stated.items()
    }


def _wrote_adapter(models: Models) -> bool:
    return any(name.startswith("adapter/") for name in models.after)


def _twin(attacks: Sequence[Attack]) -> str:
    """What is known of a model trained without the rows: from attacks that had one beside them."""
    beside = [attack.name for attack in attacks if any("twin" in name.lower().split(".") for name in attack.numbers)]
    return f"measured beside this model in: {', '.join(beside)}" if beside else ""


def _stored(run: Path, name: str, salt: Salt) -> StoredFile:
    return StoredFile(path=name, bytes=(run / name).stat().st_size, hash=salt.of_file(run / name))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
