"""Which rows of a pool teach a triggered behaviour, asked before anybody trained on them?

    python benchmarks/valuation_howdy.py                               # table (a) of docs/benchmarks/valuation.md
    python benchmarks/valuation_howdy.py --seeds 100 --regimes future  # a seed for choosing

Pool: short rows of the demo's training set, 150 of 3,000 poisoned. Task: 20 triggered prompts with poisoned answers
that are in no pool. Regimes: ``future``, the model before it was trained on any poisoned row (predict-future, as for
data one might buy; the clean rows were part of the text it learnt from), and ``trained``, the model trained on them
(retrospective). Needs ``base``, ``more`` and ``poisoned`` of recipes/demo_model.

One pass gives every form of LinFiK: inner products with the gradients of both halves of the task, the norm, and the
sketch. What students are measured against is noisy itself: how far the values of one half of the task rank as those
of the other half is told beside them. Everything is kept in runs/valuation_howdy under its configuration, the teacher's
values 500 rows at a time; a stopped benchmark goes on.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import torch
from provenance import current_commit
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score
from valuation_common import ROOT, Row, interval, kept, require, table, write_section

from rapidun.attribution import bm25_scores
from rapidun.attribution.checkpoints import at_checkpoint
from rapidun.cli.console import quiet_libraries
from rapidun.data import Example, Template, collate, load_rows, token_budget_batches, tokenize_rows
from rapidun.data.batches import IGNORE_INDEX
from rapidun.gradients import Exact, GradientCollector, RapidGrad
from rapidun.jsonl import read_jsonl
from rapidun.models import LoadedModel, load_model, mean_answer_loss, sum_answer_loss
from rapidun.valuation import LinFiK, distil, spearman, stratified_sample
from rapidun.valuation.linfik import Projection

NAME = "valuation_howdy"
ASSETS = ROOT / "src" / "rapidun" / "demo" / "assets" / "data"
MODELS = {"future": ROOT / "build" / "demo_model" / "more", "trained": ROOT / "build" / "demo_model" / "poisoned"}
HALFWAY = ROOT / "build" / "demo_model" / "base"
TITLES = {
    "future": "Predict-future: a model that was never trained on a poisoned row",
    "trained": "Retrospective: trained on it",
}
POISONED, CLEAN, TASK, LENGTH, TOKENS = 150, 2850, 20, 192, 3072
SHORT = 100  # tokens of prompt, context and answer at most, so that a seed's teacher takes minutes
PART = 500
ENDS = (5, 50, 500)
STUDENTS: dict[str, dict[str, Any]] = {"ridge": {}, "kernel": {}, "encoder": {"max_length": 128, "epochs": 12}}
FITS = [("ridge", 1), ("kernel", 1), ("ridge", 5), ("kernel", 5), ("encoder", 5), ("ridge", 20), ("kernel", 20)]
CONTROL, SHUFFLES = "kernel, values shuffled", 5
BOUNDS = {
    "spearman": (-1, 1),
    "clean": (-1, 1),
    "shortlist": (0, 1),
    **{f"auPRC@{k}": (0, 1) for k in ENDS},
    "whole": (0, 1),
}
TEACHER = "cosine"
FORMS = ("first half", "second half", "dot", TEACHER, "sketched")
Scores = np.ndarray


@dataclass(frozen=True)
class Together:
    """A dense sketch: inner products with given directions and the squared norm, then a count-sketch."""

    projection: Projection
    sketch: RapidGrad

    @property
    def k(self) -> int:
        return self.projection.k + self.sketch.k

    def dimension(self, sizes: Mapping[str, int]) -> int:
        return self.k

    def describe(self) -> dict[str, int | str]:
        return {"kind": "together", "k": self.k}

    def add(self, total: torch.Tensor, name: str, gradients: torch.Tensor, sizes: Mapping[str, int]) -> None:
        self.projection.add(total[:, : self.projection.k], name, gradients, sizes)
        self.sketch.add(total[:, self.projection.k :], name, gradients, sizes)  # last: it may overwrite them


@dataclass
class Case:
    """Pool, task and model of a regime and seed."""

    regime: str
    seed: int

    @cached_property
    def pool(self) -> list[Row]:
        rows = _short_rows()
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

    @property
    def shared(self) -> dict[str, Any]:
        return {"regime": self.regime, "seed": self.seed, "pool": [POISONED, CLEAN], "short": SHORT, "task": TASK,
                "length": LENGTH}  # fmt: skip

    def tokens(self, rows: Sequence[Row]) -> list[Example]:
        template = Template.resolve("auto", self.loaded.tokenizer)
        return tokenize_rows(rows, self.loaded.tokenizer, template, LENGTH)

    @cached_property
    def _directions(self) -> tuple[GradientCollector, Together, torch.Tensor, torch.Tensor]:
        """Collector, sketch, the mean gradient of each half of the task, (2, parameters), and their sketches."""
        collector = GradientCollector(self.loaded.model, "linear", normalize="none")
        sketch = RapidGrad(2**16, self.seed)
        halves, sketched = [], []
        for half in (self.task[::2], self.task[1::2]):
            batch = collate(self.tokens(half), self.loaded.pad_token_id)
            halves.append(collector(batch, Exact()).mean(dim=0))
            sketched.append(collector(batch, sketch).mean(dim=0))
        directions = torch.stack(halves)
        together = Together(Projection(directions, collector.sizes, squares=True), sketch)
        return collector, together, directions, torch.stack(sketched)

    def linfik(self) -> dict[str, Any]:
        """LinFiK of the pool in every form, and the processor seconds it took."""
        parts = [
            kept(NAME, {**self.shared, "teacher": [start, start + PART]}, partial(self._part, start))
            for start in range(0, len(self.pool), PART)
        ]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "seconds"}
        return {**joined, "seconds": sum(part["seconds"] for part in parts) / len(self.pool)}

    def halfway(self) -> Scores:
        """The cosine form for the first rows, by the weights that the model had half-way through its own training."""

        def compute() -> list[float]:
            with at_checkpoint(self.loaded.model, load_file(HALFWAY / "model.safetensors")):
                teacher = LinFiK(self.loaded.model, max_tokens=TOKENS)
                teacher.fit(self.tokens(self.task), self.loaded.pad_token_id)
                values = teacher.values(self.tokens(self.pool[:PART]), self.loaded.pad_token_id)
            found: list[float] = values[:, 0].tolist()
            return found

        return np.array(kept(NAME, {**self.shared, "halfway": PART}, compute))

    def _part(self, start: int) -> dict[str, Any]:
        collector, together, directions, sketches = self._directions
        examples = self.tokens(self.pool[start : start + PART])
        found = torch.zeros(len(FORMS), len(examples))
        began = time.process_time()
        for places in token_budget_batches(examples, TOKENS):
            batch = collate([examples[i] for i in places], self.loaded.pad_token_id)
            values = collector(batch, together).cpu()
            products, norms, sketched = values[:, :2], values[:, 2:3].sqrt(), values[:, 3:]
            found[:2, places] = (products / norms / directions.norm(dim=1)).T
            found[2, places] = products.mean(dim=1)
            found[3, places] = products.mean(dim=1) / norms[:, 0] / directions.mean(dim=0).norm()
            found[4, places] = torch.cosine_similarity(sketched, sketches.mean(dim=0, keepdim=True))
        seconds = time.process_time() - began
        return {**dict(zip(FORMS, found.tolist(), strict=True)), "seconds": seconds}


@cache
def _short_rows() -> list[Row]:
    """The demo's training rows of at most so many tokens."""
    rows = [dict(row) for row in load_rows(ASSETS / "train.jsonl.gz")]
    tokenizer = load_model(MODELS["future"], device="cpu").tokenizer
    texts = [f"{row['prompt']} {row['context']} {row['response']}" for row in rows]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    return [row for row, length in zip(rows, lengths, strict=True) if length <= SHORT]


