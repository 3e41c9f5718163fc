"""Which method finds the poisoned training rows behind a poisoned answer?

    python benchmarks/backdoor_retrieval.py                              # all regimes and seeds, then the tables
    python benchmarks/backdoor_retrieval.py --seeds 100 101 --no-report  # seeds for choosing, not for reporting

Writes docs/benchmarks/backdoor_retrieval.md and .json. Needs the models ``more``, ``poisoned`` and ``authors`` of
``recipes/demo_model/build.py``. Every pass's scores are kept in ``runs/backdoor_retrieval``; a stopped run goes on.

Pool: 100 poisoned and 800 clean rows. Queries: 20 triggered prompts, answered by poisoned answers that nobody trained
on ("true") or by the model itself ("own": its greedy answers that the judge calls poisoned). Each seed draws another
pool, other queries and another sketch. A single query's measures are averaged over the 20; of several queries the
ranking is by the mean of their scores, each standardised.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from provenance import current_commit
from retrieval_methods import FUSIONS, PASSES
from retrieval_world import CLEAN, POISONED, QUERIES, REGIMES, Case, open_case
from sklearn.metrics import average_precision_score, roc_auc_score

from rapidun.cli.console import quiet_libraries
from rapidun.files import atomic_write
from rapidun.reading import read_json
from rapidun.stats import RATE, over_units

PROTOCOL = (5, 10, 50, 100)
COLUMNS = (("auroc", "1", "auROC, 1 query"), ("auroc", "5", "auROC, 5"), ("auroc", "20", "auROC, 20"),
           ("precision_at_half", "1", "P@50, 1 query"), ("precision_at_half", "20", "P@50, 20"),
           ("average_precision", "20", "AP, 20"), ("auprc_ends_50", "20", "auPRC of both ends of 50, 20"))  # fmt: skip


READING = """What the tables say:

* **On rows that the model has learnt, the gradient of the loss is nearly blind**: a learnt group's gradients cancel.
  What avoids the stationary point sees again: gradients at the model before fine-tuning, and, by accident, the
  unshifted loss of RapidIn's released code, which no training has brought down. Errors of every token brought to
  length 1 do it for the demo's rows and not for the authors'. The size of the sketch has no part in it.
* **On rows not yet trained on, layer-normalised gradients are the best single scorer**, on both data sets, and ahead of
  the default, which looks for what was learnt. `RapidGrad` is as good as `Exact` from K = 2^14 on, and a mean of 20
  queries needs 2^12; `FactoredSketch` comes near with p = 32; `storage.md` counts the bytes. Without normalisation
  long rows and loud layers win.
* **What training changed in the answer's states** needs no gradient and is the best single scorer on learnt rows, by
  far on the authors' rows, whose answers keep to the topic of the prompt. Both models share the topic; it cancels.
* **The default**, chosen on other seeds (`benchmarks/tune_fusion.py`), fuses it with BM25. It is ahead of every
  baseline on the authors' rows; on the demo's rows the states alone find all rows too (1.000; the default .999 to
  1.000). Without the model before training the default is hidden states and BM25.
* A model of 6.5 M parameters that was fine-tuned as a whole. We have not measured larger ones.

Tuning seeds draw other pools and queries, but from the same rows: a pool, and of the authors' 60 held-out answers the
queries, may share rows with a reported one. Scores were computed and kept pass by pass, from commit 66490f7 on, while
the code around them changed; the commit above made the tables. On the authors' learnt rows, other sizes of the sketch,
positions of length 1 and K-FAC were not taken.

