"""Signatures are those of DSSE and of RFC 8032, whoever made them; keys are written once, for their owner alone."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from rapidun.errors import InputError, OutputError
from rapidun.statement.dsse import LARGEST, Envelope, pae, read_envelope
from rapidun.statement.keys import (
    is_open_to_others,
    is_signed_by,
    key_id,
    new_key,
    private_pem,
    public_pem,
    read_private,
    read_public,
)

SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
"""Test 2 of RFC 8032, section 7.1: the message is the byte 72."""


def test_what_is_signed_is_the_encoding_that_the_protocol_prints_as_its_test_vector():
    assert (
        pae("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_lengths_count_bytes_and_not_characters():
    assert pae("é", "ü".encode()) == b"DSSEv1 2 \xc3\xa9 2 \xc3\xbc"


def test_a_key_in_our_files_signs_as_the_rfc_says(tmp_path):
    (tmp_path / "k").write_bytes(private_pem(ed25519.Ed25519PrivateKey.from_private_bytes(SEED)))
    (tmp_path / "p").write_bytes(public_pem(ed25519.Ed25519PublicKey.from_public_bytes(PUBLIC)))
    private, public = read_private(tmp_path / "k"), read_public(tmp_path / "p")
    assert private.sign(b"\x72") == SIGNATURE
    assert is_signed_by(public, SIGNATURE, b"\x72")
    assert not is_signed_by(public, SIGNATURE, b"\x73")
    assert not is_signed_by(public, b"", b"\x72")


def test_the_id_of_a_key_is_what_openssl_would_hash(tmp_path):
    public = ed25519.Ed25519PublicKey.from_public_bytes(PUBLIC)
    der = bytes.fromhex("302a300506032b6570032100") + PUBLIC  # SubjectPublicKeyInfo of ed25519, RFC 8410
    import hashlib

    assert key_id(public) == hashlib.sha256(der).hexdigest()


def test_an_envelope_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "e"
    for envelope in (Envelope(b'{"a":1}', "ab" * 32, SIGNATURE), Envelope(b"{}")):
        path.write_text(envelope.text(), encoding="utf-8")
        assert read_envelope(path) == (envelope, True)
    fields = json.loads(path.read_text())
    assert fields == {"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": []}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", " ", 1),
        lambda text: text.replace('"e30="', '"e31="'),  # bits of base64 that mean nothing
        lambda text: text.replace('"payload"', '"payload": "e30=",\n  "payload"', 1),
        lambda text: text.replace("application", "\\u0061pplication"),
        lambda text: "\ufeff" + text,
        lambda text: text + "\n",
    ],
)
def test_another_writing_of_the_same_envelope_is_seen(tmp_path, change):
    path = tmp_path / "e"
    path.write_text(change(Envelope(b"{}", "k", b"s").text()), encoding="utf-8")
    try:
        assert read_envelope(path)[1] is False
    except InputError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[]", "valid dictionary"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"payload": 1, "payloadType": "x", "signatures": []}', "payload"),
        (b'{"payload": "!", "payloadType": "application/vnd.in-toto+json", "signatures": []}', "not base64"),
        (b'{"payload": "e30=", "payloadType": "text/plain", "signatures": []}', "payloadType"),
        (b" " * (LARGEST + 1), "more than"),
    ],
)
def test_what_is_no_envelope_is_one_line_that_names_the_file(tmp_path, content, said):
    path = tmp_path / "statement.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        read_envelope(path)
    assert str(path) in str(error.value)


def test_a_pipe_in_the_place_of_a_statement_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "statement.json")
    with pytest.raises(InputError, match="no ordinary file"):
        read_envelope(tmp_path / "statement.json")


def test_a_new_key_is_for_its_owner_alone_and_never_takes_the_place_of_another(tmp_path, monkeypatch):
    monkeypatch.setenv("RAPIDUN_SHARED_FILES", "1")  # which is about rows, not about keys
    new_key(tmp_path / "k.pem")
    assert (tmp_path / "k.pem").stat().st_mode & 0o777 == 0o600
    assert not is_open_to_others(tmp_path / "k.pem")
    assert is_signed_by(read_public(tmp_path / "k.pem.pub"), read_private(tmp_path / "k.pem").sign(b"x"), b"x")
    before = (tmp_path / "k.pem").read_bytes()
    with pytest.raises(OutputError, match="never replaced"):
        new_key(tmp_path / "k.pem")
    (tmp_path / "k.pem").unlink()
    with pytest.raises(OutputError, match=r"k\.pem\.pub: exists already"):
        new_key(tmp_path / "k.pem")
    assert before and not (tmp_path / "k.pem").exists()


def _locked(_):
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def _other_kind(_):
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _other_public(_):
    return (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


@pytest.mark.parametrize(
    ("read", "make", "said"),
    [
        (read_private, _locked, "passphrase.*openssl pkey"),
        (read_private, _other_kind, "another kind .*only ed25519"),
        (read_private, lambda pair: pair[1], "this is a public key"),
        (read_private, lambda _: b"", "not a private key in PEM"),
        (read_private, lambda pair: pair[0][:60], "not a private key in PEM"),
        (read_private, lambda _: b"\0" * (2**16 + 1), "more than"),
        (read_public, lambda pair: pair[0], "this is a private key.*give nobody"),
        (read_public, _other_public, "another kind"),
        (read_public, lambda _: b"\xff\xd8", "not a public key in PEM"),
    ],
)
def test_a_file_that_is_no_such_key_is_named_with_what_to_do(tmp_path, read, make, said):
    new_key(tmp_path / "k")
    pair = (tmp_path / "k").read_bytes(), (tmp_path / "k.pub").read_bytes()
    (tmp_path / "odd").write_bytes(make(pair))
    with pytest.raises(InputError, match=said) as error:
        read(tmp_path / "odd")
    assert str(tmp_path / "odd") in str(error.value)
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none")


def test_without_the_package_for_signatures_the_extra_is_named(tmp_path):
    code = (
        "import sys\nsys.modules['cryptography'] = None\n"
        "from pathlib import Path\nfrom rapidun.errors import InputError\nfrom rapidun.statement.keys import new_key\n"
        "try:\n    new_key(Path('k'))\nexcept InputError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "pip install 'rapidun[attest]'" in done.stdout


def test_the_payload_is_what_base64_of_the_file_says(attested):
    fields = json.loads(attested.statement.read_text())
    envelope, as_written = read_envelope(attested.statement)
    assert as_written
    assert base64.b64decode(fields["payload"]) == envelope.payload
    assert fields["signatures"][0]["keyid"] == key_id(attested.public)
