from __future__ import annotations

import numpy as np
import pytest

from rapidun.attribution import bm25_scores
from rapidun.attribution.null import gap_false
from rapidun.attribution.proposal import propose, view_evidence
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
    for bad, most_of_them in ((4, 3), (40, 38), (120, 114)):
        scores, truth = views(bad, 12.0, seed=1)
        assert truth[propose(scores).forget].sum() >= most_of_them
    for bad in (40, 120):
        scores, truth = views(bad, 8.0, seed=1)
        assert truth[propose(scores, clean=range(500, 800)).forget].sum() >= 0.95 * bad


def test_a_pool_without_bad_rows_gives_next_to_nothing():
    found = [len(propose(views(0, 0.0, seed)[0]).forget) for seed in range(20)]
    assert np.median(found) == 0


def test_a_wider_rate_takes_more_rows_and_keeps_the_first():
    scores, _ = views(80, 6.0, seed=2)
    strict, loose = (propose(scores, clean=range(300, 800), fdr=fdr) for fdr in (0.05, 0.3))
    assert strict.forget
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


SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "gamma(4)": lambda rng, n: rng.gamma(4, size=n),
    "lognormal": lambda rng, n: rng.lognormal(size=n),
    "t(3)": lambda rng, n: rng.standard_t(3, size=n),
    "a tenth higher": lambda rng, n: rng.normal(size=n) + 2 * (rng.random(n) < 0.1),
    "a few far up": lambda rng, n: rng.normal(size=n) + 4 * (rng.random(n) < 0.03),
}


def one_view(shape: str, bad: int, seed: int, queries: int = 5) -> np.ndarray:
    """Scores of one view; clean rows of a shape, ``bad`` rows beyond nearly all of them."""
    rng = np.random.default_rng(seed)
    rows = SHAPES[shape](rng, ROWS)
    reference = SHAPES[shape](np.random.default_rng(0), 100_000)
    middle, far = np.quantile(reference, [0.5, 0.9995])
    rows[:bad] = middle + (far - middle) * rng.normal(1.5, 0.25, bad)
    return rows + 0.1 * rows.std() * rng.normal(size=(queries, ROWS))


def wrong_shares(shape: str, bad: int, known: int) -> list[float]:
    shares = []
    for seed in range(60):
        clean = np.random.default_rng(seed).choice(np.arange(bad, ROWS), known, replace=False).tolist()
        forget = np.array(propose({"view": one_view(shape, bad, seed)}, clean=clean).forget)
        shares.append(float((forget >= bad).mean()) if len(forget) else 0.0)
    return shares


@pytest.mark.parametrize("bad", [0, 40])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_known_clean_rows_keep_the_rate_whatever_the_shape_of_clean_scores(shape, bad):
    assert np.mean(wrong_shares(shape, bad, known=300)) <= 0.1 + 2 * (0.1 * 0.9 / 60) ** 0.5


@pytest.mark.parametrize("bad", [0, 40])
@pytest.mark.parametrize("shape", ["normal", "gamma(4)", "lognormal", "t(3)", "a tenth higher"])
def test_without_known_rows_skewed_and_heavy_scores_are_not_taken_for_bad_ones(shape, bad):
    assert np.mean(wrong_shares(shape, bad, known=0)) <= 0.1 + 2 * (0.1 * 0.9 / 60) ** 0.5


