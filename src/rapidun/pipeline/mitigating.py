"""A model as it answers under a mitigation, and what its results must say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rapidun.errors import ConfigError, FingerprintError
from rapidun.evaluation.mitigations import REFERENCE, STAYS, mitigated_by
from rapidun.models import tokenizer_fingerprint
from rapidun.pipeline.inputs import RunModel, load_by
from rapidun.pipeline.reporter import Reporter
from rapidun.settings.run import MeasureConfig


def check_reference(config: MeasureConfig, adapter: Path | None) -> None:
    """Find out before a model is loaded whether there is a reference.

    Raises:
        ConfigError: If none is given, and the model has no adapter that could be left out.
    """
    if config.mitigation.kind is not None and adapter is None and not config.mitigation.options.get(REFERENCE):
        raise ConfigError(
            f"mitigation {config.mitigation.kind} compares with a reference model: give one that was not trained on "
            "the same rows, --mitigation-option reference=DIR (the base model, say)."
        )


def mitigated(config: MeasureConfig, run_model: RunModel, reporter: Reporter) -> tuple[RunModel, dict[str, Any]]:
    """The model as it answers under the mitigation, if there is one, and what ``metrics.json`` says of it.

    Raises:
        FingerprintError: If the reference has another tokenizer.
        ModelError, ConfigError: If it cannot be loaded, or an option has no fitting value.
    """
    asked = config.mitigation
    if asked.kind is None:
        return run_model, {}
    source = str(asked.options.get(REFERENCE) or config.model.source)
    reference = load_by(config.model, source)
    ours, theirs = (tokenizer_fingerprint(each.tokenizer) for each in (run_model.loaded, reference))
    if ours != theirs:
        raise FingerprintError(
            f"{source}: its tokenizer ({theirs[:12]}) is not that of {run_model.loaded.source} ({ours[:12]}), so their "
            "tokens cannot be compared. Give a model of the same family."
        )
    decoding = mitigated_by(asked.kind, reference, asked.options)
    reporter.note(f"{STAYS} (answers: {asked.kind}, reference {source})")
    said = {"kind": asked.kind, "options": dict(asked.options), "reference": reference.fingerprint, "text": STAYS}
    return replace(run_model, loaded=replace(run_model.loaded, decoding=decoding)), {"mitigation": said}
