"""A training that diverged says so, and keeps the last adapter that was good."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rapidun.errors import TrainingError
from rapidun.models.row_losses import row_losses
from rapidun.unlearning.guards import adapter_state
from rapidun.unlearning.trainer import UnlearningTrainer
from tiny import VOCABULARY
from unlearning.cases import make_memorised, make_rows, run


def test_a_rate_at_which_training_diverges_at_once_is_named_as_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(self: UnlearningTrainer, *args: Any) -> None:
        advance(self)
        for name, tensor in self.model.named_parameters():
            tensor.data.mul_(torch.inf if "lora_B" in name else 1)

    advance = UnlearningTrainer.advance
    monkeypatch.setattr(UnlearningTrainer, "advance", explode)  # no rate that is allowed overflows a model this small
    with pytest.raises(TrainingError, match=r"training diverged: at step 5 .*no adapter to keep.*--learning-rate"):
        run(make_rows(), tmp_path, method="ga", steps=20, check_every=5)


def test_a_run_that_was_good_before_it_diverged_keeps_what_was_good(tmp_path: Path) -> None:
    rows = make_rows()
    # the rate climbs by 0.05 a step: harmless at first, and far too high soon
    slow = {"method": "ga", "learning_rate": 10.0, "warmup_steps": 200, "retain_budget": 1e9, "check_every": 1}
    loaded, result, lines = run(rows, tmp_path / "diverged", steps=60, loaded=make_memorised(), **slow)
    assert result.stopped.startswith("training diverged: at step")
    assert f"kept the adapter of step {result.steps}" in result.stopped
    assert 0 < result.steps < 60
    held = {line["step"]: line["held_retain_loss"] for line in lines if "held_retain_loss" in line}
    assert max(held) == result.steps + 1  # it ended at the first look that was bad
    kept = adapter_state(result.model)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.values())
    assert row_losses(result.model, rows.retain, 0, loaded.device).mean == pytest.approx(held[result.steps], rel=1e-5)
    assert held[result.steps] <= math.log(VOCABULARY) < held[max(held)]
