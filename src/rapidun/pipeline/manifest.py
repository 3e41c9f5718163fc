"""``manifest.json`` of a run: versions, seed, fingerprints, hardware, and what every phase took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import rapidun
from rapidun.lifecycle import RunDirectory
from rapidun.pipeline.inputs import RunModel
from rapidun.pipeline.meter import hardware, versions
from rapidun.sealed import write_sealed


def write_manifest(
    directory: RunDirectory, facts: Mapping[str, Any], *, seed: int, device: str, fingerprints: Mapping[str, str]
) -> None:
    """Write it; ``facts`` are what this kind of run says of itself besides."""
    write_sealed(
        directory / "manifest.json",
        {
            "rapidun_version": rapidun.__version__,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seed": seed,
            **facts,
            "versions": versions(),
            "hardware": hardware(device),
            "fingerprints": dict(fingerprints),
            "phases": directory.phases,
        },
    )


def subject_facts(run_model: RunModel) -> dict[str, str]:
    """Model, dtype and template."""
    return {
        "model": run_model.loaded.source,
        "dtype": str(run_model.loaded.dtype).removeprefix("torch."),
        "template": run_model.template.name,
    }
