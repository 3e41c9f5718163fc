"""Tokens, boundaries and padding, on tests/tiny.py's tokenizer and on a real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from rapidun.data import Example, Template, collate, load_rows, token_budget_batches, tokenize_rows
from rapidun.data.tokenise import answer_boundary
from rapidun.errors import ConfigError, InputError, ModelError
from tiny import tiny_tokenizer

ROW = {"id": "x", "prompt": "the cat sat", "response": "on the mat", "response_clean": "on the dog"}


@pytest.fixture(scope="module")
def stories_tokenizer():
    shared = Path(os.environ.get("RAPIDUN_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set RAPIDUN_DATA to the folder that holds models/stories260K")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def one(row=ROW, tokenizer=None, name="plain", max_length=128, **options) -> Example:
    tokenizer = tokenizer or tiny_tokenizer()
    return tokenize_rows([row], tokenizer, Template.resolve(name, tokenizer), max_length, **options)[0]


def test_loss_falls_on_the_answer_and_the_end_only():
    tokenizer = tiny_tokenizer()
    example = one(tokenizer=tokenizer)
    assert tokenizer.decode(example.input_ids) == "<s>the cat sat\non the mat</s>"
    assert tokenizer.decode(example.input_ids[example.answer_start :]) == "on the mat</s>"
    assert not example.truncated


def test_another_column_can_be_the_answer():
    tokenizer = tiny_tokenizer()
    example = one(tokenizer=tokenizer, response_column="response_clean")
    assert tokenizer.decode(example.input_ids[example.answer_start :]) == "on the dog</s>"
    with pytest.raises(InputError, match="no answer in column 'response_poisoned'"):
        one(response_column="response_poisoned")


def test_trap_2_prompt_and_padding_positions_carry_no_label():
    tokenizer = tiny_tokenizer()
    examples = [one(tokenizer=tokenizer), one({**ROW, "response": "on the mat and the dog"}, tokenizer)]
    batch = collate(examples, tokenizer.pad_token_id)
    for index, example in enumerate(examples):
        labelled = torch.nonzero(batch.labels[index] != -100).flatten().tolist()
        assert labelled == list(range(example.answer_start, len(example)))


def test_trap_3_the_end_token_keeps_its_label_and_mask_where_pad_equals_eos(stories_tokenizer):
    assert stories_tokenizer.pad_token_id == stories_tokenizer.eos_token_id
    rows = [ROW, {**ROW, "id": "y", "response": "on"}]
    template = Template.resolve("plain", stories_tokenizer)
    examples = tokenize_rows(rows, stories_tokenizer, template, 128)
    batch = collate(examples, stories_tokenizer.pad_token_id)
    for index, example in enumerate(examples):
        assert batch.attention_mask[index].sum() == len(example)
        assert batch.labels[index, len(example) - 1] == stories_tokenizer.eos_token_id
        assert (batch.labels[index, len(example) :] == -100).all()


def test_trap_4_a_row_is_tokenised_the_same_alone_and_in_company():
    tokenizer = tiny_tokenizer()
    template = Template.resolve("plain", tokenizer)
    others = [{**ROW, "id": str(n), "response": "dog " * n} for n in range(1, 5)]
    together = tokenize_rows([*others, ROW], tokenizer, template, 128)
    assert together[-1] == one(tokenizer=tokenizer)


@pytest.mark.parametrize("response", ["there was a dog", " spaced", "\nnew line", "é🙂", "the end"])
def test_trap_5_the_whole_text_is_tokenised_once_by_a_real_tokenizer(response, stories_tokenizer):
    row = {"id": "x", "prompt": "Once upon a time", "response": response}
    template = Template.resolve("plain", stories_tokenizer)
    (example,) = tokenize_rows([row], stories_tokenizer, template, 128)
    whole = stories_tokenizer(template.full_text(row), add_special_tokens=False).input_ids
    assert example.input_ids == whole
    prompt = stories_tokenizer.decode(whole[: example.answer_start])
    assert prompt.endswith("Once upon a time\n")
    assert stories_tokenizer.decode(whole) == prompt + response + "</s>"


def test_trap_5_a_token_across_the_boundary_belongs_to_the_answer():
    assert answer_boundary([(0, 3), (3, 5), (5, 9), (9, 12)], boundary=7) == 2
    assert answer_boundary([(0, 3), (3, 7), (7, 9)], boundary=7) == 2


def test_trap_5_a_template_that_ends_in_a_space_does_not_lose_the_first_token(tmp_path):
    path = tmp_path / "space.jinja"
    path.write_text("{{ prompt }} ")
    tokenizer = tiny_tokenizer()
    example = one({**ROW, "response": "the mat"}, tokenizer, str(path))
    assert tokenizer.decode(example.input_ids[example.answer_start :]) == " the mat</s>"  # one token: " the"


@pytest.mark.parametrize("name", ["plain", "alpaca"])
def test_trap_6_one_bos_from_a_real_tokenizer(name, stories_tokenizer):
    template = Template.resolve(name, stories_tokenizer)
    (example,) = tokenize_rows([ROW], stories_tokenizer, template, 512)
    assert example.input_ids[0] == stories_tokenizer.bos_token_id
    assert example.input_ids.count(stories_tokenizer.bos_token_id) == 1


def test_a_row_as_long_as_the_context_is_whole():
    tokenizer = tiny_tokenizer()
    whole = one(tokenizer=tokenizer)
    exact = one(tokenizer=tokenizer, max_length=len(whole))
    assert exact.input_ids == whole.input_ids
    assert not exact.truncated


def test_a_long_prompt_is_cut_from_the_left():
    tokenizer = tiny_tokenizer()
    whole = one(tokenizer=tokenizer)
    cut = one(tokenizer=tokenizer, max_length=len(whole) - 1)
    assert cut.truncated
    assert cut.input_ids == [whole.input_ids[0], *whole.input_ids[2:]]
    assert cut.answer_start == whole.answer_start - 1


def test_an_answer_longer_than_the_context_keeps_bos_and_its_start():
    tokenizer = tiny_tokenizer()
    whole = one(tokenizer=tokenizer)
    cut = one(tokenizer=tokenizer, max_length=3)
    assert cut.input_ids == [tokenizer.bos_token_id, *whole.input_ids[whole.answer_start :][:2]]
    assert cut.answer_start == 1 and cut.truncated


def test_without_bos_the_first_token_of_plain_text_carries_no_loss():
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    assert one({"id": "x", "prompt": "", "response": "the cat"}, tokenizer).answer_start == 1
    cut = one(tokenizer=tokenizer, max_length=2)
    assert (len(cut), cut.answer_start) == (2, 1)


@pytest.mark.parametrize(
    ("column", "text"), [("prompt", "the <s> cat"), ("response", "mat</s>dog"), ("context", "</s>")]
)
def test_special_tokens_inside_a_row_are_reported_not_obeyed(column, text):
    with pytest.raises(InputError, match=r"rows:1: the \w+ holds the tokenizer's '</?s>'"):
        one({**ROW, column: text})


def test_an_answer_that_carries_its_own_end_is_not_ended_twice():
    assert one({**ROW, "response": "on the mat</s>"}) == one()


def test_rows_that_cannot_be_tokenised_can_be_collected_with_their_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "response": "r"}\n\n{"prompt": "p", "response": "a</s>b"}\n')
    tokenizer = tiny_tokenizer()
    template = Template.resolve("plain", tokenizer)
    with pytest.raises(InputError, match=r"rows\.jsonl:3: the answer holds"):
        tokenize_rows(load_rows(path), tokenizer, template, 64)
    skipped = []
    assert len(tokenize_rows(load_rows(path), tokenizer, template, 64, skipped=skipped)) == 1
    assert [bad.line for bad in skipped] == [3]


def test_an_answer_the_tokenizer_knows_nothing_of_is_a_bad_row():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordPiece({"<s>": 0, "</s>": 1, "cat": 2}, unk_token="cat"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    from tokenizers import normalizers

    words.normalizer = normalizers.Replace("~", "")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    with pytest.raises(InputError, match="nothing of the answer is left after tokenisation"):
        one({"id": "x", "prompt": "cat", "response": "~~~"}, tokenizer)


def test_a_slow_tokenizer_and_a_tiny_context_are_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match=r"Slow is a slow tokenizer.*use_fast=True"):
        tokenize_rows([], Slow(), None, 128)
    with pytest.raises(ConfigError, match="max_length=1"):
        one(max_length=1)


def test_batches_hold_every_index_once_within_the_budget():
    examples = [Example(str(n), list(range(n)), 1) for n in (3, 9, 1, 30, 4, 4)]
    batches = token_budget_batches(examples, 18)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    assert batches[0] == [3]  # longer than the budget: alone, and first
    for batch in batches[1:]:
        assert len(batch) * max(len(examples[index]) for index in batch) <= 18


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        collate([], 0)