@pytest.mark.parametrize("queries", [1, 5])
def test_bad_rows_that_lie_together_above_a_gap_are_all_found_however_skewed_and_many(queries):
    """As on a real chat model, where a fifth of the rows had one answer and no curve through the others would do."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        rows = np.concatenate([rng.gamma(2.0, size=480), rng.normal(16.0, 0.4, size=120)])
        found = propose({"view": rows + 0.1 * rng.normal(size=(queries, 600))}).forget
        assert set(found) >= set(range(480, 600)) and len(found) <= 120 / 0.9


@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_rows_below_a_cut_bound_the_clean_ones_above_it(shape):
    """Clean rows alone: of any cut that a tenth of the pool or less is above, the bound is seldom under the truth."""
    under = []
    for seed in range(100):
        ranked = -np.sort(-SHAPES[shape](np.random.default_rng(seed), ROWS))
        under.append((gap_false(ranked) < 0.5 * np.arange(1, ROWS + 1)).mean())
    assert np.mean(under) <= 0.02


def test_small_pools_of_skewed_clean_scores_hardly_ever_get_a_proposal():
    """A fit of 200 rows is uncertain, so its tail is taken heavier than fitted: 1 pool in 100 here, and else 6."""
    shapes = (
        lambda rng: rng.lognormal(sigma=0.5, size=200),
        lambda rng: rng.gamma(4, size=200),
        lambda rng: rng.gumbel(size=200),
    )
    pools = [np.tile(shape(np.random.default_rng(seed)), (5, 1)) for shape in shapes for seed in range(100)]
    assert np.mean([bool(propose({"view": pool}).forget) for pool in pools]) <= 0.03


@pytest.mark.parametrize("shape", ["normal", "gamma(4)", "t(3)"])
def test_known_clean_rows_find_the_bad_ones(shape):
    found = [np.array(propose({"view": one_view(shape, 40, s)}, clean=range(500, 800)).forget) for s in range(20)]
    assert np.mean([(forget < 40).sum() / 40 for forget in found]) > 0.8


@pytest.mark.parametrize("known", [0, 300])
def test_one_bad_answer_and_shared_words_are_not_enough_for_a_proposal(known):
    """BM25 scores of one query against a pool without bad rows lean far to the right: few rows share its words."""
    words = np.array([f"word{i}" for i in range(400)])
    odds = 1 / np.arange(1, 401) ** 0.8
    proposed = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        texts = [" ".join(rng.choice(words, rng.integers(10, 40), p=odds / odds.sum())) for _ in range(ROWS + 1)]
        scores = bm25_scores(texts[:1], texts[1:])
        clean = rng.choice(ROWS, known, replace=False).tolist()
        proposed.append(bool(propose({"lexical": scores}, clean=clean).forget))
    assert np.mean(proposed) <= 0.1


def test_known_clean_rows_are_counted_as_benjamini_and_hochberg_need_them():
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(6, 1, 30), rng.normal(size=170)])
    found = propose({"view": scores[None]}, clean=range(100, 200))
    known = np.sort(found.scores[100:])
    for row in (0, 17, 60):
        above = (known >= found.scores[row]).sum()
        p = (1 + above) / 101
        rates = [
            100 * (1 + (known >= cut).sum()) / 101 / (found.scores[:100] >= cut).sum()
            for cut in found.scores[:100]
            if cut <= found.scores[row]
        ]
        assert found.q_values[row] == pytest.approx(min(1.0, *rates))
        assert found.q_values[row] >= p
    assert (found.q_values[100:] == 1).all()
    assert not set(found.forget) & set(range(100, 200))
    assert found.known_clean == 100


def test_too_few_known_rows_propose_nothing_rather_than_a_guess():
    scores = one_view("normal", 8, seed=0)
    assert not propose({"view": scores}, clean=range(700, 720)).forget
    assert propose({"view": scores}, clean=range(100, 800)).forget


def test_rows_of_equal_evidence_are_taken_or_left_together():
    scores = np.concatenate([np.full(40, 9.0), np.linspace(-2, 2, 200)])[None]
    q_values = propose({"view": scores}, clean=range(100, 240)).q_values
    assert len(set(q_values[:40])) == 1


def test_q_values_fall_with_evidence():
    found = propose({"view": one_view("normal", 60, seed=7)}, clean=range(400, 800))
    order = np.argsort(-found.scores[:400])
    assert (np.diff(found.q_values[:400][order]) >= 0).all()
    assert ((found.q_values >= 0) & (found.q_values <= 1)).all()
    assert np.median(found.q_values[:60]) < 0.1 < np.median(found.q_values[60:400])


def test_wrong_positions_of_clean_rows_are_named():
    scores = np.random.default_rng(0).normal(size=(1, 30))
    with pytest.raises(InputError, match=r"clean: \[30\]; give each known row once, from 0 to 29"):
        propose({"view": scores}, clean=[3, 30])
    with pytest.raises(InputError, match="a position twice"):
        propose({"view": scores}, clean=[3, 3])
    with pytest.raises(InputError, match="all 30 rows are said to be clean"):
        propose({"view": scores}, clean=range(30))


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
