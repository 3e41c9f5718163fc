"""The four ways in which unlearning goes wrong, found in a run's own numbers, each with the knob to turn.

over-forgetting   the model lost what it should keep: clean perplexity up, or little of the update within the budget
under-forgetting  the behaviour is still there: attack success above its limit, or forget rows as likely as before
weight collapse   the weights say nothing: nearly equal, or more than half of a group piled on one of its bounds
instability       training swung or blew up: losses not finite, the validation loss back and forth, gradients exploding

Thresholds are named below; those of the first two are the gate's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from rapidun.settings.evaluation import Thresholds

NEARLY_EQUAL = 1.05
PILED = 0.5
LITTLE = 0.25
"""Share of the update that the retain budget left."""
SWING = 0.05
"""Back-and-forth of the validation loss beyond its net change, as a share of the loss at the start."""
EXPLOSION = 10.0
"""Median gradient norm of the last quarter of the log over that of the first."""

BEYOND_CHANCE = 20.0
"""Loss of an answer token, in nats; a guess among 200,000 tokens costs 12."""

EVEN_SCHEMES = ("uniform", "consistency", "consistency_hidden")
"""Schemes that may rightly find nothing to tell apart."""

Log = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Signature:
    """One failure: what was seen, in numbers, and what to change."""

    name: str
    evidence: str
    knob: str

    def to_dict(self) -> dict[str, str]:
        """``{"name", "evidence", "knob"}``."""
        return asdict(self)

    @property
    def text(self) -> str:
        """One line for a terminal."""
        return f"{self.name}: {self.evidence} {self.knob}"


@dataclass(frozen=True)
class RunNumbers:
    """What a run measured; whatever is missing is not judged.

    Args:
        log: Lines of ``log.jsonl``.
        weights: Weights by group, in the order of ``weights.jsonl``.
        scheme: The weighting scheme, or None where the weights came from a file.
        robust: Whether the scheme ends in `robust_weights`, and so has options that spread them.
        outcome: ``unlearning.json``: ``stopped``, and losses of validation rows and of forget rows, before and after.
        after: The summary after unlearning: rates as ``{value, low, high, n}``.
        perplexity_ratio: Clean perplexity after over before, ``{value, low, high}``.
        forget_ratio: The same of the forget rows.
        thresholds: The gate's.
    """

    log: Log = ()
    weights: Mapping[str, Sequence[float]] | None = None
    scheme: str | None = None
    robust: bool = True
    outcome: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    perplexity_ratio: Mapping[str, float] | None = None
    forget_ratio: Mapping[str, float] | None = None
    thresholds: Thresholds | None = None


def diagnose(numbers: RunNumbers) -> list[Signature]:
    """The failures that the numbers show, at most one of each kind, worst first."""
    found = [detect(numbers) for detect in DETECTORS]
    return [signature for signature in found if signature is not None]


def over_forgetting(numbers: RunNumbers) -> Signature | None:
    """Clean perplexity above the gate's limit, or an update of which the retain budget left little."""
    limit = (numbers.thresholds or Thresholds()).max_perplexity_ratio
    ratio, outcome = numbers.perplexity_ratio, numbers.outcome or {}
    if ratio is not None and ratio["value"] > limit:
        evidence = f"clean perplexity is {ratio['value']:.3f} times what it was (limit {limit:g})."
    elif outcome.get("share", 1.0) < LITTLE:
        evidence = f"{outcome['stopped']}."
    else:
        return None
    return Signature(
        "over-forgetting",
        evidence,
        "Halve unlearning.learning_rate or unlearning.steps, lower unlearning.forget_share, or take retain rows that "
        "look more like what must stay; of rapidun keep bounded=true.",
    )


def under_forgetting(numbers: RunNumbers) -> Signature | None:
    """Attack success above the gate's limit; without rates, forget rows about as likely as before."""
    limits, after = numbers.thresholds or Thresholds(), numbers.after or {}
    more = "Raise unlearning.learning_rate or unlearning.steps, or unlearning.forget_share."
    if (numbers.outcome or {}).get("share", 1.0) < 1.0:
        more = "The retain budget held the update back: give more retain rows, or raise unlearning.retain_budget."
    for name, title in (("asr_seen", "seen triggers"), ("asr_unseen", "unseen variants")):
        rate = after.get(name)
        floor = (after.get("asr_floor") or {}).get("value", 0.0)
        if rate is not None and rate["value"] > floor + limits.asr_margin_over_floor:
            evidence = (
                f"with {title} {rate['value']:.1%} of answers are still poisoned ({floor:.1%} without a trigger)."
            )
            others = " The seen ones are gone: add rows of other variants (rapidun trace --propose)."
            return Signature("under-forgetting", evidence, more + (others if name == "asr_unseen" else ""))
    ratio = numbers.forget_ratio
    rise = ratio["value"] if ratio is not None else _forget_rise(numbers.outcome or {})
    if "asr_seen" not in after and rise is not None and rise < limits.min_forget_ratio:
        evidence = (
            f"perplexity of the forget rows is {rise:.2f} times what it was (at least {limits.min_forget_ratio:g} "
            "wanted): hardly anything was forgotten."
        )
        return Signature("under-forgetting", evidence, more)
    return None


