"""The scorers that come with rapidun: importing this registers them."""

from rapidun.attribution.scorers.change import ChangeScorer
from rapidun.attribution.scorers.gradient import GradientScorer
from rapidun.attribution.scorers.hidden import HiddenScorer
from rapidun.attribution.scorers.lexical import LexicalScorer

__all__ = ["ChangeScorer", "GradientScorer", "HiddenScorer", "LexicalScorer"]
