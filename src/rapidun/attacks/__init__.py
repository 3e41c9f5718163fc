"""Attacks on an unlearned model: does the behaviour come back, at what effort? One registered attack a file."""

from rapidun.attacks import as_is, few_shot, merge_dtype, prefill, quantise, relearn, sampling, trigger_variants  # noqa: F401  (registers)  # noqa: F401  (registers)
from rapidun.attacks.curves import Curve, Point
from rapidun.attacks.gate import AttackCheck, Verdict, decide_attacks
from rapidun.attacks.registry import ATTACKS, Attack, register_attack
from rapidun.attacks.target import Material, Question, Target
from rapidun.attacks.trial import Outcome, Trial

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackCheck",
    "Curve",
    "Material",
    "Outcome",
    "Point",
    "Question",
    "Target",
    "Trial",
    "Verdict",
    "decide_attacks",
    "register_attack",
]
