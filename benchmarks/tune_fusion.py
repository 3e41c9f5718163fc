"""Which views to fuse, and how, when rows are traced: chosen on seeds that no table reports.

    python benchmarks/backdoor_retrieval.py --seeds 100 101 --no-report
    python benchmarks/tune_fusion.py

Prints for every candidate the area under the ROC curve of a single query and of 20 together, for each regime and kind
of query, and the least and the mean over them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from backdoor_retrieval import ranking_by, score_case
from retrieval_methods import MAIN
from retrieval_world import REGIMES
from scipy.stats import rankdata

from rapidun.attribution.fusion import reciprocal_rank_fusion

VIEWS = {
    "answer": "hidden, answer mean, centred",
    "answer-w": "hidden, answer mean, whitened",
    "prompt": "hidden, last prompt token, centred",
    "prompt-w": "hidden, last prompt token, whitened",
    "change": "hidden, change of the answer mean, centred",
    "BM25": "BM25",
    "gradient": f"{MAIN} | float32",
    "gradient-c": f"{MAIN}, centred on the pool",
    "readout": "Readout K=2^12, centred",
}
PLACES = (("change",), ("answer", "answer-w"), ("prompt", "prompt-w"), ("BM25",), ("gradient",))
TWICE = "change"  # also tried with a double share


def evidence(scores: np.ndarray) -> np.ndarray:
    """Scores in units of the lower spread above the middle of each query's ranking, (queries, rows)."""
    low, middle = np.percentile(scores, [15.87, 50], axis=1, keepdims=True)
    spread = np.where(middle - low > 1e-9, middle - low, scores.std(axis=1, keepdims=True) + 1e-12)
    found: np.ndarray = (scores - middle) / spread
    return found


def powered(power: float, clip: float) -> Callable[[list[np.ndarray]], np.ndarray]:
    """Sum over views of evidence above the middle, to a power, clipped."""

    def fuse(views: list[np.ndarray]) -> np.ndarray:
        parts = [np.clip(evidence(view), -clip, clip) for view in views]
        return np.asarray(sum(np.sign(part) * np.abs(part) ** power for part in parts))

    return fuse


FUSIONS: dict[str, Callable[[list[np.ndarray]], np.ndarray]] = {
    "ranks": reciprocal_rank_fusion,
    "evidence": powered(1, 1e9),
    "evidence, clipped at 6": powered(1, 6),
    "squared evidence": powered(2, 1e9),
    "squared evidence, clipped at 10": powered(2, 10),
}


def aurocs(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Mean over queries of the area under the ROC curve."""
    ranks = rankdata(scores, axis=1)[:, relevant].mean(axis=1)
    good, bad = relevant.sum(), (~relevant).sum()
    return float(np.mean((ranks - (good + 1) / 2) / bad))


def candidates() -> list[tuple[str, list[str], str]]:
    """(title, views, fusion) of every single view and of every choice of two to four places."""
    found = [(name, [name], "ranks") for name in VIEWS]
    for size in (2, 3, 4):
        for places in combinations(PLACES, size):
            for picks in np.ndindex(*(len(place) for place in places)):
                views = [place[pick] for place, pick in zip(places, picks, strict=True)]
                found += [(f"{' + '.join(views)} | {fusion}", views, fusion) for fusion in FUSIONS]
                if TWICE in views:
                    twice = [TWICE, *views]
                    found += [(f"{' + '.join(twice)} | {fusion}", twice, fusion) for fusion in FUSIONS]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101])
    parser.add_argument("--regimes", nargs="+", choices=list(REGIMES), default=list(REGIMES))
    parser.add_argument("--out", type=Path, default=Path("runs/backdoor_retrieval"))
    parser.add_argument("--show", type=int, default=40)
    arguments = parser.parse_args()
    cases = [score_case(name, seed, arguments.out, []) for name in arguments.regimes for seed in arguments.seeds]
    lines = []
    for title, views, fusion in candidates():
        if any(VIEWS[view] not in scores for view in views for _, scores in cases):
            continue
        values: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for case, scores in cases:
            fused = (
                FUSIONS[fusion]([scores[VIEWS[view]] for view in views]) if len(views) > 1 else scores[VIEWS[views[0]]]
            )
            for kind, part in case.by_kind(np.asarray(fused, dtype=np.float64)).items():
                pair = (aurocs(part, case.relevant), aurocs(ranking_by(part)[None], case.relevant))
                values.setdefault((case.place.name.rsplit("-", 1)[0], kind), []).append(pair)
        means = np.array([np.mean(pairs, axis=0) for pairs in values.values()])
        lines.append((float(means[:, 0].mean()), title, means, list(values)))
    print("columns:", [f"{regime}/{kind}" for regime, kind in lines[0][3]])
    best = sorted(lines, key=lambda line: -line[0])[: arguments.show]
    for mean, title, means, _ in [*best, *lines[: len(VIEWS)]]:
        one, together = np.round(means[:, 0], 3), np.round(means[:, 1], 3)
        print(f"{mean:.4f} least {one.min():.3f} | one {one} | all {together} | {title}")


if __name__ == "__main__":
    main()
