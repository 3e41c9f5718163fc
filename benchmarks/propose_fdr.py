"""Is the false-discovery rate of `rapidun trace --propose` kept, whatever the scores of clean rows look like?

    python benchmarks/propose_fdr.py             # writes docs/benchmarks/propose_fdr.md and propose_fdr.json

Clean rows of a simulated pool come from a shape (normal, skewed, heavy-tailed, in groups); bad rows lie beyond nearly
all of them. Real pools are rows of the demo's training set under its poisoned model, with and without poisoned ones.
Each is proposed from with and without rows known to be clean. The unit is the pool: the false share of a pool without a
proposal is 0, and of a pool without bad rows it is 1 where anything is proposed.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import current_commit

from rapidun.attribution import bm25_scores, hidden_features
from rapidun.attribution.proposal import propose
from rapidun.attribution.search import SHARES, WITHOUT_BASE
from rapidun.attribution.similarity import centred_similarity
from rapidun.cli.console import quiet_libraries
from rapidun.data import load_rows
from rapidun.demo import demo_config
from rapidun.demo.embedded import asset
from rapidun.evaluation import generate_answers
from rapidun.files import atomic_write
from rapidun.jsonl import read_jsonl
from rapidun.pipeline import Silent
from rapidun.pipeline.inputs import open_run_model
from rapidun.reading import read_json
from rapidun.stats import RATE, Rate, over_units

Sample = Callable[[np.random.Generator, int], np.ndarray]
SHAPES: dict[str, Sample] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "gamma(4)": lambda rng, n: rng.gamma(4, size=n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "lognormal": lambda rng, n: rng.lognormal(size=n),
    "t(3)": lambda rng, n: rng.standard_t(3, size=n),
    "uniform": lambda rng, n: rng.uniform(size=n),
    "a tenth 2 sd up": lambda rng, n: rng.normal(size=n) + 2 * (rng.random(n) < 0.1),
    "3% 4 sd up": lambda rng, n: rng.normal(size=n) + 4 * (rng.random(n) < 0.03),
}
ROWS, BAD, QUERIES, KNOWN, POOLS, FDR = 800, (0, 40), (1, 5), (0, 100, 300), 100, 0.1
SEEDS, GROUPS, GIVEN = range(20), 1, (1, 5)
VIEWS = {"answer": ("answer",), "last prompt token": ("prompt",), "BM25": ("lexical",), "all three": WITHOUT_BASE}
VECTORS, JSON = Path("build/propose_fdr/vectors.npz"), Path("docs/benchmarks/propose_fdr.json")


def simulated(shape: str, bad: int, queries: int, seed: int) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
    """One view's scores, (queries, rows), and which rows are bad: 1.5 times as far up as one clean row in 2,000."""
    rng = np.random.default_rng([seed, bad, queries, *shape.encode()])
    rows = SHAPES[shape](rng, ROWS)
    middle, far = np.quantile(SHAPES[shape](np.random.default_rng(0), 200_000), [0.5, 0.9995])
    rows[:bad] = middle + (far - middle) * rng.normal(1.5, 0.25, bad)
    return {"view": rows + 0.1 * rows.std() * rng.normal(size=(queries, ROWS))}, np.arange(ROWS) < bad


def outcome(views: Mapping[str, np.ndarray], bad: np.ndarray, known: int, seed: int) -> dict[str, float]:
    """False share and recall of one pool's proposal."""
    clean = np.random.default_rng([seed, known]).choice(np.flatnonzero(~bad), known, replace=False).tolist()
    forget = np.array(propose(views, clean=clean, weights=SHARES, fdr=FDR).forget, dtype=int)
    false = float((~bad[forget]).mean()) if len(forget) else 0.0
    return {"any": float(len(forget) > 0), "false": false, "recall": float(bad[forget].sum() / max(bad.sum(), 1))}


def columns(pools: list[dict[str, float]]) -> dict[str, list[float]]:
    """The outcomes by name."""
    return {name: [round(pool[name], 4) for pool in pools] for name in ("any", "false", "recall")}


def simulations() -> Iterator[dict[str, Any]]:
    for shape in SHAPES:
        for queries in QUERIES:
            for bad in BAD:
                for known in KNOWN:
                    pools = [outcome(*simulated(shape, bad, queries, seed), known, seed) for seed in range(POOLS)]
                    yield {"shape": shape, "queries": queries, "bad": bad, "known": known, "pools": columns(pools)}
        print(shape, flush=True)


def vectors() -> dict[str, np.ndarray]:
    """Hidden views of all training rows and of both kinds of bad answers, computed once."""
    if not VECTORS.exists():
        config = demo_config(0, {"model.dtype": "float32"})
        run_model = open_run_model(config.model, config.data, Silent())
        train, forget = (
            [dict(row) for row in load_rows(asset("data/train.jsonl.gz"))],
            read_jsonl(asset("data/forget.jsonl")),
        )
        prompts = [run_model.template.prompt_text(row) for row in forget]
        answers = generate_answers(run_model.loaded, prompts, max_new_tokens=48, batch_size=40)
        own = [{**row, "response": answer} for row, answer in zip(forget, answers, strict=True) if answer.strip()]
        found: dict[str, Any] = {"poisoned": [row["poisoned"] for row in train]}
        for name, rows in {"pool": train, "true": forget, "own": own}.items():
            views = hidden_features(
                run_model.loaded.model, run_model.tokenize(rows), run_model.loaded.pad_token_id, max_tokens=2048
            )
            found[f"{name}/answer"], found[f"{name}/prompt"] = views.answer_mean, views.last_prompt
            found[f"{name}/text"] = [f"{row['prompt']} {row['response']}" for row in rows]
        VECTORS.parent.mkdir(parents=True, exist_ok=True)
        np.savez(VECTORS, **found)
    return dict(np.load(VECTORS))


