"""Whoever checks a statement hears by name of everything that does not match, and of what was not checked."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import pytest
from statement_changes import try_changes

from command_line import rapidun
from fuzz import damaged_json, damaged_value
from rapidun.errors import RapidunError
from rapidun.files import write_json
from rapidun.reading import read_json
from rapidun.statement.content import Statement, read_statement
from rapidun.statement.dsse import Envelope, compact, read_envelope
from rapidun.statement.keys import key_id, new_key, read_private, read_public
from rapidun.statement.verify import DIFFERS, UNCHECKED, verify
from statement.conftest import HAS_BOM
from statement.make_golden import keys_of
from tiny import tiny_rows, write_rows


def checks(house, **how):
    wanted = {"run": house.run, "key": house.public, **how}
    return list(verify(house.statement, **wanted))


def against(house, **how):
    return [(check.name, check.text) for check in checks(house, **how) if not check.holds]


def resigned(house, change):
    """The statement with its payload changed and signed again with the right key: what a dishonest signer could do."""
    raw = json.loads(read_envelope(house.statement)[0].payload)
    change(raw)
    key = read_private(house.key)
    envelope = Envelope(compact(raw))
    envelope = Envelope(envelope.payload, key_id(key.public_key()), key.sign(envelope.signed))
    house.statement.write_text(envelope.text())


def test_everything_of_an_untouched_statement_matches(attested):
    found = checks(attested, base=attested.path / "model")
    assert [check.name for check in found if check.result != "matches"] == []
    assert {"form", "signature", "salt", "base", "adapter", "files", "fingerprints", "numbers", "metrics.json"} <= {
        check.name for check in found
    }


def test_it_is_quick_and_imports_no_torch(attested):
    arguments = [attested.statement, "--run", attested.run, "--key", attested.path / "signer.pem.pub"]
    code = (
        "import sys, time\nsys.argv = ['rapidun', 'verify', *sys.argv[1:]]\nfrom rapidun.cli import main\n"
        "try:\n    main()\nexcept SystemExit as left:\n    code = left.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'sklearn', 'plotly'} & set(sys.modules)\n"
        "print('LEFT', code, sorted(heavy), time.process_time())\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, left, loaded, seconds = done.stdout.splitlines()[-1].split(maxsplit=3)
    assert (left, loaded) == ("0", "[]"), done.stdout + done.stderr
    assert float(seconds) < 5


def test_nothing_of_a_network_is_needed(attested, monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("asked for a network")

    monkeypatch.setattr(socket, "socket", refuse)
    assert against(attested) == []


@pytest.mark.parametrize(
    ("name", "change", "wanted"),
    [
        ("metrics.json", lambda raw: raw["after"]["asr_seen"].update(value=0.5), "after.asr_seen.value is"),
        ("metrics.json", lambda raw: raw.update(verdict="PASS"), "verdict is 'FAIL' by the rows, and 'PASS' is stated"),
        ("metrics.json", lambda raw: raw["perplexity_ratio"].update(high=1.0), "perplexity_ratio.high is"),
        ("metrics.json", lambda raw: raw["by_variant"]["after"][0].update(low=0.5), "by_variant.after[0].low is"),
        ("metrics.json", lambda raw: raw["gate"]["checks"][0].update(limit=1.0), "gate.checks[asr_seen].limit is"),
        ("after.json", lambda raw: raw["records"][0]["verdicts"].update(keywords=True), "after.rates.keywords"),
        ("after.json", lambda raw: raw["perplexity"]["row_losses"].__setitem__(0, 1.0), "perplexity_ratio.value is"),
        ("before.json", lambda raw: raw["records"].pop(), "before.rates.keywords.asr_floor"),
        ("before.json", lambda raw: raw.update(records=3), "cannot be computed from the rows"),
    ],
)
def test_a_number_that_was_tampered_with_is_named_beside_the_file_that_holds_it(house, name, change, wanted):
    raw = read_json(house.run / name)
    change(raw)
    write_json(house.run / name, raw)
    found = against(house)
    assert ("files", f"changed since: {name}.") in found
    assert any(wanted in text for _, text in found), found


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda said: said["measured"]["after"]["rates"]["keywords"]["asr_seen"].update(value=0.5), "asr_seen.value"),
        (lambda said: said["measured"].update(verdict="PASS"), "verdict is 'FAIL' by the rows"),
        (lambda said: said["measured"]["perplexityRatio"].update(high=1.0), "perplexity_ratio.high is"),
        (lambda said: said["measured"]["gate"].pop(), "gate is"),
        (lambda said: said["judges"]["keywords"]["floor"].update(value=0.0), "floor or ceiling"),
        (lambda said: said.update(attackBudget={"minutes": 60}), "verdicts, numbers or budget"),
        (lambda said: said["models"]["after"].popitem(), "not the files that the statement is about"),
        (lambda said: said["models"]["base"].update(fingerprint="0" * 64), "model"),
        (lambda said: said["rows"]["datasets"].update(forget="0" * 64), "rows forget"),
        (lambda said: said["rows"]["hashes"].pop(), "its rows are not those of the statement"),
        (lambda said: said["files"].pop(), "in the run and not in the statement"),
        (lambda said: said["salted"].update(salt="0" * 64), "the salt of another statement"),
    ],
)
def test_a_false_statement_is_found_false_although_its_signature_is_right(house, change, wanted):
    resigned(house, lambda raw: change(raw["predicate"]))
    found = against(house)
    assert not [name for name, _ in found if name in ("signature", "form")]
    assert any(wanted in text for _, text in found), found


def test_of_every_file_it_is_said_whether_it_is_missing_new_or_changed(house):
    weights = house.run / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (house.run / "log.jsonl").unlink()
    (house.run / "adapter" / "adapter_model.bin").write_bytes(b"another adapter")
    found = against(house)
    assert ("log.jsonl", "missing in the run.") in found
    assert ("adapter/adapter_model.bin", "in the run and not in the statement.") in found
    assert ("adapter", "changed since: adapter/adapter_model.bin, adapter/adapter_model.safetensors.") in found
    assert ("files", "changed since: adapter/adapter_model.safetensors.") in found


def test_another_base_model_is_named_file_by_file(house, attested, tmp_path):
    shutil.copytree(attested.path / "model", tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").unlink()
    assert against(house, base=tmp_path / "model") == [("base", "changed since: config.json, model.safetensors.")]


def test_a_signature_counts_only_with_the_key_of_who_signed(house, tmp_path):
    new_key(tmp_path / "other.pem")
    ((name, text),) = against(house, key=read_public(tmp_path / "other.pem.pub"))
    assert name == "signature" and "not this key's" in text
    ((name, text),) = against(house, key=None)
    assert name == "signature" and "nothing shows who signed it" in text


def test_a_key_named_beside_a_right_signature_that_is_not_the_signers_is_noticed(house):
    envelope, _ = read_envelope(house.statement)
    house.statement.write_text(Envelope(envelope.payload, "0" * 64, envelope.signature).text())
    ((name, text),) = against(house)
    assert name == "signature" and "the file names the key" in text


def test_an_unsigned_statement_never_holds_and_says_so_loudly(house):
    house.attest(key=None)
    found = {check.name: check for check in checks(house)}
    assert found["signature"].result == DIFFERS and "NOT SIGNED" in found["signature"].text
    done = rapidun("verify", house.statement, "--key", f"{house.key}.pub", "--run", house.run)
    assert done.returncode == 1 and "NOT SIGNED" in done.stdout and "does not hold: signature" in done.stdout


def test_an_expired_statement_does_not_hold(house):
    yesterday = (date.today() - timedelta(days=1)).isoformat()
    resigned(house, lambda raw: raw["predicate"].update(expires=yesterday))
    assert [name for name, _ in against(house)] == ["expiry"]


def test_what_lies_elsewhere_is_said_to_be_unchecked_and_without_the_salt_the_run_is_not_believed(house):
    for name in ("salt", "statement.html", "exclude.json", "bom.cdx.json"):
        (house.run / "statement" / name).unlink(missing_ok=True)
    boms = ["bom.cdx.json"] if HAS_BOM else []
    found = {check.name: check for check in checks(house, run=None)}
    assert [name for name, check in found.items() if check.result == UNCHECKED] == [
        "exclude.json", "statement.html", *boms, "base", "salt", "run",
    ]  # fmt: skip
    assert all(check.holds for check in found.values())
    assert [name for name, _ in against(house)] == ["files"]


def test_three_hundred_changes_of_one_byte_are_all_noticed(attested, tmp_path):
    found = try_changes(attested.run, attested.path / "signer.pem.pub", tmp_path / "run", 300, seed=1)
    assert {name: how["unnoticed"] for name, how in found.items() if how["unnoticed"]} == {}
    assert {"statement/statement.json", "statement/salt", "adapter/adapter_model.safetensors"} <= found.keys()


@pytest.mark.slow
def test_ten_thousand_changes_of_one_byte_are_all_noticed(attested, tmp_path):
    found = try_changes(attested.run, attested.path / "signer.pem.pub", tmp_path / "run", 10_000, seed=2)
    assert sum(how["unnoticed"] for how in found.values()) == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_statement_is_one_line_or_a_check_that_fails_and_never_a_traceback(house, seed):
    draw = random.Random(seed)
    raw = read_json(house.statement)
    payload = json.loads(read_envelope(house.statement)[0].payload)
    key = read_private(house.key)
    for number in range(120):
        if number % 2:
            house.statement.write_bytes(damaged_json(raw, draw))
        else:  # signed by somebody who means harm
            body = json.dumps(damaged_value(payload, draw), ensure_ascii=draw.random() < 0.5)
            envelope = Envelope(body.encode("utf-8", "surrogatepass"))
            envelope = Envelope(envelope.payload, key_id(key.public_key()), key.sign(envelope.signed))
            house.statement.write_text(envelope.text())
        try:
            for check in verify(house.statement, run=house.run, key=house.public):
                assert isinstance(check.text, str)
                if not check.holds:
                    break
        except RapidunError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "..\\x", "C:\\x", "a\0b", "x" * 5000])
def test_a_path_in_a_statement_never_leaves_the_run(house, name):
    resigned(house, lambda raw: raw["predicate"]["files"][0].update(path=name))
    with pytest.raises(RapidunError, match="the path"):
        checks(house)
    house.attest()
    resigned(house, lambda raw: raw["predicate"]["models"]["after"].update({name: "0" * 64}))
    with pytest.raises(RapidunError, match="the path"):
        checks(house)


def test_a_pipe_in_the_place_of_a_file_is_named_and_not_read(house):
    (house.run / "log.jsonl").unlink()
    os.mkfifo(house.run / "log.jsonl")
    began = time.monotonic()
    with pytest.raises(RapidunError, match=r"log\.jsonl: neither a file nor a folder"):
        checks(house)
    assert time.monotonic() - began < 30


GOLDEN = Path(__file__).parent / "golden"


def test_a_statement_of_the_first_form_is_read_checked_and_written_to_the_byte_as_it_was(tmp_path):
    envelope, as_written = read_envelope(GOLDEN / "statement.json")
    statement = read_statement(envelope, GOLDEN / "statement.json")
    assert as_written and statement.payload() == envelope.payload
    (tmp_path / "key").write_bytes((GOLDEN / "public.pem").read_bytes())
    found = {check.name: check for check in verify(GOLDEN / "statement.json", key=read_public(tmp_path / "key"))}
    assert all(check.holds for name, check in found.items() if name != "expiry"), found
    assert {"exclude.json", "statement.html", "salt"} <= {n for n, check in found.items() if check.result == "matches"}


def test_the_keys_of_a_statement_are_those_of_the_first_form():
    first = read_json(GOLDEN / "keys.json")
    first["Beside"].append("bom")  # of the second predicate type; the first is written without it
    assert keys_of(Statement) == first, "a changed form needs a new predicate type"


def test_rows_that_must_not_be_trained_on_are_named_by_line(attested, tmp_path):
    rows = write_rows(tmp_path / "next.jsonl", [*tiny_rows("other", 2), *tiny_rows("forget", 2)])
    public = attested.path / "signer.pem.pub"
    done = rapidun("verify", attested.statement, "--key", public, "--rows", rows)
    assert done.returncode == 1 and "holds 2 rows that were unlearned: line 3, 4" in done.stdout
    write_rows(rows, tiny_rows("other", 2))
    done = rapidun("verify", attested.statement, "--key", public, "--rows", rows, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["holds"] is True
