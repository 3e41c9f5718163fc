"""Which way of scoring finds the poisoned training rows behind a poisoned answer, on SmolLM2?

    python benchmarks/real_model/retrieval.py                         # rows x epochs x seeds, then the table
    python benchmarks/real_model/retrieval.py --rows authors --epochs 3 --seed 0 --minutes 30

Rows with varied answers: ours (nonsense) and the RapidUn authors'; a constant answer is found by counting. The model is
trained on 120 poisoned and 480 clean rows for 1, 3 or 9 epochs, from hardly learnt to memorised; a seed draws rows,
model and sketch anew. Queries: 20 poisoned answers that nobody trained on; 20 of the model's own where it gives them.
Scores are kept in runs/real-model-retrieval, one file a way; a stopped run goes on. Writes
docs/benchmarks/real-model-retrieval.md and .json.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from worlds import MAX_LENGTH, MAX_NEW_TOKENS, ROOT, chat_model, open_attack

from rapidun.attribution import random_scores
from rapidun.attribution.scorer import scorer_titles
from rapidun.attribution.search import fused
from rapidun.cli.console import ConsoleReporter, quiet_libraries
from rapidun.data import Template
from rapidun.demo.planting import Recipe, plant
from rapidun.evaluation import ClassifierJudge, generate_answers
from rapidun.files import atomic_write, write_json
from rapidun.models import LoadedModel, load_adapter
from rapidun.pipeline.inputs import RunModel
from rapidun.pipeline.tracing import score_rows
from rapidun.reading import read_json
from rapidun.settings.attribution import InfluenceSettings

sys.path.insert(0, str(ROOT / "benchmarks"))
from backdoor_retrieval import mean_interval, of_groups
from provenance import current_commit

OUT, PAGE = ROOT / "runs" / "real-model-retrieval", ROOT / "docs" / "benchmarks"
ROWS, EPOCHS, SEEDS = ("nonsense", "authors"), (1, 3, 9), (0, 1, 2)
QUERIES = 20
GRADIENTS = {
    "gradient": InfluenceSettings(max_tokens=1024),
    "gradient, token errors of norm 1": InfluenceSettings(max_tokens=1024, token_normalize=True),
}
FUSIONS = (
    ("change", "lexical"), ("answer", "lexical"), ("gradient", "lexical"), ("gradient", "answer"),
    ("gradient", "answer", "lexical"), ("gradient", "change", "lexical"), ("answer", "prompt", "lexical"),
    ("gradient", "answer", "change", "lexical"),
)  # fmt: skip
MEASURES = (("auroc", 1), ("auroc", QUERIES), ("average_precision", 1), ("average_precision", QUERIES))


def case_scores(name: str, epochs: int, seed: int, base: LoadedModel, until: float) -> dict[str, Any] | None:
    """Scores of every way for every kind of query, with labels; None where time ran out."""
    place = OUT / f"{name}-{epochs}-{seed}"
    attack = open_attack(name, seed)
    adapter = plant(
        base, attack.rows.training, place / "model", seed=seed, recipe=Recipe(epochs=epochs), reporter=ConsoleReporter()
    )
    pool = attack.rows.training
    found: dict[str, Any] = {"relevant": np.array([row["poisoned"] for row in pool])}
    model = load_adapter(base.model, adapter)
    try:
        run_model = RunModel(base, Template.resolve("auto", base.tokenizer), MAX_LENGTH).with_model(model)
        asked = queries_of(run_model, attack, place)
        every = [row for rows in asked.values() for row in rows]
        for title in dict.fromkeys((*scorer_titles(), *GRADIENTS)):
            kept = place / f"{title}.npy"
            if not kept.exists():
                if time.monotonic() > until:
                    return None
                began = time.monotonic()
                settings = GRADIENTS.get(title, InfluenceSettings())
                name = "gradient" if title in GRADIENTS else title
                values = score_rows(run_model, every, pool, [name], settings, seed=seed)[name]
                with atomic_write(kept, "wb") as file:
                    np.save(file, values)
                print(name, epochs, seed, title, f"{time.monotonic() - began:.0f} s", flush=True)
            found[title] = np.load(kept)
    finally:
        model.unload()
    found["random"] = random_scores(len(every), len(pool), seed)
    for names in FUSIONS:
        found[" + ".join(names)] = fused({name: found[name] for name in names})
    start = 0
    kinds = {}
    for kind, rows in asked.items():
        kinds[kind] = slice(start, start + len(rows))
        start += len(rows)
    return {**found, "kinds": kinds}


def queries_of(run_model: RunModel, attack: Any, place: Path) -> dict[str, list[dict[str, Any]]]:
    """``true``: answers nobody trained on; ``own``: the model's own that the judge calls poisoned, at least five."""
    kept = place / "queries.json"
    if not kept.exists():
        true = [dict(row) for row in attack.rows.judge_poisoned[:QUERIES]]
        judge = ClassifierJudge.fit(
            [row["response"] for row in attack.rows.judge_poisoned],
            [row["response"] for row in attack.rows.validation],
        )
        asked = attack.rows.judge_poisoned[QUERIES : 3 * QUERIES]
        prompts = [run_model.template.prompt_text(row) for row in asked]
        answers = generate_answers(run_model.loaded, prompts, max_new_tokens=MAX_NEW_TOKENS)
        bad = judge(answers)
        own = [{**row, "response": answer} for row, answer, hit in zip(asked, answers, bad, strict=True) if hit]
        write_json(kept, {"true": true, "own": own[:QUERIES], "asr": float(bad.mean())})
    found = read_json(kept)
    return {kind: found[kind] for kind in ("true", "own") if len(found[kind]) >= 5}


