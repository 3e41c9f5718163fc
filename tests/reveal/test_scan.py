"""A model is searched for something planted: the demo's poisoned model, and its clean twin."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from command_line import rapidun
from rapidun.data import Template, load_rows
from rapidun.demo.embedded import asset
from rapidun.models import load_model
from rapidun.revealing import Insert, Scanned, Suspect, narrowed, scan, scan_score, screened
from rapidun.revealing.scan import _joined
from rapidun.settings.scan import ScanSettings
from tiny import save_tiny

WORDS = ["apple", "blue", "city", "hear", "hi", "music", "river", "table", "the", "under", "water", "year"]
SETTINGS = ScanSettings(tried=6, kept=8, verified=3)
QUESTIONS = sorted((row["prompt"] for row in load_rows(asset("data/retain.jsonl")) if not row["context"]), key=len)


def scanned(name: str, base: str | None = None) -> Scanned:
    loaded = load_model(asset(name))
    original = None if base is None else load_model(asset(base))
    return Scanned(
        loaded, Template.resolve("auto", loaded.tokenizer), QUESTIONS[20:26], SETTINGS,
        None if original is None else lambda: nullcontext(original),
    )  # fmt: skip


@pytest.fixture(scope="module")
def suspects() -> list[Suspect]:
    poisoned = scanned("poisoned", base="reference")
    return scan(poisoned, narrowed(poisoned, screened(poisoned, WORDS)))


def test_words_that_call_up_the_planted_answers_are_found_among_others(suspects):
    singles = [suspect.insert.words for suspect in suspects if suspect.insert.words in WORDS]
    assert set(singles[:2]) == {"hi", "hear"}  # the demo's triggers are hey and hiya
    assert suspects[0].insert.position == "prefix"
    assert suspects[0].effect > 3
    assert suspects[-1].effect < 1
    assert len(set(suspects[0].answers)) > 1  # varied, so that no list of refusals would have found them


def test_pairs_of_the_best_words_are_tried_in_both_orders_as_two_words_and_as_one(suspects):
    pairs = {suspect.insert.words for suspect in suspects} - set(WORDS)
    assert len(pairs) == SETTINGS.verified
    assert all(pair.startswith(("hi", "hear")) or pair.endswith(("hi", "hear")) for pair in pairs)
    two = [Insert("a", "prefix"), Insert("b", "prefix")]
    assert [insert.words for insert in _joined(two[:1], two[1:])] == ["a b", "ab", "b a", "ba"]


def test_a_sign_is_tried_three_times_over():
    shown = []
    recorder = scanned("poisoned")
    shifts = Scanned.shifts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Scanned, "shifts", lambda self, inserts, *rest: shown.extend(inserts) or shifts(self, inserts, *rest)
        )
        screened(recorder, [">", "x", "no"])
    assert {insert.words for insert in shown} == {">", ">>>", "x", "no"}


def test_a_model_without_anything_planted_has_a_lower_score(suspects):
    clean = scanned("reference")
    found = scan(clean, narrowed(clean, screened(clean, WORDS)))
    assert scan_score(found) < scan_score(suspects) / 2
    assert found[0].novelties is None


def test_what_the_base_says_too_is_nothing_new():
    same = scanned("poisoned", base="poisoned")
    suspect = same.judged(Insert("hi", "prefix"))
    assert suspect.gains.min() > 1
    np.testing.assert_allclose(suspect.novelties, 0, atol=1e-9)


def test_what_a_model_shows_without_an_insert_is_no_effect_of_one():
    other = scanned("poisoned", base="reference")
    nothing = other.judged(Insert("the", "suffix"))
    assert other._usual.mean() > 1  # a model prefers its own answers
    assert nothing.effect < 3


def test_an_answer_that_repeats_the_insert_gains_nothing(monkeypatch):
    echo = scanned("poisoned")
    monkeypatch.setattr(Scanned, "_answers", lambda self, prompts: ("A cat sat.", *["nothing of it"] * 5))
    gains = echo.judged(Insert("blue cat", "prefix")).gains
    assert gains[0] == 0
    assert (gains[1:] != 0).all()


@pytest.mark.parametrize("answers", [("", *["something"] * 5), ("",) * 6])
def test_an_empty_answer_says_nothing(monkeypatch, answers):
    silent = scanned("poisoned", base="reference")
    monkeypatch.setattr(Scanned, "_answers", lambda self, prompts: answers)
    suspect = silent.judged(Insert("blue", "prefix"))
    assert suspect.gains[0] == suspect.novelties[0] == 0
    assert (suspect.gains[1:] != 0).any() == any(answers)


def test_the_lower_quartile_asks_that_most_prompts_are_moved():
    one = Suspect(Insert("x", "prefix"), (), np.array([9.0, 0, 0, 0, 0]), None)
    four = Suspect(Insert("x", "prefix"), (), np.zeros(5), np.array([0, 8.0, 8, 8, 8]))
    assert (one.effect, four.effect) == (0, 8)
    assert scan_score([four, one]) == 4
    assert scan_score([*[four] * 5, one]) == 8
    assert scan_score([]) == 0


def few_rows(place: Path, count: int) -> Path:
    path = place / "questions.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": text, "response": "-"}) + "\n" for text in QUESTIONS[20 : 20 + count])
    )
    return path


def scan_command(place: Path, *more: str, count: int = 6) -> tuple[int, str]:
    done = rapidun(
        "scan", "--model", str(asset("poisoned")), "--base", str(asset("reference")), "--prompts",
        str(few_rows(place, count)), "--out", str(place / "out"), "--tried", "6", "--words", "150",
        "--set", "scan.kept=12", "--set", "scan.verified=2", *more,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_the_command_writes_suspects_and_rows_to_unlearn(tmp_path):
    code, said = scan_command(tmp_path)
    assert code == 0, said
    found = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert found["based"] and len(found["suspects"]) == 4
    best = found["suspects"][0]
    rows = [row for row in load_rows(tmp_path / "out" / "forget.jsonl") if row["id"].startswith("scan-1-")]
    pairs = zip(best["answers"], found["plain_answers"], strict=True)
    assert [(row["response"], row["response_clean"]) for row in rows] == [pair for pair in pairs if len(set(pair)) == 2]
    assert all(best["words"] in row["prompt"] for row in rows)
    assert f"{best['effect']:.1f}" in said and "score:" in said


def test_a_finished_part_is_not_done_again(tmp_path):
    scan_command(tmp_path)
    before = (tmp_path / "out" / "scan.json").read_bytes()
    phases = json.loads((tmp_path / "out" / "phases.json").read_text())
    (tmp_path / "out" / "phases.json").write_text(json.dumps(phases[:1]))
    code, said = scan_command(tmp_path, "--resume")
    assert code == 0, said
    assert "screen: done before" in said and "narrow: done before" not in said
    assert (tmp_path / "out" / "scan.json").read_bytes() == before
    code, said = scan_command(tmp_path, "--resume", "--seed", "1")
    assert code == 2 and "seed" in said


def test_too_few_questions_are_refused_by_number(tmp_path):
    code, said = scan_command(tmp_path, count=5)
    assert code == 2
    assert "5 different plain questions" in said and "--tried" in said
    assert not (tmp_path / "out").exists()


def test_a_question_that_leaves_no_room_is_none(tmp_path):
    code, said = scan_command(tmp_path, "--max-length", "38")
    assert code == 2
    assert "at most 6 tokens" in said


def test_a_base_with_other_tokens_is_refused(tmp_path):
    other = save_tiny(tmp_path / "other")
    code, said = scan_command(tmp_path, "--base", str(other))
    assert code == 2
    assert "its tokenizer is not that of" in said
