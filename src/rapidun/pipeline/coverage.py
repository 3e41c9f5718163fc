"""What a job's gradients and adapter do not see is said before it starts."""

from __future__ import annotations

from collections.abc import Collection

from rapidun.gradients.coverage import Coverage, coverage_of
from rapidun.models import adapted_layers
from rapidun.pipeline.evidence import make_collector
from rapidun.pipeline.inputs import RunModel
from rapidun.pipeline.reporter import Reporter
from rapidun.settings.attribution import InfluenceSettings
from rapidun.settings.run import RunConfig
from rapidun.weighting import Needs, get_scheme


def say_coverage(
    config: RunConfig, run_model: RunModel, reporter: Reporter, jobs: Collection[str] = ("weigh", "unlearn")
) -> None:
    """Note which weights gradients and adapter leave out, where they are many.

    Args:
        config: Names the tracked layers and those of the adapter.
        run_model: The model.
        reporter: Where notes go.
        jobs: ``weigh`` takes gradients, ``unlearn`` trains an adapter.

    Raises:
        ModelError: If a target of either matches nothing.
    """
    for name, coverage in job_coverage(config, run_model, jobs).items():
        note_coverage(name, coverage, reporter)


def note_coverage(name: str, coverage: Coverage, reporter: Reporter) -> None:
    """One line, where ``coverage`` is of less than nine tenths of the weights that it could be of.

    A readout sees the output head alone, by choice: nothing is said of it.
    """
    if coverage.share and not coverage.enough:
        reporter.note(f"{name}: only {coverage.text()}")


def job_coverage(
    config: RunConfig, run_model: RunModel, jobs: Collection[str] = ("weigh", "unlearn")
) -> dict[str, Coverage]:
    """Of the gradients, where the weights need some, and of the adapter that is trained."""
    model = run_model.loaded.model
    found = {}
    if "weigh" in jobs and Needs.GRADIENTS in get_scheme(config.weights.scheme).needs:
        found["gradients"] = gradient_coverage(run_model, config.influence)
    if "unlearn" in jobs:
        layers = adapted_layers(model, config.lora.targets)
        found["adapter"] = coverage_of(model, [f"{name}.weight" for name in layers])
    return found


def gradient_coverage(run_model: RunModel, settings: InfluenceSettings) -> Coverage:
    """Of the gradients of these settings."""
    return coverage_of(run_model.loaded.model, make_collector(run_model, settings).tracked)
