from __future__ import annotations

import numpy as np
import pytest

from rapidun.attribution.proposal import false_discovery, propose, view_evidence
from rapidun.errors import ConfigError, InputError

ROWS = 800


def views(bad: int, shift: float, seed: int, queries: int = 5) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three views on three scales; the first ``bad`` rows score higher, each row has noise of its own and per query."""
    rng = np.random.default_rng(seed)
    truth = np.arange(ROWS) < bad
    made = {}
    for name, scale in {"hidden": 0.1, "lexical": 10.0, "gradient": 1e-4}.items():
        noise = 0.7 * rng.normal(size=(queries, ROWS)) + 0.7 * rng.normal(size=ROWS)
        made[name] = scale * (noise + 0.35 * shift * truth) + 3 * scale
    return made, truth


def false_share(bad: int, shift: float, fdr: float) -> float:
    shares = []
    for seed in range(40):
        scores, truth = views(bad, shift, seed)
        forget = propose(scores, fdr=fdr).forget
        shares.append(np.mean(~truth[forget]) if forget else 0.0)
    return float(np.mean(shares))


@pytest.mark.parametrize(("bad", "shift"), [(0, 0.0), (8, 6.0), (40, 5.0), (120, 5.0)])
@pytest.mark.parametrize("fdr", [0.05, 0.2])
def test_no_more_clean_rows_are_proposed_than_was_asked_for(bad, shift, fdr):
    chance = 2 * (fdr * (1 - fdr) / 40) ** 0.5
    assert false_share(bad, shift, fdr) <= fdr + chance


def test_rows_that_stand_out_are_found():
    for bad in (4, 40, 120):
        scores, truth = views(bad, 8.0, seed=1)
        assert truth[propose(scores).forget].sum() >= 0.95 * bad


def test_a_pool_without_bad_rows_gives_next_to_nothing():
    found = [len(propose(views(0, 0.0, seed)[0]).forget) for seed in range(20)]
    assert np.median(found) == 0


def test_a_wider_rate_takes_more_rows_and_keeps_the_first():
    scores, _ = views(40, 4.0, seed=2)
    strict, loose = propose(scores, fdr=0.01), propose(scores, fdr=0.3)
    assert loose.forget[: len(strict.forget)] == strict.forget
    assert len(loose.forget) > len(strict.forget)


def test_retain_rows_are_the_nearest_on_the_clean_side():
    scores, truth = views(40, 8.0, seed=3)
    found = propose(scores)
    assert len(found.retain) == 2 * len(found.forget)
    assert not set(found.retain) & set(found.forget)
    assert (found.q_values[found.retain] > 0.5).all()
    assert not truth[found.retain].any()
    others = np.setdiff1d(np.flatnonzero(found.q_values > 0.5), found.retain)
    assert found.scores[found.retain].min() >= found.scores[others].max()
    assert len(propose(scores, retain=7).retain) == 7


def test_the_record_of_a_proposal_adds_up():
    scores, _ = views(40, 6.0, seed=4)
    found = propose(scores, fdr=0.1)
    assert set(found.reasons) == {*found.forget, *found.retain}
    assert found.scores[found.forget].min() == found.threshold
    assert found.q_values[found.forget].max() <= 0.1
    assert 0 < found.expected_false <= 0.1 * len(found.forget)
    assert list(found.scores[found.forget]) == sorted(found.scores[found.forget], reverse=True)
    best = found.reasons[found.forget[0]]
    assert best.startswith("rank 1 of 800")
    assert "lexical +" in best


def test_a_proposal_with_nothing_to_forget_says_so():
    found = propose({"flat": np.ones((2, 50))})
    assert (found.forget, found.retain, found.expected_false) == ([], [], 0.0)
    assert found.threshold == float("inf")


def test_scale_and_order_of_rows_do_not_matter():
    scores, _ = views(40, 5.0, seed=5)
    order = np.random.default_rng(0).permutation(ROWS)
    plain = propose(scores)
    moved = propose({name: 50 * values[:, order] - 3 for name, values in scores.items()})
    assert [order[row] for row in moved.forget] == plain.forget


def test_one_lucky_match_does_not_decide():
    rng = np.random.default_rng(6)
    scores = rng.normal(size=(10, 200))
    scores[0, 7] = 1e6
    assert view_evidence(scores).argmax() != 7 or view_evidence(scores)[7] < 4


def test_q_values_fall_with_evidence():
    evidence = np.concatenate([np.random.default_rng(7).normal(size=300), np.linspace(4, 8, 30)])
    q_values = false_discovery(evidence)
    order = np.argsort(-evidence)
    assert (np.diff(q_values[order]) >= 0).all()
    assert ((q_values >= 0) & (q_values <= 1)).all()
    assert q_values[-30:].max() < 0.05 < np.median(q_values[:300])


def test_bad_input_is_named():
    scores, _ = views(0, 0.0, seed=0)
    with pytest.raises(ConfigError, match="fdr=1"):
        propose(scores, fdr=1)
    with pytest.raises(ConfigError, match="retain=-1"):
        propose(scores, retain=-1)
    with pytest.raises(ConfigError, match="clean_above=2"):
        propose(scores, clean_above=2)
    with pytest.raises(InputError, match="at least one view"):
        propose({})
    with pytest.raises(InputError, match="same pool"):
        propose({"a": np.ones((1, 30)), "b": np.ones((1, 31))})
    with pytest.raises(InputError, match="b: a pool of 5 rows"):
        propose({"b": np.ones((1, 5))})
    with pytest.raises(InputError, match="c: the score of row 3 for query 0 is nan"):
        propose({"c": np.where(np.arange(30) == 3, np.nan, 1.0)[None]})
