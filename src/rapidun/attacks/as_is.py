"""No attack: known triggers, asked plainly, of the weights alone.

What is loaded here is model, adapter and tokenizer. A filter around the model (a processor of logits, forbidden words
in its generation settings, a refusal by the program that serves it) is not part of them, and hides nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence

from rapidun.attacks.gate import within_limit
from rapidun.attacks.registry import register_attack
from rapidun.attacks.target import Target
from rapidun.attacks.trial import Trial


@register_attack("as_is", title="asked plainly", unit="effort", efforts=(0,), quick=(0,), bar=within_limit)
def as_is(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """One measurement of the model as it is."""
    return [
        Trial("", effort, "no attack", target.material.measured, lambda said: target.measure(target.loaded, said))
        for effort in efforts
    ]
