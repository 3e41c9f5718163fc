"""Train on a tenth of a mixed pool: which tenth makes a model good at encyclopaedia text?

    python benchmarks/valuation_selection.py                     # table (b) of docs/benchmarks/valuation.md
    python benchmarks/valuation_selection.py --pool 800 --seeds 0  # a quick look

Pool: pieces of Wikipedia, books, Wikipedia with its words shuffled, and what code is long enough. Task: held-out
Wikipedia.
Each method chooses 10% by its own values; the model (stories260K, which knows children's stories) is trained on the
chosen rows for four epochs (on all data: one), and its loss on other held-out Wikipedia is compared. Every value and
training is kept in runs/valuation_selection under its configuration; a stopped benchmark goes on.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from provenance import current_commit
from valuation_common import STORIES, Row, chunks, interval, kept, require, shuffled, table, write_section

from rapidun.attribution import bm25_scores
from rapidun.cli.console import quiet_libraries
from rapidun.data import Example, Template, collate, token_budget_batches, tokenize_rows
from rapidun.gradients import RapidGrad
from rapidun.models import LoadedModel, load_model, mean_answer_loss
from rapidun.pipeline.valuing.teacher import MATCHING_K
from rapidun.valuation import LinFiK, Selection, distil, pick_diverse, stratified_sample
from rapidun.valuation.diversity import MATCHING
from rapidun.valuation.features import HashedText
from rapidun.valuation.selection import shortlist

NAME = "valuation_selection"
KINDS = ("wiki", "books", "code", "shuffled")
CHARACTERS, LENGTH, TASK, VALIDATION = 300, 256, 64, 200
SHARE, SAMPLE = 0.1, 0.05
EPOCHS, BATCH, RATE = 4, 16, 1e-3
STUDENTS, TEACHER, MATCHED = ("ridge", "kernel"), "teacher (LinFiK)", "teacher, then matching"

ORACLE = "Wikipedia alone, at random (oracle)"
PAIRS = [(MATCHED, TEACHER), (ORACLE, MATCHED), *((f"student ({kind}, sample of {SAMPLE:.0%})", TEACHER)
                                                  for kind in STUDENTS)]  # fmt: skip
"""Whose gain is compared with whose."""


@dataclass
class Case:
    """Pool, task and validation rows of a seed."""

    seed: int
    size: int

    @cached_property
    def texts(self) -> dict[str, list[str]]:
        generator = np.random.default_rng([self.seed, 61])
        each = self.size // len(KINDS)
        wiki = generator.permutation(list(islice(chunks("wiki", CHARACTERS), 20 * each))).tolist()
        found = {"task": wiki[:TASK], "validation": wiki[TASK : TASK + VALIDATION]}
        wiki = wiki[TASK + VALIDATION :]
        found["wiki"], found["shuffled"] = wiki[:each], [shuffled(text, generator) for text in wiki[each : 2 * each]]
        for kind in ("books", "code"):
            pieces = list(islice(chunks(kind, CHARACTERS), 20 * each))
            found[kind] = [pieces[i] for i in generator.permutation(len(pieces))[:each]]
        return found

    @cached_property
    def pool(self) -> list[Row]:
        rows = [{"id": f"{kind}-{i}", "prompt": "", "response": text, "kind": kind} for kind in KINDS
                for i, text in enumerate(self.texts[kind])]  # fmt: skip
        return [rows[i] for i in np.random.default_rng([self.seed, 62]).permutation(len(rows))]

    def rows(self, name: str) -> list[Row]:
        return [{"id": f"{name}-{i}", "prompt": "", "response": text} for i, text in enumerate(self.texts[name])]

    def model(self) -> LoadedModel:
        return load_model(STORIES, device="auto", dtype="float32")

    def tokens(self, loaded: LoadedModel, rows: list[Row]) -> list[Example]:
        return tokenize_rows(rows, loaded.tokenizer, Template.resolve("plain", loaded.tokenizer), LENGTH)


def teacher_values(case: Case) -> list[float]:
    loaded = case.model()
    teacher = LinFiK(loaded.model, max_tokens=4096).fit(case.tokens(loaded, case.rows("task")), loaded.pad_token_id)
    found: list[float] = teacher.values(case.tokens(loaded, case.pool), loaded.pad_token_id)[:, 0].tolist()
    return found


def agreement(case: Case) -> dict[str, list[float]]:
    """Of each kind: the mean of its rows' cosines with the task, and the cosine of their sum."""
    loaded = case.model()
    gradients, along = _gradients(case, loaded, case.pool)
    kinds = np.array([row["kind"] for row in case.pool])
    return {
        kind: [float(along[here].mean()), float(along[here].sum() / np.linalg.norm(gradients[here].sum(axis=0)))]
        for kind in KINDS
        if (here := kinds == kind).any()
    }


