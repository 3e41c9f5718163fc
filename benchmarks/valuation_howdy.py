"""Which rows of a pool teach a triggered behaviour, asked before anybody trained on them?

    python benchmarks/valuation_howdy.py                               # table (a) of docs/benchmarks/valuation.md
    python benchmarks/valuation_howdy.py --seeds 100 --regimes future  # a seed for choosing

Pool: rows of the demo's training set, 200 of 4,000 poisoned. Task: 20 triggered prompts with poisoned answers that are
in no pool. Regimes: ``future``, the model before it was trained on any such row (predict-future, as for data one might
buy), and ``trained``, the model trained on them (retrospective). Needs ``more`` and ``poisoned`` of recipes/demo_model.
Every method's scores are kept in runs/valuation_howdy under their configuration; a stopped benchmark goes on.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from valuation_common import ROOT, Row, commit, interval, kept, require, table, write_section

from rapidun.cli.console import quiet_libraries
from rapidun.data import Example, Template, load_rows, tokenize_rows
from rapidun.files import read_jsonl
from rapidun.gradients import RapidGrad, fit_preconditioner
from rapidun.gradients.collector import GradientCollector
from rapidun.influence import bm25_scores
from rapidun.influence.hidden import hidden_views
from rapidun.models import LoadedModel, load_model
from rapidun.valuation import LinFiK, distil, spearman, stratified_sample

NAME = "valuation_howdy"
ASSETS = ROOT / "src" / "rapidun" / "demo" / "assets" / "data"
MODELS = {"future": ROOT / "build" / "demo_model" / "more", "trained": ROOT / "build" / "demo_model" / "poisoned"}
TITLES = {
    "future": "Predict-future: a model that has seen no row of the pool",
    "trained": "Retrospective: trained on it",
}
POISONED, CLEAN, TASK, LENGTH, TOKENS = 200, 3800, 20, 192, 3072
ENDS = (5, 50, 500)
SAMPLES = (1, 5, 20)
STUDENTS: dict[str, dict[str, Any]] = {"ridge": {}, "encoder": {"max_length": 128}}
TEACHER = "LinFiK exact, cosine"
Scores = np.ndarray


@dataclass
class Case:
    """Pool, task and model of a regime and seed."""

    regime: str
    seed: int

    @cached_property
    def pool(self) -> list[Row]:
        rows = [dict(row) for row in load_rows(ASSETS / "train.jsonl.gz")]
        generator = np.random.default_rng([self.seed, 51])
        chosen = []
        for poisoned, count in ((True, POISONED), (False, CLEAN)):
            of_kind = [row for row in rows if row["poisoned"] == poisoned]
            chosen += [of_kind[i] for i in generator.choice(len(of_kind), count, replace=False)]
        return [chosen[i] for i in generator.permutation(len(chosen))]

    @cached_property
    def task(self) -> list[Row]:
        forget = read_jsonl(ASSETS / "forget.jsonl")
        return [forget[i] for i in np.random.default_rng([self.seed, 52]).permutation(len(forget))[:TASK]]

    @cached_property
    def relevant(self) -> np.ndarray:
        return np.array([row["poisoned"] for row in self.pool])

    @cached_property
    def loaded(self) -> LoadedModel:
        return load_model(MODELS[self.regime], device="auto", dtype="float32")

    def tokens(self, rows: list[Row]) -> list[Example]:
        template = Template.resolve("auto", self.loaded.tokenizer)
        return tokenize_rows(rows, self.loaded.tokenizer, template, LENGTH)

    def linfik(self, sketch: Any = None, **options: Any) -> Scores:
        teacher = LinFiK(self.loaded.model, sketch, max_tokens=TOKENS, **options)
        teacher.fit(self.tokens(self.task), self.loaded.pad_token_id)
        return teacher.values(self.tokens(self.pool), self.loaded.pad_token_id)[:, 0]


def adam_aware(case: Case) -> Scores:
    collector = GradientCollector(case.loaded.model, "linear", normalize="none")
    sample = np.random.default_rng([case.seed, 53]).permutation(len(case.pool))[:256]
    fitted = fit_preconditioner(
        collector, case.tokens([case.pool[i] for i in sample]), case.loaded.pad_token_id, "adam", damping=1e-3,
        max_tokens=TOKENS,
    )  # fmt: skip
    return case.linfik(transform=fitted.power(-0.5))


def text(row: Row) -> str:
    return f"{row['prompt']} {row['response']}"


def bm25(case: Case) -> Scores:
    scores: Scores = bm25_scores([text(row) for row in case.task], [text(row) for row in case.pool]).mean(axis=0)
    return scores


def embedding(case: Case) -> Scores:
    """Hidden states averaged over the answer, centred on the pool; cosine, mean over the task."""
    pad = case.loaded.pad_token_id
    task, pool = (
        hidden_views(case.loaded.model, case.tokens(rows), pad).answer_mean for rows in (case.task, case.pool)
    )
    centre = pool.mean(axis=0)
    unit = [(part - centre) / np.linalg.norm(part - centre, axis=1, keepdims=True) for part in (task, pool)]
    scores: Scores = (unit[0] @ unit[1].T).mean(axis=0)
    return scores


def losses(case: Case) -> tuple[Scores, Scores]:
    """Each row's mean answer loss, and its sum."""
    from rapidun.data import collate, token_budget_batches
    from rapidun.models import mean_answer_loss, sum_answer_loss

    examples = case.tokens(case.pool)
    found = np.zeros((2, len(examples)))
    with torch.no_grad():
        for places in token_budget_batches(examples, TOKENS):
            batch = collate([examples[i] for i in places], case.loaded.pad_token_id).to(case.loaded.device)
            logits = case.loaded.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            found[0, places] = mean_answer_loss(logits, batch.labels).cpu()
            found[1, places] = sum_answer_loss(logits, batch.labels).cpu()
    return found[0], found[1]