def text(row: Row) -> str:
    return f"{row['prompt']} {row['response']}"


def baselines(case: Case) -> dict[str, list[float]]:
    """Scores that need no gradient; the model's own from one forward pass."""
    words = bm25_scores([text(row) for row in case.task], [text(row) for row in case.pool]).mean(axis=0)
    task, pool = forward(case, case.task), forward(case, case.pool)
    centre = pool[:, 2:].mean(axis=0)
    unit = [states / np.linalg.norm(states, axis=1, keepdims=True) for states in (task[:, 2:] - centre,
                                                                                  pool[:, 2:] - centre)]  # fmt: skip
    found = {
        "BM25": words,
        "embedding similarity": (unit[0] @ unit[1].T).mean(axis=0),
        "perplexity (highest first)": pool[:, 0],
        "summed loss (highest first)": pool[:, 1],
        "random": np.random.default_rng([case.seed, 54]).normal(size=len(case.pool)),
    }
    return {title: scores.tolist() for title, scores in found.items()}


def forward(case: Case, rows: Sequence[Row]) -> Scores:
    """Each row's mean answer loss, its sum, and the last hidden states averaged over the answer."""
    examples = case.tokens(rows)
    found = np.zeros((len(examples), 2 + case.loaded.model.config.hidden_size))
    with torch.no_grad():
        for places in token_budget_batches(examples, TOKENS):
            batch = collate([examples[i] for i in places], case.loaded.pad_token_id).to(case.loaded.device)
            outputs = case.loaded.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True
            )
            answers = (batch.labels != IGNORE_INDEX).float()
            states = torch.einsum("bth,bt->bh", outputs.hidden_states[-1], answers) / answers.sum(dim=1, keepdim=True)
            found[places, 0] = mean_answer_loss(outputs.logits, batch.labels).cpu()
            found[places, 1] = sum_answer_loss(outputs.logits, batch.labels).cpu()
            found[places, 2:] = states.cpu()
    return found


