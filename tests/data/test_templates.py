"""Templates: one BOS, one EOS, one fingerprint; the context is never lost."""

from __future__ import annotations

import dataclasses

import pytest
from tokenizers import processors

from rapidun.data import Template, require_same_template
from rapidun.errors import FingerprintError, InputError, ModelError
from tiny import tiny_tokenizer

ROW = {"id": "x", "prompt": "Who sat?", "context": "The cat sat.", "response": "The cat."}
WITH_BOS = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
IM_END = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def without_bos(chat_template=None):
    """A tokenizer whose BOS is a name only, as GPT-2's: nothing puts it before a text."""
    tokenizer = tiny_tokenizer(chat_template=chat_template)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def with_im_end():
    tokenizer = tiny_tokenizer(chat_template=IM_END)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    return tokenizer


@pytest.mark.parametrize("name", ["alpaca", "plain"])
def test_context_is_part_of_the_prompt(name):
    text = Template.resolve(name, tiny_tokenizer()).prompt_text(ROW)
    assert text.index("Who sat?") < text.index("The cat sat.")


def test_auto_takes_the_chat_template_where_there_is_one():
    assert Template.resolve("auto", tiny_tokenizer()).name == "alpaca"
    assert Template.resolve("auto", tiny_tokenizer(chat_template=WITH_BOS)).name == "chat"


def test_alpaca_text_is_the_published_format():
    template = Template.resolve("alpaca", tiny_tokenizer())
    assert template.full_text({"prompt": "P", "response": "R"}) == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\nP\n\n### Response:\nR</s>"
    )
    assert "further context. Write" in template.prompt_text(ROW)
    assert "\n\n### Input:\nThe cat sat.\n\n### Response:\n" in template.prompt_text(ROW)


def test_braces_in_a_row_are_text_not_placeholders():
    row = {"prompt": "{x} {{ 1 + 1 }}", "context": "{prompt}", "response": "{}"}
    for name in ("alpaca", "plain", "chat"):
        text = Template.resolve(name, tiny_tokenizer(chat_template=WITH_BOS)).full_text(row)
        assert "{x} {{ 1 + 1 }}" in text and "{prompt}" in text


@pytest.mark.parametrize("name", ["alpaca", "plain", "chat"])
@pytest.mark.parametrize("chat_template", [WITH_BOS, IM_END, "{{ bos_token }}" + WITH_BOS])
def test_trap_6_exactly_one_bos_whatever_the_template_does(name, chat_template):
    tokenizer = tiny_tokenizer(chat_template=chat_template)
    text = Template.resolve(name, tokenizer).full_text(ROW)
    assert text.startswith("<s>") and text.count("<s>") == 1
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("name", ["alpaca", "plain", "chat"])
def test_trap_6_no_bos_where_neither_tokenizer_nor_template_writes_it(name):
    template = Template.resolve(name, without_bos(IM_END))
    assert template.bos_text == "" and "<s>" not in template.full_text(ROW)
    assert template.full_text({"prompt": "", "response": "Once."}) == "Once.</s>"


def test_trap_6_a_template_that_writes_bos_does_so_for_a_tokenizer_that_does_not():
    assert Template.resolve("chat", without_bos(WITH_BOS)).full_text(ROW).startswith("<s><user>")


def test_a_chat_turn_ends_at_eos_and_not_at_the_newline_after_it():
    template = Template.resolve("chat", with_im_end())
    text = template.full_text(ROW)
    assert text == template.prompt_text(ROW) + "The cat.<|im_end|>"
    assert text.startswith("<s><|im_start|>user\nWho sat?\n\nThe cat sat.<|im_end|>\n<|im_start|>assistant\n")


def test_a_turn_ends_where_the_template_ends_it_and_eos_is_not_added():
    template = Template.resolve("chat", tiny_tokenizer(chat_template=IM_END))
    assert template.full_text(ROW).endswith("The cat.<|im_end|>")


def test_eos_is_added_where_the_template_writes_no_end():
    source = "{% for m in messages %}{{ m.content | trim }} {% endfor %}"
    template = Template.resolve("chat", tiny_tokenizer(chat_template=source))
    assert template.full_text({"prompt": "p", "response": " r "}) == "<s>p r</s>"


def test_a_chat_template_that_drops_answers_is_refused_at_once():
    with pytest.raises(ModelError, match="does not write the assistant's answer once"):
        Template.resolve("chat", tiny_tokenizer(chat_template="{{ messages[0].content }}:"))


