"""Layouts, ids, bad rows, extras: what load_rows makes of a record."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from rapidun.data import Rows, assert_disjoint, load_rows
from rapidun.data.arrow import to_dataset
from rapidun.errors import InputError


def rows_of(tmp_path, records, name="rows.jsonl", **options) -> Rows:
    path = tmp_path / name
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_rows(path, **options)


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


LAYOUTS = [
    ({"instruction": "p", "context": "c", "response": "r"}, "instruction", ("p", "c", "r")),
    ({"instruction": "p", "input": "c", "output": "r"}, "instruction", ("p", "c", "r")),
    ({"prompt": "p", "completion": "r"}, "prompt", ("p", None, "r")),
    ({"prompt": "p", "response": "r", "context": None}, "prompt", ("p", "", "r")),
    ({"question": "p", "answer": "r"}, "question", ("p", None, "r")),
    (chat(("system", "s"), ("user", "p"), ("assistant", "r")), "messages", ("p", None, "r")),
    ({"text": "r"}, "text", ("", None, "r")),
]


@pytest.mark.parametrize(("record", "layout", "expected"), LAYOUTS)
def test_every_layout_is_detected_and_named(record, layout, expected, tmp_path):
    rows = rows_of(tmp_path, [record])
    row = rows.dataset[0]
    assert rows.layout.startswith(layout)
    assert (row["prompt"], row.get("context"), row["response"]) == expected


def test_messages_are_the_whole_conversation(tmp_path):
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    row = rows_of(tmp_path, [chat(*turns)]).dataset[0]
    assert (row["prompt"], row["response"]) == ("c", "d")
    assert [turn["content"] for turn in row["messages"]] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("turns", [(("user", "p"),), (("user", "p"), ("assistant", "r"))])
def test_messages_beside_a_prompt_are_its_conversation_with_or_without_the_answer(turns, tmp_path):
    record = {"prompt": "p", "response": "r", **chat(*turns)}
    assert rows_of(tmp_path, [record]).dataset[0]["messages"] == chat(("user", "p"), ("assistant", "r"))["messages"]


def test_messages_beside_a_prompt_that_are_of_something_else_are_kept_apart_and_named(tmp_path):
    rows = rows_of(tmp_path, [{"prompt": "p", "response": "r", **chat(("user", "q"), ("assistant", "r"))}])
    assert rows.unused == ("messages",)
    assert rows.dataset[0].get("messages") is None
    assert rows.dataset[0]["messages_original"][0]["content"] == "q"


def test_columns_override_the_layout(tmp_path):
    records = [{"ask": "p", "say": "r", "instruction": "x", "response": "y"}]
    rows = rows_of(tmp_path, records, columns={"prompt": "ask", "response": "say"})
    assert rows.layout == "ask/say (by --map)"
    assert (rows.dataset[0]["prompt"], rows.dataset[0]["response"]) == ("p", "r")
    assert rows.dataset[0]["response_original"] == "y"  # kept, under a name that is free


def test_one_mapped_column_is_enough_where_the_other_is_known(tmp_path):
    rows = rows_of(tmp_path, [{"ask": "p", "answer": "r"}], columns={"prompt": "ask"})
    assert (rows.dataset[0]["prompt"], rows.dataset[0]["response"]) == ("p", "r")


def test_mapping_an_absent_column_or_field_lists_what_there_is(tmp_path):
    with pytest.raises(InputError, match=r"no column 'ask'. It has: question, answer"):
        rows_of(tmp_path, [{"question": "p", "answer": "r"}], columns={"prompt": "ask"})
    with pytest.raises(InputError, match="no field 'promt'"):
        rows_of(tmp_path, [{"question": "p", "answer": "r"}], columns={"promt": "question"})


def test_an_unknown_layout_lists_columns_layouts_and_the_flag(tmp_path):
    with pytest.raises(InputError, match=r"(?s)Columns found: headline, body.*question/answer.*--map prompt="):
        rows_of(tmp_path, [{"headline": "a", "body": "b"}])


def test_extra_columns_are_kept_even_where_their_types_are_mixed(tmp_path):
    extras = [{"n": 1, "tags": ["a"], "odd": "x"}, {"n": 2, "tags": [], "odd": {"deep": [1]}}, {"late": True}]
    rows = rows_of(tmp_path, [{"prompt": "p", "response": str(i), **extra} for i, extra in enumerate(extras)])
    assert rows.dataset["n"][:] == [1, 2, None]
    assert rows.dataset["tags"][:] == [["a"], [], None]
    assert rows.dataset["odd"][:] == ["x", {"deep": [1]}, None]
    assert rows.dataset["late"][:] == [None, None, True]


def test_ids_come_from_the_content_and_repeats_get_a_suffix(tmp_path):
    first = {"prompt": "p", "response": "r"}
    rows = rows_of(tmp_path, [first, {"prompt": "p", "response": "s"}, first, first])
    ids = rows.dataset["id"][:]
    assert len(ids[0]) == 16 and int(ids[0], 16) >= 0
    assert ids[2:] == [f"{ids[0]}-2", f"{ids[0]}-3"]
    assert rows_of(tmp_path, [{"response": "r", "prompt": "p", "other": 1}]).dataset[0]["id"] == ids[0]


def test_prompt_and_context_are_not_confused_in_the_id(tmp_path):
    moved = [{"prompt": "ab", "context": "c", "response": "r"}, {"prompt": "a", "context": "bc", "response": "r"}]
    ids = rows_of(tmp_path, moved).dataset["id"][:]
    assert ids[0] != ids[1]


def test_a_repeated_given_id_names_both_lines(tmp_path):
    records = [{"id": 7, "prompt": "p", "response": "r"}, {"id": "7", "prompt": "q", "response": "s"}]
    with pytest.raises(InputError, match=r"rows\.jsonl:2: the id '7' is already that of line 1"):
        rows_of(tmp_path, records)


BAD = [
    ("{oops", "not JSON"),
    ("[1]", "not a JSON object but list"),
    ({"prompt": "p"}, "column 'response' is missing"),
    ({"prompt": " ", "response": "r"}, "column 'prompt' is empty"),
    ({"prompt": "p", "response": " \n"}, "the answer .* is empty"),
    ({"prompt": "p", "response": 3}, "column 'response' must be a string, not int: 3"),
    ({"prompt": ["p"], "response": "r"}, r"'prompt'\[0\] must be an object with 'role' and 'content'"),
    ({"id": 1.5, "prompt": "p", "response": "r"}, "column 'id' must be a string or an integer, not 1.5"),
    ('{"prompt": "p", "response": "\\ud800"}', "lone surrogate"),
    ("[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("record", "reason"), BAD)
def test_a_bad_row_is_named_by_file_line_and_reason(record, reason, tmp_path):
    good = {"id": "a", "prompt": "p", "response": "r"}
    with pytest.raises(InputError, match=rf"(?s)1 of 2 rows cannot be used.*rows\.jsonl:2: .*{reason}.*skip"):
        rows_of(tmp_path, [good, record])
    rows = rows_of(tmp_path, [good, record], on_bad_row="skip")
    assert len(rows) == 1
    assert [bad.line for bad in rows.skipped] == [2]
    assert rows.skipped[0].as_dict().keys() == {"file", "line", "reason"}


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ((("user", "p"),), "must end with the assistant's answer, not with 'user'"),
        ((("assistant", "r"),), "must have a 'user' message before the answer"),
        ((("user", "p"), ("assistant", "")), "answer .* is empty"),
        ((("user", None), ("assistant", "r")), r"'messages'\[0\].content must be a string"),
    ],
)
def test_bad_messages_are_named(turns, reason, tmp_path):
    with pytest.raises(InputError, match=reason):
        rows_of(tmp_path, [chat(*turns)])


def test_the_first_five_bad_rows_are_listed_and_all_are_counted(tmp_path):
    records = [{"prompt": "p", "response": "r"}, *[{"prompt": "p", "response": ""}] * 7]
    with pytest.raises(InputError, match=r"7 of 8 rows") as caught:
        rows_of(tmp_path, records)
    assert str(caught.value).count("rows.jsonl:") == 1 + 5
    assert "and 2 more" in str(caught.value)


def test_skipping_every_row_is_still_an_error(tmp_path):
    with pytest.raises(InputError, match="2 of 2 rows"):
        rows_of(tmp_path, ["{", "]"], on_bad_row="skip")


def test_a_good_row_is_found_after_any_number_of_bad_ones(tmp_path):
    rows = rows_of(tmp_path, [*["{"] * 250, {"text": "a"}], on_bad_row="skip")
    assert (list(rows.lines), len(rows.skipped)) == ([251], 250)


def test_queries_need_no_answer(tmp_path):
    rows = rows_of(tmp_path, [{"prompt": "p"}, {"prompt": "q", "response": None}], require_response=False)
    assert rows.dataset["response"][:] == ["", ""]
    asked = rows_of(tmp_path, [chat(("system", "s"), ("user", "p"))], require_response=False).dataset[0]
    assert (asked["prompt"], asked["response"], len(asked["messages"])) == ("p", "", 2)


def test_lines_follow_the_rows_that_are_left(tmp_path):
    rows = rows_of(tmp_path, [{"text": "a"}, "", "{", {"text": "b"}], on_bad_row="skip")
    assert list(rows.lines) == [1, 4]
    assert rows.where(1).endswith("rows.jsonl:4")


def test_rows_written_by_rapidun_load_again_unchanged(tmp_path):
    rows = rows_of(tmp_path, [{"instruction": "p", "input": "c", "output": "r", "extra": 1}])
    rows.dataset.save_to_disk(tmp_path / "saved")
    assert load_rows(tmp_path / "saved").dataset[0] == rows.dataset[0]


def test_a_large_table_is_memory_mapped_from_a_file_named_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    records = [{"prompt": "p", "response": str(i), "extra": None} for i in range(10)]
    first, second = (to_dataset(records, in_memory_bytes=0) for _ in range(2))
    assert first.cache_files == second.cache_files != []
    assert list(first) == records


@pytest.mark.parametrize("in_memory_bytes", [0, 10**9])
@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([None, "a"], [None, "a"]),
        ([1, 2.5], [1.0, 2.5]),
        ([{"a": 1}, {"b": "x"}], [{"a": 1}, {"b": "x"}]),
        ([1, "a"], [1, "a"]),
        ([True, 1], [True, 1]),
        ([2**53 + 1, 2.5], [2**53 + 1, 2.5]),
        (["a", 2**70], ["a", 2**70]),
        ([[[1]], {"a": [0.1, None]}], [[[1]], {"a": [0.1, None]}]),
        ([[], ["a"]], [[], ["a"]]),
    ],
)
def test_a_column_that_changes_its_type_late_is_kept(values, kept, in_memory_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    records = [{"prompt": str(i), "extra": values[i >= 1500]} for i in range(3000)]
    found = to_dataset(iter(records), in_memory_bytes=in_memory_bytes)
    assert found["prompt"][:] == [str(i) for i in range(3000)]
    assert found["extra"][:] == [kept[0]] * 1500 + [kept[1]] * 1500
    assert bool(found.cache_files) == (in_memory_bytes == 0)
    assert not list((tmp_path / "rapidun").glob(".rows-*"))
    late = [{"prompt": "p"}] * 1500 + [{"prompt": "p", "late": [1]}]
    assert to_dataset(late, in_memory_bytes=in_memory_bytes)["late"][1499:] == [None, [1]]


def test_ids_and_lines_of_many_rows_cost_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("rapidun.data.arrow._ROWS_AT_ONCE", 64)
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for i in range(5000):
            file.write(json.dumps({"id": f"{i % 4999}-{'x' * 1000}", "prompt": "p", "response": "r"}) + "\n")
    rows_of(tmp_path, [{"text": "what is imported on the way does not count"}], "first.jsonl")
    tracemalloc.start()
    try:
        rows = load_rows(path, on_bad_row="skip")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows.skipped[0].reason.endswith("is already that of line 1; ids must differ")
    assert len(rows) == 4999 == rows.lines[-1]
    assert peak < 2**20  # the ids alone are 5 MiB of text; Arrow's and SQLite's buffers are not Python's memory


def test_forget_and_retain_rows_must_not_overlap(tmp_path):
    forget = rows_of(tmp_path, [{"prompt": "p", "response": "r"}, {"prompt": "x", "response": "y"}], "forget.jsonl")
    retain = rows_of(tmp_path, [{"prompt": "q", "response": "r"}, {"prompt": " p ", "response": "r\n"}], "retain.jsonl")
    with pytest.raises(InputError, match=r"forget\.jsonl:1 and \S*retain\.jsonl:2: same prompt and answer"):
        assert_disjoint(forget, retain)


def test_a_shared_id_is_an_overlap_too(tmp_path):
    forget = rows_of(tmp_path, [{"id": "a", "prompt": "p", "response": "r"}], "forget.jsonl")
    retain = rows_of(tmp_path, [{"id": "a", "prompt": "q", "response": "s"}], "retain.jsonl")
    with pytest.raises(InputError, match="same id 'a'"):
        assert_disjoint(forget, retain)


def test_case_and_context_make_different_rows(tmp_path):
    forget = rows_of(tmp_path, [{"prompt": "p aloha", "context": "c", "response": "r"}], "forget.jsonl")
    others = [{"prompt": "p ALOHA", "context": "c", "response": "r"}, {"prompt": "p aloha", "response": "r"}]
    assert_disjoint(forget, rows_of(tmp_path, others, "retain.jsonl"))
