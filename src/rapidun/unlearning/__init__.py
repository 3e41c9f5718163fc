"""Remove what the forget rows taught: objectives, the trainer, its guards."""

from rapidun.unlearning.objectives import METHODS, Answers, Method, get_method, register_method
from rapidun.unlearning.settings import LoraSettings, UnlearnSettings
from rapidun.unlearning.unlearn import TrainingRows, UnlearnResult, unlearn

__all__ = [
    "METHODS",
    "Answers",
    "LoraSettings",
    "Method",
    "TrainingRows",
    "UnlearnResult",
    "UnlearnSettings",
    "get_method",
    "register_method",
    "unlearn",
]
