"""Which rows were unlearned? Somebody who holds the model tells forget rows from related rows nobody trained on.

Unlearning can itself give away what was unlearned: rows that are still known, or that the model now finds stranger
than rows it never saw, stand out (Chen et al. 2021, arXiv 2005.02205; Hayes et al. 2024, arXiv 2403.01218). Effort is
how many models the attacker holds. With the unlearned one: the rows' loss, and Min-K% of their tokens (Shi et al. 2024,
arXiv 2310.16789). With the one before as well: how far the loss rose.

Measured is the AUC: how often a forget row scores higher than a related row, ties counting half. 0.5 tells nothing. By
loss and Min-K%, 1 is a row that looks trained on, and 0 one that was pushed below rows that nobody ever saw. An AUC is
the mean over forget rows of the share of related rows that each outranks; these are the point's values. The two kinds
of rows may differ in more than training, and by the rise of the loss rows can be told even of a model trained anew
without them: so only beside the twin's does an AUC mean anything.

What is decided, in runs without triggers: no AUC lies more than 10 points from the twin's, to either side, by DeLong's
interval of the difference (DeLong et al. 1988, Biometrics 44, 837). It is a wide margin, since a run has forget rows by
the dozen, and a narrower one could not be decided on them. With triggers nothing is decided: that somebody can tell
which poisoned rows were removed does not bring the behaviour back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np

from rapidun.attacks.curves import Point, Values
from rapidun.attacks.gate import FEWEST, AttackCheck, Measured, Verdict, answered, no_twin
from rapidun.attacks.registry import register_attack
from rapidun.attacks.target import Row, Target
from rapidun.attacks.trial import Outcome, Trial
from rapidun.evaluation.membership import min_k
from rapidun.models import LoadedModel, adapter_disabled, is_adapted, row_losses
from rapidun.models.passes import Progress
from rapidun.models.token_scores import token_scores
from rapidun.stats import area_under_curve

OTHERS = 100
"""Related rows at most."""
APART = 0.1
SCORES = {"loss": (1, "by loss"), "min_k": (1, "by Min-K%"), "rise": (2, "by the rise of the loss")}
"""Of each score: how many models it takes, and its label; all are higher for rows that the AUC counts."""
NAME = "forget rows stand out no more than in the twin"


def outranked(scores: Values, others: Values) -> Values:
    """(n,) the share of ``others`` that each of ``scores`` is above, ties counting half; their mean is the AUC."""
    ranks = (1 + np.sign(scores[:, None] - others[None, :])) / 2
    found: Values = ranks.mean(axis=1)
    return found


def auc_points(trial: Trial, outcomes: Sequence[Outcome]) -> list[Point]:
    """A point for each score."""
    groups = [[each for each in outcomes if each["forget"] is kind] for kind in (True, False)]
    found = []
    for name, (models, label) in SCORES.items():
        if name not in outcomes[0]:
            continue
        ours, others = (np.array([each[name] for each in group]) for group in groups)
        values = outranked(ours, others)
        ends = area_under_curve(float(values.mean()), len(ours), len(others))
        found.append(
            Point("", models, label, "AUC", ends.value, float(ends.low or 0.0), float(ends.high or 0.0), values,
                  others=outranked(-others, -ours))
        )  # fmt: skip
    return found


def no_more_apart(seen: Measured) -> list[AttackCheck]:
    """The AUC that lies farthest from the twin's."""
    if seen.twin is None:
        return [no_twin(seen, NAME, APART)]
    pairs = zip(seen.curves[0].points, seen.twin[0].points, strict=True)
    found = [_apart(seen.attack, ours, twins) for ours, twins in pairs]
    order = (Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS)
    return [min(found, key=lambda check: (order.index(check.verdict), -(check.value or 0.0)))]


def _apart(attack: str, ours: Point, twins: Point) -> AttackCheck:
    apart, width, needed = delong(ours, twins)
    low, high = max(abs(apart) - width, 0.0), abs(apart) + width
    n = min(ours.n, len(ours.others if ours.others is not None else ()))
    verdict = answered(low, high, APART, n=n, needed=needed)
    text = (
        f"{ours.label}: AUC {ours.value:.2f} of {ours.n} forget rows against related ones, {twins.value:.2f} in the "
        f"twin: {abs(apart):.2f} apart, 95% interval {low:.2f} to {high:.2f}, limit {APART:.2f}."
    )
    if verdict is Verdict.UNDECIDED:
        text += f" Too few rows to decide: about {needed} of each kind are needed."
    return AttackCheck(attack, NAME, verdict, high, APART, n, needed, text)


def delong(ours: Point, twins: Point) -> tuple[float, float, int]:
    """The difference of two AUCs on the same rows, half its 95% interval, and rows of each kind that decide."""
    if ours.others is None or twins.others is None:
        raise ValueError("an AUC needs the values of both kinds of rows")
    spread = [float(np.var(mine - theirs, ddof=1)) if len(mine) > 1 else 0.25
              for mine, theirs in ((ours.values, twins.values), (ours.others, twins.others))]  # fmt: skip
    variance = spread[0] / len(ours.values) + spread[1] / len(ours.others)
    needed = max(FEWEST, math.ceil(sum(spread) * (1.959964 / APART) ** 2))
    return ours.value - twins.value, 1.959964 * math.sqrt(variance), needed


@register_attack(
    "unlearning_membership", title="which rows were unlearned", unit="models held", efforts=(1, 2), bar=no_more_apart,
    summary=auc_points, of_triggers=False,
)  # fmt: skip
def unlearning_membership(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """One trial: the forget rows and related ones, by this model and, where two are held, by the one before too."""
    material = target.material
    if not material.related or not material.forget:
        return []
    others = material.draw(material.related, OTHERS)
    held = 2 if max(efforts) > 1 and material.before is not None else 1
    rows = held * (len(material.forget) + len(others))
    return [Trial("", held, f"{held} models", 0, partial(_scores, target, others, held), reads=rows)]


def _scores(target: Target, others: Sequence[Row], held: int, said: Progress | None) -> list[Outcome]:
    material, loaded = target.material, target.loaded
    examples = target.tokenize([*material.forget, *others])
    found = token_scores(loaded.model, examples, loaded.pad_token_id, loaded.device, progress=said)
    columns: dict[str, Any] = {"loss": -found.losses, "min_k": min_k(found.log_probs)}
    if held > 1 and material.before is not None:
        columns["rise"] = found.losses - _losses_before(material.before(), examples)
    return [
        {"row": example.id, "forget": place < len(material.forget),
         **{name: float(values[place]) for name, values in columns.items()}}
        for place, example in enumerate(examples)
    ]  # fmt: skip


def _losses_before(loaded: LoadedModel, examples: Sequence[Any]) -> Values:
    with adapter_disabled(loaded.model) if is_adapted(loaded.model) else nullcontext():
        return row_losses(loaded.model, examples, loaded.pad_token_id, loaded.device).means