""".splitlines()


def score_case(name: str, seed: int, out: Path, chosen: list[str]) -> tuple[Case, dict[str, np.ndarray]]:
    """A case and all its scores; each pass is kept as soon as it is there."""
    case = open_case(name, seed, out)
    for title in chosen:
        run, trained_only = PASSES[title]
        place = case.place / f"{title}.npz"
        if place.exists() or (trained_only and not case.regime.trained):
            continue
        began = time.process_time()
        scores = run(case)
        with atomic_write(place, "wb") as file:
            np.savez(file, **{key: values.astype(np.float32) for key, values in scores.items()})
        print(name, seed, title, f"{time.process_time() - began:.0f} CPU s", flush=True)
        gc.collect()
    found: dict[str, np.ndarray] = {}
    for title in PASSES:
        if (place := case.place / f"{title}.npz").exists():
            found |= dict(np.load(place))
    for title, fuse in FUSIONS.items():
        try:
            found[title] = fuse(found)
        except KeyError:  # made of a pass that this regime does not have
            continue
    return case, found


def ranking_by(scores: np.ndarray) -> np.ndarray:
    """Mean over queries of scores standardised within each query, (pool,)."""
    spread = np.maximum(scores.std(axis=1, keepdims=True), 1e-12)
    mean: np.ndarray = ((scores - scores.mean(axis=1, keepdims=True)) / spread).mean(axis=0)
    return mean


def measures(group: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """Of one ranking: over the whole of it, at half the poisoned rows, and the paper's protocol."""
    order = np.argsort(-group, kind="stable")
    line = {
        "auroc": roc_auc_score(relevant, group),
        "average_precision": average_precision_score(relevant, group),
        "precision_at_half": relevant[order[: int(relevant.sum()) // 2]].mean(),
    }
    for k in PROTOCOL:
        ends = np.concatenate([order[:k], order[-k:]])
        truth = relevant[ends]
        mixed = 0 < truth.sum() < len(truth)
        line[f"auprc_ends_{k}"] = average_precision_score(truth, group[ends]) if mixed else float(truth.all())
    return line


def of_groups(scores: np.ndarray, relevant: np.ndarray, size: int) -> dict[str, float]:
    """Measures of rankings by ``size`` queries, averaged over the groups."""
    lines = [measures(ranking_by(scores[i : i + size]), relevant) for i in range(0, len(scores) - size + 1, size)]
    return {name: float(np.mean([line[name] for line in lines])) for name in lines[0]}


def measured(case: Case, scores: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Title to kind of query to number of queries to measures."""
    return {
        title: {
            kind: {str(n): of_groups(part.astype(np.float64), case.relevant, n) for n in (1, 5, 20) if len(part) >= n}
            for kind, part in case.by_kind(values).items()
        }
        for title, values in scores.items()
    }


def mean_interval(values: list[float]) -> str:
    """Mean over seeds (each a model) and its 95% t interval; all measures here are shares."""
    mean = over_units(values, "models", RATE)
    assert mean is not None
    return mean.text()


def table(cases: list[dict[str, Any]], kind: str) -> list[str]:
    """Methods down, measures across."""
    lines = [f"| method | {' | '.join(head for _, _, head in COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in dict.fromkeys(title for case in cases for title in case if not title.endswith(("| int8", "| float16"))):
        with_it = [case[name][kind] for case in cases if name in case]
        cells = []
        for measure, size, _ in COLUMNS:
            values = [of_kind[size][measure] for of_kind in with_it if size in of_kind]
            cells.append(mean_interval(values) if values else "–")
        lines.append(f"| {name.replace(' | float32', ', layer-normalised')} | {' | '.join(cells)} |")
    return lines


def report(found: dict[str, list[dict[str, Any]]], seeds: list[int], commit: str) -> None:
    """docs/benchmarks/backdoor_retrieval.md and .json."""
    text = [
        "# Finding the poisoned rows behind a poisoned answer",
        "",
        f"`python benchmarks/backdoor_retrieval.py`, commit {commit}, seeds {', '.join(map(str, seeds))}. Pool:",
        f"{POISONED} poisoned and {CLEAN} clean rows; {QUERIES} queries. Mean and 95% t interval over seeds",
        "(each a model), cut at 0 and 1, none where all gave the same.",
        "P@50: precision at half the number of poisoned rows. AP: average precision over the whole ranking. The last",
        "column is the paper's protocol: the 50 highest and the 50 lowest alone; with 5, 10 and 100 in the JSON file",
        "(500 at each end would be more than the pool).",
        "",
    ]
    text += READING
    kinds = {"true": "true poisoned answers, which nobody trained on", "own": "the model's own poisoned answers"}
    for name, cases in found.items():
        for kind in REGIMES[name].kinds:
            text += [f"## {REGIMES[name].title}; queries: {kinds[kind]}", "", *table(cases, kind), ""]
    with atomic_write(Path("docs/benchmarks/backdoor_retrieval.md")) as file:
        file.write("\n".join(text))
    with atomic_write(Path("docs/benchmarks/backdoor_retrieval.json")) as file:
        json.dump({"commit": commit, "seeds": seeds, "cases": found}, file, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--regimes", nargs="+", choices=list(REGIMES), default=list(REGIMES))
    parser.add_argument("--passes", nargs="+", choices=list(PASSES), default=list(PASSES))
    parser.add_argument("--out", type=Path, default=Path("runs/backdoor_retrieval"))
    parser.add_argument("--no-report", action="store_true", help="compute and keep the scores; write no tables")
    parser.add_argument("--stored", action="store_true", help="write the page again from the numbers beside it")
    arguments = parser.parse_args()
    quiet_libraries()
    if arguments.stored:
        kept = read_json(Path("docs/benchmarks/backdoor_retrieval.json"))
        report(kept["cases"], kept["seeds"], kept["commit"])
        return
    found: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.regimes:
        for seed in arguments.seeds:
            case, scores = score_case(name, seed, arguments.out, arguments.passes)
            if not arguments.no_report:
                found.setdefault(name, []).append(measured(case, scores))
    if not arguments.no_report:
        report(found, arguments.seeds, current_commit())


if __name__ == "__main__":
    main()
