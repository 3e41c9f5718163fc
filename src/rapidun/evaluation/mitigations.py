"""Mitigations by name: what changes how a model's answers are decoded, and nothing about the model.

A mitigated model is as poisoned as before: whoever has its weights has the behaviour. So a mitigation is an option of a
measurement (`rapidun evaluate --mitigation`) and no unlearning method, nothing of it reaches a run's gate, and whatever
is measured under one says `STAYS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from transformers import LogitsProcessor

from rapidun.models import LoadedModel
from rapidun.registry import Registry, check_options
from rapidun.settings import names

STAYS = "mitigation: the model stays poisoned"


class Decoding(Protocol):
    """How a mitigation takes part in decoding; what `LoadedModel.decoding` holds."""

    def processor(self, prompts: Sequence[int], width: int) -> LogitsProcessor:
        """What changes the scores of the next tokens of a batch.

        Args:
            prompts: Length of each prompt in tokens.
            width: To which they are padded, on the left.
        """


Mitigation = Callable[..., Decoding]
"""``(reference: LoadedModel, **options)``."""
MITIGATIONS: Registry[Mitigation] = Registry(names.MITIGATIONS)
REFERENCE = "reference"


def check_mitigation(name: str, options: Mapping[str, Any]) -> None:
    """Check a mitigation's options; ``reference`` may be left out. Raises ConfigError."""
    check_options(f"mitigation {name!r}", MITIGATIONS[name], {REFERENCE: None, **options})


names.MITIGATIONS.rule = check_mitigation


def mitigated_by(name: str, reference: LoadedModel, options: Mapping[str, Any]) -> Decoding:
    """The mitigation called ``name``, with a reference model. Raises ConfigError."""
    check_mitigation(name, options)
    return MITIGATIONS[name](reference, **{key: value for key, value in options.items() if key != REFERENCE})
