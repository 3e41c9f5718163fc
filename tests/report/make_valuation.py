"""A valuation's directory as `rapidun value` leaves it, with everything the page can show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rapidun.files import write_json

NAMES = (("north", 0.5), ("Gr\u00fcn & S\u00f6hne <GmbH>", 0.3), ("west", 0.2))


def summary(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, [5, 50, 95])
    return {"mean": float(values.mean()), "low": float(low), "median": float(median), "high": float(high),
            "least": float(values.min()), "most": float(values.max()),
            "positive": float((values > 0).mean())}  # fmt: skip


def preview(number: int, value: float) -> dict[str, Any]:
    return {"id": f"row-{number}", "line": number, "value": value, "prompt": f"What is <b>{number}</b>?" * 20,
            "response": "It is a pear.\u200b" if number % 2 else "4" * 300, "source": "north"}  # fmt: skip


def valuation(**changes: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    values = generator.normal(0.05, 0.1, 2000)
    counts, edges = np.histogram(values, bins=40)
    student = values[:300] * 0.8 + generator.normal(0, 0.03, 300)
    bins = [
        {
            "predicted": float(x),
            "actual": float(x) * 1.1,
            "low": float(x) * 1.1 - 0.02,
            "high": float(x) * 1.1 + 0.02,
            "n": 30,
        }
        for x in np.linspace(-0.2, 0.3, 10)
    ]
    estimate = {"value": 0.81, "low": 0.77, "high": 0.85, "n": 300}
    found = {
        "kind": "alinfik",
        "rows": 2000,
        "tasks": [{"name": "sums", **summary(values)}, {"name": "spelling", **summary(values - 0.1)}],
        "summary": summary(values),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist(),
                      "selected": np.where(edges[:-1] > 0.15, counts, 0).tolist()},
        "best": [preview(i, 0.4 - i / 100) for i in range(10)],
        "worst": [preview(100 + i, -0.4 + i / 100) for i in range(10)],
        "values": "values.jsonl",
        "student": {"kind": "ridge", "spearman": estimate, "ndcg": {**estimate, "value": 0.93}, "slope": 0.97,
                    "calibration": bins, "scatter": np.stack([student, values[:300]], axis=1).tolist(),
                    "sizes": {"train": 1400, "validation": 300, "test": 300}},
        "selection": {"asked": "top:10%", "diversity": "mmr", "rows": 200, "least": 0.15, "mean": 0.2, "tokens": None,
                      "file": "selected.jsonl"},
        "by": {"column": "provider", "shares": [
            {"name": name, "value": value, "low": value - 0.03, "high": value + 0.03, "rows": 500, "mean": 0.05,
             "positive": 300} for name, value in NAMES]},
    }  # fmt: skip
    return {**found, **changes}


def make_valuation(directory: Path, **changes: Any) -> Path:
    """Write the directory's files."""
    directory.mkdir(parents=True, exist_ok=True)
    found = {name: value for name, value in valuation(**changes).items() if value is not None}
    write_json(directory / "valuation.json", found)
    write_json(
        directory / "manifest.json",
        {
            "rapidun_version": "0.1.0",
            "created": "2026-11-21T08:00:00Z",
            "seed": 0,
            "model": "models/small-30m",
            "template": "chat",
            "tracked": ["model.layers.0.self_attn.q_proj.weight"],
            "fingerprints": {"model": "4f" * 32, "candidates": "a0" * 32},
            "phases": [
                {"name": "teacher", "seconds": 41.2, "cpu_seconds": 40.0, "peak_memory_mib": 900.0, "rows": 2000},
                {"name": "student", "seconds": 1.3, "cpu_seconds": 1.3, "peak_memory_mib": 950.0},
                {"name": "values", "seconds": 0.3, "cpu_seconds": 0.25, "peak_memory_mib": 950.0, "rows": 2000},
            ],
        },
    )
    return directory
