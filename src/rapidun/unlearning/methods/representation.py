"""RMU: steer one layer's hidden states of the forget rows to a random direction, hold those of the retain rows."""

from __future__ import annotations

import torch

from rapidun.unlearning.answers import Answers
from rapidun.unlearning.options import Layer, Positive
from rapidun.unlearning.registry import Requires, Term, register_method


def control_direction(width: int, seed: int) -> torch.Tensor:
    """``u``: (width,) float32 of norm 1, entries drawn uniformly from [0, 1) as in the paper; fixed by ``seed``."""
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(seed))
    unit: torch.Tensor = drawn / torch.linalg.vector_norm(drawn)
    return unit


def held_representation(rows: Answers, *, layer: Layer = None) -> torch.Tensor:
    """``mean_t |h_l(x_r) - h0_l(x_r)|^2`` over answer positions, 0 = adapter off. (batch,)."""
    moved = rows.at_predicting("hidden") - rows.at_predicting("reference_hidden")
    return rows.row_means(moved.square().sum(dim=-1))


@register_method(
    "rmu", retain=Term(held_representation, Requires.HIDDEN | Requires.REFERENCE_HIDDEN), requires=Requires.HIDDEN,
    gamma=1.0,
    source="Li et al. 2024, The WMDP Benchmark, arXiv 2403.03218, section 4",
)  # fmt: skip
def steered_representation(
    rows: Answers, *, layer: Layer = None, c: Positive = 2.0, direction_seed: int = 0
) -> torch.Tensor:
    """``mean_t |h_l(x_f) - c * u|^2``, u a fixed random unit vector, h_l the output of block ``layer``. (batch,).

    Li et al. 2024 (arXiv 2403.03218), section 4. Taken where answer tokens are *predicted*, so that the first of
    them counts too. layer: a quarter of the blocks from the bottom (the paper's 7 of 32); c 2, gamma 1, alpha 1
    (the paper's alpha is 1200 at width 4096: raise it where the retain rows suffer).
    """
    states = rows.at_predicting("hidden")
    target = c * control_direction(states.shape[-1], direction_seed).to(states.device)
    return rows.row_means((states - target).square().sum(dim=-1))
