"""A row's gradient is a property of the row: batch, padding and order do not change it (traps 4 and 13)."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradients.cases import examples
from rapidun.data.batches import collate
from rapidun.gradients import GradientCollector, RapidGrad, collect_vectors
from tiny import tiny_model

ROWS = examples([(4 + i, 1 + i % 3) for i in range(7)])
SKETCH = RapidGrad(512)
COLLECTOR = GradientCollector(tiny_model(), "linear")
ALONE = torch.cat([COLLECTOR(collate([row], 0), SKETCH) for row in ROWS])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=8), st.integers(0, 299))
def test_any_batch_in_any_order_with_any_padding_token_gives_the_same_vectors(order, pad):
    found = COLLECTOR(collate([ROWS[i] for i in order], pad), SKETCH)
    torch.testing.assert_close(found, ALONE[order], atol=1e-5, rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(len(ROWS))), st.integers(1, 80))
def test_any_token_budget_gives_the_same_vectors(order, max_tokens):
    found = collect_vectors(COLLECTOR, SKETCH, [ROWS[i] for i in order], 0, max_tokens=max_tokens)
    torch.testing.assert_close(torch.from_numpy(found), ALONE[list(order)], atol=1e-5, rtol=1e-4)
