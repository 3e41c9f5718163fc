"""Gradients of the forget and retain rows, influence in four directions, weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from peft import PeftModel

from rapidun.attribution import Blocks
from rapidun.gradients.targets import settled_targets
from rapidun.pipeline.evidence import collect_evidence
from rapidun.pipeline.inputs import RowGroups, RunModel
from rapidun.pipeline.reporter import Reporter, Silent
from rapidun.settings.run import RunConfig
from rapidun.settings.unlearning import WeightSettings
from rapidun.unlearning import Reweighing
from rapidun.weighting import (
    Evidence,
    Weights,
    WeightWarning,
    get_scheme,
    handle_negatives,
    scheme_weights,
    write_weights,
)


def weigh(config: RunConfig, groups: RowGroups, run_model: RunModel, directory: Path, reporter: Reporter) -> None:
    """Write the weights of the chosen scheme, ``weights.jsonl``, and the blocks of influence that it needed, if any."""
    scheme = get_scheme(config.weights.scheme)
    evidence = collect_evidence(run_model, groups, scheme.needs, config.influence, config.seed, reporter)
    found = weights_from(evidence, config.weights, config.seed, reporter)
    write_weights(directory / "weights.jsonl", found, forget_rows=groups.forget, retain_rows=groups.retain)
    blocks = evidence.gradients if evidence.gradients is not None else evidence.hidden
    if isinstance(blocks, Blocks):
        blocks.save(directory / "blocks.safetensors")


def weights_from(evidence: Evidence, weights: WeightSettings, seed: int, reporter: Reporter) -> Weights:
    """The weights of the chosen scheme from evidence that is there; warnings become notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = scheme_weights(weights.scheme, evidence, seed=seed, options=weights.options)
    for warning in caught:
        reporter.note(f"warning: {warning.message}")
    found = handle_negatives(found, weights.scheme, weights.negative)
    accused, out = int((found.forget_scores < 0).sum()), int((found.forget == 0).sum())
    if out:
        reporter.note(f"{out} of {evidence.forget} forget rows are more at home among the retain rows: taken out")
    elif accused and get_scheme(weights.scheme).judges:
        reporter.note(
            f"{accused} of {evidence.forget} forget rows look like retain rows: all stay. The two sets may be of one "
            "kind; --weights uniform leaves weights out of it."
        )
    return found


def dynamic_weights(config: RunConfig, groups: RowGroups, run_model: RunModel) -> Reweighing | None:
    """Weights that follow the model, for a scheme that does; None for the others."""
    weights, influence, seed = config.weights, config.influence, config.seed
    scheme = get_scheme(weights.scheme)
    if not scheme.follows:
        return None
    targets = settled_targets(run_model.loaded.model, influence.targets)  # not those of the adapter in training
    influence = influence.model_copy(update={"targets": targets})

    def compute(model: PeftModel) -> tuple[np.ndarray, np.ndarray]:
        now = run_model.with_model(model)
        evidence = collect_evidence(now, groups, scheme.needs, influence, seed, Silent())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WeightWarning)  # said once, before training
            found = scheme_weights(weights.scheme, evidence, seed=seed, options=weights.options)
        return found.forget, found.retain

    how = scheme.checked(weights.options)
    return Reweighing(compute, every=how.every, smoothing=how.smoothing)
