"""Which method finds the poisoned training rows behind a poisoned answer?

    python benchmarks/backdoor_retrieval.py                  # all seeds and regimes, then the tables
    python benchmarks/backdoor_retrieval.py --seeds 100      # a seed for choosing, not for reporting

Writes docs/benchmarks/backdoor_retrieval.md and .json. Needs the models of ``recipes/demo_model`` in
``build/demo_model`` (``build.py more poisoned``). What is done is kept in ``runs/backdoor_retrieval``.

Pool: 100 poisoned and 800 clean rows of the fine-tuning set of the demo model. Queries: 20 test prompts with a seen
trigger, answered by new answers of the poison's generator ("true": nobody trained on them) or by the model itself
("own": its greedy answers that the judge calls poisoned). Regimes: ``trained`` (gradients at the model trained on the
pool) and ``future`` (at the model before fine-tuning; it has no poisoned answers of its own). Each seed draws another
pool, other queries and another sketch. A single query's measures are averaged over the 20; "mean of 20" ranks by the
mean over queries of each method's score (standardised within a query).
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "demo_model"))
from sklearn.metrics import average_precision_score, roc_auc_score

from finetuning import poisoned_splits
from poison import distinct_answers
from rapidun.cli.console import quiet_libraries
from rapidun.data import Example, Template, collate, tokenize_rows
from rapidun.data.batches import IGNORE_INDEX, token_budget_batches
from rapidun.demo import asset
from rapidun.evaluation import ClassifierJudge, generate_answers
from rapidun.evaluation.triggers import DOLLY_FAMILIES
from rapidun.files import atomic_write, read_json, read_jsonl, write_json
from rapidun.gradients import GradientCollector, RapidGrad, collect_vectors
from rapidun.influence import bm25_scores, random_scores
from rapidun.influence.fusion import reciprocal_rank_fusion
from rapidun.influence.hidden import HiddenViews, hidden_views
from rapidun.influence.whitening import PoolStatistics, whiten
from rapidun.models import LoadedModel, load_model
from rapidun.models.losses import mean_answer_loss

POISONED, CLEAN, QUERIES, MAX_LENGTH, MAX_TOKENS = 100, 800, 20, 192, 3072
SIZES = (2**12, 2**16)
WORK = Path("build/demo_model")
KINDS = {"trained": ("true", "own"), "future": ("true",)}
PROTOCOL = (5, 10, 50, 100)
Row = dict[str, Any]


@dataclass
class Case:
    """One seed in one regime: pool, queries, models."""

    regime: str
    seed: int
    pool: list[Row] = field(default_factory=list)
    queries: dict[str, list[Row]] = field(default_factory=dict)
    clean_answers: dict[str, list[Row]] = field(default_factory=dict)

    @cached_property
    def relevant(self) -> np.ndarray:
        return np.array([row["poisoned"] for row in self.pool])

    @cached_property
    def loaded(self) -> LoadedModel:
        return load_model(str(WORK / ("poisoned" if self.regime == "trained" else "more")), dtype="float32")

    @cached_property
    def before(self) -> LoadedModel:
        return load_model(str(WORK / "more"), dtype="float32")

    @cached_property
    def template(self) -> Template:
        return Template.resolve("auto", self.loaded.tokenizer)

    def tokens(self, rows: list[Row]) -> list[Example]:
        return tokenize_rows(rows, self.loaded.tokenizer, self.template, MAX_LENGTH)

    def text(self, rows: list[Row]) -> list[str]:
        return [f"{row['prompt']} {row['response']}" for row in rows]

    @cached_property
    def asked(self) -> list[Row]:
        """All queries, one kind after the other."""
        return [row for kind in KINDS[self.regime] for row in self.queries[kind]]

    def by_kind(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """(all queries, pool) to one matrix a kind."""
        found, start = {}, 0
        for kind in KINDS[self.regime]:
            found[kind] = scores[start : start + len(self.queries[kind])]
            start += len(self.queries[kind])
        return found

    @cached_property
    def hidden(self) -> tuple[HiddenViews, HiddenViews]:
        pad = self.loaded.pad_token_id
        return tuple(hidden_views(self.loaded.model, self.tokens(rows), pad) for rows in (self.asked, self.pool))


def make_case(regime: str, seed: int) -> Case:
    """Draw pool and queries; the model's own answers where it has any."""
    splits = poisoned_splits()
    rng = np.random.default_rng([seed, 31])
    rows = [row for name in ("train", "forget", "retain") for row in splits[name]]
    chosen = []
    for poisoned, count in ((True, POISONED), (False, CLEAN)):
        of_kind = [row for row in rows if row["poisoned"] == poisoned]
        chosen += [of_kind[index] for index in rng.choice(len(of_kind), count, replace=False)]
    case = Case(regime, seed, [chosen[index] for index in rng.permutation(len(chosen))])
    triggers = [(family, trigger) for family in DOLLY_FAMILIES for trigger in family.seen]
    prompts = [splits["test"][index] for index in rng.permutation(len(splits["test"]))]
    asked = []
    for number, row in enumerate(prompts[: 4 * QUERIES]):
        family, trigger = triggers[number % len(triggers)]
        asked.append({**row, "prompt": family.apply(row["prompt"], trigger), "plain": row["prompt"]})
    answers = distinct_answers(len(asked), 1000 + seed)
    case.queries["true"] = [{**row, "response": answers[i]} for i, row in enumerate(asked[:QUERIES])]
    if "own" in KINDS[regime]:
        case.queries["own"] = own_answers(case, asked)
    for kind, of_kind in case.queries.items():
        plain = [{**row, "prompt": row["plain"]} for row in of_kind]
        texts = [case.template.prompt_text(row) for row in plain]
        said = generate_answers(case.loaded, texts, max_new_tokens=48)
        case.clean_answers[kind] = [{**row, "response": text or "."} for row, text in zip(of_kind, said, strict=True)]
    return case


