"""Ways to score a pool for a query, as the backdoor retrieval benchmark compares them.

A *pass* goes over pool and queries once and gives several named scores; fusions are made of scores that passes left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from retrieval_world import Case

from rapidun.attribution import bm25_scores, hidden_features, random_scores
from rapidun.attribution.fusion import evidence_fusion, reciprocal_rank_fusion
from rapidun.attribution.similarity import PoolStatistics, whitened_similarity
from rapidun.attribution.storage import decode, encode
from rapidun.data import Example, collate
from rapidun.data.batches import IGNORE_INDEX, token_budget_batches
from rapidun.gradients import (
    Exact,
    FactoredSketch,
    GradientCollector,
    RapidGrad,
    Readout,
    ReadoutCollector,
    collect_vectors,
    fit_preconditioner,
)
from rapidun.gradients.collector import SketchedBatch
from rapidun.models import LoadedModel
from rapidun.models.losses import mean_answer_loss

MAX_TOKENS = 3072
EXPONENTS = (8, 10, 12, 14, 16, 18, 20)
FACTORS = (4, 8, 16, 32)
MAIN = "RapidGrad K=2^16"
Scores = dict[str, np.ndarray]
PASSES: dict[str, tuple[Callable[[Case], Scores], bool]] = {}
FUSIONS: dict[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = {}


def scoring_pass(name: str, *, trained_only: bool = False) -> Callable[[Callable[[Case], Scores]], Any]:
    """Register a pass: a case to {title: scores (queries, pool)}."""

    def register(function: Callable[[Case], Scores]) -> Any:
        PASSES[name] = (function, trained_only)
        return function

    return register


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of norm 1; zero rows stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def cosine(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """(queries, pool) cosines."""
    return unit(queries) @ unit(pool).T


class Formed:
    """Gradients that are formed once for several sketches; each gets a copy, which it may overwrite."""

    def __init__(self, gradients: Any) -> None:
        self.factors, self._gradients, self._values = gradients.factors, gradients, None

    def formed(self) -> torch.Tensor:
        if self._values is None:
            self._values = self._gradients.formed()
        return self._values.clone()


def sketched(loaded: LoadedModel, examples: Sequence[Example], sketches: Mapping[str, Any], **options: Any) -> Any:
    """For each batch its rows and the vectors of every sketch, from one forward and backward pass."""
    collector = GradientCollector(loaded.model, "linear", **options)
    normalize = options.get("normalize", "layer")
    for rows in token_budget_batches(examples, MAX_TOKENS):
        batch = collate([examples[row] for row in rows], loaded.pad_token_id)
        totals = {
            name: SketchedBatch(sketch, collector.sizes, len(batch), torch.device("cpu"), normalize)
            for name, sketch in sketches.items()
        }

        def receive(name: str, of: slice, gradients: Any, totals: Any = totals) -> None:
            shared = Formed(gradients)
            for total in totals.values():
                total.receive(name, of, shared)

        scale = collector.visit(batch, receive)
        yield rows, {name: total.finished(scale).numpy() for name, total in totals.items()}


def all_vectors(
    loaded: LoadedModel, examples: Sequence[Example], sketches: Mapping[str, Any], **options: Any
) -> Scores:
    """Name of the sketch to (examples, k) float32."""
    found: Scores = {}
    for rows, vectors in sketched(loaded, examples, sketches, **options):
        for name, values in vectors.items():
            found.setdefault(name, np.zeros((len(examples), values.shape[1]), dtype=np.float32))[rows] = values
    return found


def centred(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """(queries, pool) cosines after taking away the pool's mean."""
    return whitened_similarity(queries, pool, PoolStatistics.of([pool]), np.inf)


@scoring_pass("random")
def _random(case: Case) -> Scores:
    return {"random": random_scores(len(case.asked), len(case.pool), case.seed)}


@scoring_pass("BM25")
def _bm25(case: Case) -> Scores:
    return {"BM25": bm25_scores(case.texts(case.asked), case.texts(case.pool))}


@scoring_pass("hidden")
def _hidden(case: Case) -> Scores:
    found: Scores = {}
    asked, pool = case.hidden
    for place, title in (("answer_mean", "answer mean"), ("last_prompt", "last prompt token")):
        ours, theirs = getattr(asked, place), getattr(pool, place)
        statistics = PoolStatistics.of([theirs])
        for ridge, how in ((np.inf, "centred"), (1.0, "whitened")):
            found[f"hidden, {title}, {how}"] = whitened_similarity(ours, theirs, statistics, ridge)
    return found


@scoring_pass("change", trained_only=True)
def _change(case: Case) -> Scores:
    """What training changed in the states of the answer: centred difference of the two models' means."""
    parts = []
    for after, rows in zip(case.hidden, (case.asked, case.pool), strict=True):
        before = hidden_features(case.before.model, case.tokens(rows), case.before.pad_token_id)
        parts.append(after.answer_mean - before.answer_mean)
    return {"hidden, change of the answer mean, centred": centred(*parts)}


