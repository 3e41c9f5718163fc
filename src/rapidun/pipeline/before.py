"""The model before training, where it is a model of its own and not an adapter switched off."""

from __future__ import annotations

from rapidun.models import LoadedModel
from rapidun.pipeline.inputs import load_by
from rapidun.pipeline.reporter import Reporter
from rapidun.settings.model import ModelSettings


def open_before(source: str, settings: ModelSettings, reporter: Reporter) -> LoadedModel | None:
    """Load it as the model under study was loaded; None where no source is given.

    Raises:
        ModelError: If it cannot be loaded.
    """
    if not source:
        return None
    reporter.note(f"the model before training: {source}")
    return load_by(settings, source)
