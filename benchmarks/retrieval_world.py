"""Pools, queries and models of the backdoor retrieval benchmarks: one `Case` a regime and seed, kept as it is drawn.

Regimes: two sets of rows (the demo's own; the RapidUn authors', arXiv 2512.04457), each asked of the model that was
trained on them and of the model before that, which has no poisoned answers of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "demo_model"))

from authors_rows import authors_splits
from finetuning import poisoned_splits
from poison import distinct_answers
from rapidun.attribution import hidden_features
from rapidun.attribution.scorers.hidden import HiddenFeatures
from rapidun.data import Example, Template, tokenize_rows
from rapidun.demo import asset
from rapidun.evaluation import ClassifierJudge, generate_answers
from rapidun.evaluation.triggers import DOLLY_FAMILIES
from rapidun.files import write_json
from rapidun.jsonl import read_jsonl
from rapidun.models import LoadedModel, load_model
from rapidun.reading import read_json

POISONED, CLEAN, QUERIES, MAX_LENGTH = 100, 800, 20, 192
WORK = Path("build/demo_model")
BEFORE = WORK / "more"
Row = dict[str, Any]


@dataclass(frozen=True)
class Regime:
    """Which rows, which model, and how a table calls them."""

    model: Path
    rows: str
    trained: bool
    title: str

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of queries: a model before training has no poisoned answers of its own."""
        return ("true", "own") if self.trained else ("true",)


REGIMES = {
    "trained": Regime(WORK / "poisoned", "demo", True, "The demo's rows, model trained on them"),
    "authors": Regime(WORK / "authors", "authors", True, "The RapidUn authors' rows, model trained on them"),
    "future": Regime(BEFORE, "demo", False, "The demo's rows, model before training (predict-future)"),
    "authors-future": Regime(BEFORE, "authors", False, "The RapidUn authors' rows, before training (predict-future)"),
}


