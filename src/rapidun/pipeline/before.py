"""The model before training, where it is a model of its own and not an adapter switched off."""

from __future__ import annotations

from rapidun.models import LoadedModel, load_model
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
    return load_model(
        source,
        device=settings.device,
        dtype=settings.dtype,
        quantize=settings.quantize,
        dangerously_trust_remote_code=settings.dangerously_trust_remote_code,
        dangerously_allow_pickle=settings.dangerously_allow_pickle,
    )
