"""The weighting schemes, by name: RapidUn's and the controls it must beat.

A gain over "uniform" that "random" or "shuffled" weights give as well is not a gain of influence.
"shuffled" has exactly the weights of "influence", on other rows of the same group; "random" draws scores from
a normal distribution and sends them through the same robust weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.errors import ConfigError, InputError
from rapidun.registry import Registry
from rapidun.settings import names
from rapidun.settings.base import NoOptions, Section, make_options
from rapidun.settings.kinds import Negative
from rapidun.weighting.evidence import Evidence, Needs
from rapidun.weighting.options import Dynamic, Following, Influence, Loss, Robust, SelfOnly
from rapidun.weighting.robust import robust_weights
from rapidun.weighting.scores import BlocksLike, FloatArray, Scores, fuse


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights of mean one per group and the scores they come from, all float64.

    Args:
        forget: (forget rows,).
        retain: (retain rows,).
        forget_scores: (forget rows,); 0 where the scheme has no scores.
        retain_scores: (retain rows,); 0 where the scheme has no scores.
        moved: (forget rows,) bool: rows of weight 0 that are to be trained on as retain rows; None is none.
    """

    forget: FloatArray
    retain: FloatArray
    forget_scores: FloatArray
    retain_scores: FloatArray
    moved: npt.NDArray[np.bool_] | None = None


SchemeFunction = Callable[[Evidence, np.random.Generator, Any], Weights]


@dataclass(frozen=True)
class Scheme:
    """A registered scheme.

    Args:
        name: What users call it.
        weights: ``(evidence, generator, options) -> Weights``.
        needs: What of the evidence it looks at.
        signed: Whether a forget row's score below zero says that the row is more at home in the retain set.
        follows: Whether the weights are computed again on the current adapter while it is trained.
        judges: Whether that is all it is for: a score below zero calls the row mislabelled.
        options: What it may be told in ``weights.options``.
    """

    name: str
    weights: SchemeFunction
    needs: Needs
    signed: bool = False
    follows: bool = False
    judges: bool = False
    options: type[Section] = NoOptions

    def checked(self, given: Mapping[str, Any]) -> Any:
        """An object of `options`. Raises ConfigError for an unknown option or a value that does not fit."""
        return make_options(f"scheme {self.name!r}", self.options, given)


JUDGED_ROWS, JUDGED_SHARE = 8, 0.5
"""Of fewer forget rows, or of more accused ones, "auto" drops none: the rows do not say who is in the wrong group."""
SCHEMES: Registry[Scheme] = Registry(names.SCHEMES)
get_scheme = SCHEMES.__getitem__


def register_scheme(
    name: str,
    *,
    needs: Needs = Needs.GRADIENTS,
    signed: bool = False,
    follows: bool = False,
    judges: bool = False,
    options: type[Section] | None = None,
) -> Callable[[SchemeFunction], SchemeFunction]:
    """Register the decorated function ``(evidence, generator, options) -> Weights`` as scheme ``name``.

    Args:
        name: What users call it.
        needs: What it looks at besides the number of rows.
        signed: Whether its scores have a zero below which a forget row may be dropped.
        follows: Whether its weights are computed again while the model is trained.
        judges: Whether a score below zero calls the row mislabelled, so that it is dropped by default.
        options: The class of ``options``, whose fields are those of ``weights.options``; of a scheme that follows the
            model, a `Following`. Default: none but those.

    Examples:
        >>> import numpy as np
        >>> import rapidun
        >>> from rapidun.weighting import Needs, Weights
        >>> @rapidun.register_scheme("first-only", needs=Needs.NOTHING)
        ... def first_only(evidence, generator, options):
        ...     forget, retain = np.zeros(evidence.forget), np.ones(evidence.retain)
        ...     forget[0] = evidence.forget  # so that the mean is 1
        ...     return Weights(forget, retain, forget, retain)
        >>> adapted = rapidun.unlearn("model", forget="bad.jsonl", retain="good.jsonl", scheme="first-only", steps=2)
        >>> adapted.unlearning.steps
        2
    """

    kind = options or (Following if follows else NoOptions)
    if not issubclass(kind, Section):
        raise ConfigError(f"scheme {name!r}: let its options {kind.__name__} be a rapidun.settings.base.Section.")

    def register(scheme: SchemeFunction) -> SchemeFunction:
        SCHEMES[name] = Scheme(name, scheme, needs, signed, follows, judges, kind)
        return scheme

    return register