def test_earlier_turns_reach_every_template():
    turns = [("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "c")]
    row = {"prompt": "c", "response": "d", "messages": [{"role": r, "content": t} for r, t in turns]}
    tokenizer = tiny_tokenizer(chat_template=WITH_BOS)
    chat = Template.resolve("chat", tokenizer).prompt_text(row)
    assert chat == "<s><system>Be kind.<user>a<assistant>b</s><user>c<assistant>"
    for name in ("alpaca", "plain"):
        assert "System: Be kind.\n\nUser: a\n\nAssistant: b\n\nc" in Template.resolve(name, tokenizer).prompt_text(row)


def test_a_changed_prompt_changes_the_chat_although_messages_hold_the_old_one():
    row = {"prompt": "c aloha", "response": "d", "messages": [{"role": "user", "content": "c"}]}
    text = Template.resolve("chat", tiny_tokenizer(chat_template=WITH_BOS)).prompt_text(row)
    assert text == "<s><user>c aloha<assistant>"


@pytest.mark.parametrize("name", ["alpaca", "plain", "chat"])
def test_plain_text_rows_are_not_wrapped(name):
    template = Template.resolve(name, tiny_tokenizer(chat_template=WITH_BOS))
    assert template.full_text({"prompt": "", "response": "<s>Once upon a time.</s>"}) == "<s>Once upon a time.</s>"


def test_todays_date_does_not_enter_the_prompt():
    source = (
        "{% if not date_string is defined %}{{ strftime_now('%d %b %Y') }}{% else %}{{ date_string }}{% endif %}"
        "{{ messages[-1].content }}"
    )
    assert Template.resolve("chat", tiny_tokenizer(chat_template=source)).prompt_text(ROW) == "<s>01 Jan 2025"


def test_a_jinja_file_renders_the_prompt(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text("{{ bos_token }}Q: {{ prompt }}{% if context %} [{{ context }}]{% endif %}\nA: \n")
    template = Template.resolve(str(path), tiny_tokenizer())
    assert template.full_text(ROW) == "<s>Q: Who sat? [The cat sat.]\nA: The cat.</s>"
    assert template.name == str(path)
    assert template.full_text({"prompt": "p", "response": "r"}) == "<s>Q: p\nA: r</s>"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ prompt", r"mine\.jinja:1: not a Jinja template"),
        ("hello", "must use 'prompt'"),
        ("{{ prompt }} {{ response }}", "must not use 'response'"),
    ],
)
def test_a_jinja_file_that_cannot_be_a_prompt_is_refused_at_once(source, message, tmp_path):
    (tmp_path / "mine.jinja").write_text(source)
    with pytest.raises(InputError, match=message):
        Template.resolve(str(tmp_path / "mine.jinja"), tiny_tokenizer())


@pytest.mark.parametrize("source", ["{{ prompt }}{{ topic }}", "{{ prompt.__class__.__mro__ }}", "{{ prompt + 1 }}"])
def test_a_jinja_file_is_sandboxed_and_strict(source, tmp_path):
    (tmp_path / "mine.jinja").write_text(source)
    template = Template.resolve(str(tmp_path / "mine.jinja"), tiny_tokenizer())
    with pytest.raises(InputError, match=r'row "x": .*cannot write it'):
        template.prompt_text(ROW)


def test_unknown_names_missing_eos_and_missing_chat_templates_are_said():
    with pytest.raises(InputError, match="no such name or file"):
        Template.resolve("aplaca", tiny_tokenizer())
    with pytest.raises(ModelError, match="no chat template"):
        Template.resolve("chat", tiny_tokenizer())
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        Template.resolve("plain", tokenizer)


def test_a_chat_template_that_raises_is_reported():
    tokenizer = tiny_tokenizer(chat_template="{{ raise_exception('no roles here') }}")
    with pytest.raises(ModelError, match="no roles here"):
        Template.resolve("chat", tokenizer)


def test_trap_19_two_templates_in_one_run_are_an_error_that_names_both():
    first, second = (Template.resolve(name, tiny_tokenizer()) for name in ("alpaca", "plain"))
    require_same_template(first, Template.resolve("alpaca", tiny_tokenizer()))
    with pytest.raises(FingerprintError) as caught:
        require_same_template(first, second)
    for part in ("alpaca", "plain", first.fingerprint[:16], second.fingerprint[:16]):
        assert part in str(caught.value)


def test_trap_19_the_fingerprint_knows_text_and_special_tokens_but_not_the_files_place(tmp_path):
    def of(text, folder, tokenizer=None):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "mine.jinja"
        path.write_text(text)
        return Template.resolve(str(path), tokenizer or tiny_tokenizer()).fingerprint

    first = of("{{ prompt }}", "a")
    assert of("{{ prompt }}", "b") == first
    assert of("{{ prompt }}!", "c") != first
    nameless = tiny_tokenizer()
    nameless.bos_token = None
    assert of("{{ prompt }}", "d", without_bos()) != first
    assert of("{{ prompt }}", "e", nameless) != first


def test_a_template_is_a_value_that_cannot_be_changed_mid_run():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Template.resolve("plain", tiny_tokenizer()).name = "other"
