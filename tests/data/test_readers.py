"""Every supported format gives the same rows; every damaged file says where and what to do."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import json
import lzma
import os
import struct

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
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


# what a file may be --------------------------------------------------------------------------------------------------

PAIRS = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in PAIRS).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.jsonl", json.dumps(PAIRS)),
        ("pretty.jsonl", json.dumps(PAIRS, indent=2)),
        ("data.json", json.dumps({"version": "1.0", "data": PAIRS}, indent=1)),
        ("train.json", json.dumps({"train": PAIRS})),
        ("rows.jsonl", json.dumps({"rows": PAIRS})),
        ("bom.json", "\ufeff" + json.dumps(PAIRS)),
        ("bom.jsonl", "\ufeff" + LINES.decode()),
    ],
)
def test_a_list_of_rows_is_found_whatever_it_is_wrapped_in(name, content, tmp_path):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    rows = load_rows(path)
    assert rows.dataset["prompt"][:] == ["p0", "p1", "p2"]
    assert list(rows.lines) == [1, 2, 3]


def test_a_bad_element_of_a_list_is_a_bad_row_not_a_bad_file(tmp_path):
    path = tmp_path / "rows.json"
    odd = [b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"prompt": ' + b"1" * 5000 + b"}", b"1" * 5000, b"7"]
    odd += [b'{"prompt": "p", "prompt": "q", "response": "r"}', b'{"prompt": "\xe9", "response": "r"}']
    path.write_bytes(b"[" + b",\n".join([*odd, LINES.splitlines()[0]]) + b"]")
    with pytest.raises(InputError, match=r"(?s)6 of 7 rows.*json:1: nested too deeply.*json:2: a number has too many"):
        load_rows(path)
    rows = load_rows(path, on_bad_row="skip")
    assert list(rows.lines) == [7]
    reasons = [bad.reason for bad in rows.skipped]
    assert [reason[:13] for reason in reasons[2:4]] == ["a number has ", "not a JSON ob"]
    assert reasons[4].startswith('the key "prompt" is there twice')
    assert reasons[5].startswith("not UTF-8 text; save the file as UTF-8")


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "p", "response": "r", "n": ' + "9" * 5000 + "}",
        '{"prompt": "p", "response": "r", "n": ' + '{"a":' * 200 + "1" + "}" * 200 + "}",
        '{"prompt": "p", "response": "r", "prompt": "q"}',
        '{"prompt": "p", "response": "r", "\\u0000": 1}',
        '{"prompt": NaN, "response": "r"}',
        '{"prompt": "p", "response": [{"role": "assistant"}]}',
        '{"id": {"a": 1}, "prompt": "p", "response": "r"}',
    ],
)
def test_any_fault_of_one_line_costs_that_line_alone(line, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{LINES.decode()}{line}\n")
    rows = load_rows(path, on_bad_row="skip")
    assert list(rows.lines) == [1, 2, 3]
    assert [(bad.file, bad.line) for bad in rows.skipped] == [(str(path), 4)]
    with pytest.raises(InputError, match=r"1 of 4 rows cannot be used:\n.*rows\.jsonl:4: "):
        load_rows(path)


def test_columns_that_nobody_reads_are_kept_as_json_can_hold_them(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "n": 123456789012345678901234567890, "x": [NaN, 1], "half": "\\ud800"}\n')
    (row,) = load_rows(path)
    assert (row["n"], row["x"], row["half"]) == (123456789012345678901234567890, [None, 1], "\\ud800")
    when = datetime.datetime(2025, 1, 2)
    pq.write_table(pa.table({"text": ["a"], "when": [when], "image": [b"\xff\xd8"]}), tmp_path / "a.parquet")
    (row,) = load_rows(tmp_path / "a.parquet")
    assert (row["when"], row["image"]) == ("2025-01-02 00:00:00", "2 bytes")


# folders -------------------------------------------------------------------------------------------------------------


def snapshot(folder, *names, records=PAIRS):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(records).to_parquet(path) if name.endswith(".parquet") else write_jsonl(
            path, records
        )
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "dataset_infos.json").write_text("{}")
    return folder


def test_the_folder_of_a_data_set_is_read_like_its_files(tmp_path):
    folder = snapshot(tmp_path / "hub", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet")
    rows = load_rows(folder)
    assert list(rows.lines) == [1, 2, 3, 4, 5, 6]
    one = load_rows(snapshot(tmp_path / "one", "only.jsonl"))
    assert list(one.lines) == [1, 2, 3]


def test_of_several_splits_one_must_be_named_as_a_folder(tmp_path):
    folder = snapshot(tmp_path / "hub", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"has the splits test, train. Name one of them, e.g. .*hub/test"):
        load_rows(folder)
    assert len(load_rows(folder / "train")) == 3
    with pytest.raises(InputError, match="no such file"):
        load_rows(folder / "validation")
    named = snapshot(tmp_path / "named", "train.jsonl", "valid.jsonl")
    assert len(load_rows(named / "valid")) == 3


def test_the_hubs_cache_of_a_data_set_is_looked_into(tmp_path):
    snapshot(tmp_path / "datasets--a--b" / "snapshots" / "0123", "data/train-00000-of-00001.parquet")
    assert len(load_rows(tmp_path / "datasets--a--b")) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("forget.jsonl", "retain.jsonl"), r"several row files \(forget\.jsonl, retain\.jsonl\)"),
        (("train.jsonl", "data/train.parquet"), "same split in several folders or formats"),
        (("en/train.jsonl", "de/train.jsonl"), r"same split in several folders or formats.*en/train\.jsonl"),
        ((), "a directory without row files"),
    ],
)
def test_files_that_may_not_belong_together_are_not_joined(names, message, tmp_path):
    with pytest.raises(InputError, match=message):
        load_rows(snapshot(tmp_path / "folder", *names) if names else tmp_path)


def test_a_list_of_data_sets_says_which_file_to_give_and_how(tmp_path):
    path = tmp_path / "dataset_info.json"
    entry = {"file_name": "mine.json", "columns": {"prompt": "ask", "query": "about", "response": "say"}}
    path.write_text(json.dumps({"mine": entry, "theirs": {"hf_hub_url": "a/b"}}))
    with pytest.raises(
        InputError, match=r"mine: \S*/mine\.json --map prompt=ask --map context=about --map response=say"
    ):
        load_rows(path)


# what is not the file it seems to be ---------------------------------------------------------------------------------

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
ZIPPED = gzip.compress(LINES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", LINES, "no .gz data: take .gz off its name"),
        ("a.jsonl.gz", ZIPPED[:-20], "damaged or was cut off: copy or download it again"),
        ("a.jsonl.gz", ZIPPED[:12] + bytes(b ^ 255 for b in ZIPPED[12:]), "damaged or was cut off"),
        ("a.csv.gz", gzip.compress(b"prompt,response\na,b\n")[:-4], "damaged or was cut off"),
        ("a.jsonl.bz2", bz2.compress(LINES)[:-9], "damaged or was cut off"),
        ("a.jsonl.xz", lzma.compress(LINES)[:-9], "damaged or was cut off"),
        ("a.jsonl", ZIPPED, "this is gzip data; let its name end in .gz"),
        ("a.json", b"PK\x03\x04....", "ZIP archive; unpack it first"),
        ("a.parquet", LFS, "only Git LFS's pointer"),
        ("a.jsonl", LFS, "only Git LFS's pointer"),
        ("a.csv", "prompt,response\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        ("a.csv", b'prompt,response\na,"b\nc,d\n', r"a\.csv:2: a quotation mark opens here and is never closed"),
        ("a.csv", b"prompt,response\na,\xe9\n", r"a\.csv:2: not UTF-8 text; save the file as UTF-8, .*iconv"),
        ("a.csv", b"\0,response\na,b\n", "NUL in a name"),
        ("a.csv", b"\n", "holds no rows"),
        ("a.parquet", b"PAR1" + b"\0" * 90, "cannot be read as Parquet .*copy or download it again"),
        ("a.json", b'[{"text": "a"}]\n[1]', r"a\.json:2: more text after the end of the list"),
        ("a.jsonl", b'{\n "text": "a"\n}\n{\n "text": "b"\n}\n', "objects over several lines. Write one a line"),
        ("a.json", b'[{"text": "a"}, {"text": ', r"a\.json:1: not JSON"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named_with_cause_and_remedy(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_rows(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_text_is_read_and_a_cut_is_an_error_in_either_mode(ending, tmp_path):
    text = b"".join(json.dumps({"prompt": f"{i}" * 50, "response": "a"}).encode() + b"\n" for i in range(3000))
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(
        ending, lambda data: pa.Codec("zstd").compress(data, asbytes=True)
    )
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(pack(text))
    assert len(load_rows(path)) == 3000
    path.write_bytes(pack(text)[:-50])
    with pytest.raises(InputError, match="damaged or was cut off"):
        load_rows(path, on_bad_row="skip")


def test_paths_that_are_no_readable_file_are_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match=r"pipe\.jsonl: not a regular file but a pipe or a device"):
        load_rows(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match="not a regular file"):
        load_rows("/dev/null")
    for path in ("x" * 5000, "a\0b.jsonl", tmp_path / ("y" * 300 + ".jsonl")):
        with pytest.raises(InputError, match="cannot be read") as caught:
            load_rows(path)
        assert len(str(caught.value)) < 400
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    with pytest.raises(InputError, match=r"loop\.jsonl: cannot be read"):
        load_rows(tmp_path / "loop.jsonl")
    with pytest.raises(InputError, match="no such file"):
        load_rows(write_jsonl(tmp_path / "a.jsonl", PAIRS) / "b.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", PAIRS)
    path.chmod(0)
    with pytest.raises(InputError, match=r"a\.jsonl: cannot be read \(.*Permission denied"):
        load_rows(path)


def test_a_csv_row_that_is_not_csv_is_skipped_and_the_next_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'prompt,response\n"a"b,c\nd,\xe9\ne,f\n')
    rows = load_rows(path, on_bad_row="skip")
    assert (list(rows.lines), [bad.line for bad in rows.skipped]) == ([4], [2, 3])


def test_a_value_of_a_table_that_python_cannot_hold_costs_its_row_alone(tmp_path):
    path = tmp_path / "a.parquet"
    days = pa.array([0, 2**31 - 1, 0], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"text": ["a", "b", "c"], "day": days}), path)
    assert list(load_rows(path, on_bad_row="skip").lines) == [1, 3]


def test_a_damaged_saved_data_set_is_named(tmp_path):
    datasets.Dataset.from_list(PAIRS).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"saved: cannot be read as a saved data set .*save_to_disk"):
        load_rows(tmp_path / "saved")


def test_offsets_that_lead_out_of_a_saved_table_are_found_before_they_are_followed(tmp_path):
    datasets.Dataset.from_dict({"text": ["aaaa", "bbbb"]}).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    offsets = struct.pack("<3i", 0, 4, 8)
    assert file.read_bytes().count(offsets) == 1
    file.write_bytes(file.read_bytes().replace(offsets, struct.pack("<3i", 0, 4, 2**30)))
    with pytest.raises(InputError, match="saved: cannot be read as a saved data set"):
        load_rows(tmp_path / "saved")
