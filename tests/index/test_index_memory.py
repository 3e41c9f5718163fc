"""Peak memory of a build and of a search does not grow with the number of rows."""

from __future__ import annotations

import multiprocessing
import resource

import datasets
import numpy as np
import pytest
import torch

from index.cases import gradient_scorer, model_context
from rapidun.attribution import HiddenScorer, LexicalScorer
from rapidun.attribution.scorers.lexical import postings_of
from rapidun.attribution.store import build_index, open_index, plan_build
from rapidun.data import Rows

FORK = multiprocessing.get_context("fork")
WIDTH = 1024


def memory_mapped(folder, count) -> Rows:
    """Rows on disk, as a large file's are after `load_rows`."""

    def rows():
        for i in range(count):
            yield {"id": f"r{i}", "prompt": f"tell of {i}", "response": "the cat sat " * (i % 3 + 1)}

    datasets.Dataset.from_generator(rows, cache_dir=str(folder / f"cache{count}")).save_to_disk(folder / f"rows{count}")
    found = datasets.load_from_disk(str(folder / f"rows{count}"), keep_in_memory=False)
    return Rows(found, "prompt/response", [], "rows", range(1, count + 1))


def build_and_search(plan, answer):
    torch.set_num_threads(1)
    build_index(plan)
    built = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = open_index(plan.directory)
    index.features().search(np.random.default_rng(0).normal(size=(100, WIDTH)), 20)
    LexicalScorer().compare("lexical", postings_of(["tell of 7"]), index, "cosine").hits(20, index.ids_of)
    answer.put((built, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_peak_memory_does_not_grow_with_the_rows(tmp_path):
    model = model_context()
    views = {"gradient": gradient_scorer(k=WIDTH), "hidden": HiddenScorer(), "lexical": LexicalScorer()}
    peaks = {}
    for count in (1_000, 10_000):
        plan = plan_build(
            tmp_path / f"index{count}", memory_mapped(tmp_path, count), model, views, max_length=64, shard_rows=256
        )
        answer = FORK.Queue()
        child = FORK.Process(target=build_and_search, args=(plan, answer))
        child.start()
        peaks[count] = np.array(answer.get(timeout=1500)) / 1024
        child.join()
        print(f"{count} rows: {peaks[count][0]:.0f} MiB after the build, {peaks[count][1]:.0f} MiB after searches")
    size = sum(path.stat().st_size for path in (tmp_path / "index10000" / "shards").iterdir()) / 2**20
    assert (peaks[10_000] - peaks[1_000]).max() < 0.5 * size  # 24 MiB of shards
