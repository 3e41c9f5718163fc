"""Every supported format gives the same rows; every damaged file says where and what to do."""

from __future__ import annotations

import csv
import gzip
import json

import datasets
import pytest

from rapidun.data import load_rows
from rapidun.errors import ConfigError, InputError

RECORDS = [
    {"instruction": "Say\u2028hi", "context": "", "response": 'hi, "you"\nthere', "score": 1},
    {"instruction": "Who?", "context": "A cat.", "response": "The cat.", "score": 2},
]


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def write_as(name, folder):
    path = folder / name
    if name.endswith(".jsonl") or name == "lines.json":
        return write_jsonl(path, RECORDS)
    if name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(write_jsonl(folder / "plain.jsonl", RECORDS).read_bytes()))
    elif name.endswith(".json"):
        path.write_text(json.dumps(RECORDS, indent=2), encoding="utf-8")
    elif name.endswith((".csv", ".tsv")):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(RECORDS[0]), delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(RECORDS)
    elif name.endswith(".parquet"):
        datasets.Dataset.from_list(RECORDS).to_parquet(path)
    else:
        datasets.Dataset.from_list(RECORDS).save_to_disk(path)
    return path


FORMATS = ("a.jsonl", "lines.json", "list.json", "a.csv", "a.tsv", "a.parquet", "saved", "a.jsonl.gz")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(name, tmp_path):
    rows = load_rows(write_as(name, tmp_path))
    expected = load_rows(write_jsonl(tmp_path / "reference.jsonl", RECORDS))
    for field in ("id", "prompt", "context", "response"):
        assert rows.dataset[field][:] == expected.dataset[field][:]
    assert [int(score) for score in rows.dataset["score"]] == [1, 2]
    assert rows.layout == "instruction/context|input/response|output"


def test_a_csv_row_is_named_by_the_line_it_starts_on(tmp_path):
    path = write_as("a.csv", tmp_path)
    with path.open("a", newline="") as file:
        file.write("only,three,fields\n")
    with pytest.raises(InputError, match=r"a\.csv:5: 3 fields where the header has 4"):
        load_rows(path)
    assert list(load_rows(path, on_bad_row="skip").lines) == [2, 4]


def test_a_csv_answer_may_be_longer_than_the_csv_modules_default_limit(tmp_path):
    before = csv.field_size_limit()
    path = tmp_path / "long.csv"
    path.write_text("prompt,response\nq," + "a" * 200_000 + "\n")
    assert len(load_rows(path).dataset[0]["response"]) == 200_000
    assert csv.field_size_limit() == before


def test_one_split_of_a_saved_dataset_dict_is_taken_and_several_must_be_named(tmp_path):
    part = datasets.Dataset.from_list(RECORDS)
    datasets.DatasetDict({"train": part}).save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "two")
    assert len(load_rows(tmp_path / "one")) == 2
    with pytest.raises(InputError, match=r"splits test, train.*two/test"):
        load_rows(tmp_path / "two")
    assert len(load_rows(tmp_path / "two" / "test")) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "the file is empty"),
        ("a.jsonl", b"\n\n", "holds no rows"),
        ("a.json", b"[]", "holds no rows"),
        ("a.csv", b"prompt,response\n", "holds no rows"),
        ("a.txt", b"hello", "unknown format.*save_to_disk"),
        ("a.parquet", b"not parquet", "cannot be read"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.json", b'[{"prompt": 1},\n oops]', r"a\.json:2: not JSON"),
        ("a.json", b'{\n "data": [\n1]}', r"one JSON object \(data\), not rows"),
        ("a.csv", b"prompt,prompt\na,b\n", 'names "prompt" twice'),
        ("a.csv", b"prompt,response\na,\xff\n", r"a\.csv:2: not UTF-8 text; save the file as UTF-8.*iconv"),
        ("a.csv", b"prompt,r\xe9ponse\na,b\n", r"a\.csv:1: not UTF-8 text; save the file as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_says_so(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"(?s){name}.*{message}|{message}"):
        load_rows(path)


def test_missing_files_and_plain_directories_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.jsonl: no such file"):
        load_rows(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match="a directory without row files"):
        load_rows(tmp_path)


def test_an_unknown_choice_for_bad_rows_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'ignore'"):
        load_rows(tmp_path, on_bad_row="ignore")


def test_a_truncated_gzip_file_is_an_error_not_a_short_data_set(tmp_path):
    lines = b"".join(json.dumps({"prompt": f"{i}" * 50, "response": "a"}).encode() + b"\n" for i in range(3000))
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(lines)[:-200])
    with pytest.raises(InputError, match="cannot be read"):
        load_rows(path, on_bad_row="skip")