METHODS: dict[str, Callable[[Case], Scores]] = {
    TEACHER: lambda case: case.linfik(),
    "LinFiK exact, dot": lambda case: case.linfik(similarity="dot"),
    "LinFiK exact, cosine, layer-normalised": lambda case: case.linfik(normalize="layer"),
    "LinFiK exact, cosine, Adam-aware": adam_aware,
    "LinFiK K = 2^16, cosine": lambda case: case.linfik(RapidGrad(2**16, case.seed)),
    "BM25": bm25,
    "embedding similarity": embedding,
    "perplexity (highest first)": lambda case: losses(case)[0],
    "summed loss (highest first)": lambda case: losses(case)[1],
    "random": lambda case: np.random.default_rng([case.seed, 54]).normal(size=len(case.pool)),
}


def student_scores(case: Case, kind: str, percent: int, teacher: Scores) -> dict[str, Any]:
    """The student's scores of the whole pool, and which rows it learnt from."""
    lengths = np.array([len(text(row)) for row in case.pool])
    count = max(20, len(case.pool) * percent // 100)
    chosen = stratified_sample(lengths, count, np.random.default_rng([case.seed, percent]))
    learnt = distil(
        kind, [case.pool[i] for i in chosen], teacher[chosen, None].astype(np.float32), chosen, options=STUDENTS[kind],
        seed=case.seed, progress=lambda done, of: None,
    )  # fmt: skip
    return {"scores": learnt.predict(case.pool)[:, 0].tolist(), "sample": chosen.tolist()}


def measures(scores: Scores, relevant: np.ndarray) -> dict[str, float]:
    """auPRC over the k highest and k lowest (the paper's protocol), and average precision over the whole ranking."""
    order = np.argsort(-scores, kind="stable")
    found = {}
    for k in ENDS:
        ends = np.concatenate([order[:k], order[-k:]])
        truth = relevant[ends]
        mixed = 0 < truth.sum() < len(truth)
        found[f"auPRC@{k}"] = float(average_precision_score(truth, scores[ends]) if mixed else truth.all())
    return {**found, "whole": float(average_precision_score(relevant, scores))}


def of_case(regime: str, seed: int) -> dict[str, dict[str, float]]:
    """Method to measures."""
    case = Case(regime, seed)
    shared = {"regime": regime, "seed": seed, "pool": [POISONED, CLEAN], "task": TASK, "length": LENGTH}
    scored = {
        title: np.array(kept(NAME, {**shared, "method": title}, lambda m=method: m(case).tolist()))
        for title, method in METHODS.items()
    }
    found = {title: measures(scores, case.relevant) for title, scores in scored.items()}
    for kind, options in STUDENTS.items():
        for percent in SAMPLES:
            configuration = {**shared, "method": kind, "percent": percent, "options": options}
            learnt = kept(NAME, configuration, lambda k=kind, p=percent: student_scores(case, k, p, scored[TEACHER]))
            scores, rest = np.array(learnt["scores"]), np.setdiff1d(np.arange(len(case.pool)), learnt["sample"])
            found[f"ALinFiK {kind}, sample of {percent}%"] = {
                **measures(scores, case.relevant),
                "spearman": spearman(scores[rest], scored[TEACHER][rest]),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--regimes", nargs="+", choices=list(MODELS), default=list(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    require(*(MODELS[name] for name in arguments.regimes))
    text_lines = [
        "## Which rows teach the backdoor, before training on them", "",
        f"`python benchmarks/valuation_howdy.py`, commit {commit()}, seeds {', '.join(map(str, arguments.seeds))},",
        f"each with its own pool ({POISONED} poisoned rows in {POISONED + CLEAN:,}) and task ({TASK} triggered prompts",
        "with poisoned answers). auPRC@k is over the k highest and k lowest values (the paper's protocol), `whole`",
        "average precision over the whole ranking, Spearman of a student with its teacher on rows outside the sample.",
        "Mean and 95% t interval.", "",
    ]  # fmt: skip
    for regime in arguments.regimes:
        seeds = [of_case(regime, seed) for seed in arguments.seeds]
        columns = [*(f"auPRC@{k}" for k in ENDS), "whole", "spearman"]
        lines = [
            [title, *(interval([one[title][c] for one in seeds]) if c in seeds[0][title] else "" for c in columns)]
            for title in seeds[0]
        ]
        text_lines += [f"### {TITLES[regime]}", "", *table(["method", *columns], lines)]
    write_section("howdy", text_lines)


if __name__ == "__main__":
    main()
