"""An index and rows in memory are one path: the same scores, the same choices, and a new scorer is one class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rapidun.attribution import (
    FeatureStore,
    MatrixSpec,
    MemoryStore,
    ModelContext,
    Ranking,
    Recorder,
    Scorer,
    open_index,
    register_scorer,
)
from rapidun.attribution.matrix import Matrix, Shard
from rapidun.attribution.scorer import Features, Role, Row
from rapidun.attribution.search import chosen_scorers
from rapidun.attribution.storage import MatrixBuffer
from rapidun.attribution.tensors import MemoryTensor
from rapidun.data import Batch
from rapidun.errors import ConfigError, ModelError
from rapidun.pipeline import Silent, TraceRequest, settings_of, trace_index, trace_memory
from rapidun.pipeline.explaining import Places, explain
from rapidun.pipeline.indexing import build
from rapidun.settings.attribution import IndexConfig, TraceConfig, TraceSettings
from rapidun.settings.base import make_config
from rapidun.settings.kinds import Similarity
from registers import registers_kept
from tiny import save_tiny, tiny_rows, write_rows

ROWS = [*tiny_rows("forget", 6), *tiny_rows("retain", 14)]
NAMES = ("gradient", "change", "answer", "prompt", "lexical", "length")
K = 256


class LengthScorer(Scorer):
    """Rows as long as the query: all that a new scorer takes. Registered for this file's tests alone."""

    missing = "Build one with --views length."

    def matrices(self, model: ModelContext) -> dict[str, MatrixSpec]:
        return {"length": MatrixSpec(width=1, dtype="float32")}

    def recorder(self, model: ModelContext, rows: Sequence[Row], fitted: Any, role: Role = "train") -> Recorder:
        return LengthRecorder(len(rows))

    def compare(self, by: str, asked: Features, store: FeatureStore, similarity: Similarity) -> Ranking:
        lengths = torch.from_numpy(store.features(by).vectors())
        scores = -torch.cdist(asked[by], lengths)
        return Ranking(*scores.shape, lambda: [(0, scores)], lambda positions: scores[:, list(positions)].numpy())