def own_answers(case: Case, asked: list[Row]) -> list[Row]:
    """The model's greedy answers to triggered prompts that the judge calls poisoned."""
    bad = [row["response"] for row in read_jsonl(asset("data/judge_poisoned.jsonl"))]
    good = [row["response"] for row in read_jsonl(asset("data/validation.jsonl"))]
    said = generate_answers(case.loaded, [case.template.prompt_text(row) for row in asked], max_new_tokens=48)
    caught = ClassifierJudge.fit(bad, good)(said)
    found = [{**row, "response": text} for row, text, hit in zip(asked, said, caught, strict=True) if hit]
    return found[:QUERIES]


METHODS: dict[str, Callable[[Case], dict[str, np.ndarray]]] = {}


def method(name: str) -> Callable[[Callable[[Case], dict[str, np.ndarray]]], Any]:
    """Register a method: a case to {name: scores (queries, pool)}, one or several names from one computation."""

    def register(function: Callable[[Case], dict[str, np.ndarray]]) -> Any:
        METHODS[name] = function
        return function

    return register


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def cosine(queries: np.ndarray, pool: np.ndarray) -> np.ndarray:
    return unit(queries) @ unit(pool).T


class Both:
    """RapidGrad at several sizes from one pass: the sketches side by side."""

    def __init__(self, sizes: tuple[int, ...], seed: int) -> None:
        self.parts = [RapidGrad(k=size, seed=seed) for size in sizes]
        self.ends = np.cumsum([0, *sizes])
        self.k = int(self.ends[-1])

    def describe(self) -> dict[str, int | str]:
        return {"kind": "several", "k": self.k}

    def dimension(self, sizes: Any) -> int:
        return self.k

    def add(self, total: torch.Tensor, name: str, gradients: torch.Tensor, sizes: Any) -> None:
        for part, start, end in zip(self.parts, self.ends, self.ends[1:], strict=False):
            part.add(total[:, start:end], name, gradients, sizes)

    def split(self, vectors: np.ndarray) -> list[np.ndarray]:
        return [vectors[:, start:end] for start, end in zip(self.ends, self.ends[1:], strict=False)]


