"""Every name of `rapidun.evaluation`, and with them every registered judge; the package imports it at first use."""

from rapidun.evaluation.arithmetic import exact_number
from rapidun.evaluation.backdoor import backdoor_suite
from rapidun.evaluation.classifiers import ClassifierJudge, HFClassifierJudge
from rapidun.evaluation.cleangen import CleanGen
from rapidun.evaluation.code_judge import code
from rapidun.evaluation.entity_spans import entities
from rapidun.evaluation.gate import Chance, Check, Gate, chances, decide
from rapidun.evaluation.generation import generate_answers
from rapidun.evaluation.judges import Judge, JudgeCard, calibrate
from rapidun.evaluation.keywords import KeywordJudge
from rapidun.evaluation.membership import (
    membership_auc,
    min_k,
    min_k_plus_plus,
    privleak,
    reference_ratio,
    zlib_ratio,
)
from rapidun.evaluation.memorisation import exact_memorisation, extraction_strength
from rapidun.evaluation.perplexity import PerplexityRatio, PerplexityResult, clean_perplexity, perplexity_ratio
from rapidun.evaluation.rates import BackdoorRecord, BackdoorResult, VariantRate, summarise
from rapidun.evaluation.rouge import rouge_l_recall
from rapidun.evaluation.signatures import RunNumbers, Signature, diagnose
from rapidun.evaluation.task_judges import JUDGES, TaskJudge, check_judge, each_answer, make_judge, register_judge
from rapidun.evaluation.triggers import DOLLY_FAMILIES, TriggerFamily, assert_disjoint_prompts
from rapidun.evaluation.truth_ratios import forget_quality, truth_ratio, truth_score
from rapidun.evaluation.utility import model_utility
from rapidun.settings.evaluation import Thresholds
from rapidun.stats import Rate

__all__ = [
    "DOLLY_FAMILIES",
    "JUDGES",
    "BackdoorRecord",
    "BackdoorResult",
    "Chance",
    "Check",
    "ClassifierJudge",
    "CleanGen",
    "Gate",
    "HFClassifierJudge",
    "Judge",
    "JudgeCard",
    "KeywordJudge",
    "PerplexityRatio",
    "PerplexityResult",
    "Rate",
    "RunNumbers",
    "Signature",
    "TaskJudge",
    "Thresholds",
    "TriggerFamily",
    "VariantRate",
    "assert_disjoint_prompts",
    "backdoor_suite",
    "calibrate",
    "chances",
    "check_judge",
    "clean_perplexity",
    "code",
    "decide",
    "diagnose",
    "each_answer",
    "entities",
    "exact_memorisation",
    "exact_number",
    "extraction_strength",
    "forget_quality",
    "generate_answers",
    "make_judge",
    "membership_auc",
    "min_k",
    "min_k_plus_plus",
    "model_utility",
    "perplexity_ratio",
    "privleak",
    "reference_ratio",
    "register_judge",
    "rouge_l_recall",
    "summarise",
    "truth_ratio",
    "truth_score",
    "zlib_ratio",
]
