"""Chosen words carry loss: all their tokens, every occurrence, whole words, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from gradients.cases import lora_model
from rapidun.attribution.tokens import trace_tokens
from rapidun.attribution.words import answer_text, token_spans, token_texts, word_mask
from rapidun.data import Example, Template, collate, tokenize_rows
from rapidun.errors import InputError
from rapidun.gradients import Exact, GradientCollector
from tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
ANSWER = "Ottawa the cat sat; Ottawa's mat, not Ottawan, in New  York \U0001f600 ottawa"


def example(answer: str = ANSWER, prompt: str = "Where is Ottawa?") -> Example:
    template = Template.resolve("plain", TOKENIZER)
    return tokenize_rows([{"id": "q", "prompt": prompt, "response": answer}], TOKENIZER, template, 512)[0]


def chosen(masked: Example) -> list[str]:
    pieces = token_texts(TOKENIZER, masked.input_ids)
    return [piece for piece, kept in zip(pieces, masked.loss_mask, strict=True) if kept]


def joined(masked: Example) -> str:
    return "".join(chosen(masked))


def test_a_word_takes_all_its_tokens_and_every_occurrence_as_a_whole_word():
    masked = word_mask(example(), TOKENIZER, words=["Ottawa"])
    assert joined(masked) == "OttawaOttawa"
    assert len(chosen(masked)) > 2
    assert not any(masked.loss_mask[: masked.answer_start])


def test_case_counts_unless_it_is_ignored():
    assert joined(word_mask(example(), TOKENIZER, words=["ottawa"])).strip() == "ottawa"
    ignored = word_mask(example(), TOKENIZER, words=["OTTAWA"], case_sensitive=False)
    assert joined(ignored) == "OttawaOttawa ottawa"


def test_several_words_and_phrases_are_joined():
    assert joined(word_mask(example(), TOKENIZER, words=["cat", "New York"])) == " catNewYork"


def test_words_may_begin_and_end_with_symbols():
    assert joined(word_mask(example("go to C++ or (x)"), TOKENIZER, words=["C++", "(x)"])) == "C++(x)"


def test_spans_are_characters_of_the_answer():
    text = answer_text(example(), TOKENIZER)
    assert text == ANSWER
    begin = text.index("mat,")
    assert joined(word_mask(example(), TOKENIZER, spans=[(begin, begin + 3)])) == " mat"


def test_a_character_of_several_tokens_takes_them_all():
    begin = ANSWER.index("\U0001f600")
    masked = word_mask(example(), TOKENIZER, spans=[(begin, begin + 1)])
    assert joined(masked).strip() == "\U0001f600"
    assert sum(masked.loss_mask) >= 4


def test_tokens_that_another_text_would_not_have_given_find_their_words():
    ids = [1, *(TOKENIZER.convert_tokens_to_ids(letter) for letter in "thecat"), 2]
    assert TOKENIZER("thecat").input_ids != ids[1:-1]
    row = Example("q", ids, 4)
    assert answer_text(row, TOKENIZER) == "cat"
    assert word_mask(row, TOKENIZER, words=["cat"]).loss_mask == [False] * 4 + [True] * 3 + [False]


def test_characters_cut_into_bytes_share_a_span_in_a_text_that_grows():
    smile = TOKENIZER("\U0001f600", add_special_tokens=False).input_ids
    ids = [*(TOKENIZER.convert_tokens_to_ids(letter) for letter in "the"), *smile, *smile[:2]]
    text, spans = token_spans(TOKENIZER, ids)
    assert text.startswith("the\U0001f600")
    assert spans[3:7] == [(3, 4)] * 4
    assert "".join(token_texts(TOKENIZER, ids)) == text


def test_the_pieces_of_a_row_are_its_text():
    row = example()
    assert "".join(token_texts(TOKENIZER, row.input_ids)) == TOKENIZER.decode(row.input_ids)


def test_a_masked_query_has_the_gradient_of_its_words():
    model = lora_model()
    masked = word_mask(example("the cat sat"), TOKENIZER, words=["cat"])
    places = [place for place, kept in enumerate(masked.loss_mask) if kept]
    labels = collate([masked], 0).labels[0]
    assert (labels != -100).nonzero().flatten().tolist() == places
    found = trace_tokens(model, masked, example("the dog ran"), by="loss", normalize="none")
    assert found.query_positions == places
    collector = GradientCollector(model, "lora", normalize="none")
    query, train = (collector(collate([r], 0), Exact())[0].double() for r in (masked, example("the dog ran")))
    assert found.total == pytest.approx(float(query @ train), rel=1e-4)
    whole = collector(collate([example("the cat sat")], 0), Exact())[0].double()
    assert not np.allclose(whole, query)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"words": ["Canada"]}, "'Canada' is not in the answer \"Ottawa the cat"),
        ({"words": ["OTTAWA"]}, "It holds 'Ottawa'; ignore case"),
        ({"words": ["Otta"]}, "'Otta' is not in the answer"),
        ({"words": [" "]}, "empty"),
        ({}, "at least one word or span"),
        ({"spans": [(3, 3)]}, "span 3-3 is not in the answer of row 'q'"),
        ({"spans": [(0, 1000)]}, "span 0-1000"),
        ({"spans": [(6, 7)]}, "white space"),
    ],
)
def test_what_the_answer_does_not_hold_is_an_error_that_names_it(asked, words):
    with pytest.raises(InputError, match=words):
        word_mask(example(), TOKENIZER, **asked)


def test_words_of_the_prompt_alone_are_not_in_the_answer():
    with pytest.raises(InputError, match="'Where' is not in the answer"):
        word_mask(example(), TOKENIZER, words=["Where"])
