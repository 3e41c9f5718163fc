"""Conversations in every form that people have: read whole, or refused by name."""

from __future__ import annotations

import csv
import json

import datasets
import pytest

from rapidun.data import Rows, RowStream, load_rows
from rapidun.data.content import as_record
from rapidun.errors import InputError
from tiny import write_rows

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Oslo"}'}}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"town": {}}}},
}
ASKED = [
    {"role": "user", "content": "Is it cold?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "-3", "tool_call_id": "c1", "name": "weather"},
    {"role": "assistant", "content": "Yes, -3."},
]


def said(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def read(tmp_path, *records, **options) -> Rows:
    return load_rows(write_rows(tmp_path / "rows.jsonl", list(records)), **options)


def only(tmp_path, record, **options):
    return next(iter(read(tmp_path, record, **options)))


# what a conversation keeps -------------------------------------------------------------------------------------------


def test_calls_results_and_tools_of_a_conversation_are_kept_as_they_were(tmp_path):
    row = only(tmp_path, {"messages": ASKED, "tools": [TOOL], "parallel_tool_calls": False})
    assert row["messages"] == ASKED
    assert row["tools"] == [TOOL]
    assert (row["prompt"], row["response"]) == ("Is it cold?", "Yes, -3.")


def test_no_key_of_one_rows_nested_values_leaks_into_another_row(tmp_path):
    other = {
        "type": "function",
        "function": {"name": "clock", "parameters": {"properties": {"zone": {"enum": [1, "a"]}}}},
    }
    mixed = [*said(("user", "u")), {"role": "assistant", "content": [{"type": "text", "text": "a"}], "name": "n"}]
    records = [{"messages": ASKED, "tools": [TOOL]}, {"messages": mixed, "tools": [other]}, {"messages": ASKED}]
    rows = list(read(tmp_path, *records))
    assert [row.get("tools") for row in rows] == [[TOOL], [other], None]
    assert rows[0]["messages"] == rows[2]["messages"] == ASKED
    assert rows[1]["messages"] == [*mixed[:1], {"role": "assistant", "name": "n", "content": "a"}]


def test_numbers_in_a_call_are_not_rounded(tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 0.12345678901234567, "n": 2**70}}}
    turns = [*ASKED[:1], {"role": "assistant", "content": "", "tool_calls": [call]}, *ASKED[2:]]
    assert only(tmp_path, {"messages": turns})["messages"][1]["tool_calls"] == [call]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"messages": ASKED}, {"messages": [ASKED[0], {**ASKED[1], "tool_calls": [{**CALL, "id": "c2"}]}, *ASKED[2:]]}),
        ({"messages": ASKED}, {"messages": [*ASKED[:2], {**ASKED[2], "content": "-4"}, ASKED[3]]}),
        ({"messages": ASKED, "tools": [TOOL]}, {"messages": ASKED}),
        ({"messages": ASKED}, {"messages": [ASKED[0], ASKED[3]]}),
        ({"messages": ASKED[:1] + ASKED[3:]}, {"messages": [ASKED[0], {**ASKED[3], "reasoning_content": "Hm."}]}),
        ({"messages": ASKED[:1] + ASKED[3:]}, {"messages": [{**ASKED[0], "name": "Ann"}, ASKED[3]]}),
        ({"prompt": "p", "response": "r"}, {"prompt": "p", "response": "r", "system": "Be brief."}),
        ({"instruction": "p", "output": "r"}, {"instruction": "p", "output": "r", "history": [["a", "b"]]}),
        ({"prompt": "p", "response": "r"}, {"prompt": "p", "response": "r", "tools": [TOOL]}),
    ],
)
def test_rows_that_differ_in_anything_that_decides_tokens_have_different_ids(one, other, tmp_path):
    first, second = (only(tmp_path, record)["id"] for record in (one, other))
    assert first != second
    assert only(tmp_path, {**one, "category": "not a token of it"})["id"] == first


def test_a_conversation_of_question_and_answer_has_the_id_of_the_pair(tmp_path):
    pair = only(tmp_path, {"prompt": "p", "response": "r"})
    assert only(tmp_path, {"messages": said(("user", "p"), ("assistant", "r"))})["id"] == pair["id"]


