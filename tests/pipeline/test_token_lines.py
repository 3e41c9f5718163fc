"""Token lines hold what a page needs, as JSON, and sum to the score of the trace."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rapidun.errors import InputError
from rapidun.gradients import Exact, collect_vectors
from rapidun.pipeline.evidence import make_collector
from rapidun.pipeline.inputs import open_run_model
from rapidun.pipeline.reporter import Silent
from rapidun.pipeline.tokens import token_lines, word_query
from rapidun.settings.attribution import InfluenceSettings
from rapidun.settings.model import ModelSettings, RowSettings
from tiny import save_tiny

QUERY = {"id": "q", "prompt": "what is it?", "response": "the cat sat on the mat"}
TRAINS = [{"id": f"t{i}", "prompt": f"tell {i}", "response": answer} for i, answer in enumerate(("a cat", "the dog"))]


@pytest.fixture(scope="module")
def run_model(tmp_path_factory):
    directory = save_tiny(tmp_path_factory.mktemp("model"))
    return open_run_model(ModelSettings(source=str(directory)), RowSettings(template="plain"), Silent())


@pytest.mark.parametrize("by", ["position", "loss"])
def test_lines_are_json_and_sum_to_the_score_of_the_trace(run_model, by):
    settings = InfluenceSettings()
    lines = json.loads(json.dumps(token_lines(run_model, QUERY, TRAINS, settings, by=by)))
    examples = run_model.tokenize([QUERY, *TRAINS])
    vectors = collect_vectors(make_collector(run_model, settings), Exact(), examples, 0, max_tokens=100).astype(float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for number, line in enumerate(lines):
        matrix = np.array(line["matrix"])
        assert (line["rank"], line["id"], line["by"]) == (number + 1, f"t{number}", by)
        assert line["score"] == pytest.approx(vectors[0] @ vectors[number + 1], abs=1e-5)
        assert matrix.sum() == pytest.approx(line["score"], abs=1e-3)
        assert matrix.shape == (len(line["query"]["traced"]), len(line["train"]["traced"]))
        for side, example in (("query", examples[0]), ("train", examples[number + 1])):
            assert "".join(line[side]["pieces"]) == run_model.loaded.tokenizer.decode(example.input_ids)
            assert line[side]["answer_start"] == example.answer_start


def test_words_restrict_the_query(run_model):
    (line,) = token_lines(
        run_model, QUERY, TRAINS[:1], InfluenceSettings(), by="loss", words=["CAT"], case_sensitive=False
    )
    pieces = line["query"]["pieces"]
    assert "".join(pieces[place] for place in line["query"]["traced"]).strip() == "cat"
    assert sum(word_query(run_model, QUERY, ["mat", "cat"]).loss_mask) == sum(
        word_query(run_model, QUERY, ["mat"]).loss_mask
    ) + len(line["query"]["traced"])


def test_a_word_that_is_not_in_the_answer_is_refused(run_model):
    with pytest.raises(InputError, match="'what' is not in the answer"):
        token_lines(run_model, QUERY, TRAINS, InfluenceSettings(), words=["what"])


def test_dot_products_are_left_as_they_are(run_model):
    settings = InfluenceSettings(similarity="dot", normalize="none")
    (dot,) = token_lines(run_model, QUERY, TRAINS[:1], settings)
    (cosine,) = token_lines(run_model, QUERY, TRAINS[:1], InfluenceSettings(normalize="none"))
    examples = run_model.tokenize([QUERY, TRAINS[0]])
    one, two = collect_vectors(make_collector(run_model, settings), Exact(), examples, 0, max_tokens=100).astype(float)
    assert dot["score"] == pytest.approx(one @ two, rel=1e-4)
    assert cosine["score"] == pytest.approx(one @ two / np.linalg.norm(one) / np.linalg.norm(two), rel=1e-4)


def test_no_hits_give_no_lines(run_model):
    assert token_lines(run_model, QUERY, [], InfluenceSettings()) == []