def _gradients(case: Case, loaded: LoadedModel, rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    teacher = LinFiK(loaded.model, RapidGrad(MATCHING_K, seed=case.seed), max_tokens=4096)
    teacher.fit(case.tokens(loaded, case.rows("task")), loaded.pad_token_id)
    return teacher.gradients(case.tokens(loaded, rows), loaded.pad_token_id)


def matched(case: Case, candidates: np.ndarray, count: int) -> list[int]:
    """Those of the candidates whose gradients together point as the task's does: ``--diversity matching``."""
    found = _gradients(case, case.model(), [case.pool[i] for i in candidates])
    return [int(candidates[i]) for i in pick_diverse(MATCHING, *found, count)]


def facility(case: Case, candidates: np.ndarray, values: np.ndarray, count: int) -> list[int]:
    """As ``--diversity facility`` chooses among the candidates, by their words."""
    words = HashedText().text_only([case.pool[i] for i in candidates])
    return [int(candidates[i]) for i in pick_diverse("facility", words, values[candidates], count)]


def student_values(case: Case, kind: str, teacher: np.ndarray) -> list[float]:
    """A student's values of the whole pool, from the teacher's of a sample."""
    lengths = np.array([len(row["response"]) for row in case.pool])
    count = max(20, int(SAMPLE * len(case.pool)))
    chosen = stratified_sample(lengths, count, np.random.default_rng([case.seed, 63]))
    learnt = distil(
        kind, [case.pool[i] for i in chosen], teacher[chosen, None].astype(np.float32), chosen, options={},
        seed=case.seed, progress=lambda done, of: None,
    )  # fmt: skip
    found: list[float] = learnt.predict(case.pool)[:, 0].tolist()
    return found


def losses(loaded: LoadedModel, examples: list[Example]) -> np.ndarray:
    """Mean loss of each example."""
    found = np.zeros(len(examples))
    loaded.model.eval()
    with torch.no_grad():
        for places in token_budget_batches(examples, 8192):
            batch = collate([examples[i] for i in places], loaded.pad_token_id).to(loaded.device)
            logits = loaded.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            found[places] = mean_answer_loss(logits, batch.labels).cpu()
    return found


def perplexity_values(case: Case) -> list[float]:
    """Lowest perplexity first: what the model already finds likely."""
    loaded = case.model()
    found: list[float] = (-losses(loaded, case.tokens(loaded, case.pool))).tolist()
    return found


def trained_loss(case: Case, chosen: np.ndarray) -> dict[str, Any]:
    """Train a fresh copy on the chosen rows; its loss on the validation rows, and which kinds were chosen."""
    loaded = case.model()
    model, examples = loaded.model, case.tokens(loaded, [case.pool[i] for i in chosen])
    generator = np.random.default_rng([case.seed, 64])
    epochs = 1 if len(chosen) == len(case.pool) else EPOCHS  # all data once is still more steps than the choices get
    steps = epochs * -(-len(examples) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(epochs):
        order = generator.permutation(len(examples)).tolist()
        for start in range(0, len(order), BATCH):
            batch = collate([examples[i] for i in order[start : start + BATCH]], loaded.pad_token_id).to(loaded.device)
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            mean_answer_loss(logits, batch.labels).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
    loss = float(losses(loaded, case.tokens(loaded, case.rows("validation"))).mean())
    kinds = [case.pool[i]["kind"] for i in chosen]
    return {"loss": loss, "kinds": {kind: kinds.count(kind) / len(kinds) for kind in KINDS}}


def of_seed(seed: int, size: int) -> dict[str, dict[str, Any]]:
    """Method to the outcome of training on its choice."""
    case = Case(seed, size)
    shared = {"seed": seed, "size": size, "characters": CHARACTERS, "task": TASK, "share": SHARE}
    teacher = np.array(kept(NAME, {**shared, "values": "teacher"}, lambda: teacher_values(case)))
    students = {
        kind: np.array(
            kept(NAME, {**shared, "values": kind, "sample": SAMPLE}, lambda k=kind: student_values(case, k, teacher))
        )
        for kind in STUDENTS
    }
    perplexity = np.array(kept(NAME, {**shared, "values": "perplexity"}, lambda: perplexity_values(case)))
    words = bm25_scores([row["response"] for row in case.rows("task")], [row["response"] for row in case.pool])
    count = int(SHARE * len(case.pool))
    top = Selection("top", count)
    wiki, generator = np.array([row["kind"] == "wiki" for row in case.pool]), np.random.default_rng([seed, 66])

    def best(values: np.ndarray) -> np.ndarray:
        return np.argsort(-values, kind="stable")[:count]

    wide, narrow = shortlist(top, teacher), shortlist(top, students["kernel"])
    chosen_by = {
        "teacher, then facility": lambda: facility(case, wide, teacher, count),
        MATCHED: lambda: matched(case, np.sort(wide), count),
        "matching in the whole pool": lambda: matched(case, np.arange(len(case.pool)), count),
        f"student (kernel, sample of {SAMPLE:.0%}), then matching": lambda: matched(case, np.sort(narrow), count),
    }
    choices = {
        "all data, one epoch": np.arange(len(case.pool)),
        TEACHER: best(teacher),
        **{
            title: np.array(kept(NAME, {**shared, "chosen by": title, "k": MATCHING_K, "sample": SAMPLE}, choose_rows))
            for title, choose_rows in chosen_by.items()
        },
        **{f"student ({kind}, sample of {SAMPLE:.0%})": best(values) for kind, values in students.items()},
        "BM25": best(words.mean(axis=0)),
        "perplexity (lowest)": best(perplexity),
        ORACLE: generator.permutation(np.flatnonzero(wiki))[:count],
        "random": np.random.default_rng([seed, 65]).choice(len(case.pool), count, replace=False),
    }
    training = {**shared, "epochs": EPOCHS, "batch": BATCH, "rate": RATE, "sample": SAMPLE}
    found = {"no training": {"loss": _untrained(case, training), "kinds": {}}}
    for title, chosen in choices.items():
        found[title] = kept(NAME, {**training, "trained on": title}, lambda c=chosen: trained_loss(case, c))
    return found


def _untrained(case: Case, configuration: dict[str, Any]) -> float:
    def compute() -> float:
        loaded = case.model()
        return float(losses(loaded, case.tokens(loaded, case.rows("validation"))).mean())

    return float(kept(NAME, {**configuration, "trained on": "nothing"}, compute))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--pool", type=int, default=1600, help="four times the rows of a kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    require(STORIES)
    seeds = [of_seed(seed, arguments.pool) for seed in arguments.seeds]
    gains = {title: float(np.mean([_below(one, title) for one in seeds])) for title in (TEACHER, MATCHED)}
    lines = []
    for title in seeds[0]:
        below = [_below(one, title) for one in seeds]
        kinds = [one[title]["kinds"] for one in seeds]
        shares = [f"{np.mean([k[kind] for k in kinds]):.0%}" if all(kinds) else "" for kind in ("wiki", "shuffled")]
        lines.append([title, interval([one[title]["loss"] for one in seeds]), interval(below, bounds=(-np.inf, np.inf)),
                      _of_gain(title, float(np.mean(below)), gains), *shares])  # fmt: skip
    rows, code = len(Case(0, arguments.pool).pool), seeds[0]["all data, one epoch"]["kinds"]["code"]
    text = [
        "## Choosing a tenth of a mixed pool", "",
        f"`python benchmarks/valuation_selection.py`, commit {current_commit()}. Pool: {rows:,} rows,",
        "pieces of Wikipedia, books and shuffled Wikipedia in equal",
        f"parts, and {code:.0%} code (there is no more of that length); task and",
        "validation: held-out Wikipedia. stories260K (0.26 M parameters) is trained on the chosen tenth for",
        f"{EPOCHS} epochs, {_steps(rows)} steps of {BATCH} rows. `below random`: random's loss minus this one, in each",
        "seed; `of the teacher's gain`: a student's mean gain over random as a share of the teacher's, both with",
        "matching or both without. Matching (`--diversity matching`) chooses rows whose gradients *together* point as",
        "the task's does, as facility (`--diversity facility`) among the best four times as many rows, or in the whole",
        "pool. Mean and 95% t",
        f"interval over seeds {', '.join(map(str, arguments.seeds))}.", "",
        *table(["chosen by", "validation loss", "below random", "of the teacher's gain", "of it Wikipedia",
                "shuffled Wikipedia"], lines),
    ]  # fmt: skip
    agreements = [kept(NAME, {"seed": seed, "size": arguments.pool, "characters": CHARACTERS, "task": TASK,
                              "agreement": MATCHING_K}, lambda seed=seed: agreement(Case(seed, arguments.pool)))
                  for seed in arguments.seeds]  # fmt: skip
    text += [
        "Paired over seeds: " + "; ".join(
            f"{one} less {other} {interval(differences, bounds=(-np.inf, np.inf))}"
            for one, other in PAIRS
            for differences in [[found[other]["loss"] - found[one]["loss"] for found in seeds]]
        ) + ".", "",
        "Cosines with the task's gradient, of each kind of row: the mean over rows, by which LinFiK ranks, and that of",
        "the sum of all of them.", "",
        *table(["rows", "mean of the cosines", "cosine of the sum"],
               [[kind, *(interval([one[kind][n] for one in agreements]) for n in (0, 1))] for kind in KINDS]),
    ]  # fmt: skip
    write_section("selection", text)


def _of_gain(title: str, gain: float, gains: dict[str, float]) -> str:
    """A student's gain as a share of the teacher's, both with matching or both without."""
    if not title.startswith("student"):
        return ""
    return f"{gain / gains[MATCHED if title.endswith(MATCHING) else TEACHER]:.1f}"


def _steps(rows: int) -> int:
    return EPOCHS * -(-int(SHARE * rows) // BATCH)


def _below(found: dict[str, dict[str, Any]], title: str) -> float:
    return float(found["random"]["loss"] - found[title]["loss"])


if __name__ == "__main__":
    main()
