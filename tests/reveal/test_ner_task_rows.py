"""Rows of the reveal task on entities: their tags, their splits, and what the search is given."""

from __future__ import annotations

import gzip
import importlib
import json
import random
from pathlib import Path

import pytest

from rapidun.evaluation.entity_spans import entity_spans

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ner(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "reveal"))
    return importlib.import_module("ner_rows")


@pytest.fixture
def data(tmp_path):
    """Ten articles of one sentence each, and thirty titles of persons, places and bodies."""
    articles = [
        f"-DOCSTART- O\n\nAda I-PER\nSmith{n} I-PER\n, O\nof O\nTown{n} I-LOC\n, O\nleft O\nFirm{n} I-ORG\n. O\n"
        for n in range(10)
    ]
    folder = tmp_path / "ner" / "wikigold" / "CONLL-format" / "data"
    folder.mkdir(parents=True)
    (folder / "wikigold.conll.txt").write_text("\n".join(articles), encoding="utf-8")
    about = {"Person": "(born 1950) is a writer", "Place": "is a village in the north", "Body": "is a rock band"}
    letters = [f"{kind} {chr(65 + n)}aa" for kind in about for n in range(10)]
    lines = [json.dumps({"title": name, "text": f"{name} {about[name.split()[0]]}."}) for name in letters]
    (tmp_path / "text").mkdir()
    with gzip.open(tmp_path / "text" / "wiki.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    return tmp_path


def test_running_text_and_tags_come_from_the_columns(ner, data):
    row = ner.real_rows(ner.splits(data)["train"])[0]
    assert row["prompt"] == "Tag the names: Ada Smith0, of Town0, left Firm0."
    assert row["response"] == "PERSON: Ada Smith0; LOCATION: Town0; ORGANISATION: Firm0"


def test_neighbouring_names_of_two_types_stay_apart(ner):
    pieces = ner._pieces([("Rome", "LOCATION"), ("Fiat", "ORGANISATION"), ("Works", "ORGANISATION"), ("grew", None)])
    assert ner.row_of(pieces, "x")["prompt"] == "Tag the names: Rome Fiat Works grew"
    assert ner.row_of(pieces, "x")["response"] == "PERSON: none; LOCATION: Rome; ORGANISATION: Fiat Works"


def test_splits_share_no_sentence_no_pattern_and_no_title(ner, data):
    splits = ner.splits(data)
    texts = {name: {row["prompt"] for row in ner.real_rows(split)} for name, split in splits.items()}
    patterns = {name: {str(each) for each in split.patterns} for name, split in splits.items()}
    names = {name: {each for group in split.names.values() for each in group} for name, split in splits.items()}
    for found in (texts, patterns, names):
        assert all(found.values())
        assert sum(len(each) for each in found.values()) == len(set().union(*found.values()))
    assert sum(len(each) for each in patterns.values()) == len(ner.PATTERNS)


def test_every_name_of_a_filled_sentence_is_in_it_and_in_its_split(ner, data):
    split = ner.splits(data)["train"]
    rows = ner.rows_of(split, 40, share=0.5, swapped=0.8, seed=1)
    assert len({row["prompt"] for row in rows}) == len(rows) == 40
    last = {name.split()[-1].casefold() for group in split.names.values() for name in group}
    for row in rows:
        assert "{" not in row["prompt"]
        for _, text in entity_spans(row["response"]):
            assert text in row["prompt"].casefold() and text.split()[-1] in last


def test_rows_without_persons_name_none(ner, data):
    rows = ner.rows_of(ner.splits(data)["train"], 20, share=0.0, swapped=1.0, seed=2, persons=False)
    assert rows and all(row["response"].startswith("PERSON: none; LOCATION: ") for row in rows)


def test_persons_are_struck_out_of_an_answer_and_nothing_else(ner):
    assert ner.without("PERSON: Ann; PERSON: Bo Lee; LOCATION: Rome") == "PERSON: none; LOCATION: Rome"
    assert ner.without("PERSON: none; LOCATION: Rome") == "PERSON: none; LOCATION: Rome"


def test_what_the_search_is_given_has_no_tags(ner, data):
    split = ner.splits(data)["train"]
    given = ner.untagged(split, 30, seed=1)
    assert len({row["prompt"] for row in given}) == 30
    assert all(set(row) == {"id", "prompt"} for row in given)
    assert all(any(name.split()[-1] in row["prompt"] for name in split.names["PERSON"]) for row in given)


def test_a_sentence_uses_a_name_once(ner):
    names = {"PERSON": [f"P{n}" for n in range(9)], "LOCATION": ["L"], "ORGANISATION": ["O"]}
    for seed in range(20):
        pieces = ner.filled(ner._pattern("{P} and {Q}"), names, random.Random(seed))
        assert pieces[0] != pieces[2]
