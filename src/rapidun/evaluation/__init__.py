"""What a model does, measured: greedy answers, judges with floor and ceiling, backdoor rates, perplexity, the gate."""

from rapidun.evaluation.backdoor import BackdoorRecord, BackdoorResult, VariantRate, backdoor_suite, summarise
from rapidun.evaluation.classifiers import ClassifierJudge, HFClassifierJudge
from rapidun.evaluation.disjoint import assert_disjoint_prompts
from rapidun.evaluation.gate import Check, Gate, Thresholds, decide
from rapidun.evaluation.generation import generate_answers
from rapidun.evaluation.judges import Judge, JudgeCard, calibrate
from rapidun.evaluation.keywords import KeywordJudge
from rapidun.evaluation.perplexity import PerplexityRatio, PerplexityResult, clean_perplexity, perplexity_ratio
from rapidun.evaluation.rates import Rate
from rapidun.evaluation.triggers import DOLLY_FAMILIES, TriggerFamily

__all__ = [
    "DOLLY_FAMILIES",
    "BackdoorRecord",
    "BackdoorResult",
    "Check",
    "ClassifierJudge",
    "Gate",
    "HFClassifierJudge",
    "Judge",
    "JudgeCard",
    "KeywordJudge",
    "PerplexityRatio",
    "PerplexityResult",
    "Rate",
    "Thresholds",
    "TriggerFamily",
    "VariantRate",
    "assert_disjoint_prompts",
    "backdoor_suite",
    "calibrate",
    "clean_perplexity",
    "decide",
    "generate_answers",
    "perplexity_ratio",
    "summarise",
]