# every form of it ----------------------------------------------------------------------------------------------------

LAST = said(("user", "q"), ("assistant", "a"))
SYSTEM = said(("system", "s"), *[(turn["role"], turn["content"]) for turn in LAST])
FORMS = [
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, LAST),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"}, SYSTEM),
    ({"conversations": [{"from": f, "value": v} for f, v in (("system", "s"), ("human", "q"), ("gpt", "a"))]}, SYSTEM),
    ({"conversations": LAST}, LAST),
    ({"messages": json.dumps(LAST)}, LAST),
    ({"messages": SYSTEM, "system": "s"}, SYSTEM),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, LAST[1]]}, LAST),
    ({"prompt": LAST[:1], "completion": LAST[1:]}, LAST),
    ({"prompt": SYSTEM[:2], "completion": "a"}, SYSTEM),
    ({"prompt": "q", "completion": LAST[1:]}, LAST),
    ({"prompt": "q", "response": "a", "system_prompt": "s"}, SYSTEM),
    ({"question": "q", "response": "a", "system_prompt": "s"}, SYSTEM),
    ({"instruction": "q", "input": "", "output": "a", "system": "s", "history": []}, SYSTEM),
    (
        {"instruction": "q", "output": "a", "history": [["b", "c"], ["d", "e"]]},
        [*said(("user", "b"), ("assistant", "c"), ("user", "d"), ("assistant", "e")), *LAST],
    ),
]


@pytest.mark.parametrize(("record", "turns"), FORMS)
def test_every_form_of_a_conversation_gives_its_turns(record, turns, tmp_path):
    rows = read(tmp_path, record)
    (row,) = rows
    assert row["messages"] == turns
    assert (row["prompt"], row["response"]) == ("q", "a")
    assert rows.unused == ()
    assert [streamed for _, streamed in RowStream(rows.path).rows()] == [
        {name: value for name, value in row.items() if value is not None}
    ]


def test_alpaca_rows_may_ask_in_the_input_alone(tmp_path):
    row = only(tmp_path, {"instruction": "", "input": "q", "output": "a"})
    assert (row["prompt"], row["context"], row["response"]) == ("q", "", "a")


def test_context_stays_beside_the_turns(tmp_path):
    row = only(tmp_path, {"instruction": "q", "input": "c", "output": "a", "system": "s"})
    assert (row["messages"], row["context"]) == (SYSTEM, "c")


def test_older_functions_become_tools_and_their_calls_tool_calls(tmp_path):
    function = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    call = {"name": "weather", "arguments": "{}"}
    turns = [
        *said(("user", "u")),
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "weather", "content": "-3"},
        *said(("assistant", "a")),
    ]
    row = only(tmp_path, {"messages": turns, "functions": [function]})
    assert row["tools"] == [{"type": "function", "function": function}]
    assert row["messages"][1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": call}],
    }
    assert row["messages"][2] == {"role": "tool", "name": "weather", "content": "-3"}


def test_sharegpt_calls_and_json_text_of_tools_are_read(tmp_path):
    call = {"name": "weather", "arguments": {"town": "Oslo"}}
    said_so = [("human", "u"), ("function_call", json.dumps(call)), ("observation", "-3"), ("gpt", "a")]
    record = {"conversations": [{"from": f, "value": v} for f, v in said_so], "tools": json.dumps([TOOL["function"]])}
    row = only(tmp_path, record)
    assert row["tools"] == [TOOL]
    assert row["messages"][1]["tool_calls"] == [{"type": "function", "function": call}]
    assert row["messages"][2] == {"role": "tool", "content": "-3"}


def test_a_cell_of_a_csv_may_hold_a_conversation(tmp_path):
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["messages", "tools"], [json.dumps(ASKED), json.dumps([TOOL])], [json.dumps(LAST), ""]]
        )
    first, second = load_rows(path)
    assert (first["messages"], first["tools"]) == (ASKED, [TOOL])
    assert (second["messages"], second.get("tools")) == (LAST, None)


