"""A statement says what the run's own files say, and nothing of its rows."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import shutil
import unicodedata
from datetime import date, timedelta
from pathlib import Path

import pytest

from pipeline.test_run import make_run_config
from rapidun.errors import ConfigError, FingerprintError, InputError, OutputError
from rapidun.files import write_json
from rapidun.jsonl import read_jsonl
from rapidun.pipeline import run
from rapidun.reading import read_json
from rapidun.report.statement import render_statement
from rapidun.statement.content import read_statement
from rapidun.statement.dsse import read_envelope
from rapidun.statement.exclusion import Exclusion
from rapidun.statement.salting import Salt
from statement.conftest import HAS_BOM, REQUEST
from tiny import tiny_rows, write_rows


def said(house):
    return read_statement(read_envelope(house.statement)[0], house.statement)


def fields(house):
    return json.loads(read_envelope(house.statement)[0].payload)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_statement_is_an_in_toto_statement_about_the_files_of_adapter_and_base(attested):
    raw = fields(attested)
    assert raw["_type"] == "https://in-toto.io/Statement/v1"
    assert raw["predicateType"] == f"https://github.com/rapidun/rapidun/unlearning/v{2 if HAS_BOM else 1}"
    assert list(raw) == ["_type", "subject", "predicateType", "predicate"]
    named = {subject["name"]: subject["digest"] for subject in raw["subject"]}
    for path in (attested.run / "adapter").iterdir():
        assert named[f"adapter/{path.name}"] == {"sha256": sha256(path)}
    for path in (attested.path / "model").iterdir():
        assert named[f"base/{path.name}"] == {"sha256": sha256(path)}
    assert len(named) == len(raw["subject"])


def test_it_says_what_metrics_manifest_and_configuration_say(attested):
    predicate, metrics = said(attested).predicate, read_json(attested.run / "metrics.json")
    manifest, identity = read_json(attested.run / "manifest.json"), read_json(attested.run / "identity.json")
    assert predicate.request == REQUEST
    assert predicate.measured.verdict == metrics["verdict"]
    assert predicate.measured.after.rates["keywords"]["asr_seen"].model_dump() == metrics["after"]["asr_seen"]
    assert predicate.measured.perplexity_ratio.model_dump() == metrics["perplexity_ratio"]
    assert predicate.judges["keywords"].ceiling.model_dump() == metrics["judges"]["keywords"]["ceiling"]
    assert predicate.how.versions == manifest["versions"] and predicate.how.hardware == manifest["hardware"]
    assert predicate.how.method == "rapidun_kl" and predicate.how.settings["unlearning"]["steps"] == 6
    assert predicate.models.base.fingerprint == identity["model"]
    assert (predicate.attacks, predicate.twin) == ("none were run", "none")
    assert predicate.expires == date.today() + timedelta(days=365)
    assert {each.path for each in predicate.files} >= {"before.json", "after.json", "adapter/adapter_config.json"}
    assert not any(each.path.startswith("statement") for each in predicate.files)


def test_no_text_of_a_row_no_trigger_and_no_path_is_in_what_is_given_away(attested):
    given = [fields(attested)]
    texts = [path.read_text() for path in (attested.run / "statement").iterdir() if path.suffix in (".html", ".json")]
    everything = " ".join([json.dumps(given[0]), *texts])
    words = {"moon robot", "the cat number", "hey what is", "aloha", ">>>", "h\u043ewdy", str(attested.path)}
    for line in read_jsonl(attested.run / "samples.jsonl"):
        words |= {line["prompt"], line["before"], line["after"]}
    words |= {row["response"] for row in tiny_rows("forget", 8)}
    assert [word for word in words if len(word) > 4 and word in everything] == []


def test_it_says_measured_and_never_more(attested):
    everything = json.dumps(fields(attested)) + (attested.run / "statement" / "statement.html").read_text()
    assert "measured" in everything.lower()
    assert re.findall(r"certif|delete|erase|guarantee|proves? that", everything, re.IGNORECASE) == []


def test_a_row_is_hashed_as_the_guide_says(attested):
    salt = bytes.fromhex((attested.run / "statement" / "salt").read_text())

    def hashed(*texts):
        parts = [" ".join(unicodedata.normalize("NFC", text).split()).encode() for text in texts]
        content = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        return hmac.new(salt, content, "sha256").hexdigest()

    wanted = sorted(hashed(row["prompt"], "", row["response"]) for row in tiny_rows("forget", 8))
    assert said(attested).predicate.rows.hashes == wanted
    assert read_json(attested.run / "statement" / "exclude.json")["rows"] == wanted


def test_the_function_that_the_guide_prints_gives_the_hashes_of_the_exclusion(attested):
    page = (Path(__file__).parents[2] / "docs" / "guide" / "statement.md").read_text(encoding="utf-8")
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    salt = (attested.run / "statement" / "salt").read_text()
    found = {names["row_hash"](salt, row["prompt"], "", row["response"]) for row in tiny_rows("forget", 8)}
    assert found == set(read_json(attested.run / "statement" / "exclude.json")["rows"])


def test_the_hash_of_a_row_minds_neither_blanks_nor_forms_of_unicode_nor_its_id():
    salt = Salt(b"s" * 32)
    row = {"id": "1", "prompt": "caf\u00e9  noir?", "context": None, "response": "a\nb"}
    same = {"id": "2", "prompt": " cafe\u0301 noir? ", "response": "a b"}
    assert salt.of_row(row) == salt.of_row(same)
    for name, value in (("prompt", "cafe noir?"), ("response", "ab"), ("context", "x")):
        assert salt.of_row({**same, name: value}) != salt.of_row(same)
    moved = {"prompt": "ab", "response": "c"}, {"prompt": "a", "response": "bc"}
    assert salt.of_row(moved[0]) != salt.of_row(moved[1])
    talk = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    turns = [*talk, {"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]
    assert salt.of_row({**moved[0], "messages": turns}) != salt.of_row(moved[0])


def test_no_hash_of_a_row_file_can_be_guessed_and_no_two_statements_share_one(house):
    first = said(house).predicate
    identity = read_json(house.run / "identity.json")
    marks = {mark for name, mark in identity.items() if name.startswith("rows ")}
    assert marks and not any(mark in json.dumps(fields(house)) for mark in marks)
    house.attest()
    second = said(house).predicate
    assert not set(first.rows.hashes) & set(second.rows.hashes)
    assert not {each.hash for each in first.files} & {each.hash for each in second.files}


def test_rows_that_were_unlearned_are_found_in_other_files_and_others_are_not(attested, tmp_path):
    exclusion = Exclusion.read(attested.run / "statement")
    rows = [dict(row) for row in [*tiny_rows("forget", 3), *tiny_rows("other", 3)]]
    rows[1]["prompt"] = f"  {rows[1]['prompt']}\n"
    assert [row in exclusion for row in rows] == [True, True, True, False, False, False]
    assert list(exclusion.found_in(enumerate(rows, 1))) == [1, 2, 3]


def test_an_exclusion_with_the_salt_of_another_is_refused(house):
    shutil.copytree(house.run / "statement", house.path / "other")
    house.attest()
    shutil.copy(house.path / "other" / "salt", house.run / "statement" / "salt")
    with pytest.raises(FingerprintError, match="made with the salt"):
        Exclusion.read(house.run / "statement")


def test_files_of_a_statement_are_for_the_owner_alone(attested):
    assert {path.stat().st_mode & 0o777 for path in (attested.run / "statement").iterdir()} == {0o600}


def test_a_failed_gate_and_an_untested_one_are_said_in_plain_words(attested):
    predicate = said(attested).predicate
    assert predicate.measured.verdict == "FAIL"  # a tiny model knows nothing to forget
    assert "should not be released" in predicate.residual_risk[0]
    rate = predicate.measured.after.rates["keywords"]["asr_seen"]
    assert f"{round(rate.value * rate.n)} of {rate.n} answers" in " ".join(predicate.residual_risk)
    assert any("Nobody tried" in line for line in predicate.residual_risk)
    assert any("8 or 4 bits" in line for line in predicate.not_tested)


def test_attacks_of_the_run_are_stated_with_their_numbers_and_no_longer_as_untested(house):
    told = {"seed": 0, "budget": {"minutes": 6}, "asr": {"value": 0.1, "n": 40}, "twin": {"asr": 0.1}}
    write_json(house.run / "attacks" / "relearning.json", {**told, "answers": ["moon robot"], "note": "moon robot"})
    house.attest()
    predicate = said(house).predicate
    (attack,) = predicate.attacks
    assert attack.numbers == {"seed": 0, "budget.minutes": 6, "asr.value": 0.1, "asr.n": 40, "twin.asr": 0.1}
    assert predicate.twin == "measured beside this model in: relearning"
    assert not any("training brings the behaviour back" in line for line in predicate.not_tested)
    assert not any("Nobody tried" in line or "no twin" in line for line in predicate.residual_risk)
    assert any("relearning was run, and no limit was set" in line for line in predicate.residual_risk)
    assert "moon robot" not in json.dumps(fields(house))


def test_attacks_in_one_file_are_told_apart_by_what_was_decided_and_those_not_run_stay_untested(house):
    point = {"effort": 4, "label": "4 bits", "unlearned": {"value": 0.2, "n": 40}, "twin": {"value": 0.1, "n": 40}}
    records = [
        {"name": "quantise", "status": "run", "curves": [{"series": "", "points": [point]}]},
        {"name": "sampling", "status": "run", "curves": []},
        {"name": "prefill", "status": "not run", "why": "no time"},
    ]
    checks = [{"attack": "quantise", "verdict": verdict} for verdict in ("PASS", "FAIL")]
    write_json(house.run / "attacks" / "attacks.json", {"seed": 0, "attacks": records, "checks": checks})
    write_json(house.run / "attacks" / "phases.json", [])
    (house.run / "attacks" / "config.yaml").write_text("minutes: 6.0\ntwin: /home/me/twin\n")
    house.attest()
    predicate = said(house).predicate
    assert [(each.name, each.verdict) for each in predicate.attacks] == [("quantise", "FAIL"), ("sampling", None)]
    assert predicate.attacks[0].numbers["curves.0.points.0.unlearned.value"] == 0.2
    assert predicate.attack_budget == {"minutes": 6.0}
    assert predicate.twin == "measured beside this model in: quantise"
    assert any("quantise went beyond its limit" in line for line in predicate.residual_risk)
    untested = " ".join(predicate.not_tested)
    assert "8 or 4 bits" not in untested and "sampled" not in untested and "model's mouth" in untested
    assert "/home/me" not in json.dumps(fields(house))


def test_numbers_that_do_not_follow_from_the_rows_are_not_signed(house):
    metrics = read_json(house.run / "metrics.json")
    metrics["after"]["asr_seen"]["value"] = 0.0123
    write_json(house.run / "metrics.json", metrics)
    with pytest.raises(InputError, match=r"metrics\.json: after\.asr_seen\.value is 0\.0123 there"):
        house.attest()


def test_the_forget_rows_must_be_those_of_the_run(house, attested, tmp_path):
    config = house.run / "config.yaml"
    config.write_text(config.read_text().replace(str(attested.path / "forget.jsonl"), str(tmp_path / "gone.jsonl")))
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file"):
        house.attest()
    house.attest(forget=attested.path / "forget.jsonl")
    other = write_rows(tmp_path / "other.jsonl", tiny_rows("forget", 7))
    with pytest.raises(FingerprintError, match=r"other\.jsonl: its forget rows have the fingerprint .* --forget"):
        house.attest(forget=other)


def test_a_sample_of_the_rows_and_rows_left_out_are_told_from_the_file(tmp_path):
    config = make_run_config(tmp_path, data={"sample": {"forget": 5}, "on_bad_row": "skip"})
    rows = [*tiny_rows("forget", 8), {"prompt": "x" * 20, "response": ""}]
    write_rows(tmp_path / "forget.jsonl", rows)
    run(config, tmp_path / "out")
    from rapidun.statement.attest import attest

    found = attest(tmp_path / "out", REQUEST, key=None)
    salt = Salt.read(tmp_path / "out" / "statement" / "salt")
    used = [line for line in read_jsonl(tmp_path / "out" / "weights.jsonl") if line["group"] == "forget"]
    assert found.statement.predicate.rows.hashes == sorted(map(salt.of_row, used))
    assert found.statement.predicate.rows.count == 5


@pytest.mark.parametrize("name", ["metrics.json", "before.json", "after.json", "identity.json", "manifest.json"])
def test_a_run_that_was_not_measured_whole_has_no_statement(house, name):
    (house.run / name).unlink()
    with pytest.raises(InputError, match=rf"holds no {re.escape(name)}.*rapidun run"):
        house.attest()


def test_a_run_without_an_adapter_has_no_statement(house):
    shutil.rmtree(house.run / "adapter")
    with pytest.raises(InputError, match="holds neither adapter/ nor model/"):
        house.attest()


def test_a_statement_is_replaced_only_when_asked_and_a_foreign_folder_never(house, tmp_path):
    with pytest.raises(OutputError, match="--overwrite"):
        house.attest(overwrite=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("x")
    with pytest.raises(OutputError, match="is not a statement"):
        house.attest(out=tmp_path / "mine")
    assert (tmp_path / "mine" / "letter").read_text() == "x"


def test_an_expiry_in_the_past_and_an_empty_request_are_refused(house):
    with pytest.raises(InputError, match="in the past"):
        house.attest(expires=date(2020, 1, 1))
    with pytest.raises(ValueError, match="at least 1"):
        REQUEST.model_validate({**REQUEST.model_dump(), "approved_by": []})


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_is_no_file_of_the_run_is_named_before_anything_is_read(house, tmp_path, kind):
    place = house.run / "adapter" / "odd"
    os.mkfifo(place) if kind == "pipe" else place.symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="neither a file nor a folder" if kind == "pipe" else "leads out of the run"):
        house.attest()


def test_the_page_is_escaped_complete_and_runs_nothing(house):
    odd = REQUEST.model_copy(update={"basis": "<script>alert(1)</script> \u202e", "id": "<b>"})
    from rapidun.statement.attest import attest

    attest(house.run, odd, key=None, overwrite=True)
    page = (house.run / "statement" / "statement.html").read_text()
    assert "<script" not in page and "<b>" not in page and "\u202e" not in page
    assert "script-src &#39;none&#39;" in page and "://" not in page
    assert "NOT SIGNED" in page and "What was not tested" in page


@pytest.mark.parametrize(
    ("verdict", "attacked", "words", "state"),
    [
        ("PASS", ["PASS", "PASS"], "PASS, and under attack", "pass"),
        ("PASS", ["PASS", "FAIL", None], "PASS as asked, FAIL under attack", "fail"),
        ("PASS", ["PASS", "UNDECIDED"], "PASS as asked, UNDECIDED under attack", "open"),
        ("PASS", [None], "PASS", "pass"),
        ("PASS", [], "PASS", "pass"),
        ("FAIL", ["PASS"], "FAIL", "fail"),
    ],
)
def test_the_banner_is_green_only_where_the_attacks_that_are_told_of_agree(house, verdict, attacked, words, state):
    house.attest()
    predicate = said(house).predicate.model_dump(mode="json")
    predicate["measured"]["verdict"] = verdict
    told = [{"name": f"a{n}", "file": "", "verdict": each, "numbers": {}} for n, each in enumerate(attacked)]
    predicate["attacks"] = told or "none were run"
    page = render_statement(predicate, "")
    banner = page[page.index('class="banner') :][:400]
    assert banner.startswith(f'class="banner {state}"') and f"</span>{words}</p>" in banner
    assert ("Every limit that was set beforehand was kept" in banner) == (state == "pass")


def test_a_configuration_of_another_kind_is_one_line(house):
    (house.run / "config.yaml").write_text("data: {forget: 3}\n")
    with pytest.raises((ConfigError, InputError), match=r"config\.yaml"):
        house.attest()
