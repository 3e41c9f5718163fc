"""Reveal-and-Release (Xie et al. 2025): unlearning where the forget data is not there.

The model is asked, in ways that a bandit optimises, to reveal what it should forget (`search`), and is released from it
step by step with small modules trained on what it revealed (`train_round`).
"""

from rapidun.revealing.arms import Arm, ArmSource, SoftArms, SoftPrompts, TextArms
from rapidun.revealing.asking import Asker, Question
from rapidun.revealing.modules import RoundOutcome, orthogonality_penalty, subspace_overlap, train_round
from rapidun.revealing.neural_ucb import NeuralUCB
from rapidun.revealing.pulls import Input, Pull, Puller, PullLog, read_pulls
from rapidun.revealing.reward import answer_similarity, diversity, reward_of, vendi_score
from rapidun.revealing.rows import select_rows
from rapidun.revealing.scan import Insert, Scanned, Suspect, narrowed, scan, scan_score, screened, without_adapter
from rapidun.revealing.search import SearchState, best_arms, search
from rapidun.revealing.strategies import STRATEGIES, Strategy, StrategyOptions, register_strategy
from rapidun.revealing.words import WordArms, vocabulary_words
from rapidun.settings.reveal import TaskSettings

__all__ = [
    "STRATEGIES",
    "Arm",
    "ArmSource",
    "Asker",
    "Input",
    "Insert",
    "NeuralUCB",
    "Pull",
    "PullLog",
    "Puller",
    "Question",
    "RoundOutcome",
    "Scanned",
    "SearchState",
    "SoftArms",
    "SoftPrompts",
    "Strategy",
    "StrategyOptions",
    "Suspect",
    "TaskSettings",
    "TextArms",
    "WordArms",
    "answer_similarity",
    "best_arms",
    "diversity",
    "narrowed",
    "orthogonality_penalty",
    "read_pulls",
    "register_strategy",
    "reward_of",
    "scan",
    "scan_score",
    "screened",
    "search",
    "select_rows",
    "subspace_overlap",
    "train_round",
    "vendi_score",
    "vocabulary_words",
    "without_adapter",
]
