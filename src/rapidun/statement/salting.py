"""Salted hashes: what a statement says of rows and of files that hold them, without giving a row away.

A plain hash of a short text can be guessed: hash what may have stood there and compare. With a key of 32 random bytes,
which only those have who may know (HMAC, RFC 2104), nothing can be compared. The salt is new for every statement, so
two statements about one row share nothing either.

The hash of a row is of its prompt, context, answer, and, where there are any, of its other turns and tools. Each is
taken in Unicode's form NFC, with every run of white space as one blank, in UTF-8, and preceded by its length in bytes
as 8 bytes, the lowest first. The id, the file and blanks at line ends do not count.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidun.errors import InputError
from rapidun.reading import RESTORE, decoded, read_bytes

ALGORITHM = "HMAC-SHA256"
_BYTES, _CHUNK = 32, 2**20


@dataclass(frozen=True)
class Salt:
    """The key of a statement's hashes, 32 bytes."""

    key: bytes

    @classmethod
    def new(cls) -> Salt:
        """A random one."""
        return cls(secrets.token_bytes(_BYTES))

    @classmethod
    def read(cls, path: Path) -> Salt:
        """From the file that `text` is in.

        Raises:
            InputError: If it holds anything else.
        """
        text = decoded(read_bytes(path, 2**12), path)
        if not re.fullmatch(r"[0-9a-f]{64}\n", text):
            raise InputError(f"{path}: not a salt (64 hex digits and a line feed). {RESTORE}")
        return cls(bytes.fromhex(text.strip()))

    def text(self) -> str:
        """64 hex digits and a line feed."""
        return self.key.hex() + "\n"

    @property
    def mark(self) -> str:
        """SHA-256 of the salt, by which a statement knows its own."""
        return hashlib.sha256(self.key).hexdigest()

    def of_bytes(self, content: bytes) -> str:
        """The hash of some bytes, as hex."""
        return hmac.new(self.key, content, "sha256").hexdigest()

    def of_file(self, path: Path) -> str:
        """The hash of a file's content, read a MiB at a time. Raises OSError as reading does."""
        digest = hmac.new(self.key, digestmod="sha256")
        with path.open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def of_row(self, row: Mapping[str, Any]) -> str:
        """The hash of a row as `rapidun.load_rows` gives it."""
        from rapidun.data.content import row_texts

        parts = [" ".join(unicodedata.normalize("NFC", text).split()).encode() for text in row_texts(row)]
        return self.of_bytes(b"".join(len(part).to_bytes(8, "little") + part for part in parts))
