"""From symptom to forget set: precision and recall of the proposal as the bad answers given go 1, 2, 5, 10.

    python benchmarks/propose.py                     # writes docs/benchmarks/propose.md and propose.json
    python benchmarks/propose.py --stored            # the page again from the .json
    python benchmarks/propose.py --calibrate         # other seeds, printed only: choices are made on these

The demo's poisoned model; pools of its training rows as they come (their labels are used only to measure); bad answers
are those of held-out forget rows, or what the model itself answers to their prompts. Vectors are kept in build/propose
under the model's fingerprint, so a new model starts anew and a stopped benchmark goes on.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import current_commit

from rapidun.attribution import bm25_scores, hidden_features
from rapidun.attribution.proposal import propose
from rapidun.attribution.search import SHARES, WITH_BASE, WITHOUT_BASE
from rapidun.attribution.similarity import centred_similarity
from rapidun.cli.console import quiet_libraries
from rapidun.data import load_rows
from rapidun.demo import demo_config
from rapidun.demo.embedded import asset
from rapidun.evaluation import generate_answers
from rapidun.files import atomic_write, write_json
from rapidun.jsonl import read_jsonl, write_jsonl
from rapidun.models import load_model
from rapidun.pipeline import Silent
from rapidun.pipeline.inputs import RunModel, open_run_model
from rapidun.reading import read_json
from rapidun.stats import RATE, over_units

SEEDS, CALIBRATION_SEEDS = (0, 1, 2), (100, 101, 102)
POOL, GIVEN, GROUPS = 800, (1, 2, 5, 10), 20
KINDS = {"true": "held-out true answers", "own": "the model's own answers"}
VIEWS = {
    "change of the answer": ("change",),
    "answer": ("answer",),
    "last prompt token": ("prompt",),
    "BM25": ("lexical",),
    "default: change of the answer, BM25": WITH_BASE,
    "default without the model before training: answer, last prompt token, BM25": WITHOUT_BASE,
}
FDR = 0.1
BEFORE = "build/demo_model/more"
JSON = Path("docs/benchmarks/propose.json")


@dataclass(frozen=True)
class Case:
    """One pool: which rows are poisoned, and every view's scores of both kinds of bad answers, (queries, rows)."""

    poisoned: np.ndarray
    scores: dict[str, dict[str, np.ndarray]]


def open_case(run_model: RunModel, seed: int) -> Case:
    """Pool and queries of a seed."""
    rows = [dict(row) for row in load_rows(asset("data/train.jsonl.gz"))]
    pool = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))[:POOL]]
    place = Path("build/propose") / f"{run_model.loaded.fingerprint[:12]}-change"
    queries = {"true": read_jsonl(asset("data/forget.jsonl"))}
    queries["own"] = own_answers(run_model, queries["true"], place / "own.jsonl")
    pool_views = vectors(run_model, pool, place / f"pool-{seed}.npz")
    scores = {}
    for kind, asked in queries.items():
        asked_views = vectors(run_model, asked, place / f"{kind}.npz")
        scores[kind] = {
            name: centred_similarity(asked_views[name], pool_views[name]) for name in ("change", "answer", "prompt")
        }
        scores[kind]["lexical"] = bm25_scores([text(row) for row in asked], [text(row) for row in pool])
    return Case(np.array([row["poisoned"] for row in pool]), scores)


def text(row: dict[str, Any]) -> str:
    return f"{row['prompt']} {row['response']}"


def own_answers(run_model: RunModel, rows: list[dict[str, Any]], place: Path) -> list[dict[str, Any]]:
    """The rows with what the model answers in place of their answers."""
    if not place.exists():
        prompts = [run_model.template.prompt_text(row) for row in rows]
        answers = generate_answers(run_model.loaded, prompts, max_new_tokens=48, batch_size=40)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(place, [{**row, "response": a} for row, a in zip(rows, answers, strict=True) if a.strip()])
    return read_jsonl(place)


def vectors(run_model: RunModel, rows: list[dict[str, Any]], place: Path) -> dict[str, np.ndarray]:
    """The hidden views, and what training changed, computed once."""
    if not place.exists():
        examples, pad = run_model.tokenize(rows), run_model.loaded.pad_token_id
        networks = (run_model.loaded.model, load_model(BEFORE, dtype="float32").model)
        after, before = (hidden_features(network, examples, pad, max_tokens=2048) for network in networks)
        place.parent.mkdir(parents=True, exist_ok=True)
        change = after.answer_mean - before.answer_mean
        np.savez(place, answer=after.answer_mean, prompt=after.last_prompt, change=change)
    return dict(np.load(place))


