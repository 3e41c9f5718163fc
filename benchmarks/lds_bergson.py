"""bergson 2.5's TrackStar and EK-FAC on the rows and the model of `lds.py`; run by bergson's own Python.

    /tmp/bergson/bin/python benchmarks/lds_bergson.py METHOD DAMPING WORK

WORK holds ``model/`` (a Hugging Face directory) and ``train.jsonl`` and ``queries.jsonl`` (``input_ids``, ``labels``);
the scores are written there as ``scores.npy`` (queries, rows) float32, and the processor seconds printed.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch


def main() -> None:
    method, damping, work = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    from bergson.config.config import DataConfig, IndexConfig, InversionConfig, QuerySetConfig
    from bergson.data import load_scores

    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    index = IndexConfig(
        run_path=str(run),
        model=str(work / "model"),
        precision="fp32",
        loss_reduction="mean",
        token_batch_size=128,
        data=DataConfig(dataset=str(work / "train.jsonl")),
        projection_dim=16 if method.startswith("trackstar") else 0,
        overwrite=True,
    )
    index.distributed.nproc_per_node = 1
    query = QuerySetConfig(dataset=str(work / "queries.jsonl"), aggregation="none")
    inversion = InversionConfig(damping_factor=damping)
    start = time.process_time()
    (trackstar if method.startswith("trackstar") else ekfac)(method, index, query, inversion)
    seconds = time.process_time() - start
    scores = load_scores(run / "scores")
    found = np.stack([np.asarray(scores.mmap[f"score_{i}"]) for i in range(scores.num_scores)])
    np.save(work / "scores.npy", found.astype(np.float32))
    print(f"seconds={seconds}")


def trackstar(method: str, index: object, query: object, inversion: object) -> None:
    from bergson.cli.trackstar import trackstar as run
    from bergson.config.config import PreprocessConfig, TrackstarConfig

    preprocess = PreprocessConfig(unit_normalize=True, inversion_cfg=inversion)
    run(index, TrackstarConfig(query=query, preprocess_cfg=preprocess, mix_hessians=method == "trackstar-mixed"))


def ekfac(method: str, index: object, query: object, inversion: object) -> None:
    from bergson.config.config import HessianConfig, HessianPipelineConfig, PreprocessConfig, ScoreConfig
    from bergson.hessians.pipeline import hessian_pipeline

    hessian = HessianConfig(method="kfac", ev_correction=method == "ekfac")
    settings = HessianPipelineConfig(query=query, inversion_cfg=inversion)
    hessian_pipeline(index, hessian, ScoreConfig(), PreprocessConfig(), settings)


if __name__ == "__main__":
    main()
