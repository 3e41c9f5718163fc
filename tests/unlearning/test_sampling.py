"""The plan of draws: right shares, fair rounds, the same for the same seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from rapidun.data import Example
from rapidun.unlearning.sampling import FORGET, RETAIN, Draw, RoleCollator, TrainingRows, sampling_plan


@pytest.mark.parametrize("share", [0.25, 0.5, 1 / 3, 1.0])
def test_the_share_of_forget_rows_is_met_in_every_stretch_of_the_plan(share: float) -> None:
    plan = sampling_plan([9] * 10, [9] * 30, steps=60, batch_size=4, forget_share=share, seed=0)
    forget = np.cumsum([draw.role == FORGET for draw in plan])
    assert np.abs(forget - share * np.arange(1, 241)).max() <= 1


def test_no_row_is_drawn_twice_before_every_other_was_drawn_once() -> None:
    plan = sampling_plan(range(7), range(13), steps=50, batch_size=4, forget_share=0.25, seed=1)
    for role in (FORGET, RETAIN):
        counts = Counter(draw.index for draw in plan if draw.role == role)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_forget_rows_of_a_step_are_neighbours_in_length_where_the_share_is_no_whole_number() -> None:
    lengths = np.random.default_rng(0).permutation(12).tolist()  # 0.7 of 4 draws: three a step, and seldom two
    plan = sampling_plan(lengths, range(9), steps=5, batch_size=4, forget_share=0.7, seed=0)
    drawn = [lengths[draw.index] for draw in plan if draw.role == FORGET][:12]
    runs = [sorted(drawn[start : start + 3]) for start in range(0, 12, 3)]
    assert sorted(runs) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_without_retain_rows_only_forget_rows_are_drawn() -> None:
    plan = sampling_plan([5] * 3, [], steps=5, batch_size=2, forget_share=0.25, seed=0)
    assert len(plan) == 10
    assert all(draw.role == FORGET for draw in plan)


def test_the_plan_depends_on_the_seed_alone() -> None:
    plans = [
        sampling_plan(range(9), range(9), steps=9, batch_size=3, forget_share=0.5, seed=seed) for seed in (3, 3, 4)
    ]
    assert plans[0] == plans[1] != plans[2]


def make_rows() -> TrainingRows:
    return TrainingRows(
        forget=[Example("f0", [1, 2, 3], 1), Example("f1", [1, 4], 1)],
        preferred=[None, Example("f1", [1, 9, 9, 9], 1)],
        retain=[Example("r0", [1, 5, 6, 7, 8], 2)],
        forget_weights=np.array([0.5, 1.5]),
        retain_weights=np.array([1.0]),
    )


def test_a_batch_holds_each_group_with_its_own_padding_and_weights() -> None:
    batch = RoleCollator(make_rows(), 0, with_preferred=True)([Draw(RETAIN, 0), Draw(FORGET, 1), Draw(FORGET, 0)])
    assert batch["forget"]["input_ids"].tolist() == [[1, 4, 0], [1, 2, 3]]
    assert batch["forget"]["weight"].tolist() == [1.5, 0.5]
    assert batch["forget"]["has_preferred"].tolist() == [True, False]
    assert batch["preferred"]["input_ids"].tolist() == [[1, 9, 9, 9]]
    assert batch["preferred"]["weight"].tolist() == [1.5]
    assert batch["retain"]["labels"].tolist() == [[-100, -100, 6, 7, 8]]


def test_alternatives_are_left_out_where_the_method_does_not_use_them() -> None:
    batch = RoleCollator(make_rows(), 0, with_preferred=False)([Draw(FORGET, 1), Draw(RETAIN, 0)])
    assert set(batch) == {"forget", "retain"}
    assert not batch["forget"]["has_preferred"].any()


def test_rows_of_a_batch_are_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(10, 200, 120).tolist()
    plan = sampling_plan(lengths, lengths, steps=60, batch_size=8, forget_share=0.5, seed=0)
    padded = real = 0
    for start in range(0, len(plan), 8):
        batch = [lengths[draw.index] for draw in plan[start : start + 8] if draw.role == RETAIN]
        padded, real = padded + max(batch) * len(batch), real + sum(batch)
    assert real / padded > 0.75
