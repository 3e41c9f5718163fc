"""Random rows survive the way through a file and through the tokenizer."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from rapidun.data import Template, load_rows, tokenize_rows
from rapidun.errors import InputError
from tiny import tiny_tokenizer

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40).filter(lambda text: text.strip())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
TOKENIZER = tiny_tokenizer()
CHAT = tiny_tokenizer(
    chat_template="{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries({"prompt": TEXT, "context": st.none() | TEXT, "response": TEXT}), min_size=1))
def test_unicode_rows_come_back_from_a_file_as_they_were(records):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in records))
        rows = load_rows(path)
        for field in ("prompt", "response"):
            assert rows.dataset[field][:] == [record[field] for record in records]
        assert rows.dataset["context"][:] == [record["context"] or "" for record in records]
        assert len(set(rows.dataset["id"])) == len(records)
        assert load_rows(path).dataset["id"][:] == rows.dataset["id"][:]


@settings(max_examples=60, deadline=None)
@given(st.lists(JSON, min_size=1, max_size=5))
def test_any_extra_column_can_be_kept(values):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("".join(json.dumps({"text": "a", "extra": value}) + "\n" for value in values))
        rows = load_rows(path)
        assert len(rows) == len(values)
        assert [row["extra"] is None for row in rows] == [value is None for value in values]


PIECES = st.sampled_from(
    [b'{"text": "a"}', b'{"prompt": ', b'"', b"\n", b",", b"[", b"]", b"{}", b"null", b"\xff", b"\\ud800"]
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(PIECES | st.binary(max_size=4), max_size=12),
    st.sampled_from([".jsonl", ".json", ".csv", ".parquet", ".json.gz"]),
)
def test_a_damaged_file_is_an_input_error_and_never_a_traceback(pieces, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{suffix}"
        path.write_bytes(b"".join(pieces))
        try:
            rows = load_rows(path, on_bad_row="skip", columns=None)
        except InputError as error:
            assert path.name in str(error)
        else:
            assert len(rows) == len(rows.lines) > 0


@settings(max_examples=100, deadline=None)
@given(TEXT, TEXT, st.sampled_from(["auto", "plain", "chat"]))
def test_trap_5_answer_tokens_decode_to_the_answer_and_its_end(prompt, response, name):
    tokenizer = CHAT if name == "chat" else TOKENIZER
    template = Template.resolve(name, tokenizer)
    row = {"id": "x", "prompt": prompt, "response": response}
    (example,) = tokenize_rows([row], tokenizer, template, 4096)
    answer = tokenizer.decode(example.input_ids[example.answer_start :])
    whole = tokenizer.decode(example.input_ids)
    assert whole == template.full_text(row) == template.prompt_text(row) + response + "</s>"
    assert answer == response + "</s>"


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.integers(2, 60))
def test_truncation_keeps_bos_the_newest_prompt_tokens_and_the_answer(prompt, response, length):
    template = Template.resolve("plain", TOKENIZER)
    row = {"id": "x", "prompt": prompt, "response": response}
    (whole,) = tokenize_rows([row], TOKENIZER, template, 4096)
    (cut,) = tokenize_rows([row], TOKENIZER, template, length)
    assert cut.truncated == (len(whole) > length)
    assert len(cut) == min(len(whole), length)
    assert cut.input_ids[0] == TOKENIZER.bos_token_id
    answer = whole.input_ids[whole.answer_start :]
    assert cut.input_ids[cut.answer_start :] == answer[: length - 1]
    if cut.answer_start > 1:
        assert cut.input_ids[1 : cut.answer_start] == whole.input_ids[1 : whole.answer_start][1 - cut.answer_start :]