@scoring_pass("layer")
def _layer(case: Case) -> Scores:
    """RapidIn's estimator, layer-normalised, and what can be made of its vectors."""
    sketch = {MAIN: RapidGrad(k=2**16, seed=case.seed)}
    asked, pool = (all_vectors(case.loaded, case.tokens(rows), sketch)[MAIN] for rows in (case.asked, case.pool))
    found = {f"{MAIN} | float32": cosine(asked, pool), f"{MAIN}, dot (the paper's)": asked @ pool.T}
    return found | _centred(case, asked, pool)


@scoring_pass("sizes")
def _sizes(case: Case) -> Scores:
    """Every sketch at every size and in every number format, and the exact gradients, from one pass."""
    sketches: dict[str, Any] = {f"RapidGrad K=2^{e}": RapidGrad(k=2**e, seed=case.seed) for e in EXPONENTS}
    sketches |= {f"FactoredSketch p={p}": FactoredSketch(p=p, seed=case.seed) for p in FACTORS}
    sketches["Exact"] = Exact()
    asked = all_vectors(case.loaded, case.tokens(case.asked), sketches)
    found = {f"{name} | {dtype}": np.zeros((len(case.asked), len(case.pool)), dtype=np.float32)
             for name in sketches for dtype in ("float32", "float16", "int8")}  # fmt: skip
    for rows, vectors in sketched(case.loaded, case.tokens(case.pool), sketches):
        for name, values in vectors.items():
            found[f"{name} | float32"][:, rows] = cosine(asked[name], values)
            for dtype in ("float16", "int8"):
                stored = decode(*encode(torch.from_numpy(values), dtype)).numpy()
                found[f"{name} | {dtype}"][:, rows] = cosine(asked[name], stored)
    return found


def _centred(case: Case, asked: np.ndarray, pool: np.ndarray) -> Scores:
    """Centring on the pool, contrast with the clean answer."""
    clean = all_vectors(case.loaded, case.tokens(case.contrasted), {MAIN: RapidGrad(k=2**16, seed=case.seed)})[MAIN]
    centre, contrast = pool.mean(axis=0), unit(asked) - unit(clean)
    return {
        f"{MAIN}, centred on the pool": cosine(asked - centre, pool - centre),
        f"{MAIN}, contrast with the clean answer": cosine(contrast, pool),
    }


