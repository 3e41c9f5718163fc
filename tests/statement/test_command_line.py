"""``rapidun attest`` and ``rapidun verify`` as they are typed."""

from __future__ import annotations

import json

import pytest

from command_line import rapidun

ASKED = ("--request", "R-1", "--basis", "a fault", "--approved-by", "A. Jones")


def test_a_key_is_made_a_statement_signed_and_checked(house):
    line = ["attest", house.run, *ASKED, "--new-key", house.path / "mine.pem", "--overwrite"]
    done = rapidun(*line)
    assert done.returncode == 0, done.stderr
    assert "residual risk:" in done.stdout and "not tested:" in done.stdout and "for its owner alone" in done.stderr
    check = ["verify", house.statement, "--key", house.path / "mine.pem.pub", "--run", house.run]
    done = rapidun(*check)
    assert done.returncode == 0 and "everything that was checked matches; not checked: base" in done.stdout


def test_an_unsigned_statement_is_made_only_when_asked_and_said_loudly(house):
    done = rapidun("attest", house.run, *ASKED, "--unsigned", "--overwrite", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["key"] is None
    done = rapidun("attest", house.run, *ASKED, "--unsigned", "--overwrite")
    assert "NOT SIGNED: this statement proves nothing" in done.stderr


def test_a_key_that_others_can_read_is_warned_of(house):
    house.key.chmod(0o644)
    done = rapidun("attest", house.run, *ASKED, "--key", house.key, "--overwrite")
    assert done.returncode == 0 and "chmod 600" in done.stderr


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
def test_a_mistake_is_one_line_with_exit_code_2(house, line, wanted):
    done = rapidun(*line, cwd=house.path)
    assert done.returncode == 2, done.stdout
    assert wanted in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_new_key_is_not_made_for_a_run_that_cannot_be_stated(house):
    done = rapidun("attest", "nowhere", *ASKED, "--new-key", "fresh.pem", cwd=house.path)
    assert done.returncode == 2 and not (house.path / "fresh.pem").exists()