@pytest.mark.parametrize("saved", [False, True])
def test_nulls_that_arrow_adds_to_objects_are_not_the_rows_own(saved, tmp_path):
    table = datasets.Dataset.from_list([{"messages": ASKED}, {"messages": LAST}])
    assert "tool_calls" in table[1]["messages"][0]
    path = tmp_path / ("saved" if saved else "a.parquet")
    table.save_to_disk(path) if saved else table.to_parquet(path)
    assert [row["messages"] for row in load_rows(path)] == [ASKED, LAST]


def test_conversations_that_rapidun_saved_load_again_unchanged(tmp_path):
    rows = read(tmp_path, {"messages": ASKED, "tools": [TOOL]}, {"messages": LAST}, {"messages": SYSTEM})
    rows.dataset.save_to_disk(tmp_path / "saved")
    assert list(load_rows(tmp_path / "saved")) == list(rows)


# two answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": LAST[:1], "chosen": said(("assistant", "good")), "rejected": said(("assistant", "bad"))},
        {"chosen": [*LAST[:1], *said(("assistant", "good"))], "rejected": [*LAST[:1], *said(("assistant", "bad"))]},
        {
            "prompt": "q",
            "chosen": [*LAST[:1], *said(("assistant", "good"))],
            "rejected": [*LAST[:1], *said(("assistant", "bad"))],
        },
    ],
)
def test_preference_rows_are_refused_until_the_answers_are_told_apart(record, tmp_path):
    with pytest.raises(InputError, match="--map response=rejected --map response_clean=chosen"):
        read(tmp_path, record)
    row = only(tmp_path, record, columns={"response": "rejected", "response_clean": "chosen"})
    assert (row["prompt"], row["response"], row["response_clean"]) == ("q", "bad", "good")


def test_segments_with_their_own_template_are_refused(tmp_path):
    with pytest.raises(InputError, match="segments carry the text of their own template"):
        read(
            tmp_path, {"segments": [{"label": False, "text": "<s>[INST] q [/INST]"}, {"label": True, "text": "a</s>"}]}
        )


# what cannot be read is named ----------------------------------------------------------------------------------------

IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}
REFUSED = [
    ([*said(("user", "u")), {"role": "assistant", "content": "", "tool_calls": [CALL]}], "no answer to learn. End the"),
    ([{"role": "user", "content": [{"type": "text", "text": "u"}, IMAGE]}, LAST[1]], r"content\[1\] is .*image_url"),
    ([{"role": "user", "content": ["u"]}, LAST[1]], r"'messages'\[0\].content\[0\] is \"u\": only parts"),
    ([LAST[0], {**LAST[1], "weight": 0}], r"'messages'\[1\].weight is 0"),
    ([LAST[0], {"role": "assistant", "content": "", "tool_calls": "x"}], "tool_calls"),
    ([LAST[0], {"role": "assistant", "content": "", "tool_calls": [{"name": 1}]}, *LAST], "list of calls with a name"),
    ([LAST[0], {"role": "function_call", "content": "f()"}, *LAST], "must be a list or JSON text of one"),
    ([LAST[0], {**LAST[1], "name": "\ud800"}], "lone surrogate"),
    (said(("system", "s"), ("assistant", "a")), "must have a 'user' message before the answer"),
    (said(("user", "u"), ("assistant", "a"), ("user", "v")), "must end with the assistant's answer, not with 'user'"),
    ("hello", "must be a list or JSON text of one"),
    ([{"content": "u"}, LAST[1]], r"'messages'\[0\].role must be a string"),
    ([{"role": "user"}, LAST[1]], r"'messages'\[0\].content must be a string"),
]


@pytest.mark.parametrize(("turns", "reason"), REFUSED)
def test_a_turn_that_cannot_be_read_is_named_and_skipped_with_its_row(turns, reason, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"messages": LAST}, {"messages": turns}])
    with pytest.raises(InputError, match=rf"(?s)1 of 2 rows.*rows\.jsonl:2: .*{reason}"):
        load_rows(path)
    assert [bad.line for bad in load_rows(path, on_bad_row="skip").skipped] == [2]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"history": [["a"]]}, "'history' must be a list of"),
        ({"history": "before"}, "must be a list or JSON text of one"),
        ({"history": [["a", 1]]}, "'history' must be a string, not int"),
        ({"tools": {"name": "f"}}, "'tools' must be a list of objects"),
        ({"tools": "[1]"}, "'tools' must be a list of objects"),
        ({"tools": [{"name": "\udc00"}]}, "lone surrogate"),
        ({"system": 3}, "'system' must be a string"),
    ],
)
def test_a_bad_column_beside_a_pair_is_named(record, reason, tmp_path):
    pair = {"instruction": "q", "output": "a"}
    with pytest.raises(InputError, match=rf"rows\.jsonl:2: .*{reason}"):
        read(tmp_path, pair, {**pair, **record})