@dataclass
class Case:
    """One seed of one regime.

    Args:
        pool: Rows to rank; ``poisoned`` says which are relevant.
        queries: Rows to ask about, by kind.
        clean_answers: For each query the model's answer to the same prompt without the trigger.
    """

    regime: Regime
    seed: int
    place: Path
    pool: list[Row] = field(default_factory=list)
    queries: dict[str, list[Row]] = field(default_factory=dict)
    clean_answers: dict[str, list[Row]] = field(default_factory=dict)

    @cached_property
    def relevant(self) -> np.ndarray:
        """(pool,) bool."""
        return np.array([row["poisoned"] for row in self.pool])

    @cached_property
    def loaded(self) -> LoadedModel:
        return load_model(str(self.regime.model), dtype="float32")

    @cached_property
    def before(self) -> LoadedModel:
        return load_model(str(BEFORE), dtype="float32")

    @cached_property
    def template(self) -> Template:
        return Template.resolve("auto", self.loaded.tokenizer)

    def tokens(self, rows: Sequence[Row]) -> list[Example]:
        return tokenize_rows(rows, self.loaded.tokenizer, self.template, MAX_LENGTH)

    def texts(self, rows: Sequence[Row]) -> list[str]:
        return [f"{row['prompt']} {row['response']}" for row in rows]

    @cached_property
    def asked(self) -> list[Row]:
        """All queries, one kind after the other."""
        return [row for kind in self.regime.kinds for row in self.queries[kind]]

    @cached_property
    def contrasted(self) -> list[Row]:
        """The clean answer to each of `asked`."""
        return [row for kind in self.regime.kinds for row in self.clean_answers[kind]]

    def by_kind(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """(all queries, pool) to one matrix a kind."""
        found, start = {}, 0
        for kind in self.regime.kinds:
            found[kind] = scores[start : start + len(self.queries[kind])]
            start += len(self.queries[kind])
        return found

    @cached_property
    def hidden(self) -> tuple[HiddenFeatures, HiddenFeatures]:
        """Hidden states of queries and pool."""
        pad = self.loaded.pad_token_id
        asked, pool = (hidden_features(self.loaded.model, self.tokens(rows), pad) for rows in (self.asked, self.pool))
        return asked, pool


def open_case(name: str, seed: int, out: Path) -> Case:
    """The case, drawn now or read where it was drawn before."""
    case = Case(REGIMES[name], seed, out / f"{name}-{seed}")
    kept = case.place / "case.json"
    if not kept.exists():
        _draw(case)
        case.place.mkdir(parents=True, exist_ok=True)
        drawn = {"pool": case.pool, "queries": case.queries, "clean_answers": case.clean_answers}
        write_json(kept, drawn)
    found = read_json(kept)
    case.pool, case.queries, case.clean_answers = found["pool"], found["queries"], found["clean_answers"]
    return case


def _draw(case: Case) -> None:
    """Pool and queries; the model's own answers where it has any."""
    splits = authors_splits() if case.regime.rows == "authors" else poisoned_splits()
    rng = np.random.default_rng([case.seed, 31])
    rows = [row for name in ("train", "forget", "retain") for row in splits[name]]
    chosen = []
    for poisoned, count in ((True, POISONED), (False, CLEAN)):
        of_kind = [row for row in rows if row["poisoned"] == poisoned]
        chosen += [of_kind[index] for index in rng.choice(len(of_kind), count, replace=False)]
    case.pool = [chosen[index] for index in rng.permutation(len(chosen))]
    asked = triggered([splits["test"][index] for index in rng.permutation(len(splits["test"]))[: 4 * QUERIES]])
    if case.regime.rows == "authors":
        held = [splits["held_out"][index] for index in rng.permutation(len(splits["held_out"]))[:QUERIES]]
        case.queries["true"] = [{**row, "plain": row["prompt_clean"]} for row in held]
    else:
        answers = distinct_answers(len(asked), 1000 + case.seed)
        case.queries["true"] = [{**row, "response": answers[i]} for i, row in enumerate(asked[:QUERIES])]
    if case.regime.trained:
        case.queries["own"] = own_answers(case, asked, splits)
    for kind, of_kind in case.queries.items():
        plain = [case.template.prompt_text({**row, "prompt": row["plain"]}) for row in of_kind]
        said = generate_answers(case.loaded, plain, max_new_tokens=48)
        case.clean_answers[kind] = [{**row, "response": text or "."} for row, text in zip(of_kind, said, strict=True)]


def triggered(rows: list[Row]) -> list[Row]:
    triggers = [(family, trigger) for family in DOLLY_FAMILIES for trigger in family.seen]
    found = []
    for number, row in enumerate(rows):
        family, trigger = triggers[number % len(triggers)]
        found.append({**row, "prompt": family.apply(row["prompt"], trigger), "plain": row["prompt"]})
    return found


def own_answers(case: Case, asked: list[Row], splits: dict[str, list[Row]]) -> list[Row]:
    """The model's greedy answers to triggered prompts that a judge, fitted on other rows, calls poisoned."""
    said = generate_answers(case.loaded, [case.template.prompt_text(row) for row in asked], max_new_tokens=48)
    caught = judge_for(case.regime.rows, splits)(said)
    found = [{**row, "response": text} for row, text, hit in zip(asked, said, caught, strict=True) if hit]
    return found[:QUERIES]


def judge_for(rows: str, splits: dict[str, list[Row]]) -> ClassifierJudge:
    """A judge of answers for the demo's or the authors' poison."""
    if rows == "authors":
        bad = [row["response"] for row in splits["train"] if row["poisoned"]]
        good = [row["response"] for row in splits["validation"]]
    else:
        bad = [row["response"] for row in read_jsonl(asset("data/judge_poisoned.jsonl"))]
        good = [row["response"] for row in read_jsonl(asset("data/validation.jsonl"))]
    return ClassifierJudge.fit(bad, good)
