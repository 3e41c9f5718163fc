"""Hidden states and words in an index are what a direct computation gives."""

from __future__ import annotations

import bm25s
import numpy as np
import pytest
import torch

from gradients.cases import lora_model
from index.cases import contents, gradient_scorer, model_context, some_plan, some_rows
from rapidun.attribution import GradientScorer, HiddenScorer, LexicalScorer, bm25_scores
from rapidun.attribution.pooling import pooled_states
from rapidun.attribution.scorers.lexical import postings_of
from rapidun.attribution.store import build_index, open_index, plan_append
from rapidun.data import collate, tokenize_rows
from rapidun.data.words import words_of
from rapidun.errors import ConfigError
from rapidun.gradients import (
    Exact,
    FactoredSketch,
    GradientCollector,
    RapidGrad,
    Readout,
    collect_vectors,
    make_collector,
)
from tiny import ARCHITECTURES, tiny_model


def direct(network, rows, model):
    """(name -> vectors) one row at a time, by ``output_hidden_states``."""
    found = {}
    for example in tokenize_rows(rows, model.loaded.tokenizer, model.template, 96):
        with torch.no_grad():
            states = network(torch.tensor([example.input_ids]), output_hidden_states=True).hidden_states
        for layer, state in enumerate(states):
            found.setdefault(f"hidden.{layer}.answer", []).append(state[0, example.answer_start :].mean(dim=0))
            found.setdefault(f"hidden.{layer}.prompt", []).append(state[0, example.answer_start - 1])
    return {name: torch.stack(values).numpy() for name, values in found.items()}


def by_words(index, *texts):
    """The index's rows by BM25."""
    return LexicalScorer().compare("lexical", postings_of(texts), index, "cosine")


def by_bm25s(queries, texts):
    """(queries, texts) by the library of that name."""
    model, corpus = bm25s.BM25(), words_of(texts)
    model.index(corpus, show_progress=False)
    known = set().union(*corpus)
    shared = [[word for word in words if word in known] for words in words_of(queries)]
    return np.array([model.get_scores(words) if words else np.zeros(len(texts)) for words in shared])


def count_hooks(network):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pooled_states_of_the_gradient_pass_are_those_of_output_hidden_states(tmp_path, architecture, adapted):
    network = lora_model(architecture) if adapted else tiny_model(architecture)
    model = model_context(network=network)
    rows = some_rows(tmp_path, 5)
    expected = direct(network, rows, model)
    batch = collate(tokenize_rows(rows, model.loaded.tokenizer, model.template, 96), 0)
    hooks = count_hooks(network)  # transformers keeps some of its own
    collector = GradientCollector(network, targets="lora" if adapted else "linear")
    collector.check(batch)
    with pooled_states(network, batch.labels, [0, 1, 2]) as found:
        collector(batch, RapidGrad(k=16))
    assert set(found) == set(expected)
    for name, values in found.items():
        assert not values.requires_grad
        np.testing.assert_allclose(values.numpy(), expected[name], atol=1e-5, err_msg=name)
    assert count_hooks(network) == hooks


@pytest.mark.parametrize("with_gradient", [False, True])
def test_the_hidden_view_and_its_statistics(tmp_path, with_gradient):
    model = model_context()
    views = {"hidden": HiddenScorer(), **({"gradient": gradient_scorer()} if with_gradient else {})}
    plan = some_plan(tmp_path, 20, model=model, views=views)
    build_index(plan)
    index = open_index(tmp_path / "index")
    expected = direct(model.loaded.model, plan.rows, model)
    assert [name for name in index.matrices if name != "gradient"] == [
        f"hidden.{layer}.{place}" for layer in (1, 2) for place in ("answer", "prompt")
    ]
    for name in index.matrices:
        if name != "gradient":
            found = index.features(name).vectors()
            np.testing.assert_allclose(found, expected[name], atol=2e-3 * np.abs(expected[name]).max())
            statistics = index.statistics(name)
            np.testing.assert_allclose(statistics.mean, found.mean(axis=0, dtype=np.float64), atol=1e-9)
            np.testing.assert_allclose(statistics.covariance, np.cov(found.T.astype(np.float64), bias=True), atol=1e-9)
    assert index.features("hidden").name == "hidden.2.answer"


