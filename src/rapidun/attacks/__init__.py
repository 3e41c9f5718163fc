"""Attacks on an unlearned model: does the behaviour come back, at what effort? One registered attack a file."""

from rapidun.attacks import (  # noqa: F401  (registers)
    as_is,
    few_shot,
    gcg,
    logit_lens,
    merge_dtype,
    nf4,
    paraphrase,
    prefill,
    quantise,
    relearn,
    relearn_full,
    sampling,
    trigger_variants,
    unlearning_membership,
)
from rapidun.attacks.curves import Curve, Point
from rapidun.attacks.gate import AttackCheck, Verdict, decide_attacks, no_faster, within_limit
from rapidun.attacks.registry import ATTACKS, Attack, register_attack
from rapidun.attacks.target import Material, Question, Target
from rapidun.attacks.trial import CannotRun, Outcome, Trial

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackCheck",
    "CannotRun",
    "Curve",
    "Material",
    "Outcome",
    "Point",
    "Question",
    "Target",
    "Trial",
    "Verdict",
    "decide_attacks",
    "no_faster",
    "register_attack",
    "within_limit",
]
