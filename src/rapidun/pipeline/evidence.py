"""From a model to weights: influence blocks, hidden-state blocks, losses, whatever a scheme needs; its weights."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import fields
from functools import reduce
from pathlib import Path

import numpy as np
from peft import PeftModel

from rapidun.attribution import Blocks, influence_blocks
from rapidun.attribution.checkpoints import at_checkpoint
from rapidun.attribution.scorers.hidden import hidden_features
from rapidun.attribution.similarity import PoolStatistics, whiten
from rapidun.data import Example
from rapidun.gradients import GradientCollector, RapidGrad, Sketch, collect_vectors, sketch_from
from rapidun.gradients.coverage import Coverage, coverage_of
from rapidun.gradients.targets import settled_targets
from rapidun.models import adapted_layers
from rapidun.pipeline.inputs import RowGroups, RunModel, note_truncated
from rapidun.pipeline.reporter import Reporter, Silent, counting
from rapidun.settings.attribution import InfluenceSettings
from rapidun.settings.run import RunConfig
from rapidun.settings.unlearning import WeightSettings
from rapidun.settings.value import TeacherSettings
from rapidun.unlearning import Reweighing
from rapidun.weighting import (
    Evidence,
    Needs,
    Weights,
    WeightWarning,
    get_scheme,
    handle_negatives,
    scheme_weights,
    write_weights,
)

HIDDEN_RIDGE = 1.0


def make_collector(run_model: RunModel, settings: InfluenceSettings) -> GradientCollector:
    """The gradient collector of the configuration."""
    return GradientCollector(
        run_model.loaded.model,
        targets=settings.targets,
        normalize=settings.normalize,
        token_normalize=settings.token_normalize,
    )


def collect_evidence(
    run_model: RunModel,
    groups: RowGroups,
    needs: Needs,
    settings: InfluenceSettings,
    seed: int,
    reporter: Reporter,
) -> Evidence:
    """What ``needs`` names, of the forget and retain rows, on the run's model as it is."""
    forget, retain = run_model.tokenize(groups.forget), run_model.tokenize(groups.retain)
    note_truncated(forget, "forget", reporter)
    note_truncated(retain, "retain", reporter)
    gradients = hidden = losses = None
    if Needs.GRADIENTS in needs:
        gradients = gradient_blocks(run_model, forget, retain, settings, seed, reporter)
    if Needs.HIDDEN in needs:
        hidden = hidden_blocks(run_model, forget, retain, settings.max_tokens, reporter)
    if Needs.LOSSES in needs:
        losses = run_model.losses(forget).means
    return Evidence(len(forget), len(retain), gradients, hidden, losses)


def gradient_blocks(
    run_model: RunModel,
    forget: list[Example],
    retain: list[Example],
    settings: InfluenceSettings,
    seed: int,
    reporter: Reporter,
) -> Blocks:
    """Influence in four directions, summed over the configured checkpoints and the model as it is (RapidIn, eq. 4).

    Every checkpoint has the same say under the cosine.
    """

    def sketched(examples: list[Example]) -> np.ndarray:
        return collect_vectors(
            make_collector(run_model, settings),
            RapidGrad(k=settings.sketch_size, seed=seed),
            examples,
            run_model.loaded.pad_token_id,
            max_tokens=settings.max_tokens,
            progress=counting(reporter, "rows"),
        )

    found = []
    for checkpoint in (None, *settings.checkpoints):
        with at_checkpoint(run_model.loaded.model, checkpoint) if checkpoint is not None else nullcontext():
            found.append(influence_blocks(sketched(forget), sketched(retain), similarity=settings.similarity))
    return reduce(_sum, found)


def check_checkpoints(run_model: RunModel, settings: InfluenceSettings) -> None:
    """Find out before long work whether every checkpoint fits the model.

    Raises:
        ModelError: If one cannot be read or does not fit.
    """
    for checkpoint in settings.checkpoints:
        with at_checkpoint(run_model.loaded.model, checkpoint):
            pass


def hidden_blocks(
    run_model: RunModel, forget: list[Example], retain: list[Example], max_tokens: int, reporter: Reporter
) -> Blocks:
    """Cosines of the answers' mean hidden states in four directions, centred and whitened on both groups together."""
    pad, model = run_model.loaded.pad_token_id, run_model.loaded.model
    rows = [*forget, *retain]
    told = counting(reporter, "rows")
    vectors = hidden_features(model, rows, pad, max_tokens=max_tokens, progress=told).answer_mean
    white = whiten(vectors, PoolStatistics.of([vectors]), HIDDEN_RIDGE)
    return influence_blocks(white[: len(forget)], white[len(forget) :])


def _sum(one: Blocks, other: Blocks) -> Blocks:
    return Blocks(**{field.name: getattr(one, field.name) + getattr(other, field.name) for field in fields(Blocks)})


def say_coverage(
    config: RunConfig, run_model: RunModel, reporter: Reporter, jobs: Collection[str] = ("weigh", "unlearn")
) -> None:
    """Note which weights gradients and adapter leave out, where they are many.

    Args:
        config: Names the tracked layers and those of the adapter.
        run_model: The model.
        reporter: Where notes go.
        jobs: ``weigh`` takes gradients, ``unlearn`` trains an adapter.

    Raises:
        ModelError: If a target of either matches nothing.
    """
    for name, coverage in job_coverage(config, run_model, jobs).items():
        note_coverage(name, coverage, reporter)


def note_coverage(name: str, coverage: Coverage, reporter: Reporter) -> None:
    """One line, where ``coverage`` is of less than nine tenths of the weights that it could be of.

    A readout sees the output head alone, by choice: nothing is said of it.
    """
    if coverage.share and not coverage.enough:
        reporter.note(f"{name}: only {coverage.text()}")


def job_coverage(
    config: RunConfig, run_model: RunModel, jobs: Collection[str] = ("weigh", "unlearn")
) -> dict[str, Coverage]:
    """Of the gradients, where the weights need some, and of the adapter that is trained."""
    model = run_model.loaded.model
    found = {}
    if "weigh" in jobs and Needs.GRADIENTS in get_scheme(config.weights.scheme).needs:
        found["gradients"] = gradient_coverage(run_model, config.influence)
    if "unlearn" in jobs:
        layers = adapted_layers(model, config.lora.targets)
        found["adapter"] = coverage_of(model, [f"{name}.weight" for name in layers])
    return found


def gradient_coverage(run_model: RunModel, settings: InfluenceSettings) -> Coverage:
    """Of the gradients of these settings."""
    return coverage_of(run_model.loaded.model, make_collector(run_model, settings).tracked)


def chosen_sketch(kind: str, *, k: int, seed: int) -> Sketch:
    """The sketch of this kind; length and seed where it has them.

    Raises:
        ConfigError: If the kind is unknown, or the length is none of its.
    """
    known = sketch_from({"kind": kind}).describe()
    shared = {name: value for name, value in (("k", k), ("seed", seed)) if name in known}
    return sketch_from({"kind": kind, **shared})


def teacher_sketch(settings: TeacherSettings, seed: int) -> Sketch | None:
    """The sketch of a valuation, or None for exact values. Raises as `chosen_sketch`."""
    return None if settings.sketch == "exact" else chosen_sketch(settings.sketch, k=settings.k, seed=seed)


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