def test_whitened_vectors_have_the_covariance_that_the_ridge_leaves(tmp_path):
    build_index(some_plan(tmp_path, 60, views={"hidden": HiddenScorer()}, shard_rows=32))
    index = open_index(tmp_path / "index")
    vectors = index.features("hidden").vectors()
    mapped = index.statistics().whitening(1e-6)(torch.from_numpy(vectors)).numpy()
    scale = np.trace(np.cov(vectors.T, bias=True)) / 16
    np.testing.assert_allclose(np.cov(mapped.T, bias=True) / scale, np.eye(16), atol=0.02)


def test_statistics_of_an_appended_index_cover_all_rows(tmp_path):
    model = model_context()
    build_index(some_plan(tmp_path, 9, model=model, views={"hidden": HiddenScorer(layers=[-1])}))
    build_index(plan_append(tmp_path / "index", some_rows(tmp_path, 6, name="more", start=9), model))
    index = open_index(tmp_path / "index")
    found, mean = index.features("hidden").vectors(), index.statistics().mean
    np.testing.assert_allclose(mean, found.mean(axis=0, dtype=np.float64), atol=1e-9)


def test_a_layer_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="hidden layer 3: this model has 0"):
        some_plan(tmp_path, views={"hidden": HiddenScorer(layers=[3])})


def test_the_lexical_view_gives_the_scores_of_bm25s(tmp_path):
    build_index(some_plan(tmp_path, 30, views={"lexical": LexicalScorer()}))
    index = open_index(tmp_path / "index")
    texts = [f"{row['prompt']} {row['response']}" for row in some_rows(tmp_path, 30)]
    queries = ["tell me of 7 and 12", "and and more cat", "nothing shared", "", ">>> 3"]
    found = by_words(index, *queries).scores()
    np.testing.assert_allclose(found, by_bm25s(queries, texts), rtol=1e-5, atol=1e-6)
    for row, hits in zip(found, by_words(index, *queries).hits(4, index.ids_of), strict=True):
        assert [hit.position for hit in hits.helpful] == sorted(range(30), key=lambda i: (-row[i], i))[:4]
        assert hits.helpful[0].id == f"r{hits.helpful[0].position}"


def test_appended_rows_change_the_statistics_of_words_but_no_shard(tmp_path):
    model = model_context()
    build_index(some_plan(tmp_path, 10, model=model, views={"lexical": LexicalScorer()}))
    before = contents(tmp_path / "index")
    build_index(plan_append(tmp_path / "index", some_rows(tmp_path, 7, name="more", start=10), model))
    after = contents(tmp_path / "index")
    assert all(after[name] == content for name, content in before.items() if name != "manifest.json")
    texts = [f"{row['prompt']} {row['response']}" for row in some_rows(tmp_path, 17, name="all")]
    found = by_words(open_index(tmp_path / "index"), "tell me of 12").scores()
    np.testing.assert_allclose(found, bm25_scores(["tell me of 12"], texts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sketch", [Readout(k=128), FactoredSketch(), Exact()], ids=["readout", "factored", "exact"])
def test_every_sketch_is_indexed_beside_hidden_states_of_the_same_pass(tmp_path, sketch):
    model = model_context()
    views = {"gradient": GradientScorer(sketch=sketch.describe()), "hidden": HiddenScorer()}
    plan = some_plan(tmp_path, 9, model=model, views=views)
    build_index(plan)
    index = open_index(tmp_path / "index", {"sketch": sketch})
    collector = make_collector(model.loaded.model, sketch, "linear")
    examples = tokenize_rows(plan.rows, model.loaded.tokenizer, model.template, 96)
    expected = collect_vectors(collector, sketch, examples, 0, max_tokens=200)
    np.testing.assert_allclose(index.features().vectors(), expected, atol=2e-3 * np.abs(expected).max())
    states = direct(model.loaded.model, plan.rows, model)
    found = index.features("hidden").vectors()
    np.testing.assert_allclose(found, states["hidden.2.answer"], atol=2e-3 * np.abs(found).max())
