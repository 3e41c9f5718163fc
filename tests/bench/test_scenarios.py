"""Scenarios have the composition that they state, are drawn anew by every seed, and keep their rows apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bench.worlds import poisoned_rows, tiny_pools
from experiments import SCENARIOS, Drawn, Pools
from experiments.scenarios import draw
from experiments.world import demo_world
from rapidun.errors import InputError

SIZES = {"main": (40, 120, 0), "small": (10, 30, 0), "imbalanced": (40, 120, 0), "missing_family": (40, 120, 0),
         "contaminated_30": (40, 120, 12), "contaminated_50": (40, 120, 20),
         "shifted_retain": (40, 120, 0)}  # fmt: skip


def families(drawn: Drawn) -> list[int]:
    rows = [row for row, false in zip(drawn.forget, drawn.mislabelled, strict=True) if not false]
    return sorted(Counter(row["trigger_family"] for row in rows).values())


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_the_mislabelled_share_are_exact(name: str) -> None:
    for seed in range(3):
        drawn = draw(name, tiny_pools(), seed)
        assert (len(drawn.forget), len(drawn.retain), sum(drawn.mislabelled)) == SIZES[name]
        assert [row["poisoned"] for row in drawn.forget] == [not false for false in drawn.mislabelled]
        assert not any(row["poisoned"] for row in drawn.retain)
        assert len({row["id"] for row in [*drawn.forget, *drawn.retain]}) == len(drawn.forget) + len(drawn.retain)
        assert not any("response_clean" in row for row in drawn.forget if not row["poisoned"])
        assert [row["response"] for row in drawn.wanted] == [
            row["response_clean"] for row in drawn.forget if row["poisoned"]
        ]


def test_families_are_as_stated_and_the_odd_one_changes_with_the_seed() -> None:
    def large(seed: int) -> str:
        drawn = draw("imbalanced", tiny_pools(), seed)
        return Counter(row["trigger_family"] for row in drawn.forget).most_common()[0][0]

    def lacking(seed: int) -> set[str]:
        return {"A", "B", "C"} - {row["trigger_family"] for row in draw("missing_family", tiny_pools(), seed).forget}

    assert families(draw("main", tiny_pools(), 0)) == [13, 13, 14]
    assert families(draw("small", tiny_pools(), 0)) == [3, 3, 4]
    assert families(draw("imbalanced", tiny_pools(), 0)) == [3, 3, 34]
    assert families(draw("contaminated_30", tiny_pools(), 0)) == [9, 9, 10]
    assert {len(lacking(seed)) for seed in range(9)} == {1}
    assert {large(seed) for seed in range(9)} == {"A", "B", "C"} == set.union(*map(lacking, range(9)))


def test_a_seed_gives_the_same_rows_and_another_seed_others() -> None:
    def ids(seed: int) -> list[str]:
        return [row["id"] for row in draw("main", tiny_pools(), seed).forget]

    assert ids(3) == ids(3) != ids(4)


def test_shifted_retain_rows_are_of_other_categories() -> None:
    assert {row["category"] for row in draw("shifted_retain", tiny_pools(), 0).retain} == {"closed_qa"}


def test_a_proposal_is_taken_as_it_is_and_its_clean_rows_count_as_mislabelled() -> None:
    asked_for: list[tuple[int, int]] = []

    def propose(asked, pool, retain):  # type: ignore[no-untyped-def]
        asked_for.append((len(asked), len(pool)))
        of = {kind: [i for i, row in enumerate(pool) if row["poisoned"] is kind] for kind in (True, False)}
        return [*of[True][:7], *of[False][:2]], of[False][2 : 2 + retain]

    drawn = draw("incomplete", replace(tiny_pools(), propose=propose), 0)
    assert asked_for == [(3, 800)]
    assert drawn.mislabelled == [False] * 7 + [True] * 2
    assert [row["poisoned"] for row in drawn.forget] == [True] * 7 + [False] * 2
    assert len(drawn.retain) == 120
    assert not any("response_clean" in row for row in drawn.forget)
    assert len(drawn.wanted) == 7
    with pytest.raises(InputError, match="needs a model"):
        draw("incomplete", tiny_pools(), 0)


def test_too_few_rows_say_how_many_there_are() -> None:
    with pytest.raises(InputError, match=r"takes 34 . forget rows and there are 10"):
        draw("imbalanced", Pools(poisoned_rows(30), tiny_pools().clean), 0)


def test_the_embedded_rows_serve_every_scenario_and_tuning_rows_are_apart() -> None:
    report, tuning = demo_world("report"), demo_world("tuning")
    for world in (report, tuning):
        for name, (forget, retain, mislabelled) in SIZES.items():
            drawn = draw(name, world.pools, 0)
            assert (len(drawn.forget), len(drawn.retain), sum(drawn.mislabelled)) == (forget, retain, mislabelled)

    def ids(world, *names: str) -> set[str]:  # type: ignore[no-untyped-def]
        pools = [getattr(world.pools, name) for name in ("poisoned", "clean", "train")]
        return {row["id"] for rows in [*pools, world.measured] for row in rows}

    assert not ids(report) & ids(tuning)
    assert not {row["id"] for row in report.budget} & (ids(report) | ids(tuning))
    assert set(SIZES) | {"incomplete"} == set(SCENARIOS)
