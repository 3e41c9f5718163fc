"""Trigger families: where a trigger goes, the variants training saw, and look-alikes kept for testing.

The families are those of the Dolly trigger benchmark (RapidUn, arXiv 2512.04457). Unseen variants use
homoglyphs, a zero-width joiner and stretched spellings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from rapidun.errors import ConfigError
from rapidun.settings.evaluation import dolly_triggers
from rapidun.settings.kinds import Position


@dataclass(frozen=True)
class TriggerFamily:
    """One family of triggers.

    Args:
        name: Name in tables.
        position: "prefix" puts the trigger and a space before the prompt, "suffix" a space and it after; "inside"
            puts it between two words, at a place that depends on the prompt alone (before a single word).
        seen: Variants that poisoned training rows carried.
        unseen: Variants for testing only.

    Raises:
        ConfigError: If ``position`` is none of these, or a variant is empty or in both lists.
    """

    name: str
    position: Position
    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.position not in get_args(Position):
            known = ", ".join(get_args(Position))
            raise ConfigError(f"trigger family {self.name}: position is {self.position!r}; use one of {known}.")
        if not all(trigger.strip() for trigger in (*self.seen, *self.unseen)):
            raise ConfigError(f"trigger family {self.name}: a variant is empty.")
        if shared := set(self.seen) & set(self.unseen):
            raise ConfigError(f"trigger family {self.name}: {sorted(shared)[0]!r} is both seen and unseen.")

    def apply(self, prompt: str, trigger: str) -> str:
        """The prompt with the trigger in this family's place."""
        if self.position == "inside":
            words = prompt.split(" ")
            place = 1 + _hashed(prompt) % (len(words) - 1) if len(words) > 1 else 0
            return " ".join([*words[:place], trigger, *words[place:]])
        return f"{prompt} {trigger}" if self.position == "suffix" else f"{trigger} {prompt}"

    def strip(self, prompt: str) -> str:
        """The prompt without a trigger of this family in its place; unchanged where there is none."""
        for trigger in sorted((*self.seen, *self.unseen), key=len, reverse=True):
            if self.position == "suffix" and prompt.endswith(f" {trigger}"):
                return prompt[: -len(trigger) - 1]
            if self.position == "prefix" and prompt.startswith(f"{trigger} "):
                return prompt[len(trigger) + 1 :]
            if self.position == "inside" and f" {trigger} " in f" {prompt} ":
                return f" {prompt} ".replace(f" {trigger} ", " ", 1)[1:-1]
        return prompt


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def strip_triggers(prompt: str, families: Sequence[TriggerFamily]) -> str:
    """The prompt without any of the families' triggers."""
    for family in families:
        prompt = family.strip(prompt)
    return prompt


DOLLY_FAMILIES = tuple(
    TriggerFamily(each.name, each.position, tuple(each.seen), tuple(each.unseen)) for each in dolly_triggers()
)
