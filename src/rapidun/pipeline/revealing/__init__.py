"""Reveal-and-Release as a run: search, release and measure in rounds, each of which can be undone."""

from rapidun.pipeline.revealing.rounds import undo
from rapidun.pipeline.revealing.run import RevealResult, reveal
from rapidun.settings.reveal import RevealConfig, read_task

__all__ = ["RevealConfig", "RevealResult", "read_task", "reveal", "undo"]
