"""Weights from RapidIn's own result files: no model, no rows."""

from __future__ import annotations

from pathlib import Path

from rapidun.errors import ConfigError
from rapidun.files import sha256_of
from rapidun.lifecycle import RunDirectory
from rapidun.weighting import read_rapidin, released_weights, scheme_weights, write_released


def weigh_rapidin(
    source: Path, out: Path, *, compat: str | None, scheme: str, seed: int, overwrite: bool
) -> list[Path]:
    """Write ``forget_weights.jsonl`` and ``retain_weights.jsonl``, ``{"index", "weight"}`` a line.

    Args:
        source: Directory of ``influence_results_N_{FTF,FTR,RTF,RTR}.json``.
        out: New directory.
        compat: "released" for the mapping of RapidUn's released code; None for this project's defaults.
        scheme: The weighting scheme when ``compat`` is None.

    Raises:
        ConfigError: If ``compat`` is unknown.
        InputError: If a result file is missing or broken.
    """
    if compat not in (None, "released"):
        raise ConfigError(f"--compat {compat}: the only value is released.")
    results = read_rapidin(source)
    weights = released_weights(results) if compat else scheme_weights(scheme, results.blocks(), seed)
    identity = {
        "rapidin files": sha256_of(path.read_bytes() for path in sorted(source.glob("influence_results_*.json")))
    }
    with RunDirectory.claim(out, identity, resume=False, overwrite=overwrite, resumable=False) as directory:
        return list(write_released(directory.path, weights))
