"""The model that rows are looked at with, and what tells it from others."""

from __future__ import annotations

from dataclasses import dataclass

from peft import PeftModel

from rapidun.data import Template
from rapidun.models import LoadedModel, tokenizer_fingerprint

NO_ADAPTER = "none"


@dataclass(frozen=True)
class ModelContext:
    """A model with everything that decides the features of a row.

    Args:
        loaded: Model and tokenizer, the adapter already on it.
        template: The one template.
        adapter: The adapter's fingerprint; ``"none"`` without one.
        adapter_name: The adapter as the user named it.
        before: The model before training, where it is a model of its own.
    """

    loaded: LoadedModel
    template: Template
    adapter: str = NO_ADAPTER
    adapter_name: str = ""
    before: LoadedModel | None = None

    @property
    def has_before(self) -> bool:
        """Whether the model before training is at hand: one of its own, or the adapter switched off."""
        return self.before is not None or isinstance(self.loaded.model, PeftModel)

    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of model, adapter, tokenizer and template."""
        return {
            "model": self.loaded.fingerprint,
            "adapter": self.adapter,
            "tokenizer": tokenizer_fingerprint(self.loaded.tokenizer),
            "template": self.template.fingerprint,
        }

    def origins(self) -> dict[str, str]:
        """Where each of them came from, as the user named it."""
        source = self.loaded.source
        return {"model": source, "adapter": self.adapter_name, "tokenizer": source, "template": self.template.name}
