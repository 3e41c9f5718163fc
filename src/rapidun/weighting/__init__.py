"""Evidence to weights: fused scores, bounded mean-one weights, the schemes and their controls, RapidIn's files."""

from rapidun.settings.kinds import Negative
from rapidun.weighting.consistency import consistency_scores
from rapidun.weighting.evidence import Evidence, Needs
from rapidun.weighting.rapidin import RapidinResults, read_rapidin, write_rapidin
from rapidun.weighting.released import released_weights, write_released
from rapidun.weighting.robust import WeightWarning, robust_weights
from rapidun.weighting.schemes import (
    SCHEMES,
    Scheme,
    Weights,
    get_scheme,
    handle_negatives,
    register_scheme,
    scheme_weights,
    weights_of,
)
from rapidun.weighting.scores import BlocksLike, Scores, fuse
from rapidun.weighting.weight_file import WeightedRow, group_weights, moved_rows, read_weights, write_weights

__all__ = [
    "SCHEMES",
    "BlocksLike",
    "Evidence",
    "Needs",
    "Negative",
    "RapidinResults",
    "Scheme",
    "Scores",
    "WeightWarning",
    "WeightedRow",
    "Weights",
    "consistency_scores",
    "fuse",
    "get_scheme",
    "group_weights",
    "handle_negatives",
    "moved_rows",
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
