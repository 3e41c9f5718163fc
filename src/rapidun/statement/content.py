"""What a statement says: an in-toto Statement v1 with a predicate of our own, as types that a reader can go by.

The keys of the JSON are the names below in lowerCamelCase, as in-toto's are. A statement holds numbers, names and
hashes; no text of a row, no answer, no trigger and no path of the machine that it was made on is in it.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.alias_generators import to_camel

from rapidun.reading import RESTORE, as_kind, decoded, parse_json
from rapidun.statement.dsse import Envelope, compact

FILE, EXCLUSION, PAGE, SALT, BOM = "statement.json", "exclude.json", "statement.html", "salt", "bom.cdx.json"
"""The files of a statement's folder."""
MOST_TEXT = 2000
FIRST: Literal["https://github.com/rapidun/rapidun/unlearning/v1"] = "https://github.com/rapidun/rapidun/unlearning/v1"
WITH_BOM: Literal["https://github.com/rapidun/rapidun/unlearning/v2"] = (
    "https://github.com/rapidun/rapidun/unlearning/v2"
)
"""The predicate's type: of the first form, which one without a BOM has to this day, and of that with its hash."""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Said = Annotated[str, Field(min_length=1, max_length=MOST_TEXT)]
"""What a person wrote."""


Numbers = dict[str, bool | int | float]
"""By dotted name."""


class Part(BaseModel):
    """Some of a statement; what is not named here is refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, alias_generator=to_camel, validate_by_name=True
    )


class Interval(Part):
    """A number and the ends of its 95% interval; ``n`` counts its units: answers of a rate, rows of a perplexity."""

    value: float
    low: float
    high: float
    n: int


class Ratio(Part):
    """Perplexity after over before, with the ends of its 95% interval."""

    value: float
    low: float
    high: float


class Request(Part):
    """Why it was done: given by whoever asked for the statement."""

    id: Said
    received: date
    basis: Said
    approved_by: list[Said] = Field(min_length=1)


class Rows(Part):
    """The rows that were unlearned, as salted hashes in order of their value, and all row files of the run.

    Args:
        hashes: Of the rows (`rapidun.statement.salting`).
        datasets: Name of a group of rows to the salted hash of its fingerprint in ``identity.json``.
    """

    count: int
    hashes: list[Hash]
    datasets: dict[str, Hash]


class Salted(Part):
    """How hashes were salted, and the SHA-256 of the salt itself."""

    algorithm: Literal["HMAC-SHA256"]
    salt: Hash


class Base(Part):
    """The model as it was before, and what was laid on it.

    Args:
        name: The last part of its name.
        dtype: In which it was loaded and measured.
        fingerprint: SHA-256 over its tensors as they were loaded, taken before the run.
        files: SHA-256 of its files when the statement was made; empty where they were not at hand.
    """

    name: str
    dtype: str
    fingerprint: str
    files: dict[str, Hash]


class Models(Part):
    """Hashes before and after.

    Args:
        base: Before.
        adapter_before: Always none: a run begins without one.
        after: SHA-256 of the files that unlearning wrote, ``adapter/...`` or ``model/...``.
    """

    base: Base
    adapter_before: Literal["none"] = "none"
    after: dict[str, Hash]


class How(Part):
    """What was done: method, settings by section, seed, versions, hardware, seconds by phase."""

    method: str
    settings: dict[str, Any]
    seed: int
    template: str
    rapidun: str
    versions: dict[str, Any]
    hardware: dict[str, Any]
    seconds: dict[str, float]
    ended: str


class GateCheck(Part):
    """One condition of the gate."""

    name: str
    passed: bool
    value: float | None
    limit: float
    text: str


class Judge(Part):
    """How good a judge is on answers it was not fitted on; recorded by the run, not computed again."""

    kind: str
    floor: Interval
    ceiling: Interval


class Side(Part):
    """What was measured of one model: rates by judge and condition, perplexity of clean and of forget rows."""

    rates: dict[str, dict[str, Interval]]
    clean_perplexity: Interval
    forget_perplexity: Interval | None


class Measured(Part):
    """The numbers, each of which follows from the rows stored in the run."""

    verdict: Literal["PASS", "FAIL"]
    primary_judge: str
    gate: list[GateCheck]
    before: Side
    after: Side
    perplexity_ratio: Ratio
    forget_ratio: Ratio | None


class Attack(Part):
    """One attack that was run: what was decided of it, and its numbers by dotted name; no text but its name."""

    name: str
    file: str
    verdict: Literal["PASS", "FAIL", "UNDECIDED"] | None
    numbers: Numbers


class StoredFile(Part):
    """A file of the run: path, size, salted hash."""

    path: str
    bytes: int
    hash: Hash


class Beside(Part):
    """The files of the statement's folder, by their SHA-256; ``bom`` is not there where none was written."""

    exclusion: Hash
    page: Hash
    bom: Hash | None = None

    @model_serializer(mode="wrap")
    def _those_there(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: digest for name, digest in plain(self).items() if digest is not None}

    def digests(self) -> dict[str, str]:
        """File name to SHA-256, of those that were written."""
        found = {EXCLUSION: self.exclusion, PAGE: self.page, BOM: self.bom}
        return {name: digest for name, digest in found.items() if digest is not None}


class Predicate(Part):
    """All that is said."""

    about: Said
    made: datetime
    expires: date
    request: Request
    models: Models
    rows: Rows
    salted: Salted
    how: How
    measured: Measured
    judges: dict[str, Judge]
    attacks: list[Attack] | Literal["none were run"]
    attack_budget: Numbers
    twin: str
    residual_risk: list[str]
    not_tested: list[str]
    files: list[StoredFile]
    beside: Beside | None = None


class Subject(Part):
    """What the statement is about: a file's name and digest."""

    name: str
    digest: dict[str, str]


class Statement(Part):
    """An in-toto Statement."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field("https://in-toto.io/Statement/v1", alias="_type")
    subject: list[Subject] = Field(min_length=1)
    predicate_type: Literal[
        "https://github.com/rapidun/rapidun/unlearning/v1", "https://github.com/rapidun/rapidun/unlearning/v2"
    ] = FIRST
    predicate: Predicate

    @model_validator(mode="after")
    def _of_its_type(self) -> Statement:
        with_bom = self.predicate.beside is not None and self.predicate.beside.bom is not None
        if with_bom != (self.predicate_type == WITH_BOM):
            raise ValueError(f"predicateType {self.predicate_type} is {'of none' if with_bom else 'of one'} with a BOM")
        return self

    def payload(self) -> bytes:
        """As it is signed."""
        return compact(self.model_dump(mode="json", by_alias=True))


def read_statement(envelope: Envelope, path: Path) -> Statement:
    """The statement in an envelope.

    Raises:
        InputError: If it is no statement of ours, naming the first thing that is not.
    """
    where = f"{path}: payload"
    return as_kind(Statement, parse_json(decoded(envelope.payload, where), where), where, RESTORE)


def subjects(models: Models) -> list[Subject]:
    """The files of the adapter and of the base, with their digests.

    A base whose files were not at hand is named by its fingerprint, under a name that says so: it is no file's SHA-256.
    """
    found = [Subject(name=name, digest={"sha256": digest}) for name, digest in models.after.items()]
    base = models.base
    if not base.files:
        return [*found, Subject(name=f"base/{base.name}", digest={"rapidunTensors": base.fingerprint})]
    return found + [Subject(name=f"base/{name}", digest={"sha256": digest}) for name, digest in base.files.items()]
