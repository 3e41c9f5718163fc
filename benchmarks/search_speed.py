"""Exact search against a plain matrix product over the same memory-mapped arrays; FAISS against exact search.

    python benchmarks/search_speed.py                    # both parts; writes docs/benchmarks/search_speed.md and .json
    python benchmarks/search_speed.py --parts exact

exact: 100 queries, the 10 rows at both ends, over random vectors that the index's own writer wrote. The plain product
is what one would write by hand: each shard's array mapped by numpy, blocks of it widened to float32 by torch and
multiplied with the queries, the scores dropped; no scale, no norm, no ranking, no ids. Both run in turn in one process,
one thread, at real-time priority where the system allows it; a ratio is of one pair, so that what slows the machine
slows both.

faiss (extra ``faiss``): gradients and hidden states of the demo's poisoned model (``build/demo_model/poisoned``, or the
one in the package) for some of its training rows; queries are validation rows. Recall is the share of the exact
search's k most helpful rows that the approximate search gives.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import gzip
import importlib.util
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import current_commit

from rapidun.attribution import MatrixSpec, ModelContext, Recorder, Scorer, TraceQuery, register_scorer
from rapidun.attribution.matrix import BLOCK_BYTES, Matrix
from rapidun.attribution.scorer import Role, Row
from rapidun.attribution.search import query_features
from rapidun.attribution.storage import MatrixBuffer
from rapidun.attribution.store import build_index, open_index, plan_build
from rapidun.data import Template, load_rows
from rapidun.models import load_model
from rapidun.pipeline import indexing
from rapidun.pipeline.indexing import model_context
from rapidun.pipeline.inputs import open_run_model, read_rows
from rapidun.pipeline.reporter import Silent
from rapidun.settings.attribution import IndexConfig, IndexSettings
from rapidun.settings.kinds import StoreDtype
from rapidun.settings.model import ModelSettings, RowSettings

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "src" / "rapidun" / "demo" / "assets"
MODEL = ROOT / "build" / "demo_model" / "poisoned"
QUERIES, TOP, REPEATS = 100, 10, 7
SETTINGS: list[tuple[int, StoreDtype, int]] = [
    (4096, "float16", 100_000),
    (4096, "int8", 100_000),
    (65_536, "float16", 10_000),
    (65_536, "int8", 10_000),
]
SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)


@register_scorer("random")
class RandomScorer(Scorer):
    """Standard normal vectors in the place of gradients, so that no model runs."""

    width: int
    dtype: StoreDtype

    def matrices(self, model: ModelContext) -> dict[str, MatrixSpec]:
        return {"random": MatrixSpec(width=self.width, dtype=self.dtype)}

    def recorder(self, model: ModelContext, rows: Sequence[Row], fitted: Any, role: Role = "train") -> Recorder:
        return RandomRecorder(self, len(rows), int(rows[0]["prompt"]))


class RandomRecorder(Recorder):
    def __init__(self, scorer: RandomScorer, rows: int, seed: int) -> None:
        self._buffer = MatrixBuffer("random", rows, scorer.width, scorer.dtype)
        generator = torch.Generator().manual_seed(seed)
        for places in torch.arange(rows).split(256):
            self._buffer.put(places.tolist(), torch.randn(len(places), scorer.width, generator=generator))

    def tensors(self) -> dict[str, torch.Tensor]:
        return self._buffer.tensors()


@contextmanager
def real_time() -> Iterator[None]:
    """Real-time priority for the block, where this process may have it."""
    with suppress(AttributeError, PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        if hasattr(os, "SCHED_OTHER"):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    with real_time():
        started = time.perf_counter()
        work()
        return time.perf_counter() - started


# exact -----------------------------------------------------------------------------------------------------------


def random_index(folder: Path, width: int, dtype: StoreDtype, rows: int) -> Matrix:
    """An index of random vectors, by the index's own writer."""
    path = folder / "rows.jsonl"
    with path.open("w") as file:
        for place in range(rows):
            file.write(json.dumps({"id": str(place), "prompt": str(place), "response": "r"}) + "\n")
    loaded = load_model(str(DEMO / "poisoned"), device="cpu", dtype="float32")
    model = ModelContext(loaded, Template.resolve("plain", loaded.tokenizer))
    views = {"random": RandomScorer(width=width, dtype=dtype)}
    build_index(plan_build(folder / "index", load_rows(path), model, views, max_length=16))
    return open_index(folder / "index").features("random")


