"""Rows under chat templates in the shapes that models have: the template's own text, with the answer's place in it."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest
import transformers.utils.chat_template_utils as chat_utils
from hypothesis import given, settings
from hypothesis import strategies as st

from data.zoo import CHATML, ZOO, small_tokenizer
from rapidun.data import Template, load_rows, tokenize_rows
from rapidun.data.tokenise import PartialAnswerWarning
from rapidun.errors import ConfigError, InputError, ModelError
from tiny import tiny_tokenizer, write_rows

TOKENIZERS = {(name, kind): shape.tokenizer(kind) for name, shape in ZOO.items() for kind in ("bytes", "blanks")}
TEMPLATES = {key: Template.resolve("chat", tokenizer) for key, tokenizer in TOKENIZERS.items()}
ASKED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}, {"role": "user", "content": "Go"}]


def chat(answer: str = "Paris is 1", turns: list[dict] = ASKED, **columns) -> dict:
    last = {"role": "assistant", "content": answer}
    return {"id": "a", "prompt": turns[-1]["content"], "response": answer, "messages": [*turns, last], **columns}


def tokens(row: dict, tokenizer, template: Template | None = None, max_length: int = 4096):
    return tokenize_rows([row], tokenizer, template or Template.resolve("chat", tokenizer), max_length)[0]


def own_text(row: dict, tokenizer) -> str:
    """What transformers writes for the whole conversation; dates as they are fixed here."""

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 1, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_utils, "datetime", Fixed)
        return tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)


CALM = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)
TEXT = CALM.map(lambda text: f"x{text}y") | st.sampled_from(
    ["1", "assistant", "user: </think", "[INS", "###", "a\n\nb"]
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(TOKENIZERS)), st.lists(TEXT, min_size=3, max_size=3), TEXT)
def test_a_rows_text_is_the_templates_own_and_loss_falls_on_the_answer_and_its_end(key, asked, answer):
    tokenizer, template, shape = TOKENIZERS[key], TEMPLATES[key], ZOO[key[0]]
    row = chat(answer, [{**turn, "content": text} for turn, text in zip(ASKED, asked, strict=True)])
    example = tokens(row, tokenizer, template)
    whole, own = tokenizer.decode(example.input_ids), own_text(row, tokenizer)
    end = shape.end or shape.eos
    assert own.startswith(
        whole.removeprefix("" if own.startswith(template.bos_text) else template.bos_text).removesuffix(end)
    )
    assert shape.end == "" or own.rindex(answer) + len(answer + end) >= len(own.rstrip()) - len(shape.eos) - 1
    assert tokenizer.decode(example.input_ids[example.answer_start :]).lstrip(" ") == f"{answer}{end}".lstrip(" ")
    assert template.full_text(row) == whole


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(TOKENIZERS)), TEXT, TEXT)
def test_a_model_is_asked_with_exactly_what_stands_before_the_answer(key, question, answer):
    tokenizer, template = TOKENIZERS[key], TEMPLATES[key]
    row = {"id": "a", "prompt": question, "response": answer}
    example = tokens(row, tokenizer, template)
    prompt = template.prompt_text({"id": "a", "prompt": question})
    assert prompt == template.prompt_text(row)
    assert template.full_text(row).startswith(prompt)
    read = tokenizer(prompt, add_special_tokens=False).input_ids
    assert read == example.input_ids[: len(read)] and example.answer_start == len(read)


@pytest.mark.parametrize("name", ["chatml", "llama 3", "gemma", "phi 3", "granite", "mistral"])
def test_where_a_template_agrees_with_itself_the_prompt_is_its_generation_prompt(name):
    tokenizer = TOKENIZERS[name, "bytes"]
    own = tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    found = TEMPLATES[name, "bytes"].prompt_text(chat())
    assert found.removeprefix(TEMPLATES[name, "bytes"].bos_text)[-40:] == own[-40:]


def test_a_turn_ends_where_the_template_ends_it_whatever_eos_is():
    for (name, _), template in TEMPLATES.items():
        assert template.ending == ZOO[name].end or (ZOO[name].end == "" and template.ending == ZOO[name].eos)


def test_an_answer_that_stands_in_the_prompt_too_is_found_by_its_place():
    for key, tokenizer in TOKENIZERS.items():
        for text in ("assistant", "user", "Hi", "e"):
            row = chat(text, [{"role": "user", "content": text}])
            example = tokens(row, tokenizer, TEMPLATES[key])
            assert tokenizer.decode(example.input_ids[: example.answer_start]).count(text) >= 1
            assert tokenizer.decode(example.input_ids[example.answer_start :]).strip().startswith(text)


def test_a_template_that_strips_the_answer_is_followed():
    tokenizer = TOKENIZERS["llama 3", "bytes"]
    example = tokens(chat("  Paris \n"), tokenizer)
    assert tokenizer.decode(example.input_ids[example.answer_start :]) == "Paris<|eot_id|>"


def test_another_answer_stands_in_the_same_conversation():
    tokenizer = TOKENIZERS["qwen 3", "bytes"]
    row = chat(response_clean="No.")
    row["messages"][-1]["reasoning_content"] = "of the first answer"
    found = tokenize_rows([row], tokenizer, Template.resolve("chat", tokenizer), 4096, response_column="response_clean")
    text = tokenizer.decode(found[0].input_ids)
    assert text.endswith("<think>\n\n</think>\n\nNo.<|im_end|>") and "of the first" not in text


@pytest.mark.parametrize("where", ["content", "reasoning_content"])
def test_an_answer_with_reasoning_begins_where_the_reasoning_does(where):
    tokenizer = TOKENIZERS["qwen 3", "bytes"]
    row = chat("<think>\nHm.\n</think>\n\nYes." if where == "content" else "Yes.")
    if where == "reasoning_content":
        row["messages"][-1]["reasoning_content"] = "Hm."
    example = tokens(row, tokenizer)
    assert tokenizer.decode(example.input_ids[example.answer_start :]) == "<think>\nHm.\n</think>\n\nYes.<|im_end|>"
    assert Template.resolve("chat", tokenizer).prompt_text(row).endswith("<|im_start|>assistant\n")


def test_reasoning_in_a_channel_of_its_own_is_part_of_the_answer():
    tokenizer = TOKENIZERS["gpt-oss", "bytes"]
    row = chat("Yes.")
    row["messages"][-1]["thinking"] = "Hm."
    example = tokens(row, tokenizer)
    assert tokenizer.decode(example.input_ids[example.answer_start :]) == (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>"
    )


def test_reasoning_that_the_template_drops_is_said():
    tokenizer = TOKENIZERS["deepseek r1", "bytes"]
    with pytest.warns(PartialAnswerWarning, match=r"leaves out part of 1 answers.*rows:1"):
        example = tokens(chat("<think>Hm.</think>Yes."), tokenizer)
    assert tokenizer.decode(example.input_ids[example.answer_start :]) == "Yes.<|end_of_sentence|>"


def test_without_thinking_reasoning_in_an_answer_is_refused_and_the_prompt_is_the_templates():
    tokenizer = TOKENIZERS["qwen 3", "bytes"]
    template = Template.resolve("chat", tokenizer, {"enable_thinking": False})
    own = tokenizer.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert template.prompt_text(chat()) == own
    with pytest.raises(InputError, match=r"rows:1: the chat template changes the answer.*template-option"):
        tokens(chat("<think>\nHm.\n</think>\n\nYes."), tokenizer, template)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "once and as it is"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "once and as it is"),
        ("{% for m in messages %}{{ m.nothing.at.all }}{% endfor %}", "UndefinedError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages + 1 }}", "TypeError"),
        (
            "{% for m in messages %}{{ m.content }}{% endfor %}{{ 'x' * 3000000 }}",
            "30000.. characters",
        ),
        ("{% for m in messages %", "TemplateSyntaxError"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_at_once_in_one_line(source, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        Template.resolve("chat", tiny_tokenizer(chat_template=source))
    assert "\n" not in str(caught.value)


def test_a_template_that_does_not_end_is_stopped(monkeypatch):
    monkeypatch.setattr("rapidun.data.rendering.SECONDS", 0.3)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% if a < 0 %}x{% endif %}{% endfor %}{% endfor %}"
    with pytest.raises(ModelError, match=r"does not end: it was stopped after 0\.3 seconds"):
        Template.resolve("chat", tiny_tokenizer(chat_template=loops + CHATML))


def test_rows_that_a_template_refuses_are_named_by_file_and_line_and_can_be_left_out(tmp_path):
    tokenizer = TOKENIZERS["gemma", "bytes"]
    system = {"role": "system", "content": "Be kind."}
    rows = [{"messages": chat()["messages"]}, {"messages": [system, *chat("No")["messages"]]}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    template = Template.resolve("chat", tokenizer)
    with pytest.raises(InputError, match=r"rows\.jsonl:2: the chat template cannot write it \(System role not"):
        tokenize_rows(load_rows(path), tokenizer, template, 512)
    skipped = []
    assert len(tokenize_rows(load_rows(path), tokenizer, template, 512, skipped=skipped)) == 1
    assert [fault.line for fault in skipped] == [2]


def test_an_answer_that_the_template_changes_is_refused_by_name_not_guessed():
    source = CHATML.replace("{{ m['content'] }}", "{{ m['content'] | replace('Paris', 'Rome') }}")
    tokenizer = tiny_tokenizer(chat_template=source)
    assert tokens(chat("Oslo is 1"), tokenizer)
    with pytest.raises(InputError, match="rows:1: the chat template changes the answer"):
        tokens(chat("Paris is 1"), tokenizer)


@pytest.mark.parametrize("name", ["llama 3", "granite", "gpt-oss"])
def test_todays_date_is_one_day_that_can_be_chosen_and_is_in_the_fingerprint(name, monkeypatch):
    tokenizer = TOKENIZERS[name, "bytes"]
    first = Template.resolve("chat", tokenizer)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 7, 9)

    monkeypatch.setattr(chat_utils, "datetime", Later)
    again = Template.resolve("chat", tokenizer)
    assert again.full_text(chat()) == first.full_text(chat()) and again.fingerprint == first.fingerprint
    assert "2025" in first.full_text(chat())
    other = Template.resolve("chat", tokenizer, {"date": "2026-03-01"})
    assert "2026" in other.full_text(chat()) and other.fingerprint != first.fingerprint
    with pytest.raises(ConfigError, match="year-month-day"):
        Template.resolve("chat", tokenizer, {"date": "tomorrow"})


def test_every_directive_of_a_date_reads_as_strftime_says():
    asked = "%A %d %B %Y, %H:%M:%S, day %j, 100%% %y%m%d %-d"
    source = f"{{{{ strftime_now('{asked}') }}}}" + CHATML
    text = Template.resolve("chat", tiny_tokenizer(chat_template=source), {"date": "2024-02-09"}).full_text(chat())
    assert text.startswith("<s>" + datetime.datetime(2024, 2, 9).strftime(asked))


def test_a_date_in_front_of_a_template_changes_nothing_else_of_it():
    for start in ("\n", "  ", "  {% if true %}\n", "{%- if true %}\n\n"):
        source = start + CHATML + ("{% endif %}" if "if" in start else "") + "{{ strftime_now('%Y') }}"
        tokenizer = tiny_tokenizer(chat_template=source)
        assert Template.resolve("chat", tokenizer).rendering(chat()).text in "<s>" + own_text(chat(), tokenizer)


def test_a_variable_is_set_is_in_the_fingerprint_and_must_be_the_templates():
    tokenizer = TOKENIZERS["llama 3", "bytes"]
    with_date = Template.resolve("chat", tokenizer, {"date_string": "26 Jul 2024"})
    assert "Today Date: 26 Jul 2024" in with_date.full_text(chat())
    assert with_date.fingerprint != Template.resolve("chat", tokenizer).fingerprint
    assert with_date.options == {"date_string": "26 Jul 2024"}
    with pytest.raises(ConfigError, match=r"no variable 'date_strin'\. Did you mean 'date_string'"):
        Template.resolve("chat", tokenizer, {"date_strin": "x"})
    with pytest.raises(ConfigError, match="a row decides it"):
        Template.resolve("chat", tokenizer, {"messages": []})
    with pytest.raises(ConfigError, match="'alpaca' has no variables"):
        Template.resolve("alpaca", tokenizer, {"date_string": "x"})


def test_a_jinja_file_has_variables_too(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{{ prompt }} ({{ tone }}):")
    template = Template.resolve(str(path), tiny_tokenizer(), {"tone": "calm"})
    assert template.full_text({"prompt": "p", "response": "r"}) == "<s>p (calm):r</s>"
    with pytest.raises(ConfigError, match="no variable 'tome'"):
        Template.resolve(str(path), tiny_tokenizer(), {"tome": "calm"})


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"town": "Oslo", "unit": None}}}]
WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|im_end|>\n"
    "{% endfor %}"
)
CALLED = [
    {"role": "user", "content": "Cold?", "tool_calls": None},
    {"role": "assistant", "content": "", "tool_calls": CALL},
    {"role": "tool", "content": "-3", "tool_call_id": "c1"},
]


def test_tools_and_calls_are_written_without_the_keys_that_arrow_fills_in():
    tokenizer = small_tokenizer(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = WITH_TOOLS
    row = {**chat("Yes.", CALLED, tools=[{**TOOL, "strict": None}]), "prompt": "Cold?"}
    text = Template.resolve("chat", tokenizer).full_text(row)
    assert f"<|im_start|>system\n{[TOOL]!r}".replace("'", '"') in text
    assert '"arguments": {"town": "Oslo"}' in text and "<|im_start|>tool\n-3<|im_end|>" in text


@pytest.mark.parametrize("name", ["chat", "alpaca", "plain", "file"])
@pytest.mark.parametrize("what", ["tools", "tool_calls"])
def test_tools_and_calls_that_a_template_does_not_write_are_refused_by_name(name, what, tmp_path):
    tokenizer = tiny_tokenizer(chat_template=CHATML)
    path = tmp_path / "mine.jinja"
    path.write_text("{{ prompt }}")
    row = chat("Yes.", tools=[TOOL]) if what == "tools" else {**chat("Yes.", CALLED), "prompt": "Cold?"}
    template = Template.resolve(str(path) if name == "file" else name, tokenizer)
    with pytest.raises(InputError, match=rf"rows:1: the .*template.* does not write .*'{what}'|mine.jinja does not"):
        tokens(row, tokenizer, template)


def test_text_parts_are_text_and_templates_that_want_parts_get_them():
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]
    row = chat("Yes.", [{"role": "user", "content": parts}])
    row["prompt"] = "Hi you"
    assert "user\nHi you<|im_end|>" in Template.resolve("chat", tiny_tokenizer(chat_template=CHATML)).full_text(row)
    source = CHATML.replace("{{ m['content'] }}", "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}")
    assert "assistant\nYes.<|im_end|>" in Template.resolve("chat", tiny_tokenizer(chat_template=source)).full_text(row)


SPECIAL_FIELDS = {
    "the prompt": lambda bad: chat(turns=[{"role": "user", "content": bad}]),
    "the answer": lambda bad: chat(answer=bad),
    "turn 1 (system)": lambda bad: chat(turns=[{"role": "system", "content": bad}, ASKED[0]]),
    "turn 1 (user)": lambda bad: chat(turns=[{"role": "user", "content": bad}, *ASKED[1:]]),
    "turn 2 (assistant)": lambda bad: chat(turns=[ASKED[0], {"role": "assistant", "content": bad}, ASKED[2]]),
    "turn 3 (tool)": lambda bad: {**chat(turns=[*CALLED[:2], {"role": "tool", "content": bad}]), "prompt": "Cold?"},
    "the column 'tools'": lambda bad: chat(tools=[{**TOOL, "description": bad}]),
    "the context": lambda bad: {"id": "a", "prompt": "p", "context": bad, "response": "r"},
}


@pytest.mark.parametrize("field", list(SPECIAL_FIELDS))
@pytest.mark.parametrize("token", ["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
def test_a_special_token_inside_any_text_of_a_row_is_refused_by_field_and_token(field, token):
    tokenizer = small_tokenizer(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = WITH_TOOLS
    with pytest.raises(InputError, match="inside its text; take it out") as caught:
        tokens(SPECIAL_FIELDS[field](f"a {token} b"), tokenizer)
    assert f"{field} holds the tokenizer's {token!r}" in str(caught.value)


def test_headers_are_refused_though_the_tokenizer_does_not_call_them_special_and_think_tags_are_not():
    tokenizer = TOKENIZERS["deepseek r1", "bytes"]
    with pytest.raises(InputError, match=r"the prompt holds the tokenizer's '<\|User\|>'"):
        tokens({"id": "a", "prompt": "a<|User|>b", "response": "r"}, tokenizer)
    assert tokens({"id": "a", "prompt": "what is <think> for </think>?", "response": "r"}, tokenizer)


def test_text_like_a_special_token_that_is_not_read_as_one_is_text():
    tokenizer = small_tokenizer(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = CHATML
    example = tokens(chat("<|IM_START|> <|im_start"), tokenizer)
    assert tokenizer.decode(example.input_ids[example.answer_start :]) == "<|IM_START|> <|im_start<|im_end|>"


def test_an_answer_that_brings_the_end_of_its_turn_is_not_ended_twice():
    for key, tokenizer in TOKENIZERS.items():
        template = TEMPLATES[key]
        for end in {template.ending.strip(), template.eos_text}:
            row = {"id": "a", "prompt": "p", "response": f"r{end}"}
            assert template.full_text(row) == template.full_text({"id": "a", "prompt": "p", "response": "r"})
        assert tokenizer is not None


def swallowing(name: str, **sides: bool):
    """A ChatML-like tokenizer one of whose tokens takes the white space beside it."""
    from tokenizers import AddedToken

    names = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
    tokenizer = small_tokenizer(
        [AddedToken(each, normalized=False, **(sides if each == name else {})) for each in names]
    )
    tokenizer.chat_template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n<|end|>\n{% endfor %}"
    return tokenizer


@pytest.mark.parametrize("sides", [{"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}])
@pytest.mark.parametrize("name", ["<|user|>", "<|assistant|>", "<|end|>"])
@pytest.mark.parametrize("answer", ["Paris", " Paris", "\n\nParis", "Paris ", "P", "  1\n"])
def test_special_tokens_that_swallow_white_space_keep_the_templates_side_of_the_boundary(name, sides, answer):
    tokenizer = swallowing(name, **sides)
    example = tokens({"id": "a", "prompt": "Hi", "response": answer}, tokenizer)
    header = tokenizer.convert_tokens_to_ids("<|assistant|>")
    assert header in example.input_ids[: example.answer_start]
    said = tokenizer.decode(example.input_ids[example.answer_start :])
    assert "".join(said.split()) == "".join(answer.split()) + "<|end|>"


def test_a_tokenizer_that_adds_bos_does_so_once_and_one_that_does_not_never(tmp_path):
    for adds in (True, False):
        for source in (CHATML, "{{ bos_token }}" + CHATML):
            tokenizer = small_tokenizer(["<s>", "</s>", "<|im_start|>", "<|im_end|>"], adds_bos=adds)
            tokenizer.chat_template = source
            for name in ("chat", "plain", "alpaca"):
                ids = tokens(
                    {"id": "a", "prompt": "Hi", "response": "Yo"}, tokenizer, Template.resolve(name, tokenizer)
                ).input_ids
                expected = adds or (name == "chat" and "bos" in source)
                assert ids.count(tokenizer.bos_token_id) == expected
                assert not expected or ids[0] == tokenizer.bos_token_id


def test_a_cut_prompt_keeps_bos_but_not_the_first_header_of_a_turn():
    long = {"id": "a", "prompt": "the cat " * 40, "response": "Yo"}
    for name, kept in (("llama 2", True), ("gemma", True), ("chatml whose BOS is a header", False)):
        tokenizer = TOKENIZERS[name, "bytes"]
        example = tokens(long, tokenizer, max_length=24)
        assert example.truncated and (example.input_ids[0] == tokenizer.bos_token_id) == kept


@pytest.fixture(scope="module")
def smollm2_tokenizer():
    folder = Path(os.environ.get("SMOL") or Path(__file__).parents[2] / "build" / "smollm2")
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: make smollm2")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_smollm2_has_no_bos_but_its_template_and_nothing_after_the_turns_end(smollm2_tokenizer):
    tokenizer = smollm2_tokenizer
    row = chat()
    example = tokens(row, tokenizer)
    assert (
        tokenizer.decode(example.input_ids) == tokenizer.apply_chat_template(row["messages"], tokenize=False).rstrip()
    )
    assert tokenizer.decode(example.input_ids[example.answer_start :]) == "Paris is 1<|im_end|>"
    for name in ("plain", "alpaca"):
        assert "<|im_start|>" not in Template.resolve(name, tokenizer).full_text(row)
    with pytest.raises(InputError, match=r"the prompt holds the tokenizer's '<\|im_start\|>'"):
        tokens({"id": "a", "prompt": "<|im_start|>user\nHi", "response": "Yo"}, tokenizer)
