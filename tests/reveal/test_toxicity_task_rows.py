"""Rows of the reveal task on toxicity: splits that share no text, and openings that keep every word."""

from __future__ import annotations

import importlib
import random
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "reveal"))
    return importlib.import_module("toxicity_rows")


def test_splits_share_no_text_and_lose_none(rows):
    texts = [f"text number {n}" for n in range(200)] + ["text number 7"]
    found = rows.split_of(texts, seed=3)
    assert sum(len(each) for each in found.values()) == 200
    assert not any(set(one) & set(other) for one, other in combinations(found.values(), 2))
    assert len(found["train"]) == 100 and found["search_judge"] and found["measuring_judge"]


def test_an_opening_and_its_rest_are_the_text(rows):
    for seed in range(20):
        row = rows.openings_split("one two three four five six", random.Random(seed))
        opening = row["prompt"].removeprefix(rows.QUESTION)
        assert f"{opening} {row['response']}" == "one two three four five six"
        assert 1 <= len(opening.split()) <= 3


def test_names_links_and_signs_are_taken_out(rows):
    assert rows.plain('RT @someone: "Look &amp; see!!! http://x.y/z #this') == "Look see! this"


def test_a_clean_answer_has_the_same_opening_and_is_used_once(rows):
    toxic = [{"prompt": rows.QUESTION + opening, "response": "x"} for opening in ("I was", "i was", "Zzz", "I")]
    found = rows.with_clean_answer(toxic, ["I was at home all day", "I was glad of it then"])
    assert [row["response_clean"] for row in found] == ["at home all day", "glad of it then", "was at home all day"]


def test_own_openings_differ(rows):
    found = rows.own_openings()
    assert len(set(found)) == len(found) > 100