def mapped(matrix: Matrix) -> list[np.ndarray]:
    """Every shard's array, memory-mapped."""
    numpy_types = {torch.float16: np.float16, torch.int8: np.int8}
    stored = [shard.tensors[matrix.name] for shard in matrix._shards]
    return [
        np.memmap(each.path, numpy_types[each.dtype], "r", offset=each.offset, shape=each.shape)  # type: ignore[misc]
        for each in stored
    ]


def plain_product(arrays: list[np.ndarray], queries: torch.Tensor) -> None:
    """Blocks of about 4 MiB, widened by torch (numpy widens float16 slowly) and multiplied with the queries."""
    for array in arrays:
        step = max(1, BLOCK_BYTES // array[0].nbytes)
        for start in range(0, len(array), step):
            _ = queries @ torch.from_numpy(array[start : start + step]).float().T


def compare(width: int, dtype: StoreDtype, rows: int) -> dict[str, Any]:
    """Both, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        matrix = random_index(Path(folder), width, dtype, rows)
        arrays = mapped(matrix)
        queries = np.random.default_rng(0).standard_normal((QUERIES, width), dtype=np.float32)
        asked = torch.from_numpy(queries)
        works = (lambda: plain_product(arrays, asked), lambda: matrix.search(queries, TOP))
        for work in works:
            seconds(work)  # brings the file into the system's cache
        pairs = []
        for repeat in range(REPEATS):
            order = (0, 1) if repeat % 2 == 0 else (1, 0)
            taken = {place: seconds(works[place]) for place in order}
            pairs.append((taken[0], taken[1]))
            time.sleep(0.5)  # others wait meanwhile
        size = sum(array.nbytes for array in arrays)
    ratios = sorted(plain / search for plain, search in pairs)
    return {
        "k": width,
        "dtype": dtype,
        "rows": rows,
        "mib": size / 2**20,
        "plain_seconds": statistics.median(plain for plain, _ in pairs),
        "search_seconds": statistics.median(search for _, search in pairs),
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[0],
        "ratio_high": ratios[-1],
    }


# faiss -----------------------------------------------------------------------------------------------------------


def demo_index(folder: Path, rows: int, source: Path) -> tuple[Any, dict[str, np.ndarray]]:
    """An index of the demo's training rows, and validation rows as queries by view."""
    with gzip.open(DEMO / "data" / "train.jsonl.gz", "rt") as file:
        (folder / "rows.jsonl").write_text("".join(line for _, line in zip(range(rows), file, strict=False)))
    with (DEMO / "data" / "validation.jsonl").open() as file:
        lines = [line for _, line in zip(range(QUERIES), file, strict=False)]
    (folder / "queries.jsonl").write_text("".join(lines))
    config = IndexConfig(
        model=ModelSettings(source=str(source), device="cpu", dtype="float32"),
        data=RowSettings(max_length=256, on_bad_row="skip"),
        index=IndexSettings(k=4096, views=["gradient", "hidden"], max_tokens=2048),
    )
    common = {"adapter": None, "reporter": Silent()}
    indexing.build(config, folder / "rows.jsonl", folder / "index", resume=False, overwrite=False, **common)
    index = open_index(folder / "index")
    run_model = open_run_model(config.model, config.data, Silent(), adapter=None)
    rows = list(read_rows(folder / "queries.jsonl", "queries", config.data, Silent()))
    query = TraceQuery(rows, run_model.tokenize(rows))
    asked = query_features(index, model_context(run_model, None), query, ["gradient", "hidden"])
    name = index.features("hidden").name
    return index, {key: asked[key].numpy() for key in ("gradient", name)}


def recall(exact: list[Any], found: list[Any], k: int) -> float:
    """Mean share of the exact first k that were found among the first k."""
    shares = [
        len({hit.position for hit in one.helpful[:k]} & {hit.position for hit in other.helpful[:k]}) / k
        for one, other in zip(exact, found, strict=True)
    ]
    return statistics.mean(shares)


def approximate(rows: int, source: Path) -> list[dict[str, Any]]:
    """Recall and time of FAISS for two views, several numbers of cells and shares of them."""
    import faiss

    faiss.omp_set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        index, queries = demo_index(Path(folder), rows, source)
        for name, vectors in queries.items():
            matrix = index.features(name)
            exact = matrix.search(vectors, 100)
            exact_seconds = statistics.median(seconds(lambda m=matrix, v=vectors: m.search(v, 100)) for _ in range(3))
            root = round(math.sqrt(len(matrix)))
            for cells in (root // 2, root, 2 * root):
                built = time.process_time()
                index.build_faiss(name, cells=cells)
                built = time.process_time() - built
                for share in SHARES:
                    found = index.search_approximate(vectors, 100, name=name, share=share)
                    taken = statistics.median(
                        seconds(lambda n=name, v=vectors, s=share: index.search_approximate(v, 100, name=n, share=s))
                        for _ in range(3)
                    )
                    result = {
                        "view": name,
                        "rows": len(matrix),
                        "width": matrix.width,
                        "queries": len(vectors),
                        "cells": cells,
                        "share": share,
                        "recall_10": recall(exact, found, 10),
                        "recall_100": recall(exact, found, 100),
                        "seconds": taken,
                        "exact_seconds": exact_seconds,
                        "build_cpu_seconds": built,
                    }
                    results.append(result)
                    print(result, flush=True)
    return results


# page ------------------------------------------------------------------------------------------------------------


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown."""
    return ["| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows)]


def page(found: Mapping[str, Any]) -> str:
    """The Markdown of the results."""
    lines = ["# Search speed", ""]
    if "exact" in found:
        lines += [
            f"`python benchmarks/search_speed.py --parts exact` at commit {found['exact_commit']}. {QUERIES} queries, "
            f"the {TOP} rows at both ends, random vectors written by the index's own writer, files in the system's "
            f"cache, one thread at real-time priority, {REPEATS} pairs in turn. *plain* maps the same files, widens "
            "blocks to float32 and multiplies, nothing else. Ratio: plain time over search time, median and range of "
            "the pairs; 100% would be a search that costs nothing beyond the product. Bar: 70%.",
            "",
        ]
        header = ["k", "stored as", "rows", "MiB", "plain s", "search s", "ratio", "range"]
        lines += table(
            header,
            [
                [
                    f"{row['k']:,}",
                    row["dtype"],
                    f"{row['rows']:,}",
                    f"{row['mib']:.0f}",
                    f"{row['plain_seconds']:.2f}",
                    f"{row['search_seconds']:.2f}",
                    f"{row['ratio']:.0%}",
                    f"{row['ratio_low']:.0%} to {row['ratio_high']:.0%}",
                ]
                for row in found["exact"]
            ],
        )
    if "faiss" in found:
        first = found["faiss"][0]
        lines += [
            "",
            "## FAISS against exact search",
            "",
            f"`python benchmarks/search_speed.py --parts faiss` at commit {found['faiss_commit']}. {first['rows']:,} "
            f"training rows of the demo, its poisoned model, {first['queries']} validation rows as queries, 100 rows "
            "at both ends. Seconds are of all queries at once, reading the cells from disk included.",
            *_verdict(found["faiss"]),
            "",
        ]
        header = ["view", "width", "cells", "share", "recall@10", "recall@100", "s", "exact s", "build s"]
        lines += table(
            header,
            [
                [
                    row["view"],
                    f"{row['width']:,}",
                    str(row["cells"]),
                    f"{row['share']:.0%}",
                    f"{row['recall_10']:.3f}",
                    f"{row['recall_100']:.3f}",
                    f"{row['seconds']:.3f}",
                    f"{row['exact_seconds']:.3f}",
                    f"{row['build_cpu_seconds']:.1f}",
                ]
                for row in found["faiss"]
            ],
        )
    return "\n".join(lines) + "\n"


def _verdict(rows: list[dict[str, Any]]) -> list[str]:
    slower = sum(row["seconds"] > row["exact_seconds"] for row in rows)
    found = []
    for view in dict.fromkeys(row["view"] for row in rows):
        recalls = [row["recall_10"] for row in rows if row["view"] == view and row["share"] == 0.2]
        found.append(f"{min(recalls):.0%} to {max(recalls):.0%} of the ten best rows by {view}")
    return [
        "",
        f"Looking into a fifth of the cells finds {' and '.join(found)}. In {slower} of {len(rows)} settings it took "
        "longer than exact search, which so few rows make quick: the table is of recall, and the time saved has to be "
        "measured on an index of the size in question.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("exact", "faiss"), default=["exact", "faiss"])
    parser.add_argument("--rows", type=int, default=1000, help="Rows of the FAISS part.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "search_speed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    shown = current_commit()
    kept = given.out.with_suffix(".json")
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    if "exact" in given.parts:
        found["exact"] = []
        for setting in SETTINGS:
            found["exact"].append(compare(*setting))
            print(found["exact"][-1], flush=True)
        found["exact_commit"] = shown
    if "faiss" in given.parts and importlib.util.find_spec("faiss") is None:
        print("the FAISS part is skipped: pip install 'rapidun[faiss]'")
    elif "faiss" in given.parts:
        found["faiss"] = approximate(given.rows, MODEL if MODEL.exists() else DEMO / "poisoned")
        found["faiss_commit"] = shown
    given.out.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=2) + "\n")
    given.out.with_suffix(".md").write_text(page(found))


if __name__ == "__main__":
    main()
