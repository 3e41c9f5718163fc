"""``rapidun attest`` and ``rapidun verify`` as they are typed."""

from __future__ import annotations

import json

import pytest

from rapidun.cli import main

ASKED = ("--request", "R-1", "--basis", "a fault", "--approved-by", "A. Jones")


def call(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["rapidun", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code, capsys.readouterr()


def test_a_key_is_made_a_statement_signed_and_checked(house, monkeypatch, capsys):
    line = ["attest", house.run, *ASKED, "--new-key", house.path / "mine.pem", "--overwrite"]
    code, said = call(line, monkeypatch, capsys)
    assert code == 0, said.err
    assert "residual risk:" in said.out and "not tested:" in said.out and "for its owner alone" in said.err
    check = ["verify", house.statement, "--key", house.path / "mine.pem.pub", "--run", house.run]
    code, said = call(check, monkeypatch, capsys)
    assert code == 0 and "everything that was checked matches; not checked: base" in said.out


def test_an_unsigned_statement_is_made_only_when_asked_and_said_loudly(house, monkeypatch, capsys):
    code, said = call(["attest", house.run, *ASKED, "--unsigned", "--overwrite", "--json"], monkeypatch, capsys)
    assert code == 0 and json.loads(said.out)["key"] is None
    code, said = call(["attest", house.run, *ASKED, "--unsigned", "--overwrite"], monkeypatch, capsys)
    assert "NOT SIGNED: this statement proves nothing" in said.err


def test_a_key_that_others_can_read_is_warned_of(house, monkeypatch, capsys):
    house.key.chmod(0o644)
    code, said = call(["attest", house.run, *ASKED, "--key", house.key, "--overwrite"], monkeypatch, capsys)
    assert code == 0 and "chmod 600" in said.err


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (["attest", "out", *ASKED], "give one of --key FILE, --new-key FILE (to make one) or --unsigned"),
        (["attest", "out", *ASKED, "--unsigned", "--key", "signer.pem"], "give one of"),
        (["attest", "out", "--unsigned"], "Missing option"),
        (["attest", "nowhere", *ASKED, "--unsigned"], "nowhere: no such directory"),
        (["attest", "out/adapter", *ASKED, "--unsigned"], "holds no identity.json"),
        (["attest", "out", *ASKED, "--unsigned"], "exists and is not empty. Replace it by --overwrite"),
        (["attest", "out", *ASKED, "--unsigned", "--expires", "soon"], "write a day as 2026-11-30"),
        (["attest", "out", *ASKED, "--key", "none.pem", "--overwrite"], "none.pem: no such file"),
        (["attest", "out", "--request", "", *ASKED[2:], "--unsigned"], "at least 1 character"),
        (["verify", "nowhere"], "nowhere: no such file"),
        (["verify", "out"], "out: is a directory"),
        (["verify", "out/metrics.json"], "out/metrics.json"),
        (["verify", "out/statement/statement.json", "--run", "nowhere"], "nowhere: no run here"),
        (["verify", "out/statement/statement.json", "--key", "signer.pem"], "this is a private key"),
    ],
)
def test_a_mistake_is_one_line_with_exit_code_2(house, line, wanted, monkeypatch, capsys):
    monkeypatch.chdir(house.path)
    code, said = call(line, monkeypatch, capsys)
    assert code == 2, said
    assert wanted in " ".join(said.err.split())
    assert "Traceback" not in said.err


def test_a_new_key_is_not_made_for_a_run_that_cannot_be_stated(house, monkeypatch, capsys):
    monkeypatch.chdir(house.path)
    code, _ = call(["attest", "nowhere", *ASKED, "--new-key", "fresh.pem"], monkeypatch, capsys)
    assert code == 2 and not (house.path / "fresh.pem").exists()
