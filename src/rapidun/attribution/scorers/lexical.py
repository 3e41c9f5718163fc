"""The lexical view: BM25 of prompt and answer (Lucene's variant, k1 = 1.5, b = 0.75).

``score(q, d) = sum over words w of q of idf(w) tf(w, d) / (tf(w, d) + k1 (1 - b + b |d| / mean |d|))`` with
``idf(w) = ln(1 + (N - df(w) + 0.5) / (df(w) + 0.5))``.

A shard keeps its rows' word counts, word by word; what concerns all rows (df, N, mean length) is summed over the shards
when a query is asked. So shards stay independent, rows can be appended, and memory does not grow with the index. Words
are told apart by 64 bits of BLAKE2b: no vocabulary is kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rapidun.attribution.hits import Hits
from rapidun.attribution.matrix import Array, IdsOf, ids_and_hits
from rapidun.attribution.ranking import both_ends
from rapidun.attribution.scorer import ModelContext, Recorder, Scorer, register_scorer
from rapidun.attribution.store.manifest import Manifest
from rapidun.attribution.store.names import shard_file
from rapidun.attribution.store.tensors import StoredTensor, stored_tensors
from rapidun.data.words import words_of
from rapidun.errors import ConfigError

K1, B = 1.5, 0.75


def word_key(word: str) -> int:
    """64 bits of the word's hash, signed."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little", signed=True)


@register_scorer("lexical")
class LexicalScorer(Scorer):
    """Word counts of prompt and answer."""

    def recorder(self, model: ModelContext, rows: Sequence[Mapping[str, Any]], fitted: Any) -> Recorder:
        """Needs no model."""
        return _LexicalRecorder([f"{row.get('prompt') or ''} {row.get('response') or ''}" for row in rows])


class _LexicalRecorder(Recorder):
    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def tensors(self) -> dict[str, torch.Tensor]:
        """Postings: word ``i`` is in rows ``rows[offsets[i]:offsets[i+1]]``, as often as ``counts`` says."""
        counted = [Counter(map(word_key, words)) for words in words_of(self._texts)]
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


class LexicalSearch:
    """BM25 over all shards of an index. Made by `Index.lexical`."""

    def __init__(self, path: Path, manifest: Manifest, ids_of: IdsOf) -> None:
        self._shards = [(shard.first, shard.rows, path / shard_file(shard.number)) for shard in manifest.shards]
        self._rows = manifest.rows
        self._ids_of = ids_of

    def __len__(self) -> int:
        return self._rows

    def search(self, queries: Sequence[str], k: int) -> list[Hits]:
        """The k rows of highest and of lowest BM25 for each query text; ties in order of position.

        Raises:
            ConfigError: If ``k`` is below 1.
        """
        if k < 1:
            raise ConfigError(f"k={k}: ask for at least one row.")
        blocks = ((start, torch.from_numpy(scores)) for start, scores in self._score_blocks(queries))
        return ids_and_hits(*both_ends(blocks, len(queries), k), self._ids_of)

    def scores(self, queries: Sequence[str]) -> Array:
        """Every score, (queries, rows) float32."""
        found = np.zeros((len(queries), self._rows), dtype=np.float32)
        for start, scores in self._score_blocks(queries):
            found[:, start : start + scores.shape[1]] = scores
        return found

    def scores_at(self, queries: Sequence[str], positions: Sequence[int]) -> Array:
        """Scores of some rows, (queries, positions) float32; one shard's scores are in memory at a time."""
        wanted = np.asarray(positions, dtype=np.int64)
        found = np.zeros((len(queries), len(wanted)), dtype=np.float32)
        for start, scores in self._score_blocks(queries):
            here = (wanted >= start) & (wanted < start + scores.shape[1])
            found[:, here] = scores[:, wanted[here] - start]
        return found

    def _score_blocks(self, queries: Sequence[str]) -> Iterator[tuple[int, Array]]:
        asked = [Counter(map(word_key, words)) for words in words_of(queries)]
        keys = np.array(sorted({key for counts in asked for key in counts}), dtype=np.int64)
        weights = np.array([[counts[key] for key in keys.tolist()] for counts in asked], dtype=np.float64)
        idf, mean_length = self._statistics(keys)
        weights = weights.reshape(len(queries), len(keys)) * idf
        for first, rows, path in self._shards:
            yield first, _shard_scores(_Postings(path), keys, weights, rows, mean_length)

    def _statistics(self, keys: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], float]:
        holding, total = np.zeros(len(keys)), 0
        for _, _, path in self._shards:
            postings = _Postings(path)
            begins, ends = postings.find(keys)
            holding += ends - begins
            total += int(postings.lengths.sum())
        idf = np.log1p((self._rows - holding + 0.5) / (holding + 0.5))
        return np.where(holding > 0, idf, 0.0), total / max(1, self._rows)


class _Postings:
    """One shard's word counts, read where they are asked for."""

    def __init__(self, path: Path) -> None:
        found = stored_tensors(path)
        self._rows: StoredTensor = found["lexical.rows"]
        self._counts: StoredTensor = found["lexical.counts"]
        self._words: npt.NDArray[np.int64] = found["lexical.words"].read().numpy()
        self._offsets: npt.NDArray[np.int64] = found["lexical.offsets"].read().numpy()
        self.lengths: npt.NDArray[np.int32] = found["lexical.lengths"].read().numpy()

    def find(self, keys: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where each word's postings begin and end; empty where the shard does not have it."""
        if len(self._words) == 0:
            return np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=np.int64)
        places = np.searchsorted(self._words, keys).clip(max=len(self._words) - 1)
        begins = self._offsets[places]
        return begins, np.where(self._words[places] == keys, self._offsets[places + 1], begins)

    def read(self, begin: int, end: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Rows and counts of one word."""
        return self._rows.read(begin, end).numpy(), self._counts.read(begin, end).numpy()


def _shard_scores(
    postings: _Postings,
    keys: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    rows: int,
    mean_length: float,
) -> Array:
    scores = np.zeros((len(weights), rows))
    saturation = K1 * (1 - B + B * postings.lengths / max(mean_length, 1e-9))
    for place, (begin, end) in enumerate(zip(*postings.find(keys), strict=True)):
        if begin < end:
            holding, counts = postings.read(int(begin), int(end))
            asking = weights[:, place].nonzero()[0]
            shares = counts / (counts + saturation[holding])
            scores[asking[:, None], holding] += weights[asking, place][:, None] * shares
    return scores.astype(np.float32)