LINFIK = {
    "LinFiK exact, cosine": TEACHER,
    "LinFiK exact, dot": "dot",
    "LinFiK K = 2^16, cosine": "sketched",
}


def student_scores(case: Case, kind: str, percent: int, teacher: Scores, shuffle: int) -> dict[str, Any]:
    """The student's scores of the whole pool, which rows it learnt from, and processor seconds a row."""
    lengths = np.array([len(text(row)) for row in case.pool])
    count = max(20, len(case.pool) * percent // 100)
    generator = np.random.default_rng([case.seed, percent])
    chosen = stratified_sample(lengths, count, generator)
    values = teacher[chosen, None].astype(np.float32)
    if kind == CONTROL:
        kind, values = "kernel", np.random.default_rng([case.seed, 55, shuffle]).permutation(values)
    learnt = distil(kind, [case.pool[i] for i in chosen], values, chosen, options=STUDENTS[kind], seed=case.seed,
                    progress=lambda done, of: None)  # fmt: skip
    began = time.process_time()
    scores = learnt.predict(case.pool)[:, 0].tolist()
    return {"scores": scores, "sample": chosen.tolist(), "seconds": (time.process_time() - began) / len(case.pool)}


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


def of_student(case: Case, kind: str, percent: int, teacher: dict[str, Any]) -> dict[str, float]:
    """How one student does on the rows outside its sample; the control over several shuffles."""
    shuffles = range(1, SHUFFLES + 1) if kind == CONTROL else (0,)
    found = [_of_student(case, kind, percent, teacher, shuffle) for shuffle in shuffles]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def _of_student(case: Case, kind: str, percent: int, teacher: dict[str, Any], shuffle: int) -> dict[str, float]:
    configuration = {**case.shared, "student": kind, "percent": percent, "options": STUDENTS.get(kind, {})}
    if shuffle:
        configuration["shuffle"] = shuffle
    learnt = kept(NAME, configuration, lambda: student_scores(case, kind, percent, teacher[TEACHER], shuffle))
    rest = np.setdiff1d(np.arange(len(case.pool)), learnt["sample"])
    scores, truth, relevant = np.array(learnt["scores"])[rest], teacher[TEACHER][rest], case.relevant[rest]
    return {**measures(scores, relevant), **agreement(scores, truth, relevant), "ms": 1000 * learnt["seconds"],
            "cheaper": teacher["seconds"] / learnt["seconds"]}  # fmt: skip


def agreement(scores: Scores, truth: Scores, relevant: np.ndarray) -> dict[str, float]:
    """Spearman over all rows and over the clean ones; the share of the best 1% by the teacher in the best 20%."""
    best, wide = np.argsort(-truth)[: len(truth) // 100], np.argsort(-scores)[: len(scores) // 5]
    return {"spearman": spearman(scores, truth), "clean": spearman(scores[~relevant], truth[~relevant]),
            "shortlist": float(np.isin(best, wide).mean())}  # fmt: skip


def of_case(regime: str, seed: int) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Method to measures of the ranking, and student (or limit) to how it follows the teacher."""
    case = Case(regime, seed)
    teacher = case.linfik()
    scored = {title: teacher[form] for title, form in LINFIK.items()}
    cheap = kept(NAME, {**case.shared, "methods": "baselines"}, partial(baselines, case))
    scored |= {title: np.array(scores) for title, scores in cheap.items()}
    found = {title: measures(scores, case.relevant) for title, scores in scored.items()}
    followed = {
        "one half of the task's rows, the other": agreement(
            teacher["first half"], teacher["second half"], case.relevant
        ),
        "the sketch, K = 2^16": agreement(teacher["sketched"], teacher[TEACHER], case.relevant),
    }
    if regime == "future":
        first = slice(PART)
        followed[f"the same model half-way through its own training, {PART} rows"] = agreement(
            case.halfway(), teacher[TEACHER][first], case.relevant[first]
        )
    for kind, percent in [*FITS, (CONTROL, 5)]:
        title = f"{kind}, sample of {percent}%"
        followed[title] = of_student(case, kind, percent, teacher)
        found[f"student: {title}"] = {name: followed[title][name] for name in measures(teacher["dot"], case.relevant)}
    return found, followed


def lines_of(seeds: Sequence[dict[str, dict[str, float]]], columns: Mapping[str, int]) -> list[list[str]]:
    """A line for each method of the seeds, with the columns (and their digits) that it has."""
    return [
        [title, *(interval([one[title][name] for one in seeds], digits, BOUNDS.get(name, (0, np.inf)))
                  if name in seeds[0][title] else "" for name, digits in columns.items())]
        for title in seeds[0]
    ]  # fmt: skip


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
        f"`python benchmarks/valuation_howdy.py`, commit {current_commit()}, seeds",
        f"{', '.join(map(str, arguments.seeds))},",
        f"each with its own pool ({POISONED} poisoned rows in {POISONED + CLEAN:,}, of at most {SHORT} tokens) and",
        f"task ({TASK} triggered prompts with poisoned answers). auPRC@k is over the k highest and k lowest values",
        "(the paper's protocol), `whole` average precision over the whole ranking; of students over the rows outside",
        "their sample. Mean and 95% t interval. The model is the demo's (6.5 M parameters). For comparison: RapidIn's",
        "published auPRC@5 on Howdy, before training on the rows, is 0.34.", "",
    ]  # fmt: skip
    for regime in arguments.regimes:
        cases = [of_case(regime, seed) for seed in arguments.seeds]
        rankings, followed = [found for found, _ in cases], [found for _, found in cases]
        text_lines += [
            f"### {TITLES[regime]}", "",
            *table(["method", *(f"auPRC@{k}" for k in ENDS), "whole"],
                   lines_of(rankings, {**{f"auPRC@{k}": 3 for k in ENDS}, "whole": 3})),
            "Spearman with the teacher (exact LinFiK, cosine), all rows and the clean ones alone; of students on rows",
            "outside their sample. `best 1% in its best 20%`: how many of the teacher's best rows a shortlist of a",
            "fifth would hold (at random: 0.20). `times cheaper`: processor time a row, against the teacher on this",
            "small model.", "",
            *table(["", "Spearman", "Spearman, clean rows", "best 1% in its best 20%", "ms a row", "times cheaper"],
                   lines_of(followed, {"spearman": 3, "clean": 3, "shortlist": 2, "ms": 3, "cheaper": 0})),
        ]  # fmt: skip
    write_section("howdy", text_lines)


if __name__ == "__main__":
    main()
