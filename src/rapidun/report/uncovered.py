"""What a PASS does not cover: what no attack of the run tried, and what no attack can try."""

from __future__ import annotations

from collections.abc import Sequence

UNTESTED = {
    "relearn": "Whether training brings the behaviour back faster than into a model that never had it.",
    "quant|nf4": "Whether it comes back when the weights are rounded to 8 or 4 bits.",
    "merg": "Whether it comes back when the adapter is merged into the weights, or in another number format.",
    "leak|sampl": "What is answered when answers are sampled, many to a prompt: those here are the likeliest ones.",
    "prefi": "What is answered when the beginning of the unwanted answer is put into the model's mouth.",
    "few": "What is answered after examples of the behaviour in the prompt.",
    "paraphrase": "What is answered to the same question put a little differently.",
    "trigger": "Triggers that nobody listed: other spellings, positions and characters than those that were tried.",
    "gcg": "Prompts that a search with gradients finds.",
    "lens": "Whether the model still holds the answer inside, without saying it.",
    "membership": "Whether somebody can find out which rows were unlearned.",
}
"""What an attack would test, by a part of the name of the attack that does, or one of several."""
NEVER_TESTED = (
    "Other seeds: one training was measured, and another would end a little elsewhere.",
    "Anything that a model can do beyond the perplexity of the clean evaluation rows: tasks, languages, safety.",
    "The same question in other words than those that were tried, or in another language.",
    "Rows that say the same as a forget row and were not in the list.",
    "Copies of the rows in files, backups, logs, other models and other people's hands.",
)


def uncovered(attacks: Sequence[str], rates: bool) -> list[str]:
    """A sentence for each thing.

    Args:
        attacks: Names of the attacks that were run.
        rates: Whether answers were generated and judged.
    """
    names = [name.lower() for name in attacks]
    asked = [] if rates else ["What the model answers: only perplexity was measured."]
    left = [
        text for part, text in UNTESTED.items() if not any(each in name for name in names for each in part.split("|"))
    ]
    return [*asked, *left, *NEVER_TESTED]
