"""The benchmarks' several sketches of one backward pass: each gets the gradient as the model gave it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gradients.cases import examples
from rapidun.data.batches import collate
from rapidun.gradients import Exact, GradientCollector, RapidGrad
from tiny import tiny_model


def test_sketches_that_share_a_pass_give_what_each_gives_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from retrieval_methods import all_vectors

    model, rows = tiny_model(), examples()
    sketches = {"small": RapidGrad(64), "large": RapidGrad(512), "exact": Exact()}
    found = all_vectors(SimpleNamespace(model=model, pad_token_id=0), rows, sketches)
    for name, sketch in sketches.items():
        alone = GradientCollector(model, "linear")(collate(rows, 0), sketch)
        torch.testing.assert_close(torch.from_numpy(found[name]), alone, atol=1e-5, rtol=1e-4)