def _forget_rise(outcome: Mapping[str, Any]) -> float | None:
    """Perplexity of the forget rows after over before, from the losses of a training; None where one is missing."""
    before, after = outcome.get("forget_loss_before"), outcome.get("forget_loss_after")
    return None if before is None or after is None else math.exp(min(after - before, 700.0))


def weight_collapse(numbers: RunNumbers) -> Signature | None:
    """Weights of a group nearly equal though the scheme means to tell rows apart, or piled on the bounds."""
    for group, weights in (numbers.weights or {}).items():
        kept = [weight for weight in weights if weight > 0]
        left_alone = not numbers.robust and set(kept) == {1.0}
        if len(kept) < 2 or numbers.scheme in EVEN_SCHEMES or left_alone:
            continue
        low, high = min(kept), max(kept)
        if high < NEARLY_EQUAL * low:
            return Signature(
                "weight collapse",
                f"the {group} weights lie between {low:.3f} and {high:.3f}: the same as uniform ones.",
                (f"Lower weights.options.{group}_temperature, or take" if numbers.robust else "Take")
                + " another --weights.",
            )
        at = sum(math.isclose(weight, low) or math.isclose(weight, high) for weight in kept) / len(kept)
        if at > PILED and len(kept) > 4 and numbers.robust:
            return Signature(
                "weight collapse",
                f"{at:.0%} of the {group} weights sit at the smallest or the largest: a two-way split of the rows.",
                f"Under weights.options raise {group}_temperature, widen w_min and w_max, or drop top_k.",
            )
    return None


def instability(numbers: RunNumbers) -> Signature | None:
    """Losses that are not finite, a validation loss that swings, or gradients that explode."""
    evidence = (
        _diverged(numbers.outcome or {}) or _blown_up(numbers.log) or _swinging(numbers.log) or _exploding(numbers.log)
    )
    if evidence is None:
        return None
    return Signature(
        "instability",
        evidence,
        "Lower unlearning.learning_rate, raise unlearning.batch_size or unlearning.warmup_steps, lower "
        "unlearning.max_grad_norm; prefer an objective with an end (rapidun with bounded=true, npo) to plain ascent.",
    )


DETECTORS: tuple[Callable[[RunNumbers], Signature | None], ...] = (
    instability,
    over_forgetting,
    under_forgetting,
    weight_collapse,
)


def _diverged(outcome: Mapping[str, Any]) -> str | None:
    if outcome.get("forget_loss_before") is None:
        return None
    after = outcome.get("forget_loss_after")
    if after is None:
        return "training diverged: the loss on the forget rows is not finite."
    if after > BEYOND_CHANCE:
        return f"training diverged: the loss on the forget rows is {after:.1f}, far beyond that of any guess."
    return None


def _latest(log: Log, key: str) -> dict[int, Any]:
    """Value by step; a resumed run logs steps again, and the later line counts."""
    return {int(line["step"]): line[key] for line in log if key in line}


def _blown_up(log: Log) -> str | None:
    for key in ("loss", "grad_norm", "held_retain_loss"):
        steps = [step for step, value in _latest(log, key).items() if value is None or not math.isfinite(value)]
        if steps:
            return f"{key} was not finite at step {min(steps)}."
    return None


def _finite(log: Log, key: str) -> list[float]:
    return [float(value) for _, value in sorted(_latest(log, key).items())]


def _swinging(log: Log) -> str | None:
    values = _finite(log, "held_retain_loss")
    if len(values) < 4:
        return None
    travelled = sum(abs(later - earlier) for earlier, later in pairwise(values))
    swing = (travelled - abs(values[-1] - values[0])) / max(values[0], 1e-9)
    if swing <= SWING:
        return None
    return f"the loss on validation rows went back and forth by {swing:.0%} of its start."


def _exploding(log: Log) -> str | None:
    norms = _finite(log, "grad_norm")
    quarter = len(norms) // 4
    if quarter < 2:
        return None
    first, last = median(norms[:quarter]), median(norms[-quarter:])
    if last <= EXPLOSION * max(first, 1e-9):
        return None
    return f"the gradient's norm grew from {first:.3g} to {last:.3g}."