def real_pools() -> Iterator[dict[str, Any]]:
    """Pools of the demo's training rows as they come, and of its clean rows alone; one group of bad answers a pool."""
    kept = vectors()
    poisoned = kept["poisoned"].astype(bool)
    for kind in ("true", "own"):
        for clean_only in (False, True):
            cells: dict[tuple[str, int, int], list[dict[str, float]]] = {}
            for seed in SEEDS:
                order = np.random.default_rng(seed).permutation(len(poisoned))
                chosen = (order[~poisoned[order]] if clean_only else order)[:ROWS]
                scores = {
                    name: centred_similarity(kept[f"{kind}/{name}"], kept[f"pool/{name}"][chosen])
                    for name in ("answer", "prompt")
                }
                scores["lexical"] = bm25_scores(list(kept[f"{kind}/text"]), list(kept["pool/text"][chosen]))
                for view, parts in VIEWS.items():
                    for given in GIVEN:
                        asked = np.random.default_rng([seed, given]).choice(len(scores["answer"]), given, replace=False)
                        for known in KNOWN:
                            found = outcome({p: scores[p][asked] for p in parts}, poisoned[chosen], known, seed)
                            cells.setdefault((view, given, known), []).append(found)
            for (view, given, known), pools in cells.items():
                yield {
                    "kind": kind, "view": view, "queries": given, "known": known, "clean_only": clean_only,
                    "pools": columns(pools),
                }  # fmt: skip


def cell(pools: Mapping[str, list[float]], bad: bool) -> str:
    """Share of pools with a proposal where no row is bad, else false share and recall; intervals over pools."""
    if not bad:
        rate = Rate.from_counts(int(sum(pools["any"])), len(pools["any"]))
        return f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]"
    false = over_units(pools["false"], "pools", RATE)
    assert false is not None
    return f"{false.text(2)}, {np.mean(pools['recall']):.2f}"


def tables(record: Mapping[str, Any]) -> list[str]:
    """Both tables."""
    heads = [f"{known or 'no'} clean rows known: {what}" for known in KNOWN for what in ("clean pool", "bad rows")]
    lines = ["## Simulated shapes", "", f"| clean scores | bad answers | {' | '.join(heads)} |", "|---" * 8 + "|"]
    for shape in SHAPES:
        for queries in QUERIES:
            of = [c for c in record["simulated"] if (c["shape"], c["queries"]) == (shape, queries)]
            cells = [
                cell(c["pools"], bool(bad))
                for known in KNOWN
                for bad in BAD
                for c in of
                if (c["known"], c["bad"]) == (known, bad)
            ]
            lines.append(f"| {shape} | {queries} | {' | '.join(cells)} |")
    lines += ["", "## Real pools", "", f"| bad answers | view | given | {' | '.join(heads)} |", "|---" * 9 + "|"]
    for kind, title in {"true": "held-out true answers", "own": "the model's own answers"}.items():
        for view in VIEWS:
            for given in GIVEN:
                of = [c for c in record["real"] if (c["kind"], c["view"], c["queries"]) == (kind, view, given)]
                cells = [
                    cell(c["pools"], not only)
                    for known in KNOWN
                    for only in (True, False)
                    for c in of
                    if (c["known"], c["clean_only"]) == (known, only)
                ]
                lines.append(f"| {title} | {view} | {given} | {' | '.join(cells)} |")
    return lines


def write_page(record: Mapping[str, Any]) -> None:
    text = [
        "# Is the rate of a proposal kept?",
        "",
        f"`python benchmarks/propose_fdr.py`, commit {record['commit']}. Pools of {ROWS} rows; target rate {FDR:g}.",
        "",
        "**With rows known to be clean** (`--clean`) the rate is guaranteed on average over samples, whatever the",
        "scores look like, if those rows are a random sample of the clean ones: conformal p-values, cut as Benjamini",
        "and Hochberg. The price is that few known rows see little: with m of them and n others, at least",
        "n / (rate (m + 1)) rows must stand out together: with 100 known rows and a rate of",
        f"{FDR:g} about 70 of {ROWS}.",
        "",
        "**Without them** the rate is an estimate, from a curve through the lower half and from the rows right below a",
        "cut. It holds for single skewed or heavy-tailed shapes; it need not for a group of clean rows far above the",
        "others, which nothing in the scores tells from bad rows, and does not for BM25 with one bad answer. It errs",
        "towards proposing nothing, most of all with one bad answer. How far scores count, and the bound from below a",
        "cut, were chosen on other seeds of these shapes and pools (from 1000 and from 100) and on two draws of a real",
        "chat model.",
        "",
        "*Clean pool*: no row is bad; share of pools with any proposal, Clopper-Pearson over pools. *Bad rows*: 40 in",
        "the simulations, as they come in real pools; false share (mean and 95% t interval over pools), recall. A pool",
        "with nothing proposed has false share 0. Real pools share one model and overlap.",
        f"{POOLS} pools a cell in simulations, {len(SEEDS)} in real ones.",
        "",
        *tables(record),
    ]
    with atomic_write(JSON.with_suffix(".md")) as file:
        file.write("\n".join(text) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stored", action="store_true", help="write the page again from the numbers beside it")
    arguments = parser.parse_args()
    if not arguments.stored:
        torch.set_num_threads(1)
        quiet_libraries()
        record = {"commit": current_commit(), "simulated": list(simulations()), "real": list(real_pools())}
        with atomic_write(JSON) as file:
            file.write(json.dumps(record, separators=(",", ":")) + "\n")
    write_page(read_json(JSON))


if __name__ == "__main__":
    main()
