"""The model cards of the adapters that runs leave; see `rapidun.models.cards`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rapidun.lifecycle import CONFIG
from rapidun.models.cards import write_card
from rapidun.settings.base import make_config
from rapidun.settings.run import RunConfig
from rapidun.yaml_files import read_yaml

_NOT_MEASURED = "not measured by the run that made it: see `rapidun evaluate`, or `rapidun run` for a gate"


def write_adapter_card(
    directory: Path, config: RunConfig, template: str, metrics: Mapping[str, Any] | None = None
) -> None:
    """The card of ``directory/adapter``, where the method leaves one; with the run's metrics, its verdict."""
    if (directory / "adapter").is_dir():
        verdict = _NOT_MEASURED if metrics is None else _verdict(metrics)
        write_card(directory / "adapter", template=template, method=_method(config.model_dump()), verdict=verdict)


def write_sum_card(ledger: Path, requests: Sequence[str], adapter: Path) -> None:
    """The card of a ledger's adapter, the sum of its active requests."""
    path = ledger / requests[0] / CONFIG
    config = make_config(read_yaml(path), RunConfig, str(path)).model_dump()
    method = f"{_method(config)}; the sum of {len(requests)} request{'s' * (len(requests) > 1)}"
    write_card(adapter, template=config["data"]["template"], method=method, verdict=_NOT_MEASURED)


def _method(config: Mapping[str, Any]) -> str:
    unlearning, weights = config["unlearning"], config["weights"]
    return f"{unlearning['method']}, {unlearning['steps']} steps, weights by {weights['scheme']}"


def _verdict(metrics: Mapping[str, Any]) -> str:
    checks = " ".join(check["text"] for check in metrics["gate"]["checks"])
    return f"{metrics['verdict']}. {checks}"
