"""The envelope of a statement: DSSE 1.0, signed with ed25519 over the payload's type and bytes.

``PAE(type, body) = "DSSEv1" SP len(type) SP type SP len(body) SP body`` is what a signature is of, lengths in bytes as
decimal numbers (github.com/secure-systems-lab/dsse, protocol.md). An envelope counts only as it is written here, to
the byte: what no signature covers (blanks, order, the key's id) cannot be changed unnoticed either.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rapidun.errors import InputError
from rapidun.reading import RESTORE, as_kind, decoded, is_regular, parse_json, read_bytes

PAYLOAD_TYPE = "application/vnd.in-toto+json"
LARGEST = 2**26
"""Bytes of a statement, about those of 700,000 rows; of a larger file nothing is read."""


def pae(payload_type: str, body: bytes) -> bytes:
    """What is signed; both lengths count bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


class _Signature(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    keyid: str
    sig: str


class _Envelope(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    payload: str
    payloadType: Literal["application/vnd.in-toto+json"]  # noqa: N815 (DSSE's name)
    signatures: list[_Signature] = Field(max_length=1)


@dataclass(frozen=True)
class Envelope:
    """A payload and its signature.

    Args:
        payload: The statement as JSON, in bytes.
        key_id: SHA-256 of the public key in DER, which tells keys apart and proves nothing; "" where unsigned.
        signature: 64 bytes; empty where unsigned.
    """

    payload: bytes
    key_id: str = ""
    signature: bytes = b""

    @property
    def signed(self) -> bytes:
        """What the signature is of."""
        return pae(PAYLOAD_TYPE, self.payload)

    def text(self) -> str:
        """The envelope as its file holds it."""
        signatures = [{"keyid": self.key_id, "sig": _base64(self.signature)}] if self.signature else []
        shown = {"payload": _base64(self.payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures}
        return json.dumps(shown, indent=2) + "\n"


def read_envelope(path: Path) -> tuple[Envelope, bool]:
    """The envelope in a file, and whether the file is to the byte as one is written.

    Raises:
        InputError: If there is no envelope of a statement in it, or it is larger than `LARGEST`.
    """
    if path.exists() and not path.is_dir() and not is_regular(path):
        raise InputError(f"{path}: no ordinary file, so it is not read. Copy the statement into one.")
    content = read_bytes(path, LARGEST)
    raw = as_kind(_Envelope, parse_json(decoded(content, path), path), path, RESTORE)
    signature = raw.signatures[0] if raw.signatures else None
    try:
        payload = base64.b64decode(raw.payload, validate=True)
        found = Envelope(
            payload, *((signature.keyid, base64.b64decode(signature.sig, validate=True)) if signature else ())
        )
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{path}: its payload or signature is not base64. {RESTORE}") from error
    return found, found.text().encode("utf-8", "surrogatepass") == content


def compact(value: Any) -> bytes:
    """JSON as a payload holds it: ASCII, no blanks, keys in their order."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