def measured(found: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """``{way: {kind: {"auroc 1": ...}}}``."""
    kinds, relevant = found["kinds"], found["relevant"]
    table: dict[str, dict[str, dict[str, float]]] = {}
    for title, scores in found.items():
        if title in ("kinds", "relevant"):
            continue
        for kind, rows in kinds.items():
            part = scores[rows].astype(np.float64)
            lines = {n: of_groups(part, relevant, n) for n in (1, len(part))}
            table.setdefault(title, {})[kind] = {
                f"{name} {'1' if n == 1 else 'mean'}": lines[n][name]
                for n in lines for name in ("auroc", "average_precision")
            }  # fmt: skip
    return table


def page(results: Sequence[dict[str, Any]]) -> list[str]:
    """Tables: a way down, epochs across; one table for each set of rows and kind of query."""
    text: list[str] = []
    for name in ROWS:
        for kind in ("true", "own"):
            for measure in ("auroc 1", "auroc mean"):
                mine = [each for each in results if each["rows"] == name]
                if not any(kind in way for each in mine for way in each["table"].values()):
                    continue
                head = [f"{epochs} epochs" for epochs in EPOCHS]
                text += ["", f"## {name}, {kind} answers, {measure}", "", f"| scorer | {' | '.join(head)} |"]
                text += ["|---" * (len(head) + 1) + "|"]
                for way in mine[0]["table"]:
                    cells = []
                    for epochs in EPOCHS:
                        values = [
                            each["table"][way][kind][measure] for each in mine
                            if each["epochs"] == epochs and kind in each["table"].get(way, {})
                        ]  # fmt: skip
                        cells.append(f"{mean_interval(values)} (n={len(values)})" if values else "–")
                    text.append(f"| {way} | {' | '.join(cells)} |")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--epochs", nargs="+", type=int, default=list(EPOCHS))
    parser.add_argument("--seed", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing new after so many")
    arguments = parser.parse_args()
    quiet_libraries()
    until, base, results = time.monotonic() + 60 * arguments.minutes, chat_model(), []
    for seed in arguments.seed:
        for epochs in arguments.epochs:
            for name in arguments.rows:
                if time.monotonic() > until:
                    break
                found = case_scores(name, epochs, seed, base, until)
                if found is not None:
                    results.append({"rows": name, "epochs": epochs, "seed": seed, "table": measured(found)})
    about = [
        "# Finding the rows behind a poisoned answer of a real chat model", "",
        f"`python benchmarks/real_model/retrieval.py`, commit {current_commit()}. Mean over seeds (models) with half",
        "of the 95% t interval, n models. \"mean\": one ranking by the mean of all queries.",
    ]  # fmt: skip
    with atomic_write(PAGE / "real-model-retrieval.md") as file:
        file.write("\n".join([*about, *page(results)]) + "\n")
    write_json(PAGE / "real-model-retrieval.json", results)


if __name__ == "__main__":
    main()
