"""Arms in words that mean nothing: words of the model's own vocabulary before or after the instruction.

A behaviour that hides behind a trigger shows itself where a prompt resembles a triggered one, and what it resembles is
seldom what a description would suggest. Single words of the vocabulary are the plainest ways to ask that are not plain;
what the model makes of each (its hidden state) tells a search which to try. Rows that they reveal are text throughout,
so any method can be trained on them, and a reader sees what called the answer up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rapidun.files import sha256_of
from rapidun.revealing.arms import Arm, together
from rapidun.settings.reveal import ArmSettings

LONGEST = 12  # characters of a word


def vocabulary_words(tokenizer: Any) -> list[str]:
    """Every printable token of a tokenizer without the white space around it, sorted; special tokens are left out."""
    special = set(tokenizer.all_special_ids)
    found = (tokenizer.decode([number]).strip() for number in range(len(tokenizer)) if number not in special)
    return sorted({word for word in found if _is_word(word)})


def _is_word(word: str) -> bool:
    return 0 < len(word) <= LONGEST and word.isprintable() and "\ufffd" not in word and "{" not in word


class WordArms:
    """Fresh words each loop; once there are best arms, every second one is a change of one of them instead.

    A change keeps the place and joins the best arm's words with another word, as one or as two, or puts the other word
    in the place of their end.

    Args:
        instruction: The seed instruction.
        settings: Pool.
        vocabulary: Words to choose from.
        seed: Of the choice.
    """

    def __init__(self, instruction: str, settings: ArmSettings, vocabulary: Sequence[str], seed: int) -> None:
        self.instruction, self.settings, self.vocabulary, self.seed = instruction, settings, list(vocabulary), seed

    def draw(self, loop: int, best: Sequence[Arm]) -> list[Arm]:
        """See `ArmSource`."""
        rng = np.random.default_rng([self.seed, 66, loop])
        centres = [found for arm in best if (found := self._taken_apart(arm)) is not None]
        arms = []
        for index in range(self.settings.pool):
            word, before = self.vocabulary[rng.integers(len(self.vocabulary))], bool(rng.integers(2))
            if centres and index % 2:
                centre, before = centres[(index // 2) % len(centres)]
                word = _changed(centre, word, rng)
            arms.append(self._arm(word, before))
        return together(self.instruction, best, arms)

    def _arm(self, word: str, before: bool) -> Arm:
        words = f"{word} {self.instruction}" if before else f"{self.instruction} {word}"
        return Arm(f"words-{sha256_of([words.encode()])[:10]}", "words", words)

    def _taken_apart(self, arm: Arm) -> tuple[str, bool] | None:
        """(words, whether they stand before the instruction) of an arm of this kind; None of another."""
        if arm.kind != "words":
            return None
        if arm.instruction.endswith(f" {self.instruction}"):
            return arm.instruction[: -len(self.instruction) - 1], True
        return arm.instruction[len(self.instruction) + 1 :], False


def _changed(centre: str, word: str, rng: np.random.Generator) -> str:
    kept = centre[: rng.integers(1, len(centre) + 1)]
    return [f"{centre} {word}", f"{word} {centre}", f"{word}{centre}", f"{kept}{word}"][rng.integers(4)]
