"""Words: BM25 of prompt and answer (Lucene's variant, k1 = 1.5, b = 0.75).

``score(q, d) = sum over words w of q of idf(w) tf(w, d) / (tf(w, d) + k1 (1 - b + b |d| / mean |d|))`` with
``idf(w) = ln(1 + (N - df(w) + 0.5) / (df(w) + 0.5))``.

A shard keeps its rows' word counts, word by word; what concerns all rows (df, N, mean length) is summed over the shards
when a query is asked. So shards stay independent, rows can be appended, and memory does not grow with the index. Words
are in lower case, without stemming or stop words, and told apart by 64 bits of BLAKE2b: no vocabulary is kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rapidun.attribution.context import ModelContext
from rapidun.attribution.matrix import Shard
from rapidun.attribution.ranking import Ranking
from rapidun.attribution.scorer import Features, FeatureStore, Recorder, Role, Row, Scorer, register_scorer
from rapidun.attribution.similarity import Array
from rapidun.attribution.tensors import MemoryTensor
from rapidun.data.words import words_of
from rapidun.errors import InputError
from rapidun.settings.kinds import Similarity

K1, B = 1.5, 0.75
_Places = npt.NDArray[np.int64]


@register_scorer("lexical", {"lexical": "BM25"})
class LexicalScorer(Scorer):
    """Word counts of prompt and answer."""

    missing = "Build one with --views lexical."

    def recorder(self, model: ModelContext, rows: Sequence[Row], fitted: Any, role: Role = "train") -> Recorder:
        """Needs no model."""
        return _LexicalRecorder([f"{row.get('prompt') or ''} {row.get('response') or ''}" for row in rows])

    def compare(self, by: str, asked: Features, store: FeatureStore, similarity: Similarity) -> Ranking:
        """BM25, whatever ``similarity`` says of gradients."""
        return _bm25(asked, store.shards(), len(store))


class _LexicalRecorder(Recorder):
    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def tensors(self) -> dict[str, torch.Tensor]:
        return postings_of(self._texts)


def postings_of(texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Word ``i`` is in the texts ``rows[offsets[i]:offsets[i+1]]``, as often as ``counts`` says."""
    counted = [Counter(map(word_key, words)) for words in words_of(texts)]
    postings = sorted((key, row, count) for row, counts in enumerate(counted) for key, count in counts.items())
    table = np.array(postings, dtype=np.int64).reshape(-1, 3)
    keys, sizes = np.unique(table[:, 0], return_counts=True)
    found = {
        "words": keys,
        "offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        "rows": table[:, 1].astype(np.int32),
        "counts": table[:, 2].astype(np.int32),
        "lengths": np.array([counts.total() for counts in counted], dtype=np.int32),
    }
    return {f"lexical.{name}": torch.from_numpy(np.ascontiguousarray(values)) for name, values in found.items()}


def word_key(word: str) -> int:
    """64 bits of the word's hash, signed."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little", signed=True)


def bm25_scores(queries: Sequence[str], documents: Sequence[str]) -> Array:
    """BM25 of every document for every query, (queries, documents) float32; 0 where no word is shared."""
    tensors = {name: MemoryTensor(values) for name, values in postings_of(documents).items()}
    return _bm25(postings_of(queries), [Shard(0, len(documents), tensors)], len(documents)).scores()


def _bm25(asked: Features, shards: Sequence[Shard], rows: int) -> Ranking:
    """Rows by BM25 for the queries whose postings are ``asked``."""
    queries = len(asked["lexical.lengths"])
    blocks = partial(_score_blocks, asked, shards, rows)

    def at(positions: Sequence[int]) -> Array:
        wanted = np.asarray(positions, dtype=np.int64)
        found = np.zeros((queries, len(wanted)), dtype=np.float32)
        for start, scores in blocks():  # one shard's scores are in memory at a time
            here = (wanted >= start) & (wanted < start + scores.shape[1])
            found[:, here] = scores.numpy()[:, wanted[here] - start]
        return found

    return Ranking(queries, rows, blocks, at)


def _score_blocks(asked: Features, shards: Sequence[Shard], rows: int) -> Iterator[tuple[int, torch.Tensor]]:
    keys = asked["lexical.words"].numpy()
    idf, mean_length = _statistics(shards, keys, rows)
    weights = np.zeros((len(asked["lexical.lengths"]), len(keys)))
    places = np.repeat(np.arange(len(keys)), np.diff(asked["lexical.offsets"].numpy()))
    weights[asked["lexical.rows"].numpy(), places] = asked["lexical.counts"].numpy()
    for shard in shards:
        yield shard.first, _shard_scores(_Postings(shard), keys, weights * idf, shard.rows, mean_length)


def _statistics(shards: Sequence[Shard], keys: _Places, rows: int) -> tuple[npt.NDArray[np.float64], float]:
    holding, total = np.zeros(len(keys)), 0
    for shard in shards:
        postings = _Postings(shard)
        begins, ends = postings.find(keys)
        holding += ends - begins
        total += int(postings.lengths.sum())
    idf = np.log1p((rows - holding + 0.5) / (holding + 0.5))
    return np.where(holding > 0, idf, 0.0), total / max(1, rows)


class _Postings:
    """One shard's word counts, read where they are asked for.

    Raises:
        InputError: If what is read points outside of the shard.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard, tensors = shard, shard.tensors
        self._rows, self._counts = tensors["lexical.rows"], tensors["lexical.counts"]
        self._words: _Places = tensors["lexical.words"].read().numpy()
        self._offsets: _Places = tensors["lexical.offsets"].read().numpy()
        self.lengths: npt.NDArray[np.int32] = tensors["lexical.lengths"].read().numpy()
        steps = np.diff(self._offsets, prepend=0, append=self._rows.shape[0])
        self._check(self._offsets.shape == (len(self._words) + 1,) and bool((steps >= 0).all()))
        self._check(self.lengths.shape == (shard.rows,) and bool((self.lengths >= 0).all()))

    def _check(self, whole: bool) -> None:
        if not whole:
            first, last = self._shard.first, self._shard.first + self._shard.rows - 1
            raise InputError(
                f"words of rows {first} to {last} of the index are damaged. Check it with: rapidun index verify."
            )

    def find(self, keys: _Places) -> tuple[_Places, _Places]:
        """Where each word's postings begin and end; empty where the shard does not have it."""
        if len(self._words) == 0:
            return np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=np.int64)
        places = np.searchsorted(self._words, keys).clip(max=len(self._words) - 1)
        begins = self._offsets[places]
        return begins, np.where(self._words[places] == keys, self._offsets[places + 1], begins)

    def read(self, begin: int, end: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Rows and counts of one word."""
        rows, counts = self._rows.read(begin, end).numpy(), self._counts.read(begin, end).numpy()
        self._check(bool(((rows >= 0) & (rows < self._shard.rows) & (counts > 0)).all()))
        return rows, counts


def _shard_scores(
    postings: _Postings, keys: _Places, weights: npt.NDArray[np.float64], rows: int, mean_length: float
) -> torch.Tensor:
    scores = np.zeros((len(weights), rows))
    saturation = K1 * (1 - B + B * postings.lengths / max(mean_length, 1e-9))
    for place, (begin, end) in enumerate(zip(*postings.find(keys), strict=True)):
        if begin < end:
            holding, counts = postings.read(int(begin), int(end))
            asking = weights[:, place].nonzero()[0]
            shares = counts / (counts + saturation[holding])
            scores[asking[:, None], holding] += weights[asking, place][:, None] * shares
    return torch.from_numpy(scores.astype(np.float32))
