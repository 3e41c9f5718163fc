"""The exclusion manifest: salted hashes of the rows that were unlearned, so that nobody trains on them again.

It holds no text. A data pipeline hashes each of its rows in the same way, with the statement's salt, and leaves out
those whose hash is in it. A row is found again whatever its id, its file and its white space are; one in other words
is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rapidun.errors import FingerprintError
from rapidun.reading import RESTORE, as_kind, decoded, parse_json, read_bytes
from rapidun.statement.content import EXCLUSION, SALT, Hash, Part, Rows, Salted
from rapidun.statement.dsse import LARGEST
from rapidun.statement.salting import Salt


class _File(Part):
    format: Literal["rapidun-exclusion/1"] = "rapidun-exclusion/1"
    algorithm: Literal["HMAC-SHA256"] = "HMAC-SHA256"
    salt: Hash
    rows: list[Hash]


@dataclass(frozen=True)
class Exclusion:
    """Rows to leave out of training.

    Args:
        hashes: Their salted hashes.
        salt: The salt.
    """

    hashes: frozenset[str]
    salt: Salt

    @classmethod
    def read(cls, folder: Path) -> Exclusion:
        """From the folder of a statement, which holds ``exclude.json`` and ``salt``.

        Raises:
            InputError: If either is missing or damaged.
            FingerprintError: If they do not belong together.
        """
        path = folder / EXCLUSION
        content = read_exclusion(path)
        salt = Salt.read(folder / SALT)
        if salt.mark != content.salt:
            raise FingerprintError(
                f"{path}: made with the salt {content.salt[:16]}, and {folder / SALT} is {salt.mark[:16]}."
            )
        return cls(frozenset(content.rows), salt)

    def __contains__(self, row: object) -> bool:
        """Whether a row, as `rapidun.load_rows` gives it, is to be left out."""
        return isinstance(row, Mapping) and self.salt.of_row(row) in self.hashes

    def found_in(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[int]:
        """Line numbers of the rows that are to be left out."""
        return (line for line, row in rows if row in self)


def read_exclusion(path: Path) -> _File:
    """The file itself. Raises InputError where it is not as it was written."""
    return as_kind(_File, parse_json(decoded(read_bytes(path, LARGEST), path), path), path, RESTORE)


def exclusion_text(rows: Rows, salted: Salted) -> str:
    """The file of a statement's rows."""
    content = _File(salt=salted.salt, rows=rows.hashes)
    return json.dumps(content.model_dump(mode="json"), indent=1) + "\n"