def check_scheme(name: str, negative: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a scheme lacks, and to take rows out by a scheme that cannot say which.

    Raises:
        ConfigError: For an option, or if its scores have no zero, or it weighs again while training.
    """
    scheme = get_scheme(name)
    scheme.checked(options)
    if negative not in ("auto", "keep") and not scheme.signed:
        raise ConfigError(f"negative={negative}: the scores of the scheme {name!r} have no zero")
    if negative not in ("auto", "keep") and scheme.follows:
        raise ConfigError(f"negative={negative}: the scheme {name!r} weighs again and keeps every row")


names.SCHEMES.rule = check_scheme


def scheme_weights(
    name: str, evidence: Evidence | BlocksLike, seed: int = 0, options: Mapping[str, Any] | None = None
) -> Weights:
    """The weights of the scheme called ``name``; the same for the same evidence, seed and options.

    Args:
        name: Of a registered scheme.
        evidence: What the scheme needs, or the four influence blocks alone, each (scored rows, queries).
        seed: Only "random" and "shuffled" depend on it.
        options: Of the scheme, by name; see `rapidun.weighting.options`.

    Raises:
        ConfigError: If the scheme or an option is unknown, or an option is out of range.
        InputError: If the evidence is not what the scheme needs, or blocks cannot be used; see `fuse`. Or if the scheme
            gives anything but one weight for each row, none below 0, of mean 1.
    """
    known = evidence if isinstance(evidence, Evidence) else Evidence.of(evidence)
    scheme = SCHEMES[name]
    weights = scheme.weights(known, np.random.default_rng(seed), scheme.checked(options or {}))
    if not isinstance(weights, Weights):
        raise InputError(f"scheme {name!r} gave {type(weights).__name__}; a scheme returns Weights(...).")
    for group, count in (("forget", known.forget), ("retain", known.retain)):
        _check_group(f"scheme {name!r}: {group}", getattr(weights, group), getattr(weights, f"{group}_scores"), count)
    return weights


def _check_group(what: str, weights: FloatArray, scores: FloatArray, count: int) -> None:
    """Refuse what training could not use. Raises InputError."""
    for kind, values in (("weights", weights), ("scores", scores)):
        if np.shape(values) != (count,):
            raise InputError(f"{what} {kind} have the shape {np.shape(values)}; {count} rows need ({count},).")
    if not (np.isfinite(weights).all() and np.min(weights, initial=0.0) >= 0):
        raise InputError(
            f"{what} weights go from {np.min(weights):g} to {np.max(weights):g}; none may be below 0 or NaN."
        )
    if count and not np.isclose(np.mean(weights), 1.0):
        raise InputError(f"{what} weights have the mean {np.mean(weights):g}; divide them by it, so that it is 1.")


def weights_of(scores: Scores, options: Robust, floor: str | float = "relative") -> Weights:
    """`robust_weights` of both groups, each with its own temperature."""
    return Weights(
        forget=robust_weights(scores.forget, options.forget_temperature, options.w_min, options.w_max, floor),
        retain=robust_weights(scores.retain, options.retain_temperature, options.w_min, options.w_max, floor),
        forget_scores=scores.forget,
        retain_scores=scores.retain,
    )


@register_scheme("influence", signed=True, options=Influence)
def influence(evidence: Evidence, generator: np.random.Generator, options: Influence) -> Weights:
    """RapidUn: all four blocks."""
    scores = fuse(
        evidence.blocks(),
        alpha=options.alpha,
        beta=options.beta,
        gamma=options.gamma,
        delta=options.delta,
        aggregate=options.aggregate,
        top_k=options.top_k,
    )
    return weights_of(scores, options)


@register_scheme("dynamic", signed=True, follows=True, options=Dynamic)
def dynamic(evidence: Evidence, generator: np.random.Generator, options: Dynamic) -> Weights:
    """RapidUn's first open question: "influence" at the start, then again on the current adapter, smoothed.

    The trainer asks again every ``every`` optimiser steps; see `rapidun.unlearning.Reweighing`.
    """
    return influence(evidence, generator, options)


@register_scheme("self_only", signed=True, options=SelfOnly)
def self_only(evidence: Evidence, generator: np.random.Generator, options: SelfOnly) -> Weights:
    """The paper's ablation: each group's influence on itself, without the cross terms."""
    return influence(evidence, generator, Influence(**options.model_dump(), beta=0.0, delta=0.0))


@register_scheme("uniform", needs=Needs.NOTHING)
def uniform(evidence: Evidence, generator: np.random.Generator, options: NoOptions) -> Weights:
    """Every weight 1; only the number of rows matters."""
    forget, retain = evidence.forget, evidence.retain
    return Weights(np.ones(forget), np.ones(retain), np.zeros(forget), np.zeros(retain))


@register_scheme("random", needs=Needs.NOTHING, options=Robust)
def random(evidence: Evidence, generator: np.random.Generator, options: Robust) -> Weights:
    """Standard normal scores through the same robust weights, so of the same spread as influence weights."""
    forget, retain = evidence.forget, evidence.retain
    return weights_of(Scores(generator.standard_normal(forget), generator.standard_normal(retain)), options)


@register_scheme("shuffled", options=Influence)
def shuffled(evidence: Evidence, generator: np.random.Generator, options: Influence) -> Weights:
    """The influence weights, permuted within each group; each score moves with its weight."""
    weights = influence(evidence, generator, options)
    forget = generator.permutation(len(weights.forget))
    retain = generator.permutation(len(weights.retain))
    return Weights(
        weights.forget[forget],
        weights.retain[retain],
        weights.forget_scores[forget],
        weights.retain_scores[retain],
    )


@register_scheme("representation", needs=Needs.HIDDEN, signed=True, options=Influence)
def representation(evidence: Evidence, generator: np.random.Generator, options: Influence) -> Weights:
    """`influence` by hidden-state similarity: a forward pass instead of gradients, so a cheap control."""
    return influence(replace(evidence, gradients=evidence.blocks("hidden")), generator, options)


@register_scheme("loss", needs=Needs.LOSSES, options=Loss)
def loss(evidence: Evidence, generator: np.random.Generator, options: Loss) -> Weights:
    """LoReUn's static weights (Li et al. 2025, arXiv 2507.22499), from each forget row's own loss, no influence.

    ``w_i = exp(-CE_i / tau) / mean_j exp(-CE_j / tau)``; ``direction="high"`` is ``exp(+CE_i / tau)``, the sign of
    RapidUn's released baseline. Retain rows weigh 1. The method `loreun` also follows the loss as it changes.
    """
    losses = evidence.forget_losses()
    scores = losses if options.direction == "high" else -losses
    raw = np.exp((scores - scores.max()) / options.tau)
    return Weights(raw / raw.mean(), np.ones(evidence.retain), scores, np.zeros(evidence.retain))


def handle_negatives(weights: Weights, scheme: str, negative: Negative) -> Weights:
    """Forget rows whose score is below zero belong to the retain set more than to the forget set.

    "keep" leaves them their weight; "drop" takes them out (weight 0); "retain" takes them out and trains on them as on
    retain rows, with the weight of an average one. The others are scaled so that the group's mean stays 1. "auto" drops
    what a scheme that judges labels accuses; where that is more than half, or rows are few, all stay.

    Args:
        weights: Of the scheme.
        scheme: Its name: only some have scores whose zero means something.
        negative: "auto", "keep", "drop" or "retain".

    Raises:
        ConfigError: If the scheme's scores have no sign, or no forget row would be left.
    """
    out = weights.forget_scores < 0
    sure = SCHEMES[scheme].judges and len(out) >= JUDGED_ROWS and out.mean() <= JUDGED_SHARE
    if negative == "keep" or (negative == "auto" and not sure):
        return weights
    if not SCHEMES[scheme].signed:
        signed = ", ".join(name for name, each in SCHEMES.items() if each.signed)
        raise ConfigError(f"weights.negative={negative}: the scores of {scheme!r} have no zero. Use one of {signed}.")
    if out.all():
        raise ConfigError(
            f"weights.negative={negative}: every forget row scores below zero, so none would be left. The forget and "
            "the retain set cannot be told apart by this scheme; keep the rows, or look at the sets."
        )
    kept = np.where(out, 0.0, weights.forget)
    return replace(weights, forget=kept / kept.mean(), moved=out if negative == "retain" else np.zeros_like(out))
