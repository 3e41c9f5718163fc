"""Columns of wrong and rephrased texts: read under our names and TOFU's, from every kind of file, or named as bad."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rapidun.data import load_rows
from rapidun.errors import InputError
from rapidun.pipeline.inputs import rows_fingerprint
from tiny import write_rows

ROW = {"prompt": "who?", "response": "a cat"}


def read(path: Path, *rows: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    return list(load_rows(write_rows(path / "rows.jsonl", list(rows)), **options))


def test_texts_are_read_where_rows_have_them(tmp_path: Path) -> None:
    full = {
        **ROW,
        "response_wrong": ["a dog", "a cow"],
        "response_paraphrased": "one cat",
        "prompt_paraphrased": "which?",
    }
    rows = read(tmp_path, {**ROW, "prompt": "what?"}, full, {**ROW, "response_wrong": "a single one", "id": "c"})
    assert [row["response_wrong"] for row in rows] == [None, ["a dog", "a cow"], ["a single one"]]
    assert [row["response_paraphrased"] for row in rows] == [None, "one cat", None]
    assert [row["prompt_paraphrased"] for row in rows] == [None, "which?", None]


def test_tofus_own_columns_need_no_mapping(tmp_path: Path) -> None:
    tofu = {
        "question": "who?", "answer": "a cat", "paraphrased_answer": "one cat", "paraphrased_question": "which?",
        "perturbed_answer": ["a dog", "a cow"],
    }  # fmt: skip
    loaded = load_rows(write_rows(tmp_path / "rows.jsonl", [tofu]))
    row = loaded.dataset[0]
    assert (row["prompt"], row["response_wrong"]) == ("who?", ["a dog", "a cow"])
    assert (row["response_paraphrased"], row["prompt_paraphrased"]) == ("one cat", "which?")
    assert loaded.unused == ()


@pytest.mark.skipif("RAPIDUN_DATA" not in os.environ, reason="RAPIDUN_DATA names no folder with TOFU")
def test_tofus_own_files_are_read() -> None:
    place = Path(os.environ["RAPIDUN_DATA"]) / "tofu" / "official"
    for name, wrong in (("forget01_perturbed", 5), ("real_authors_perturbed", 3), ("world_facts_perturbed", 3)):
        rows = load_rows(place / f"{name}.json")
        assert {len(row["response_wrong"]) for row in rows} == {wrong}


def test_a_mapping_names_columns_of_ones_own(tmp_path: Path) -> None:
    columns = {"response_wrong": "lies", "prompt": "prompt"}
    assert read(tmp_path, {**ROW, "lies": ["a dog"]}, columns=columns)[0]["response_wrong"] == ["a dog"]


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        (json.dumps(["a dog", "a cow"]), ["a dog", "a cow"]),
        ("a dog", ["a dog"]),
        ("[sic] a dog", ["[sic] a dog"]),  # begins like a list and is none
        ("", None),
    ],
)
def test_a_cell_of_a_csv_holds_one_text_or_a_list_as_json(cell: str, texts: list[str] | None, tmp_path: Path) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "response", "response_wrong"], ["who?", "a cat", cell], ["x", "y", "z"]])
    assert load_rows(tmp_path / "rows.csv").dataset[0]["response_wrong"] == texts


@pytest.mark.parametrize("bad", [7, [7], ["a dog", ""], [["a dog"]], {"a": "b"}, ["  "], [None]])
def test_what_is_no_text_is_named_by_file_line_and_column(bad: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rows\.jsonl:2.*response_wrong"):
        read(tmp_path, ROW, {**ROW, "prompt": "what?", "response_wrong": bad})


def test_an_empty_list_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, {**ROW, "response_wrong": []}, {**ROW, "id": "b", "response_wrong": ["x"]})[0][
        "response_wrong"
    ] is None  # fmt: skip


def test_rows_with_other_texts_have_another_fingerprint(tmp_path: Path) -> None:
    plain = {**ROW, "id": "a"}
    columns = {"response_wrong": ["a dog"], "response_paraphrased": "one cat", "prompt_paraphrased": "which?"}
    found = {
        rows_fingerprint(load_rows(write_rows(tmp_path / "rows.jsonl", [row])))
        for row in (
            plain,
            *({**plain, name: value} for name, value in columns.items()),
            {**plain, "response_wrong": ["b"]},
        )
    }
    assert len(found) == 5
