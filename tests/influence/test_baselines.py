"""The baselines rank by shared words, by hidden states, and by nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradients.cases import examples
from rapidun.attribution import bm25_scores, hidden_features, random_scores
from rapidun.attribution.similarity import centred_similarity
from rapidun.data.batches import Example
from tiny import ARCHITECTURES, tiny_model

texts = st.lists(st.lists(st.sampled_from(["cat", "Dog", "a", ">>>", "moon"]), max_size=6).map(" ".join), max_size=5)


def plain_bm25(queries, documents, k1=1.5, b=0.75):
    documents = [document.lower().split() for document in documents]
    average = sum(map(len, documents)) / max(1, len(documents))
    scores = np.zeros((len(queries), len(documents)))
    for i, query in enumerate(queries):
        for word in query.lower().split():
            containing = sum(word in document for document in documents)
            idf = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
            for j, document in enumerate(documents):
                if count := document.count(word):
                    scores[i, j] += idf * count / (count + k1 * (1 - b + b * len(document) / average))
    return scores


@settings(max_examples=80, deadline=None)
@given(texts, texts)
def test_bm25_equals_the_formula(queries, documents):
    found = bm25_scores(queries, documents)
    assert found.shape == (len(queries), len(documents))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain_bm25(queries, documents), rtol=1e-4, atol=1e-6)


def test_bm25_prints_nothing(capfd):
    bm25_scores(["the cat"], ["a cat", "a dog"])
    assert capfd.readouterr() == ("", "")


def test_random_scores_are_the_same_for_the_same_seed():
    assert random_scores(2, 3).shape == (2, 3)
    np.testing.assert_array_equal(random_scores(2, 3, seed=1), random_scores(2, 3, seed=1))
    assert not np.array_equal(random_scores(2, 3, seed=1), random_scores(2, 3, seed=2))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hidden_features_are_means_over_answer_tokens_of_the_last_layer(architecture):
    model, rows = tiny_model(architecture).train(), examples()
    found = hidden_features(model, rows, 0, max_tokens=30).answer_mean
    assert all(module.training for module in model.modules())
    model.eval()
    for row, vector in zip(rows, found, strict=True):
        states = model(input_ids=torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states[-1]
        wanted = states[0, row.answer_start :].mean(dim=0).detach().numpy()
        np.testing.assert_allclose(vector, wanted, atol=1e-5)


def test_a_row_without_answer_tokens_is_zero_and_one_row_is_its_own_mean():
    model, rows = tiny_model(), examples()
    assert not hidden_features(model, [Example("x", [5, 6, 7], 3)], 0, max_tokens=30).answer_mean.any()
    asked, pool = (hidden_features(model, part, 0, max_tokens=300).answer_mean for part in (rows, rows[:1]))
    assert not centred_similarity(asked, pool).any()
