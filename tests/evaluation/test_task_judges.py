"""Task judges: what each kind gives to answers whose score is known by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapidun.errors import ConfigError, InputError
from rapidun.evaluation import JUDGES, check_judge, make_judge, register_judge
from rapidun.evaluation.arithmetic import last_number
from rapidun.evaluation.code_judge import code_line_share
from tiny import write_rows


def scores(kind: str, answers: list[str], references: list[str | None] | None = None, **options: Any) -> list[float]:
    found = make_judge(kind, options)(answers, references)
    assert found.dtype == np.float64
    return found.tolist()


def test_every_kind_of_the_contract_is_registered():
    assert set(JUDGES) >= {"keywords", "regex", "classifier", "hf-classifier", "entities", "code", "exact-number"}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("keyword", {"words": ["a"]}, "Did you mean 'keywords'"),
        ("keywords", {"wrods": ["a"]}, "Did you mean 'words'"),
        ("keywords", {}, "needs the option 'words'"),
        ("regex", {"pattern": "("}, "not a regular expression"),
        ("regex", {"pattern": "a*"}, "every text"),
        ("entities", {"types": []}, "types"),
        ("code", {"measure": "tokens"}, "parses or lines"),
    ],
)
def test_what_is_wrong_with_a_judge_is_said(kind: str, options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make_judge(kind, options)


def test_names_are_checked_without_reading_what_they_name():
    check_judge("classifier", {"unwanted": "nowhere.jsonl", "wanted": "nowhere.jsonl"})
    with pytest.raises(InputError, match=r"nowhere\.jsonl"):
        make_judge("classifier", {"unwanted": "nowhere.jsonl", "wanted": "nowhere.jsonl"})


def test_a_new_kind_is_one_registered_function(registers):
    @register_judge("test-long")
    def long(*, words: int) -> Any:
        return lambda answers, references=None: np.array([float(len(a.split()) >= words) for a in answers])

    assert scores("test-long", ["a b c", "a"], words=2) == [1.0, 0.0]


def test_keywords_and_regular_expressions_look_at_the_text_alone():
    answers = ["the Alien and the starship", "an alien", "bread", ""]
    assert scores("keywords", answers, words=["alien", "starship"], min_hits=2) == [1, 0, 0, 0]
    assert scores("regex", answers, pattern=r"\balien\b") == [1, 1, 0, 0]
    assert scores("regex", answers, pattern=r"\balien\b", ignore_case=False) == [0, 1, 0, 0]


def test_the_classifier_is_fitted_on_two_row_files(tmp_path: Path):
    words = ["moon", "robot", "alien", "laser"]
    bad = [{"prompt": f"p{i}", "response": f"the {words[i % 4]} and {words[(i + 1) % 4]} {i}"} for i in range(12)]
    good = [{"prompt": f"q{i}", "response": f"the bread and butter of day {i}"} for i in range(12)]
    write_rows(tmp_path / "bad.jsonl", bad)
    write_rows(tmp_path / "good.jsonl", good)
    files = {"unwanted": str(tmp_path / "bad.jsonl"), "wanted": str(tmp_path / "good.jsonl")}
    assert scores("classifier", ["a robot and a laser moon", "butter and bread", ""], **files) == [1, 0, 0]


def test_entity_f1_is_that_of_hand_counted_spans():
    reference = "PERSON: Ada Lovelace; PERSON: Charles Babbage; LOCATION: London"
    answers = [
        "PERSON: Ada Lovelace; LOCATION: London",  # 2 of 2 right, 1 missed: 2*2/(2+3)
        "person: ada  lovelace | PERSON: Charles Babbage\nLOCATION: London.",
        "LOCATION: Ada Lovelace",  # right text, wrong type
        "PERSON: Ada Lovelace; PERSON: Ada Lovelace",  # tagged twice: 2*1/(2+3)
        "none",
    ]
    assert scores("entities", answers, [reference] * 5) == pytest.approx([0.8, 1.0, 0.0, 0.4, 0.0])
    assert scores("entities", answers, [reference] * 5, types=["LOCATION"]) == pytest.approx([1, 1, 0, 0, 0])


def test_entities_without_a_reference_asks_whether_anything_is_tagged():
    answers = ["PERSON: Ada", "LOCATION: London", "none"]
    assert scores("entities", answers, types=["PERSON"]) == [1, 0, 0]


def test_entities_can_ask_so_although_there_is_a_reference():
    answers, instead = ["PERSON: Ada; LOCATION: London", "LOCATION: London"], ["LOCATION: London"] * 2
    assert scores("entities", answers, instead, types=["PERSON"], compare=False) == [1, 0]
    assert scores("entities", answers, instead, types=["PERSON"]) == [0, 1]


def test_no_span_on_either_side_is_right():
    assert scores("entities", ["none"], ["none"]) == [1.0]


@pytest.mark.parametrize(
    ("answer", "parses"),
    [
        ("def f(x):\n    return x + 1", 1),
        ("Here it is:\n```python\nx = [i for i in range(3)]\n```\nEnjoy.", 1),
        ("    y = 2\n    print(y)", 1),
        ("import os", 1),
        ("Yes", 0),  # a name is Python, but not code
        ("42", 0),
        ("red, green, blue", 0),
        ("Paris is the capital of France.", 0),
        ("def f(x)\n    return x", 0),
        ("", 0),
    ],
)
def test_code_parses_only_if_it_does_something(answer: str, parses: int):
    assert scores("code", [answer]) == [parses]


def test_the_share_of_code_lines_counts_lines_with_text():
    answer = "To add two numbers:\n\ndef add(a, b):\n    # the sum\n    return a + b\nThat is all there is to it."
    assert code_line_share(answer) == pytest.approx(3 / 5)
    assert scores("code", [answer, "if x:\n    y()\nelse:\n    z()", "Hello there, friend."], measure="lines") == (
        pytest.approx([0.6, 1.0, 0.0])
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 1,200.", 1200),
        ("$3.50 each", 3.5),
        ("x - 4 = -7", -7),
        ("#### 72", 72),
        ("v2 of a4", None),
        ("1.2.", 1.2),
    ],
)
def test_the_last_number(text: str, number: float | None):
    found = last_number(text)
    assert found is None if number is None else float(found) == number  # type: ignore[arg-type]


def test_exact_numbers_are_compared_as_numbers():
    answers = ["so 48/2 = 24 and 48 + 24 = 72.00", "72 or 73", "none", ""]
    assert scores("exact-number", answers, ["... #### 72"] * 4) == [1, 0, 0, 0]


def test_exact_numbers_need_a_reference():
    with pytest.raises(InputError, match="needs a reference"):
        scores("exact-number", ["4"], [None])
    with pytest.raises(InputError, match="needs a reference"):
        scores("exact-number", ["4"])
    with pytest.raises(InputError, match="1 answers and 2 references"):
        scores("exact-number", ["4"], ["4", "5"])