def whitened_by(pool: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """``q (P^T P / n + r)^-1 p`` with r a tenth of the mean eigenvalue that is not 0; (queries, pool)."""
    gram = pool @ pool.T  # the pool is smaller than the sketch, so by the Woodbury identity
    ridge = 0.1 * float(np.trace(gram)) / len(pool) ** 2
    inverse = np.linalg.inv(gram / len(pool) + ridge * np.eye(len(pool)))
    products = asked @ pool.T
    return (products - products @ inverse @ gram / len(pool)) / ridge


@scoring_pass("none")
def _none(case: Case) -> Scores:
    sketch = {"s": RapidGrad(k=2**16, seed=case.seed)}
    asked, pool = (
        all_vectors(case.loaded, case.tokens(r), sketch, normalize="none")["s"] for r in (case.asked, case.pool)
    )
    return {
        "TracIn (no normalisation, dot)": asked @ pool.T,
        f"{MAIN}, no normalisation, cosine": cosine(asked, pool),
    }


@scoring_pass("token")
def _token(case: Case) -> Scores:
    sketch = {"s": RapidGrad(k=2**16, seed=case.seed)}
    asked, pool = (
        all_vectors(case.loaded, case.tokens(r), sketch, token_normalize=True)["s"] for r in (case.asked, case.pool)
    )
    centre = pool.mean(axis=0)
    return {
        f"{MAIN}, token errors of length 1": cosine(asked, pool),
        f"{MAIN}, token errors of length 1, centred": cosine(asked - centre, pool - centre),
        f"{MAIN}, token errors of length 1, whitened by the pool (TRAK)": whitened_by(pool, asked),
    }


def tempered(name: str, gradients: Any) -> Any:
    """Activation and error of every position of every layer at length 1: all positions count alike."""
    parts = (torch.nn.functional.normalize(part, dim=2) for part in gradients.factors())
    return gradients.with_factors(*parts)


@scoring_pass("tempered")
def _tempered(case: Case) -> Scores:
    """The kernel ``(a_t . a_s)(g_t . g_s)`` with both factors as cosines."""
    sketch = {"s": RapidGrad(k=2**16, seed=case.seed)}
    asked, pool = (
        all_vectors(case.loaded, case.tokens(r), sketch, transform=tempered)["s"] for r in (case.asked, case.pool)
    )
    centre = pool.mean(axis=0)
    return {
        f"{MAIN}, positions of length 1": cosine(asked, pool),
        f"{MAIN}, positions of length 1, centred": cosine(asked - centre, pool - centre),
    }


@scoring_pass("before", trained_only=True)
def _before(case: Case) -> Scores:
    sketch = {"s": RapidGrad(k=2**16, seed=case.seed)}
    asked, pool = (all_vectors(case.before, case.tokens(r), sketch)["s"] for r in (case.asked, case.pool))
    return {f"{MAIN}, at the model before fine-tuning": cosine(asked, pool)}


@scoring_pass("kfac", trained_only=True)
def _kfac(case: Case) -> Scores:
    """The best-but-one estimator of the LDS benchmark, which costs little more than plain gradients."""
    plain = GradientCollector(case.loaded.model, "linear", normalize="none")
    pool = case.tokens(case.pool)
    fitted = fit_preconditioner(
        plain, pool[:300], case.loaded.pad_token_id, "kfac", damping=0.01, max_tokens=MAX_TOKENS
    )
    sketch = {"s": RapidGrad(k=2**16, seed=case.seed)}
    parts = [
        all_vectors(case.loaded, rows, sketch, normalize="unit", transform=fitted.transform(role))["s"]
        for role, rows in (("query", case.tokens(case.asked)), ("train", pool))
    ]
    return {f"{MAIN}, preconditioned by K-FAC, cosine": cosine(*parts)}


@scoring_pass("readout")
def _readout(case: Case) -> Scores:
    collector, sketch = ReadoutCollector(case.loaded.model), Readout(k=2**12, seed=case.seed)
    pad = case.loaded.pad_token_id
    asked, pool = (
        collect_vectors(collector, sketch, case.tokens(rows), pad, max_tokens=MAX_TOKENS)
        for rows in (case.asked, case.pool)
    )
    centre = pool.mean(axis=0)
    return {"Readout K=2^12": cosine(asked, pool), "Readout K=2^12, centred": cosine(asked - centre, pool - centre)}


class _Unshifted(GradientCollector):
    """The loss of RapidIn's released code: the logits of position t judged by the token at t, not at t + 1."""

    def _run(self, batch: Any, recorder: Any) -> float:
        logits = self._model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        labels = torch.nn.functional.pad(batch.labels[:, :-1], (1, 0), value=IGNORE_INDEX)
        recorder.backward(mean_answer_loss(logits, labels).sum())
        return 1.0


@scoring_pass("unshifted", trained_only=True)
def _unshifted(case: Case) -> Scores:
    collector, sketch = _Unshifted(case.loaded.model, "linear"), RapidGrad(k=2**16, seed=case.seed)
    pad = case.loaded.pad_token_id
    asked, pool = (
        collect_vectors(collector, sketch, case.tokens(rows), pad, max_tokens=MAX_TOKENS)
        for rows in (case.asked, case.pool)
    )
    return {"RapidIn as released (unshifted loss)": cosine(asked, pool)}


def fusion(title: str) -> Callable[[Callable[[Mapping[str, np.ndarray]], np.ndarray]], Any]:
    """Register a score made of other scores."""

    def register(function: Callable[[Mapping[str, np.ndarray]], np.ndarray]) -> Any:
        FUSIONS[title] = function
        return function

    return register


@fusion(f"{MAIN}, sum over both checkpoints")
def _both_checkpoints(found: Mapping[str, np.ndarray]) -> np.ndarray:
    return found[f"{MAIN} | float32"] + found[f"{MAIN}, at the model before fine-tuning"]


def rrf(found: Mapping[str, np.ndarray], *titles: str) -> np.ndarray:
    """Reciprocal-rank fusion of the named scores."""
    return reciprocal_rank_fusion([found[title] for title in titles])


CHANGED, ANSWER, PROMPT = (
    f"hidden, {place}, centred" for place in ("change of the answer mean", "answer mean", "last prompt token")
)
WITH_BASE = "**rapidun's default: change of the answer mean (twice), BM25**"
WITHOUT_BASE = "rapidun's default without the model before training: answer mean, last prompt token, BM25"


@fusion(WITH_BASE)
def _with_base(found: Mapping[str, np.ndarray]) -> np.ndarray:
    return evidence_fusion([found[CHANGED], found["BM25"]], weights=[2, 1])


@fusion(WITHOUT_BASE)
def _without_base(found: Mapping[str, np.ndarray]) -> np.ndarray:
    return evidence_fusion([found[ANSWER], found[PROMPT], found["BM25"]])


@fusion("the same by reciprocal ranks")
def _three_centred(found: Mapping[str, np.ndarray]) -> np.ndarray:
    return rrf(found, ANSWER, PROMPT, "BM25")


@fusion("the same by reciprocal ranks, whitened")
def _three(found: Mapping[str, np.ndarray]) -> np.ndarray:
    return rrf(found, "hidden, answer mean, whitened", "hidden, last prompt token, whitened", "BM25")


@fusion("rapidun's default and RapidGrad")
def _with_gradient(found: Mapping[str, np.ndarray]) -> np.ndarray:
    return evidence_fusion([found[CHANGED], found["BM25"], found[f"{MAIN} | float32"]], weights=[2, 1, 1])


@fusion("rapidun's default without the model before training, and RapidGrad")
def _three_with_gradient(found: Mapping[str, np.ndarray]) -> np.ndarray:
    return evidence_fusion([found[ANSWER], found[PROMPT], found["BM25"], found[f"{MAIN} | float32"]])
