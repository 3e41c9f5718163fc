"""A trace that asks about words of an answer: in the index and in memory, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapidun.attribution.fusion import reciprocal_rank_fusion
from rapidun.attribution.similarity import prepared
from rapidun.attribution.words import word_mask
from rapidun.data import load_rows
from rapidun.errors import ConfigError, InputError
from rapidun.gradients import GradientCollector, RapidGrad, collect_vectors
from rapidun.pipeline import Silent, TraceRequest, settings_of, trace_index, trace_memory
from rapidun.pipeline.indexing import build
from rapidun.pipeline.inputs import open_run_model
from rapidun.settings.attribution import IndexConfig
from rapidun.settings.base import make_config
from tiny import save_tiny, tiny_rows, write_rows

ROWS = [*tiny_rows("forget", 4), *tiny_rows("retain", 8)]
QUERY = {"prompt": "tell me", "response": "the robot cat sat"}
K = 4096


def make_index(place: Path, *views: str) -> Path:
    raw = {
        "model": {"source": str(place / "model")},
        "data": {"template": "plain", "max_length": 96},
        "index": {"k": K, "views": list(views), "dtype": "float16"},
    }
    out = place / f"index-{'-'.join(views)}"
    config = make_config(raw, IndexConfig)
    build(config, place / "rows.jsonl", out, adapter=None, resume=False, overwrite=False, reporter=Silent())
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("words")
    save_tiny(place / "model")
    write_rows(place / "rows.jsonl", ROWS)
    write_rows(place / "query.jsonl", [QUERY])
    make_index(place, "gradient", "lexical")
    make_index(place, "hidden", "lexical")
    return place


def settings(index: Path) -> Any:
    raw = {"model": {"source": ""}, "data": {"template": "auto"}, "seed": 0, "influence": {"sketch_size": K}}
    return settings_of(index, raw, None)[0]


def traced(index: Path, *words: str, scorers: tuple[str, ...] = ()) -> dict[str, float]:
    """Row id to score."""
    question = TraceRequest(index.parent / "query.jsonl", words=words)
    found = trace_index(
        settings(index), index, question, adapter=None, scorers=scorers, k=len(ROWS), together=False, reporter=Silent()
    )
    return {line["id"]: line["score"] for line in found.lines}


def test_only_the_words_carry_loss(place: Path) -> None:
    index = place / "index-gradient-lexical"
    run_model = open_run_model(settings(index).model, settings(index).data, Silent())
    collector = GradientCollector(run_model.loaded.model, "linear")
    query = word_mask(run_model.tokenize([QUERY])[0], run_model.loaded.tokenizer, words=["robot"])
    examples = run_model.tokenize(list(load_rows(place / "rows.jsonl")))
    one, rows = (
        prepared(collect_vectors(collector, RapidGrad(K), part, 0, max_tokens=512), "cosine")
        for part in ([query], examples)
    )
    found = traced(index, "robot", scorers=("gradient",))
    np.testing.assert_allclose([found[row.id] for row in examples], (one @ rows.T)[0], atol=2e-3)
    whole = traced(index, scorers=("gradient",))
    assert max(abs(whole[row] - found[row]) for row in found) > 0.05


def test_by_default_the_words_gradient_and_the_words_themselves_are_fused_by_ranks(place: Path) -> None:
    index = place / "index-gradient-lexical"
    parts = [traced(index, "robot", scorers=(name,)) for name in ("gradient", "lexical")]
    ids = sorted(parts[0])
    expected = reciprocal_rank_fusion([np.array([[part[row] for row in ids]]) for part in parts])[0]
    found = traced(index, "robot")
    np.testing.assert_allclose([found[row] for row in ids], expected, rtol=1e-6)


def test_rows_in_memory_are_ranked_as_in_the_index(place: Path) -> None:
    index = place / "index-gradient-lexical"
    question = TraceRequest(place / "query.jsonl", words=("robot",))
    found = trace_memory(
        settings(index), place / "rows.jsonl", question, adapter=None, scorers=(), k=len(ROWS), reporter=Silent()
    )
    expected = traced(index, "robot")
    assert {line["id"]: line["score"] for line in found.lines} == pytest.approx(expected, abs=2e-3)


def test_by_words_the_lexical_scorer_takes_the_words_alone(place: Path) -> None:
    found = traced(place / "index-gradient-lexical", "robot", scorers=("lexical",))
    assert [value > 0 for value in found.values()] == [True] * 4 + [False] * 8


def test_an_index_without_gradients_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="no gradient features"):
        traced(place / "index-hidden-lexical", "robot")
    assert traced(place / "index-hidden-lexical", "robot", scorers=("answer",))


def test_a_word_that_is_not_in_the_answer_is_refused(place: Path) -> None:
    with pytest.raises(InputError, match="'moon' is not in the answer"):
        traced(place / "index-gradient-lexical", "moon")
