"""RapidUn's weights with hidden-state similarity in the place of influence: a forward pass instead of gradients.

The same four directions, fusion and robust weights. A cheap control: where it does as well, gradients were not needed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rapidun.weighting.evidence import Evidence, Needs
from rapidun.weighting.schemes import WeightOptions, Weights, influence, register_scheme


@register_scheme("representation", needs=Needs.HIDDEN, signed=True)
def representation(evidence: Evidence, generator: np.random.Generator, options: WeightOptions) -> Weights:
    """`influence` on the hidden blocks."""
    return influence(replace(evidence, gradients=evidence.blocks("hidden")), generator, options)
