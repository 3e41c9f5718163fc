"""Remove what the forget rows taught: objectives, procedures, the trainer, its guards."""

from rapidun.settings.unlearning import LoraSettings, UnlearnSettings
from rapidun.unlearning.answers import Answers
from rapidun.unlearning.catalogue import get_method, method_names
from rapidun.unlearning.methods.terms import RETAIN_DIVERGENCE, RETAIN_LOSS, cross_entropy
from rapidun.unlearning.registry import (
    METHODS,
    PROCEDURES,
    Method,
    Procedure,
    Requires,
    Term,
    UnlearnResult,
    register_method,
    register_procedure,
)
from rapidun.unlearning.reweighing import Reweighing
from rapidun.unlearning.sampling import TrainingRows
from rapidun.unlearning.state import MethodState
from rapidun.unlearning.unlearn import unlearn

__all__ = [
    "METHODS",
    "PROCEDURES",
    "RETAIN_DIVERGENCE",
    "RETAIN_LOSS",
    "Answers",
    "LoraSettings",
    "Method",
    "MethodState",
    "Procedure",
    "Requires",
    "Reweighing",
    "Term",
    "TrainingRows",
    "UnlearnResult",
    "UnlearnSettings",
    "cross_entropy",
    "get_method",
    "method_names",
    "register_method",
    "register_procedure",
    "unlearn",
]