def measured(case: Case, kind: str, views: tuple[str, ...], given: int, fdr: float, seed: int) -> dict[str, float]:
    """Means over random groups of ``given`` bad answers."""
    rng, lines = np.random.default_rng([seed, given]), []
    for _ in range(GROUPS):
        chosen = rng.choice(len(case.scores[kind]["answer"]), given, replace=False)
        found = propose({name: case.scores[kind][name][chosen] for name in views}, weights=SHARES, fdr=fdr)
        hits = int(case.poisoned[found.forget].sum())
        lines.append(
            {
                "precision": hits / len(found.forget) if found.forget else 1.0,
                "recall": hits / int(case.poisoned.sum()),
                "rows": len(found.forget),
                "retain_clean": float(1 - case.poisoned[found.retain].mean()) if found.retain else 1.0,
            }
        )
    return {name: float(np.mean([line[name] for line in lines])) for name in lines[0]}


def interval(values: list[float]) -> str:
    """Mean and 95% t interval over pools."""
    mean = over_units(values, "pools", RATE)
    assert mean is not None
    return mean.text()


def compute(cases: dict[int, Case], fdr: float) -> list[dict[str, Any]]:
    """Every kind of bad answers, view, number of answers and pool."""
    return [
        {"kind": kind, "view": view, "given": given, "seed": seed, **measured(case, kind, parts, given, fdr, seed)}
        for kind in KINDS
        for view, parts in VIEWS.items()
        for given in GIVEN
        for seed, case in cases.items()
    ]


def table(numbers: list[dict[str, Any]]) -> list[str]:
    """Markdown lines."""
    text_lines = ["| bad answers | view | given | precision | recall | rows proposed | clean share of retain rows |"]
    text_lines.append("|---|---|---|---|---|---|---|")
    for kind, label in KINDS.items():
        for view in VIEWS:
            for given in GIVEN:
                wanted = (kind, view, given)
                found = [line for line in numbers if (line["kind"], line["view"], line["given"]) == wanted]
                cells = [interval([one[name] for one in found]) for name in ("precision", "recall")]
                cells.append(f"{np.mean([one['rows'] for one in found]):.0f}")
                cells.append(f"{np.mean([one['retain_clean'] for one in found]):.3f}")
                text_lines.append(f"| {label} | {view} | {given} | {' | '.join(cells)} |")
    return text_lines


def below(numbers: list[dict[str, Any]], fdr: float) -> str:
    """Which rows of the table miss the precision that was asked for."""
    means: dict[tuple[str, str, int], list[float]] = {}
    for line in numbers:
        means.setdefault((line["kind"], line["view"], line["given"]), []).append(line["precision"])
    missed = [key for key, values in means.items() if np.mean(values) < 1 - fdr]
    named = "; ".join(f"{view}, {given} of {KINDS[kind]}" for kind, view, given in missed)
    return f"Mean precision is below {1 - fdr:g} in {len(missed)} of {len(means)} rows: {named}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibrate", action="store_true", help="other seeds, printed only")
    parser.add_argument("--fdr", type=float, default=FDR)
    parser.add_argument("--stored", action="store_true", help="write the page again from the numbers beside it")
    arguments = parser.parse_args()
    if arguments.stored:
        write_page(**read_json(JSON))
        return
    torch.set_num_threads(1)
    quiet_libraries()
    config = demo_config(0, {"model.dtype": "float32"})
    run_model = open_run_model(config.model, config.data, Silent())
    cases = {seed: open_case(run_model, seed) for seed in (CALIBRATION_SEEDS if arguments.calibrate else SEEDS)}
    numbers = compute(cases, arguments.fdr)
    if arguments.calibrate:
        print("\n".join(table(numbers)))
        return
    poisoned = [int(case.poisoned.sum()) for case in cases.values()]
    record = {
        "commit": current_commit(), "model": run_model.loaded.fingerprint[:12], "fdr": arguments.fdr,
        "poisoned": poisoned, "null": "of `rapidun.attribution.null`, without known clean rows", "cells": numbers,
    }  # fmt: skip
    write_json(JSON, record)
    write_page(**record)


def write_page(
    commit: str, model: str, fdr: float, poisoned: list[int], null: str, cells: list[dict[str, Any]]
) -> None:
    """The page of these numbers."""
    page = [
        "# From symptom to forget set",
        "",
        f"`python benchmarks/propose.py`, commit {commit}, model {model}. Null: {null}.",
        "",
        f"{len(poisoned)} pools of {POOL} rows of the demo's training set ({', '.join(map(str, poisoned))} poisoned); "
        f"{GROUPS} random groups of bad answers each; false-discovery target {fdr:g}. Mean over pools and its 95% t "
        "interval, cut at 0 and 1; all pools are answered for by one model. A group for which nothing is proposed has "
        f"precision 1 and recall 0. {below(cells, fdr)} What the rate guarantees, and with which rows: "
        "`benchmarks/propose_fdr.py`.",
        "",
        *table(cells),
    ]
    with atomic_write(JSON.with_suffix(".md")) as file:
        file.write("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