def test_two_system_prompts_are_not_chosen_between(tmp_path):
    with pytest.raises(InputError, match="two system prompts"):
        read(tmp_path, {"messages": SYSTEM, "system_prompt": "another"})


# what is not read is named -------------------------------------------------------------------------------------------


def test_columns_and_keys_of_messages_that_nobody_read_are_listed(tmp_path):
    turns = [{**LAST[0], "timestamp": 3}, {**LAST[1], "weight": 1}]
    rows = read(tmp_path, {"messages": LAST, "source": "x"}, {"messages": turns, "parallel_tool_calls": True})
    assert rows.unused == ("source", "parallel_tool_calls", "messages[].timestamp")
    stream = RowStream(rows.path)
    list(stream.rows())
    assert stream.unused == rows.unused


def test_a_key_that_one_late_row_alone_uses_is_used(tmp_path):
    records = [{"prompt": f"p{i}", "response": "r", "kind": 1} for i in range(150)]
    records[149] |= {"context": "c", "response_clean": "x", "id": "mine", "system": "s"}
    assert read(tmp_path, *records).unused == ("kind",)


# the layout does not depend on the order -----------------------------------------------------------------------------

MIXED = [
    [{"instruction": "q", "output": "a"}] * 110 + [{"prompt": "p", "response": "r"}] * 5,
    [{"text": "t"}] * 110 + [{"prompt": "p", "response": "r"}] * 120,
    [{"prompt": "p", "completion": "r"}] * 120 + [{"prompt": "p", "response": "r", "context": "c"}],
    [{"prompt": "p", "response": "r"}] * 101 + [{"prompt": "p", "messages": LAST}],
    [{"question": "p", "answer": "r"}] * 101 + [{"question": "p", "answer": "r", "input": "c", "text": "x"}],
]


@pytest.mark.parametrize("records", MIXED)
def test_a_file_is_read_the_same_in_whatever_order_its_rows_are(records, tmp_path):
    forwards = read(tmp_path, *records, on_bad_row="skip")
    backwards = read(tmp_path, *reversed(records), on_bad_row="skip")
    assert forwards.layout == backwards.layout == RowStream(backwards.path).layout
    assert sorted(forwards.unused) == sorted(backwards.unused)
    without_number = [[{**row, "id": row["id"][:16]} for row in rows] for rows in (forwards, backwards)]
    assert sorted(map(str, without_number[0])) == sorted(
        str({k: r[k] for k in forwards.dataset.column_names}) for r in without_number[1]
    )
    assert len(forwards.skipped) == len(backwards.skipped)


def test_a_few_rows_of_another_layout_do_not_change_that_of_the_file(tmp_path):
    records = [{"prompt": "p", "response": "r"}] * 9 + [{"instruction": "q", "output": "a"}]
    rows = read(tmp_path, *records, on_bad_row="skip")
    assert rows.layout.startswith("prompt")
    assert [bad.line for bad in rows.skipped] == [10]


def test_a_column_of_nulls_makes_no_layout(tmp_path):
    rows = read(tmp_path, {"instruction": None, "output": None, "prompt": "p", "response": "r"})
    assert rows.layout.startswith("prompt")


@pytest.mark.parametrize(
    "record", [*(record for record, _ in FORMS), {"text": "a", "n": 1}, {"messages": ASKED, "tools": [TOOL]}]
)
def test_a_row_that_is_written_is_read_again_as_the_same_row(record, tmp_path):
    row = only(tmp_path, record)
    again = next(iter(load_rows(write_rows(tmp_path / "again.jsonl", [as_record(row)]))))
    assert {name: value for name, value in again.items() if value} == {
        name: value for name, value in row.items() if value
    }