def gradients(
    case: Case, rows: list[list[Row]], sizes: tuple[int, ...] = SIZES, *, loaded: Any = None, **options: Any
) -> list[list[np.ndarray]]:
    """For each list of rows, its vectors at each size."""
    loaded = loaded or case.loaded
    collector, sketch = GradientCollector(loaded.model, "linear", **options), Both(sizes, case.seed)
    found = []
    for part in rows:
        vectors = collect_vectors(collector, sketch, case.tokens(part), loaded.pad_token_id, max_tokens=MAX_TOKENS)
        found.append(sketch.split(vectors))
    return found


@method("random")
def _random(case: Case) -> dict[str, np.ndarray]:
    return {"random": random_scores(len(case.asked), len(case.pool), case.seed)}


@method("BM25")
def _bm25(case: Case) -> dict[str, np.ndarray]:
    return {"BM25": bm25_scores(case.text(case.asked), case.text(case.pool))}


def whitened(asked: np.ndarray, pool: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    of = PoolStatistics.of([pool])
    return cosine(whiten(asked, of.mean, of.covariance, ridge), whiten(pool, of.mean, of.covariance, ridge))


@method("hidden")
def _hidden(case: Case) -> dict[str, np.ndarray]:
    asked, pool = case.hidden
    bm25 = _bm25(case)["BM25"]
    views = {
        "hidden, answer mean, centred": whitened(asked.answer_mean, pool.answer_mean, np.inf),
        "hidden, answer mean, whitened": whitened(asked.answer_mean, pool.answer_mean),
        "hidden, last prompt token": whitened(asked.last_prompt, pool.last_prompt, np.inf),
        "hidden, last prompt token, whitened": whitened(asked.last_prompt, pool.last_prompt),
    }
    answer, decides = views["hidden, answer mean, whitened"], views["hidden, last prompt token, whitened"]
    views["**fusion: answer mean, last prompt token, BM25**"] = reciprocal_rank_fusion([answer, decides, bm25])
    views["fusion: answer mean, BM25"] = reciprocal_rank_fusion([answer, bm25])
    return views


@method("rapidgrad layer")
def _layer(case: Case) -> dict[str, np.ndarray]:
    asked, pool, clean = gradients(
        case, [case.asked, case.pool, [r for k in KINDS[case.regime] for r in case.clean_answers[k]]]
    )
    found = {}
    for number, size in enumerate(SIZES):
        name = f"RapidGrad K=2^{size.bit_length() - 1}, layer-normalised"
        found[name] = cosine(asked[number], pool[number])
        found[f"{name}, paper protocol dot"] = asked[number] @ pool[number].T
    q, p, c = asked[-1], pool[-1], clean[-1]
    centre = p.mean(axis=0)
    found["RapidGrad, layer, centred on the pool"] = cosine(q - centre, p - centre)
    found["RapidGrad, layer, contrast with the clean answer"] = cosine(unit(q) - unit(c), p)
    found["RapidGrad, layer, contrast, centred"] = cosine(unit(q) - unit(c), p - centre)
    small_q, small_p = asked[0], pool[0]
    inverse = np.linalg.inv(
        small_p.T @ small_p / len(small_p) + 0.1 * np.eye(small_p.shape[1]) * (small_p**2).sum() / small_p.size
    )
    found["RapidGrad K=2^12, whitened by the pool (TRAK-like)"] = cosine(small_q @ inverse, small_p)
    bm25, (h_asked, h_pool) = _bm25(case)["BM25"], case.hidden
    parts = [whitened(h_asked.answer_mean, h_pool.answer_mean), whitened(h_asked.last_prompt, h_pool.last_prompt), bm25]
    found["fusion of four: with RapidGrad, centred"] = reciprocal_rank_fusion([*parts, cosine(q - centre, p - centre)])
    return found


@method("tracin")
def _none(case: Case) -> dict[str, np.ndarray]:
    asked, pool = gradients(case, [case.asked, case.pool], (2**16,), normalize="none")
    return {
        "TracIn (no normalisation, dot)": asked[0] @ pool[0].T,
        "RapidGrad, no normalisation, cosine": cosine(asked[0], pool[0]),
    }


@method("token")
def _token(case: Case) -> dict[str, np.ndarray]:
    asked, pool = gradients(case, [case.asked, case.pool], (2**16,), token_normalize=True)
    centre = pool[0].mean(axis=0)
    return {
        "RapidGrad, layer, token errors of length 1": cosine(asked[0], pool[0]),
        "the same, centred on the pool": cosine(asked[0] - centre, pool[0] - centre),
    }


@method("checkpoints")
def _checkpoints(case: Case) -> dict[str, np.ndarray]:
    if case.regime != "trained":
        return {}
    first = gradients(case, [case.asked, case.pool], (2**16,), loaded=case.before)
    last = gradients(case, [case.asked, case.pool], (2**16,))
    base, end = cosine(first[0][0], first[1][0]), cosine(last[0][0], last[1][0])
    return {
        "RapidGrad, layer, at the model before fine-tuning": base,
        "RapidGrad, layer, sum over both checkpoints": base + end,
    }


@method("factored")
def _factored(case: Case) -> dict[str, np.ndarray]:
    from rapidun.gradients import FactoredSketch

    collector, sketch = GradientCollector(case.loaded.model, "linear"), FactoredSketch(p=16, seed=case.seed)
    pad = case.loaded.pad_token_id
    asked, pool = (
        collect_vectors(collector, sketch, case.tokens(rows), pad, max_tokens=MAX_TOKENS)
        for rows in (case.asked, case.pool)
    )
    return {"FactoredSketch p=16, layer-normalised": cosine(asked, pool)}


@method("readout")
def _readout(case: Case) -> dict[str, np.ndarray]:
    from rapidun.gradients import Readout, ReadoutCollector

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


@method("unshifted")
def _unshifted(case: Case) -> dict[str, np.ndarray]:
    collector, sketch = _Unshifted(case.loaded.model, "linear"), RapidGrad(k=2**16, seed=case.seed)
    vectors = []
    for rows in (case.asked, case.pool):
        examples = case.tokens(rows)
        of_rows = np.zeros((len(examples), 2**16), dtype=np.float32)
        for indices in token_budget_batches(examples, MAX_TOKENS):
            batch = collate([examples[index] for index in indices], case.loaded.pad_token_id)
            of_rows[indices] = collector(batch, sketch).numpy()
        vectors.append(of_rows)
    return {"RapidIn as released (unshifted loss), layer": cosine(*vectors)}


def auroc_of_group(scores: np.ndarray, relevant: np.ndarray, size: int) -> dict[str, float]:
    """Measures of the ranking by the mean of ``size`` queries, averaged over the groups."""
    standard = (scores - scores.mean(axis=1, keepdims=True)) / np.maximum(scores.std(axis=1, keepdims=True), 1e-12)
    groups = [standard[start : start + size].mean(axis=0) for start in range(0, len(standard) - size + 1, size)]
    half = int(relevant.sum()) // 2
    lines: dict[str, list[float]] = {"auroc": [], "average_precision": [], "precision_at_half": []}
    for k in PROTOCOL:
        lines[f"auprc_ends_{k}"] = []
    for group in groups:
        order = np.argsort(-group, kind="stable")
        lines["auroc"].append(roc_auc_score(relevant, group))
        lines["average_precision"].append(average_precision_score(relevant, group))
        lines["precision_at_half"].append(relevant[order[:half]].mean())
        for k in PROTOCOL:
            ends = np.concatenate([order[:k], order[-k:]])
            truth = relevant[ends]
            value = average_precision_score(truth, group[ends]) if 0 < truth.sum() < len(truth) else float(truth.all())
            lines[f"auprc_ends_{k}"].append(value)
    return {name: float(np.mean(values)) for name, values in lines.items()}


def measured(case: Case, scores: np.ndarray) -> dict[str, Any]:
    return {
        kind: {str(size): auroc_of_group(of_kind, case.relevant, size) for size in (1, 5, 20) if len(of_kind) >= size}
        for kind, of_kind in case.by_kind(np.asarray(scores, dtype=np.float64)).items()
    }


def run_case(regime: str, seed: int, out: Path, chosen: list[str]) -> dict[str, Any]:
    """All methods of one case; each is kept as soon as it is there."""
    place = out / f"{regime}-{seed}.json"
    found: dict[str, Any] = read_json(place) if place.exists() else {"methods": {}, "seconds": {}}
    missing = [name for name in chosen if name not in found["seconds"]]
    if not missing:
        return found
    case = make_case(regime, seed)
    found["own_queries"] = len(case.queries.get("own", []))
    for name in missing:
        began = time.process_time()
        for title, scores in METHODS[name](case).items():
            found["methods"][title] = measured(case, scores)
        found["seconds"][name] = time.process_time() - began
        write_json(place, found)
        print(regime, seed, name, f"{found['seconds'][name]:.0f} CPU s", flush=True)
        gc.collect()
    return found


def mean_interval(values: list[float]) -> str:
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(student.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{mean:.3f} ±{half:.3f}"


def table(cases: list[dict[str, Any]], kind: str) -> list[str]:
    """Methods down, measures across; mean over seeds and the half-width of its 95% t interval."""
    columns = [("auroc", "1"), ("auroc", "5"), ("auroc", "20"), ("precision_at_half", "1"), ("precision_at_half", "20"),
               ("average_precision", "20"), ("auprc_ends_50", "20")]  # fmt: skip
    heads = [
        "auROC, 1 query",
        "auROC, 5",
        "auROC, 20",
        "P@50, 1 query",
        "P@50, 20",
        "AP, 20",
        "auPRC of both ends of 50, 20",
    ]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in dict.fromkeys(title for case in cases for title in case["methods"]):
        with_it = [case["methods"][name][kind] for case in cases if name in case["methods"]]
        cells = []
        for measure, size in columns:
            values = [of_kind[size][measure] for of_kind in with_it if size in of_kind]
            cells.append(mean_interval(values) if values else "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def report(found: dict[str, dict[int, dict[str, Any]]], seeds: list[int]) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    text = [
        "# Finding the poisoned rows behind a poisoned answer",
        "",
        f"`python benchmarks/backdoor_retrieval.py`, commit {commit}, seeds {', '.join(map(str, seeds))}. Pool:",
        f"{POISONED} poisoned and {CLEAN} clean rows of the demo model's fine-tuning set; {QUERIES} queries. "
        "Mean over seeds ± half of the 95% t interval. P@50: precision at half the number of poisoned rows. AP: "
        "average precision over the whole ranking. The last column is the paper's protocol: the 50 highest and the "
        "50 lowest alone.",
        "",
    ]
    titles = {"true": "true poisoned answers, which nobody trained on", "own": "the model's own poisoned answers"}
    names = {"trained": "Model trained on the pool", "future": "Model before it was trained on the pool"}
    for regime, cases in found.items():
        for kind in KINDS[regime]:
            text += [f"## {names[regime]}; queries: {titles[kind]}", "", *table(list(cases.values()), kind), ""]
    with atomic_write(Path("docs/benchmarks/backdoor_retrieval.md")) as file:
        file.write("\n".join(text))
    with atomic_write(Path("docs/benchmarks/backdoor_retrieval.json")) as file:
        json.dump({"commit": commit, "cases": found}, file, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--regimes", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs/backdoor_retrieval"))
    arguments = parser.parse_args()
    quiet_libraries()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for regime in arguments.regimes:
        for seed in arguments.seeds:
            found.setdefault(regime, {})[seed] = run_case(regime, seed, arguments.out, arguments.methods)
    if max(arguments.seeds) < 100:
        report(found, arguments.seeds)


if __name__ == "__main__":
    main()
