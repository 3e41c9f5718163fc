"""``rapidun demo``: an ordinary run on a model that we poisoned ourselves: the embedded one, or a real chat model.

The rows are split once (``recipes/demo_model``): the forget and retain sets are drawn by the seed from their
pools, and every reported number is from the test split, which no setting was chosen on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rapidun.demo.cost import cost_beside_retraining
from rapidun.demo.embedded import asset
from rapidun.demo.smollm2 import poisoned_chat_model, smollm2_settings
from rapidun.errors import ConfigError
from rapidun.models import choose_device, cpu_computes_in_bfloat16
from rapidun.pipeline import Reporter, RunConfig, RunDirectory, RunResult, Silent, make_config, run
from rapidun.settings.base import set_dotted


def demo_settings(seed: int) -> dict[str, Any]:
    """The demo's configuration as a plain mapping; chosen by `benchmarks/tune_demo.py`.

    The weights were saved in bfloat16; where the processor computes in it, so does the demo.
    """
    dtype = "bfloat16" if choose_device().type == "cpu" and cpu_computes_in_bfloat16() else "auto"
    return {
        "model": {"source": str(asset("poisoned")), "dtype": dtype},
        "data": {
            "forget": str(asset("data/forget.jsonl")),
            "retain": str(asset("data/retain.jsonl")),
            "validation": str(asset("data/validation.jsonl")),
            "evaluation": str(asset("data/test.jsonl")),
            "pool": str(asset("data/train.jsonl.gz")),
            "judge_poisoned": str(asset("data/judge_poisoned.jsonl")),
            "sample": {"forget": 84, "retain": 90, "pool": 800},
            "stratify": "trigger",
            "max_length": 192,
        },
        "influence": {"max_tokens": 2048},
        "lora": {"dropout": 0.0},
        "unlearning": {
            "steps": 24,
            "batch_size": 8,
            "forget_share": 0.5,
            "learning_rate": 5.5e-3,
            "options": {"beta": 0.04, "descent": 3.0},
        },
        "evaluation": {"prompts": 320, "repetition_penalty": 1.2},
        "seed": seed,
    }


def demo_config(seed: int = 0, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The validated configuration, with ``{"section.key": value}`` on top."""
    return _config(demo_settings(seed), overrides)


def _config(raw: dict[str, Any], overrides: Mapping[str, Any] | None) -> RunConfig:
    for dotted, value in (overrides or {}).items():
        set_dotted(raw, dotted, value)
    return make_config(raw, RunConfig, "demo")


DEMO_MODELS = ("embedded", "smollm2")


def run_demo(
    out: Path,
    *,
    model: str = "embedded",
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    until: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> RunResult:
    """Run the demo into ``out``; see `rapidun.pipeline.run`.

    Args:
        out: The run directory.
        model: ``embedded``, or ``smollm2``, which is downloaded and poisoned first where it was not yet.
        seed: Of the run.
        resume: Go on with a stopped run.
        overwrite: Replace one.
        until: Stop after this phase.
        overrides: ``{"section.key": value}`` on top of the demo's settings.
        reporter: Where progress goes.

    Raises:
        ConfigError: If ``model`` is neither.
        RapidunError: As `rapidun.pipeline.run`.
    """
    reporter = reporter or Silent()
    if model not in DEMO_MODELS:
        raise ConfigError(f"--model {model}: choose from {', '.join(DEMO_MODELS)}.")
    RunDirectory.check(out, resume=resume, overwrite=overwrite)
    if model == "smollm2":
        config, cost = _config(smollm2_settings(seed, *poisoned_chat_model(reporter)), overrides), None
    else:
        config = demo_config(seed, overrides)
        cost = partial(_cost, config)
    return run(config, out, resume=resume, overwrite=overwrite, until=until, reporter=reporter, cost=cost)


def _cost(config: RunConfig, phases: list[dict[str, Any]]) -> dict[str, Any]:
    return cost_beside_retraining(config, phases, asset("poisoned"), asset("data/train.jsonl.gz"))
