"""Keys: ed25519 in PEM files, through ``cryptography`` (the extra ``attest``)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rapidun.errors import InputError, OutputError
from rapidun.files import check_file_place, disk_error
from rapidun.reading import read_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

LARGEST = 2**16
MAKE = "`--new-key FILE` makes one"


def new_key(path: Path) -> None:
    """Write a private key for its owner alone (0600), and the public one beside it as ``NAME.pub``.

    Raises:
        OutputError: If either is there already, or cannot be written.
    """
    private = _ed25519().Ed25519PrivateKey.generate()
    public = path.with_name(path.name + ".pub")
    for place in (path, public):
        check_file_place(place)
        if place.exists() or place.is_symlink():
            raise OutputError(f"{place}: exists already, and a key is never replaced. Choose another name.")
    _write_new(path, private_pem(private), 0o600)
    _write_new(public, public_pem(private.public_key()), 0o644)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """A file that must not be there yet, with ``mode`` from its first moment; no setting widens it."""
    try:
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(error, path) from error


def read_private(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file.

    Raises:
        InputError: If there is none, it needs a passphrase, or is of another kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    kind = _ed25519().Ed25519PrivateKey
    content = read_bytes(path, LARGEST)
    try:
        found = load_pem_private_key(content, password=None)
    except TypeError as error:
        raise InputError(f"{path}: the key is locked with a passphrase. Unlock it: openssl pkey -in {path}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if b"PUBLIC KEY" in content:
            raise InputError(f"{path}: this is a public key; signing needs the private one.") from error
        raise InputError(f"{path}: not a private key in PEM; {MAKE}.") from error
    if not isinstance(found, kind):
        raise InputError(f"{path}: a key of another kind ({_named(found)}); only ed25519 is used. {MAKE}.")
    return cast("Ed25519PrivateKey", found)


def read_public(path: Path) -> Ed25519PublicKey:
    """The public key in a PEM file.

    Raises:
        InputError: If there is none, or it is of another kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    kind = _ed25519().Ed25519PublicKey
    content = read_bytes(path, LARGEST)
    try:
        found = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        if b"PRIVATE KEY" in content:
            raise InputError(
                f"{path}: this is a private key. Checking needs the public one, {path.name}.pub; give nobody this one."
            ) from error
        raise InputError(f"{path}: not a public key in PEM. Ask whoever signed for theirs.") from error
    if not isinstance(found, kind):
        raise InputError(f"{path}: a key of another kind ({_named(found)}); only ed25519 is used.")
    return cast("Ed25519PublicKey", found)


def is_open_to_others(path: Path) -> bool:
    """Whether others than its owner may read a file, where the system knows such modes."""
    return os.name == "posix" and bool(path.stat().st_mode & 0o077)


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the public key in DER (SubjectPublicKeyInfo), as hex."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def is_signed_by(key: Ed25519PublicKey, signature: bytes, content: bytes) -> bool:
    """Whether ``signature`` is this key's of ``content`` (RFC 8032, pure ed25519)."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """PKCS #8, not locked."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: Ed25519PublicKey) -> bytes:
    """SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise InputError("signatures need the package cryptography: pip install 'rapidun[attest]'.") from error
    return ed25519


def _named(key: object) -> str:
    return type(key).__name__.strip("_").removesuffix("PrivateKey").removesuffix("PublicKey") or "unknown"