class LengthRecorder(Recorder):
    watches = True

    def __init__(self, rows: int) -> None:
        self._buffer = MatrixBuffer("length", rows, 1, "float32")

    @contextmanager
    def during(self, batch: Batch, places: list[int]) -> Iterator[None]:
        yield
        self._buffer.put(places, batch.attention_mask.sum(dim=1, keepdim=True).float())

    def tensors(self) -> dict[str, torch.Tensor]:
        return self._buffer.tensors()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``model/``, ``base/``, ``rows.jsonl``, ``query.jsonl`` and ``index/`` of every scorer."""
    with registers_kept():
        register_scorer("length", {"length": "rows as long"})(LengthScorer)
        yield built(tmp_path_factory.mktemp("one"))


def built(place: Path) -> Path:
    for seed, name in enumerate(("base", "model")):
        save_tiny(place / name, seed=seed)
    write_rows(place / "rows.jsonl", ROWS)
    write_rows(place / "query.jsonl", [ROWS[3], {"prompt": "tell me", "response": "the robot cat sat"}])
    views = ["gradient", "hidden", "lexical", "length"]
    index = {"k": K, "shard_rows": 8, "views": views, "base": str(place / "base"), "dtype": "float32"}
    raw = {"model": {"source": str(place / "model")}, "data": {"template": "plain", "max_length": 96}, "index": index}
    config, out = make_config(raw, IndexConfig), place / "index"
    build(config, place / "rows.jsonl", out, adapter=None, resume=False, overwrite=False, reporter=Silent())
    return place


def both_ways(
    place: Path, *names: str, words: tuple[str, ...] = (), similarity: str = "cosine", together: bool = False
) -> list[Any]:
    """The trace through the index, and the one of rows in memory."""
    raw = {
        "model": {"source": str(place / "model")},
        "data": {"template": "plain", "max_length": 96},
        "influence": {"sketch_size": K, "similarity": similarity},
        "base": str(place / "base"),
    }
    request = TraceRequest(place / ("query.jsonl" if not words else "words.jsonl"), words=words)
    asked: dict[str, Any] = {"scorers": names, "k": len(ROWS), "together": together, "adapter": None}
    settings, _ = settings_of(place / "index", raw, None)
    return [
        trace_index(settings, place / "index", request, reporter=Silent(), **asked),
        trace_memory(make_config(raw, TraceConfig), place / "rows.jsonl", request, reporter=Silent(), **asked),
    ]


def scores(trace: Any) -> dict[tuple[int, str], float]:
    return {(line["query_index"], line["id"]): line["score"] for line in trace.lines}


@pytest.mark.parametrize("names", [*((name,) for name in NAMES), (), ("gradient", "length")])
def test_an_index_and_rows_in_memory_give_the_same_scores(place: Path, names: tuple[str, ...]) -> None:
    index, memory = both_ways(place, *names)
    assert list(index.rankings) == list(memory.rankings) == list(names or ("change", "lexical"))
    assert scores(memory) == pytest.approx(scores(index), rel=1e-5, abs=1e-5)
    assert len(index.lines) == 2 * len(ROWS)


def test_the_dot_product_of_gradients_means_the_same_in_an_index_and_in_memory(place: Path) -> None:
    index, memory = both_ways(place, "gradient", similarity="dot")
    assert scores(memory) == pytest.approx(scores(index), rel=1e-4, abs=1e-6)
    assert max(scores(index).values()) > 1.5
    assert scores(both_ways(place, "answer", similarity="dot")[0]) == scores(both_ways(place, "answer")[0])


@pytest.mark.parametrize("name", ["gradient", "answer", "prompt", "lexical"])
def test_a_query_about_words_means_the_same_in_an_index_and_in_memory(place: Path, name: str) -> None:
    write_rows(place / "words.jsonl", [{"prompt": "tell me", "response": "the robot cat sat"}])
    index, memory = both_ways(place, name, words=("cat",))
    assert scores(memory) == pytest.approx(scores(index), abs=1e-5)
    whole = both_ways(place, name)[1]
    assert max(abs(value - scores(memory)[0, row]) for (query, row), value in scores(whole).items() if query) > 1e-3


def test_queries_together_mean_the_same_in_an_index_and_in_memory(place: Path) -> None:
    index, memory = both_ways(place, "answer", "lexical", together=True)
    assert {line["query_index"] for line in memory.lines} == {0}
    assert scores(memory) == pytest.approx(scores(index), abs=1e-4)


def test_a_new_scorer_is_one_class_that_builds_and_queries_an_index_and_rows_in_memory(place: Path) -> None:
    assert open_index(place / "index").features("length").width == 1
    for trace in both_ways(place, "length"):
        found = [line["score"] for line in trace.lines[: len(ROWS)]]
        assert found[0] == 0 > found[-1]


def test_what_a_store_lacks_is_said_with_what_to_do(place: Path) -> None:
    raw = {"model": {"source": str(place / "model")}, "data": {"template": "plain", "max_length": 96}}
    config = make_config({**raw, "index": {"k": K, "views": ["lexical"]}}, IndexConfig)
    build(config, place / "rows.jsonl", place / "few", adapter=None, resume=False, overwrite=False, reporter=Silent())
    request, wanted = TraceRequest(place / "query.jsonl"), TraceSettings(scorers=("length",))
    with pytest.raises(ConfigError, match=r"no length features in this index\. Build one with --views length"):
        explain({"model": {"source": ""}, "data": {}}, request, Places(place / "few"), wanted, Silent())
    with pytest.raises(ConfigError, match="unknown scorer 'lenght': choose from"):
        explain({**raw}, request, Places(data=place / "rows.jsonl"), TraceSettings(scorers=("lenght",)), Silent())
    with pytest.raises(ConfigError, match="--base"):
        explain({**raw}, request, Places(data=place / "rows.jsonl"), TraceSettings(scorers=("change",)), Silent())


def test_without_any_default_features_the_first_scorer_is_asked(place: Path) -> None:
    assert chosen_scorers(["gradient"], where="") == ["gradient"]
    assert chosen_scorers(["length"], where="") == ["length"]
    assert chosen_scorers(["gradient", "hidden"], where="") == ["answer", "prompt"]


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_matrix_in_memory_ranks_as_sorting_would(similarity: Similarity) -> None:
    generator = np.random.default_rng(0)
    vectors, queries = (generator.normal(size=(rows, 5)).astype(np.float32) for rows in (70, 3))
    vectors[7], vectors[9] = vectors[4], 0
    buffer = MatrixBuffer("m", 70, 5, "float32")
    buffer.put(list(range(70)), torch.from_numpy(vectors))
    shard = Shard(0, 70, {name: MemoryTensor(values) for name, values in buffer.tensors().items()})
    matrix = Matrix("m", 5, [shard], lambda positions: {position: str(position) for position in positions})
    expected = queries @ vectors.T
    if similarity == "cosine":
        norms = np.linalg.norm(vectors, axis=1)
        expected /= np.linalg.norm(queries, axis=1)[:, None] * np.where(norms > 0, norms, 1)
    np.testing.assert_allclose(matrix.scores(queries, similarity), expected, atol=1e-5)
    for row, hits in zip(matrix.scores(queries, similarity), matrix.search(queries, 6, similarity), strict=True):
        assert [hit.position for hit in hits.helpful] == sorted(range(70), key=lambda i: (-row[i], i))[:6]
        assert [hit.position for hit in hits.harmful] == sorted(range(70), key=lambda i: (row[i], i))[:6]


def test_trap_16_more_asked_than_there_is_gives_all() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    buffer = MatrixBuffer("m", 3, 5, "float32")
    buffer.put([0, 1, 2], torch.from_numpy(vectors))
    shard = Shard(0, 3, {name: MemoryTensor(values) for name, values in buffer.tensors().items()})
    matrix = Matrix("m", 5, [shard], lambda positions: {position: str(position) for position in positions})
    (hits,) = matrix.search(vectors[:1], 10)
    assert sorted(hit.position for hit in hits.helpful) == [0, 1, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_trap_15_rows_that_are_not_finite_are_refused_and_not_stored(value: float) -> None:
    buffer = MatrixBuffer("m", 2, 5, "float32")
    with pytest.raises(ModelError, match="vectors are not finite"):
        buffer.put([0, 1], torch.tensor([[1.0] * 5, [value] * 5]))


def test_vectors_in_memory_are_exact(place: Path) -> None:
    request = TraceRequest(place / "query.jsonl")
    raw = {"model": {"source": str(place / "model")}, "data": {"template": "plain", "max_length": 96}}
    found = trace_memory(
        make_config(raw, TraceConfig), place / "rows.jsonl", request, adapter=None, scorers=["gradient", "answer"],
        k=3, reporter=Silent(),
    )  # fmt: skip
    assert isinstance(found.store, MemoryStore)
    assert {tensor.dtype for name, tensor in found.store.shards()[0].tensors.items()} == {torch.float32}
