"""LDS of every estimator on a tiny model: do influences add up to what retraining on half of the rows really does?

    python benchmarks/lds.py                       # writes docs/benchmarks/lds.md and lds.json
    python benchmarks/lds.py --only "RapidGrad"    # only the methods whose name this finds, into the cache

Retrainings and scores are kept in build/lds; delete a file to do it again. Damping and the like are chosen on 20
subsets, everything is reported on 64 others. bergson runs in its own environment (BERGSON_PYTHON, by default
/tmp/bergson/bin/python) where there is one.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import itertools
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curvature import gauss_newton_influence
from lds_score import LDS, lds, lds_difference
from lds_world import BATCH, BUILD, EPOCHS, RATE, SEEDS, SUBSETS, TUNING_SUBSETS, World, retrain_all
from lissa import lissa
from provenance import current_commit

from rapidun.attribution import bm25_scores, hidden_features, random_scores
from rapidun.attribution.similarity import PoolStatistics, centred_similarity, prepared, whitened_similarity
from rapidun.cli.console import quiet_libraries
from rapidun.data import Example
from rapidun.files import atomic_write, write_json
from rapidun.gradients import Exact, GradientCollector, RapidGrad, collect_vectors, fit_preconditioner
from rapidun.jsonl import write_jsonl

Estimate = Callable[..., np.ndarray]
BERGSON = Path(os.environ.get("BERGSON_PYTHON", "/tmp/bergson/bin/python"))
K = 65_536
MAX_TOKENS = 2048
CURVATURE_ROWS = 48  # of the 256: curvature is a mean, and products with it are the whole cost


@dataclass(frozen=True)
class Method:
    """An estimator, and the settings that the tuning subsets choose from."""

    name: str
    estimate: Estimate
    grid: dict[str, Sequence[Any]]
    bergson: bool = False


METHODS: list[Method] = []


def method(name: str, *, bergson: bool = False, **grid: Sequence[Any]) -> Callable[[Estimate], Estimate]:
    """Add the decorated function of (world, **setting) to (queries, rows) to the table."""

    def register(estimate: Estimate) -> Estimate:
        METHODS.append(Method(name, estimate, grid, bergson))
        return estimate

    return register


def vectors(
    world: World, part: Sequence[Example], sketch: Any, normalize: str, state: Any = None, **options: Any
) -> np.ndarray:
    model = world.model_at(world.trained()[-1] if state is None else state)
    collector = GradientCollector(model, targets="linear", normalize=normalize, **options)
    return collect_vectors(collector, sketch, part, 0, max_tokens=MAX_TOKENS)


def gradient(world: World, sketch: Any, normalize: str, similarity: str, **options: Any) -> np.ndarray:
    pair = [vectors(world, part, sketch, normalize, **options) for part in (world.queries, world.train)]
    left, right = (prepared(values, similarity) for values in pair)
    return left @ right.T


@method("random")
def _random(world: World) -> np.ndarray:
    return random_scores(len(world.queries), len(world.train))


@method("BM25")
def _bm25(world: World) -> np.ndarray:
    texts = [[f"{row['prompt']} {row['response']}" for row in part] for part in (world.query_rows, world.train_rows)]
    return bm25_scores(*texts)


@method("hidden states, centred")
def _hidden(world: World) -> np.ndarray:
    return _hidden_similarity(world, ridge=float("inf"))


@method("hidden states, whitened", ridge=(0.1, 1.0))
def _hidden_similarity(world: World, ridge: float) -> np.ndarray:
    model = world.model_at(world.trained()[-1])
    asked, pool = (hidden_features(model, part, 0).answer_mean for part in (world.queries, world.train))
    return whitened_similarity(asked, pool, PoolStatistics.of([pool]), ridge)


@method("change of hidden states, centred")
def _change(world: World) -> np.ndarray:
    states = (world.trained()[-1], world.start)
    asked, pool = (
        np.subtract(*(hidden_features(world.model_at(state), part, 0).answer_mean for state in states))
        for part in (world.queries, world.train)
    )
    return centred_similarity(asked, pool)


@method("gradient, exact, dot (TracIn, last checkpoint)")
def _exact_dot(world: World) -> np.ndarray:
    return gradient(world, Exact(), "none", "dot")


@method("gradient, exact, cosine")
def _exact_cosine(world: World) -> np.ndarray:
    return gradient(world, Exact(), "unit", "cosine")


@method("RapidGrad, not normalised, dot")
def _rapid_none(world: World) -> np.ndarray:
    return gradient(world, RapidGrad(K), "none", "dot")


@method("RapidGrad, layer-normalised, cosine (RapidIn)")
def _rapid_layer(world: World) -> np.ndarray:
    return gradient(world, RapidGrad(K), "layer", "cosine")


@method("RapidGrad, unit, cosine")
def _rapid_unit(world: World) -> np.ndarray:
    return gradient(world, RapidGrad(K), "unit", "cosine")


@method("RapidGrad, layer-normalised, token errors of length 1")
def _rapid_token(world: World) -> np.ndarray:
    return gradient(world, RapidGrad(K), "layer", "cosine", token_normalize=True)


def checkpoint_influence(
    queries: Sequence[np.ndarray], pools: Sequence[np.ndarray], similarity: str = "cosine"
) -> np.ndarray:
    """TracIn with equal rates: the sum over checkpoints of <q_c, s_c>, (queries, rows)."""
    return sum(prepared(q, similarity) @ prepared(s, similarity).T for q, s in zip(queries, pools, strict=True))


def over_checkpoints(world: World, normalize: str, similarity: str, **options: Any) -> np.ndarray:
    pairs = [
        [vectors(world, part, RapidGrad(K), normalize, state, **options) for state in world.trained()]
        for part in (world.queries, world.train)
    ]
    return checkpoint_influence(*pairs, similarity=similarity)


@method("TracIn over 4 checkpoints, dot")
def _tracin(world: World) -> np.ndarray:
    return over_checkpoints(world, "none", "dot")


@method("layer-normalised over 4 checkpoints, cosine")
def _tracin_layer(world: World) -> np.ndarray:
    return over_checkpoints(world, "layer", "cosine")


@method("layer-normalised, token errors of length 1, over 4 checkpoints")
def _tracin_token(world: World) -> np.ndarray:
    return over_checkpoints(world, "layer", "cosine", token_normalize=True)


@method("gradient at the start, cosine (before training)")
def _start(world: World) -> np.ndarray:
    pair = [vectors(world, part, RapidGrad(K), "unit", world.start) for part in (world.queries, world.train)]
    return prepared(pair[0], "cosine") @ prepared(pair[1], "cosine").T


@method("Gauss-Newton, conjugate gradients", damping=(1.0, 10.0))
def _conjugate(world: World, damping: float) -> np.ndarray:
    return gauss_newton_influence(
        world.model_at(world.trained()[-1]),
        world.queries,
        world.train,
        0,
        targets="linear",
        damping=damping,
        iterations=15,
        tolerance=1e-2,
        curvature=some_rows(world),
    )


@method("Gauss-Newton, LiSSA", damping=(10.0, 100.0))
def _lissa(world: World, damping: float) -> np.ndarray:
    model = world.model_at(world.trained()[-1])
    return lissa(model, world.queries, world.train, 0, targets="linear", damping=damping, depth=60, batch_rows=8)


def some_rows(world: World) -> list[Example]:
    chosen = np.random.default_rng(3).permutation(len(world.train))[:CURVATURE_ROWS]
    return [world.train[row] for row in sorted(chosen)]


def preconditioned(
    world: World, kind: str, damping: float, normalize: str, state: Any = None, fit_to: Sequence[Example] | None = None
) -> list[np.ndarray]:
    """Queries' and training rows' exact gradients times ``(F + damping)^(-1/2)``, (rows, k) each."""
    model = world.model_at(world.trained()[-1] if state is None else state)
    plain = GradientCollector(model, targets="linear", normalize="none")
    fitted = fit_preconditioner(plain, fit_to or world.train, 0, kind, damping=damping, max_tokens=MAX_TOKENS)
    pair = []
    for role, part in (("query", world.queries), ("train", world.train)):
        collector = GradientCollector(model, targets="linear", normalize=normalize, transform=fitted.transform(role))
        pair.append(collect_vectors(collector, Exact(), part, 0, max_tokens=MAX_TOKENS))
    return pair


for _kind in ("adam", "kfac", "ekfac"):

    @method(f"preconditioned by {_kind}", damping=(0.001, 0.01, 0.1, 1.0), normalize=("none", "unit"))
    def _preconditioned(world: World, damping: float, normalize: str, kind: str = _kind) -> np.ndarray:
        left, right = preconditioned(world, kind, damping, normalize)
        return left @ right.T


for _label, _epochs in (("4 checkpoints", (0, 1, 2, 3)), ("2 checkpoints", (1, 3))):

    @method(f"preconditioned by ekfac, over {_label}", damping=(0.1, 1.0), normalize=("unit",))
    def _ekfac_checkpoints(world: World, damping: float, normalize: str, chosen: Sequence[int] = _epochs) -> np.ndarray:
        states = [world.trained()[number] for number in chosen]
        pairs = [preconditioned(world, "ekfac", damping, normalize, state) for state in states]
        return checkpoint_influence([left for left, _ in pairs], [right for _, right in pairs])


@method("preconditioned by kfac, over 2 checkpoints", damping=(0.01, 0.1, 1.0), normalize=("unit",))
def _kfac_checkpoints(world: World, damping: float, normalize: str) -> np.ndarray:
    pairs = [preconditioned(world, "kfac", damping, normalize, world.trained()[number]) for number in (1, 3)]
    return checkpoint_influence([left for left, _ in pairs], [right for _, right in pairs])


@method("preconditioned by ekfac of a fifth of the rows, over 2 checkpoints", damping=(0.1, 1.0), normalize=("unit",))
def _ekfac_part(world: World, damping: float, normalize: str) -> np.ndarray:
    states, rows = [world.trained()[number] for number in (1, 3)], some_rows(world)
    pairs = [preconditioned(world, "ekfac", damping, normalize, state, rows) for state in states]
    return checkpoint_influence([left for left, _ in pairs], [right for _, right in pairs])


for _name in ("trackstar", "trackstar-mixed", "kfac", "ekfac"):

    @method(f"bergson 2.5, {_name}", bergson=True, damping=(0.001, 0.01, 0.1, 1.0, 10.0, 100.0))
    def _bergson(world: World, damping: float, name: str = _name) -> np.ndarray:
        return bergson(world, name, damping)


def bergson(world: World, name: str, damping: float) -> np.ndarray:
    """Run bergson in its own environment on the same model and tokens."""
    if not BERGSON.exists():
        raise LookupError(f"{BERGSON}: no bergson environment")
    work = BUILD / "bergson"
    if not (work / "queries.jsonl").exists():
        world.model_at(world.trained()[-1]).save_pretrained(work / "model")
        world.tokenizer.save_pretrained(work / "model")
        for part, examples in (("train", world.train), ("queries", world.queries)):
            rows = ({"input_ids": e.input_ids, "labels": [-100] * e.answer_start + e.input_ids[e.answer_start :]}
                    for e in examples)  # fmt: skip
            write_jsonl(work / f"{part}.jsonl", rows)
    command = [str(BERGSON), "benchmarks/lds_bergson.py", name, str(damping), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LookupError(f"bergson failed: {done.stderr.strip().splitlines()[-1:]}")
    (work / "seconds").write_text(done.stdout.rsplit("seconds=", 1)[1].strip())
    found: np.ndarray = np.load(work / "scores.npy")
    return found


def scored(world: World, entry: Method, setting: dict[str, Any]) -> tuple[np.ndarray, float] | None:
    """Scores (queries, rows) and processor seconds of one setting, from the cache where they are; None if it cannot."""
    label = "".join(c if c.isalnum() else "-" for c in "-".join([entry.name, *map(str, setting.values())]))
    place = BUILD / "scores" / f"{label}.npz"
    if not place.exists():
        start = time.process_time()
        try:
            found = entry.estimate(world, **setting)
        except LookupError as reason:
            print(f"{entry.name}: skipped, {reason}", flush=True)
            return None
        seconds = time.process_time() - start
        if entry.bergson:
            seconds = float((BUILD / "bergson" / "seconds").read_text())
        place.parent.mkdir(parents=True, exist_ok=True)
        np.savez(place, scores=found, seconds=seconds)
        print(f"{entry.name} {setting}: {seconds:.1f} s", flush=True)
    saved = np.load(place)
    return saved["scores"], float(saved["seconds"])


@dataclass(frozen=True, eq=False)
class Line:
    """One row of the table."""

    name: str
    setting: dict[str, Any]
    scores: np.ndarray
    seconds: float
    result: LDS
    tuned: float
    bergson: bool


def measure(world: World, only: str) -> list[Line]:
    """Every method at the setting that the tuning subsets prefer, on the other subsets."""
    subsets = np.stack([world.subset(n) for n in range(SUBSETS + TUNING_SUBSETS)])
    losses = np.stack([world.losses(n) for n in range(SUBSETS + TUNING_SUBSETS)])
    test, tune = slice(0, SUBSETS), slice(SUBSETS, None)
    lines = []
    for entry in METHODS:
        if not re.search(only, entry.name):
            continue
        settings = [dict(zip(entry.grid, values, strict=True)) for values in itertools.product(*entry.grid.values())]
        tried = [(setting, found) for setting in settings if (found := scored(world, entry, setting)) is not None]
        if not tried:
            continue
        values = [lds(found[0], subsets[tune], losses[tune]).value for _, found in tried]
        setting, (scores, seconds) = tried[int(np.argmax(values))]
        result = lds(scores, subsets[test], losses[test])
        print(f"{entry.name} {setting}: LDS {result.value:.3f} [{result.low:.3f}, {result.high:.3f}]", flush=True)
        lines.append(Line(entry.name, setting, scores, seconds, result, max(values), entry.bergson))
    return lines


def reliability(world: World) -> float:
    """Rank correlation of the losses of two training orders, as reliability of their mean (Spearman-Brown)."""
    from scipy.stats import spearmanr

    runs = np.array([[world._losses(n, seed) for seed in (0, 1)] for n in range(SUBSETS)])
    one = np.mean([spearmanr(runs[:, 0, q], runs[:, 1, q])[0] for q in range(runs.shape[2])])
    return float(SEEDS * one / (1 + (SEEDS - 1) * one))


def write(world: World, lines: list[Line]) -> None:
    """docs/benchmarks/lds.md and lds.json."""
    test = np.stack([world.subset(n) for n in range(SUBSETS)]), np.stack([world.losses(n) for n in range(SUBSETS)])
    ordered = sorted(lines, key=lambda line: -line.result.value)
    commit = current_commit()
    text = [
        "# LDS on a tiny model",
        "",
        f"`python benchmarks/lds.py`, commit {commit}; one thread, processor seconds.",
        "",
        f"A Llama of 2 layers, hidden 64, vocabulary 1,024, started on 3,680 rows of TOFU and trained on "
        f"{len(world.train)} rows about 16 other authors ({EPOCHS} epochs, AdamW {RATE:g}, batch {BATCH}); "
        f"{len(world.queries)} held-out questions about the same authors. Truth: {SUBSETS} retrainings on random "
        f"halves, {SEEDS} orders each; settings chosen on {TUNING_SUBSETS} other halves. Reliability of the true "
        f"losses {reliability(world):.3f}, so no estimator can score above {reliability(world) ** 0.5:.3f}. Intervals: "
        "95% bootstrap over subsets and queries.",
        "",
        "| estimator | setting | LDS [95%] | seconds |",
        "|---|---|---|---|",
    ]
    for line in ordered:
        setting = ", ".join(f"{key} {value}" for key, value in line.setting.items()) or "-"
        interval = f"{line.result.value:.3f} [{line.result.low:.3f}, {line.result.high:.3f}]"
        text.append(f"| {line.name} | {setting} | {interval} | {line.seconds:.1f} |")
    text += ["", *compared(ordered, *test)]
    with atomic_write(Path("docs/benchmarks/lds.md")) as file:
        file.write("\n".join(text) + "\n")
    table = [{"name": x.name, **x.setting, "lds": x.result.value, "low": x.result.low, "high": x.result.high,
              "seconds": x.seconds} for x in ordered]  # fmt: skip
    write_json(Path("docs/benchmarks/lds.json"), {"commit": commit, "methods": table})


def compared(ordered: list[Line], subsets: np.ndarray, losses: np.ndarray) -> list[str]:
    """Our best, and our best at no more than its cost, against bergson's best; all chosen on the tuning subsets."""
    by_tuning = sorted(ordered, key=lambda line: -line.tuned)
    theirs = next((line for line in by_tuning if line.bergson), None)
    ours = [line for line in by_tuning if not line.bergson]
    if theirs is None:
        return ["bergson was not installed on this machine, so it is not in the table."]
    text = [
        "| against bergson's best, all chosen on the tuning halves | LDS difference [95%], paired | seconds |",
        "|---|---|---|",
    ]
    cheap = [line for line in ours if line.seconds <= theirs.seconds]
    for label, line in (("our best", ours[0]), ("our best at equal or lower cost", (cheap or ours)[0])):
        gap = lds_difference(line.scores, theirs.scores, subsets, losses)
        cost = f"{line.seconds:.1f} against {theirs.seconds:.1f}"
        interval = f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
        text.append(f"| {label}: {line.name} - {theirs.name} | {interval} | {cost} |")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression of method names; nothing is written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    world = World.open()
    retrain_all(world)
    lines = measure(world, arguments.only)
    if not arguments.only:
        write(world, lines)


if __name__ == "__main__":
    main()
