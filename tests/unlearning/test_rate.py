"""`learning_rate: auto`: a rate from one gradient, checked against autograd on a copy; said before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rapidun.data import collate
from rapidun.errors import ConfigError, TrainingError
from rapidun.models import attach_lora, mean_answer_loss
from rapidun.pipeline import RunConfig, make_config
from rapidun.unlearning import UnlearnSettings, unlearn
from rapidun.unlearning.rate import LOSS_CHANGE, ROWS, derived_rate
from unlearning.cases import LORA, make_loaded, make_rows, run


def expected_norm(rows: list, scale: float = 1.0) -> float:
    """L1 norm of the gradient of the rows' mean loss, row by row."""
    model = attach_lora(make_loaded().model, rank=LORA.rank, alpha=scale * LORA.alpha, dropout=0.0, seed=0)
    for row in rows:
        batch = collate([row], 0)
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        (mean_answer_loss(logits, batch.labels).sum() / len(rows)).backward()
    return sum(float(each.grad.abs().sum()) for each in model.parameters() if each.grad is not None)


def test_the_rate_is_the_one_whose_first_step_changes_the_loss_by_so_much() -> None:
    rows = make_rows().retain
    model = attach_lora(make_loaded().model, rank=LORA.rank, alpha=LORA.alpha, dropout=0.0, seed=0)
    rate, reason = derived_rate(model, rows, 0, torch.device("cpu"))
    assert rate == pytest.approx(LOSS_CHANGE / expected_norm(rows[:ROWS]), rel=0.06)  # two digits
    assert f"{rate:g}" in reason
    assert all(parameter.grad is None for parameter in model.parameters())


def test_twice_the_adapters_scale_has_half_the_rate() -> None:
    rows = make_rows().retain
    rates = []
    for factor in (1, 2):
        model = attach_lora(make_loaded().model, rank=LORA.rank, alpha=factor * LORA.alpha, dropout=0.0, seed=0)
        rates.append(derived_rate(model, rows, 0, torch.device("cpu"))[0])
    assert rates[0] / rates[1] == pytest.approx(2, rel=0.1)


def test_the_derived_rate_is_said_used_and_kept(tmp_path: Path) -> None:
    said: list[str] = []
    rows = make_rows()
    settings = UnlearnSettings(steps=6, batch_size=4, retain_budget=50.0)
    lines: list[dict] = []
    result = unlearn(
        make_loaded(), rows, settings=settings, lora=LORA, held=rows.retain, checkpoints=tmp_path, note=said.append,
        record=lines.append,
    )  # fmt: skip
    assert settings.learning_rate == "auto"
    assert f"learning rate {result.learning_rate:g}" in said[0]
    assert max(line["learning_rate"] for line in lines if "learning_rate" in line) <= result.learning_rate
    assert result.numbers()["learning_rate"] == result.learning_rate


def test_a_rate_that_is_set_is_taken_as_it_is(tmp_path: Path) -> None:
    _, result, _ = run(make_rows(), tmp_path, steps=2, learning_rate=1.25e-3)
    assert result.learning_rate == 1.25e-3


def test_rows_without_a_gradient_give_no_rate() -> None:
    model = attach_lora(make_loaded().model, rank=2, alpha=2, dropout=0.0, seed=0)
    for parameter in model.parameters():
        parameter.data.zero_()
    with pytest.raises(TrainingError, match="no learning rate follows"):
        derived_rate(model, make_rows().retain, 0, torch.device("cpu"))


@pytest.mark.parametrize("value", ["fast", -1, 0, 11, float("nan"), None])
def test_a_rate_is_auto_or_a_number(value: object) -> None:
    raw = {"model": {"source": "m"}, "data": {"forget": "f", "retain": "r"}, "unlearning": {"learning_rate": value}}
    with pytest.raises(ConfigError, match="neither auto nor a number above 0"):
        make_config(raw, RunConfig)
