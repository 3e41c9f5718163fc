"""Self-consistency: which rows are in the wrong group? Each is judged by the others, which are judged by each other.

A forget row that is really a clean row lies closer to the retain rows than to the true forget rows. But the forget
rows it is compared with may be wrong as well, up to half of them, so their say depends on their own trust:

    S_i = near(FF_i; q_f) - near(FR_i; q_r)      for forget rows, row i itself left out
    S_j = near(RR_j; q_r) - near(RF_j; q_f)      for retain rows
    q   = sigmoid(S / (tau * s))                 s: MAD of S about its median, of the group

from ``q = 1``, a few rounds. ``near`` is the ``q``-weighted mean over the most similar share of the queries
(``neighbours``): with all of them, a small family of triggers would be judged by the large ones; with a fixed number,
the larger group would win by having more chances to be near. Zero has a meaning here: at ``S_i < 0`` a row is more at
home in the other group.

Weights are ``w_min + (1 - w_min) q``, divided by their mean: a trusted row weighs about 1, a mislabelled one about
``w_min``. That says who belongs, not how hard to push: no row is raised above the others for being typical (ours).
"""

from __future__ import annotations

import numpy as np

from rapidun.weighting.evidence import Evidence, Needs
from rapidun.weighting.options import Consistency, Trusted
from rapidun.weighting.robust import MAD_TO_DEVIATION
from rapidun.weighting.schemes import Weights, influence, register_scheme
from rapidun.weighting.scores import BlocksLike, FloatArray, Scores, checked_blocks

ROUNDS = 10
TAU = 0.2
FEWEST = 3  # queries that count, where there are as many


def consistency_scores(blocks: BlocksLike, neighbours: float = 0.1, rounds: int = ROUNDS) -> tuple[Scores, Scores]:
    """``(S, q)`` of both groups: scores whose zero divides the groups, and trust in (0, 1).

    Args:
        blocks: ``ff, fr, rf, rr``, each (scored rows, queries); rows of a group are its queries.
        neighbours: Share of a block's queries that count, the most similar ones; in (0, 1].
        rounds: How often trust is taken into account.

    Raises:
        InputError: If a block cannot be used; see `fuse`.
    """
    ff, fr, rf, rr = checked_blocks(blocks)
    ff, rr = _without_self(ff), _without_self(rr)
    trust = Scores(np.ones(len(ff)), np.ones(len(rr)))
    scores = trust
    for _ in range(rounds):
        scores = Scores(
            _near(ff, trust.forget, neighbours) - _near(fr, trust.retain, neighbours),
            _near(rr, trust.retain, neighbours) - _near(rf, trust.forget, neighbours),
        )
        trust = Scores(_trust(scores.forget), _trust(scores.retain))
    return scores, trust


def _without_self(block: FloatArray) -> FloatArray:
    """A copy whose diagonal can never be among the nearest."""
    found = block.copy()
    if len(found) > 1:
        np.fill_diagonal(found, -np.inf)
    return found


def _near(block: FloatArray, trust: FloatArray, neighbours: float) -> FloatArray:
    """(scored rows,): trust-weighted mean of each row's most similar queries, taken until their trust adds up.

    The share is one of the group's whole trust, so a group that is half wrong gives its true half as many chances.
    """
    order = np.argsort(-block, axis=1, kind="stable")
    values = np.take_along_axis(block, order, axis=1)
    says = np.where(np.isfinite(values), trust[order], 0.0)
    values = np.where(np.isfinite(values), values, 0.0)
    wanted = max(neighbours * float(trust.sum()), min(FEWEST, float(trust.sum())))
    before = np.cumsum(says, axis=1) - says
    counted = np.clip(wanted - before, 0.0, says)
    # rows queries, rows queries -> rows
    found: FloatArray = np.einsum("rq,rq->r", counted, values) / np.maximum(counted.sum(axis=1), 1e-12)
    return found


def _trust(scores: FloatArray) -> FloatArray:
    scale = MAD_TO_DEVIATION * float(np.median(np.abs(scores - np.median(scores))))
    scale = max(scale, 0.1 * float(np.mean(np.abs(scores))), 1e-12)
    found: FloatArray = 1.0 / (1.0 + np.exp(-np.clip(scores / (TAU * scale), -40.0, 40.0)))
    return found


def consistency_weights(blocks: BlocksLike, options: Consistency) -> Weights:
    """The weights of the module's head, with its scores."""
    scores, trust = consistency_scores(blocks, options.neighbours)
    weights = [options.w_min + (1.0 - options.w_min) * values for values in (trust.forget, trust.retain)]
    return Weights(weights[0] / weights[0].mean(), weights[1] / weights[1].mean(), scores.forget, scores.retain)


@register_scheme("consistency", needs=Needs.GRADIENTS, signed=True, judges=True, options=Consistency)
def consistency(evidence: Evidence, generator: np.random.Generator, options: Consistency) -> Weights:
    """By gradients: rows that taught the same thing are alike."""
    return consistency_weights(evidence.blocks(), options)


@register_scheme("consistency_hidden", needs=Needs.HIDDEN, signed=True, judges=True, options=Consistency)
def consistency_hidden(evidence: Evidence, generator: np.random.Generator, options: Consistency) -> Weights:
    """By hidden states: a forward pass instead of gradients."""
    return consistency_weights(evidence.blocks("hidden"), options)


@register_scheme("trusted_influence", needs=Needs.GRADIENTS | Needs.HIDDEN, signed=True, options=Trusted)
def trusted_influence(evidence: Evidence, generator: np.random.Generator, options: Trusted) -> Weights:
    """Two questions, two signals: hidden states say who is mislabelled, gradients how hard to push the others.

    The weights of "influence" times those of "consistency_hidden", divided by their mean; the scores are the latter's.
    """
    strength, belongs = influence(evidence, generator, options), consistency_hidden(evidence, generator, options)
    forget, retain = strength.forget * belongs.forget, strength.retain * belongs.retain
    return Weights(forget / forget.mean(), retain / retain.mean(), belongs.forget_scores, belongs.retain_scores)
