"""Influence to weights: fused scores, bounded mean-one weights, the control schemes, RapidIn's files."""

from rapidun.weighting.rapidin import RapidinResults, read_rapidin, write_rapidin
from rapidun.weighting.released import released_weights, write_released
from rapidun.weighting.robust import WeightWarning, robust_weights
from rapidun.weighting.schemes import SCHEMES, WeightOptions, Weights, register_scheme, scheme_weights, weights_of
from rapidun.weighting.scores import BlocksLike, Scores, fuse
from rapidun.weighting.weight_file import WeightedRow, group_weights, read_weights, write_weights

__all__ = [
    "SCHEMES",
    "BlocksLike",
    "RapidinResults",
    "Scores",
    "WeightOptions",
    "WeightWarning",
    "WeightedRow",
    "Weights",
    "fuse",
    "group_weights",
    "read_rapidin",
    "read_weights",
    "register_scheme",
    "released_weights",
    "robust_weights",
    "scheme_weights",
    "weights_of",
    "write_rapidin",
    "write_released",
    "write_weights",
]
