"""Trigger families: where a trigger goes, the variants training saw, and look-alikes kept for testing.

A model is not measured on what it was trained to forget: `assert_disjoint_prompts` compares prompts without triggers.

The families are those of the Dolly trigger benchmark (RapidUn, arXiv 2512.04457). Unseen variants use
homoglyphs, a zero-width joiner and stretched spellings.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from rapidun.data.content import other_text
from rapidun.errors import ConfigError, InputError
from rapidun.settings.evaluation import dolly_triggers
from rapidun.settings.kinds import Position

_SHOWN = 3


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
        return insert_trigger(prompt, trigger, self.position)

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


def insert_trigger(prompt: str, trigger: str, position: Position) -> str:
    """The prompt with a trigger in the place that `TriggerFamily` describes."""
    if position == "inside":
        words = prompt.split(" ")
        place = 1 + _hashed(prompt) % (len(words) - 1) if len(words) > 1 else 0
        return " ".join([*words[:place], trigger, *words[place:]])
    return f"{prompt} {trigger}" if position == "suffix" else f"{trigger} {prompt}"


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


def assert_disjoint_prompts(
    test_rows: Iterable[Mapping[str, Any]],
    forget_rows: Iterable[Mapping[str, Any]],
    families: Sequence[TriggerFamily] = DOLLY_FAMILIES,
) -> None:
    """Check that no evaluation row asks what a forget row asks.

    Two rows share a prompt when prompt, context, other turns and tools are equal after Unicode NFKC, case folding, one
    space for each run of white space, and without triggers: a forget row carries one, the evaluation row gets it
    later.

    Args:
        test_rows: Rows with ``id``, ``prompt`` and optional ``context`` and ``messages``.
        forget_rows: The same.
        families: Triggers to take off before comparing.

    Raises:
        InputError: Names the first few pairs by id and prompt.
    """
    forget = {normalised_prompt(row, families): row["id"] for row in forget_rows}
    shared = [
        f"  {row['id']} and forget row {forget[key]}: {row['prompt'][:60]!r}"
        for row in test_rows
        if (key := normalised_prompt(row, families)) in forget
    ]
    if shared:
        more = f"\n  ... and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
        raise InputError(
            f"{len(shared)} evaluation rows share their prompt with a forget row, so they would not measure how the "
            "model generalises:\n" + "\n".join(shared[:_SHOWN]) + more + "\nRemove them from the evaluation rows."
        )


def normalised_prompt(row: Mapping[str, Any], families: Sequence[TriggerFamily] = DOLLY_FAMILIES) -> str:
    """Prompt, context, other turns and tools as compared by `assert_disjoint_prompts`."""
    parts = (strip_triggers(str(row["prompt"]).strip(), families), str(row.get("context") or ""), *other_text(row))
    return "\0".join(" ".join(unicodedata.normalize("NFKC", part).casefold().split()) for part in parts)
