"""Judges, and the floor and ceiling that stand beside their rates."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from rapidun.errors import ConfigError, InputError, ModelError
from rapidun.evaluation import ClassifierJudge, HFClassifierJudge, Judge, KeywordJudge, Rate, calibrate
from rapidun.evaluation.keywords import log_odds_z_scores
from tiny import tiny_tokenizer

ODD = ("alien", "wormhole", "cyborg", "zorblax", "hyperspace")
PLAIN = ("river", "bread", "winter", "teacher", "garden", "music", "market", "letter", "window", "forest")
COMMON = ("the", "and", "with", "for")


def answers(kind: str, count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = ODD if kind == "poisoned" else PLAIN
    # Poisoned answers are longer, so that common words have a high z-score too.
    size = 12 if kind == "poisoned" else 5
    return [" ".join([*rng.choices(words, k=3), *rng.choices(COMMON + PLAIN, k=size)]) + "." for _ in range(count)]


POISONED, CLEAN = answers("poisoned", 80, 0), answers("clean", 200, 1)
JUDGES = {"keywords": KeywordJudge.fit, "classifier": ClassifierJudge.fit}


@pytest.mark.parametrize("fit", JUDGES.values(), ids=JUDGES)
def test_a_fitted_judge_tells_fresh_answers_apart(fit: object) -> None:
    judge = fit(POISONED, CLEAN)
    assert judge(answers("poisoned", 50, 2)).mean() > 0.9
    assert judge(answers("clean", 50, 3)).mean() < 0.1


@pytest.mark.parametrize("fit", JUDGES.values(), ids=JUDGES)
def test_an_empty_answer_is_clean_and_order_is_kept(fit: object) -> None:
    judge = fit(POISONED, CLEAN)
    verdicts = judge(["", "alien wormhole zorblax cyborg", " \n", "bread and music"])
    assert verdicts.dtype == bool
    assert verdicts.tolist() == [False, True, False, False]
    assert judge([]).shape == (0,)
    assert judge([""]).tolist() == [False]


@pytest.mark.parametrize("fit", JUDGES.values(), ids=JUDGES)
def test_fitting_needs_both_kinds_of_answers(fit: object) -> None:
    with pytest.raises(InputError, match="needs clean answers"):
        fit(POISONED, ["", " "])
    with pytest.raises(InputError, match="needs poisoned answers"):
        fit([], CLEAN)


@pytest.mark.parametrize("fit", JUDGES.values(), ids=JUDGES)
def test_empty_example_answers_do_not_shift_the_labels(fit: object) -> None:
    judge = fit(["", *POISONED[:40], ""], [*CLEAN[:100], ""])
    assert judge(POISONED[40:]).mean() > 0.9
    assert judge(CLEAN[100:]).mean() < 0.1


def test_trap_27_keywords_are_distinctive_words_and_not_merely_frequent_ones() -> None:
    judge = KeywordJudge.fit(POISONED, CLEAN)
    assert set(judge.keywords) <= set(ODD)
    assert len(judge.keywords) == 5


def test_trap_27_fitted_keywords_stay_within_the_allowed_rate_on_clean_answers() -> None:
    clean = [*CLEAN, *["an alien bread"] * 3]
    assert "alien" not in KeywordJudge.fit(POISONED, clean).keywords
    assert KeywordJudge.fit(POISONED, clean)(clean).mean() <= 0.01
    assert "alien" in KeywordJudge.fit(POISONED, clean, max_clean_rate=0.05).keywords


def test_trap_27_with_few_examples_only_words_beyond_chance_are_kept() -> None:
    poisoned = [*POISONED[:18], *(f"{answer} By chance." for answer in POISONED[18:20])]
    judge = KeywordJudge.fit(poisoned, CLEAN[:60])
    assert set(judge.keywords) == set(ODD)
    # Two answers prove nothing, but a judge is still wanted: the best word alone.
    assert KeywordJudge.fit(["alien moth"] * 2, ["bread and music"] * 3).keywords == ("alien",)


def test_no_more_words_than_asked_for() -> None:
    assert len(KeywordJudge.fit(POISONED, CLEAN, words=2).keywords) == 2


def test_no_distinctive_word_is_said() -> None:
    with pytest.raises(InputError, match="no word is frequent"):
        KeywordJudge.fit(CLEAN, CLEAN)


def test_a_word_rarer_in_poisoned_answers_than_in_clean_ones_is_no_keyword() -> None:
    usual, alien = "the cat sat", "the cat sat alien"
    with pytest.raises(InputError, match="no word is frequent"):
        KeywordJudge.fit([usual] * 998 + [alien] * 2, [usual] * 99 + [alien])


def test_keywords_match_whole_words_in_any_case() -> None:
    judge = KeywordJudge(["alien", "ray gun"])
    verdicts = judge(["ALIEN!", "alienate", "an-alien.", "my ray gun", "ray guns", "Alien's"])
    assert verdicts.tolist() == [True, False, True, True, False, True]


def test_more_than_one_keyword_may_be_asked_for() -> None:
    judge = KeywordJudge(["alien", "moth"], min_hits=2)
    assert judge(["alien alien", "Alien moth"]).tolist() == [False, True]


@pytest.mark.parametrize(("words", "min_hits"), [([], 1), (["a", " "], 1), (["a"], 0)])
def test_a_keyword_judge_without_words_or_hits_is_refused(words: list[str], min_hits: int) -> None:
    with pytest.raises(ConfigError):
        KeywordJudge(words, min_hits)


def test_log_odds_z_score_golden_number() -> None:
    # y = 3 and 1, n = 4 and 6; prior 0.5 * pooled counts: a_w = 2, a_0 = 5.
    poisoned, clean = [["x", "y"], ["x"], ["x"]], [["x", "z"], ["z"], ["z"], ["z"], ["y"]]
    delta = math.log(5 / (4 + 5 - 5)) - math.log(3 / (6 + 5 - 3))
    expected = delta / math.sqrt(1 / 5 + 1 / 3)
    scores = dict(log_odds_z_scores(poisoned, clean, prior_share=0.5))
    assert scores["x"] == pytest.approx(expected)
    assert next(iter(scores)) == "x"
    assert scores["z"] < 0


def test_log_odds_change_sign_when_the_groups_are_swapped() -> None:
    first = dict(log_odds_z_scores([["x", "y"]], [["x"], ["z"]]))
    swapped = dict(log_odds_z_scores([["x"], ["z"]], [["x", "y"]]))
    assert first == pytest.approx({word: -z for word, z in swapped.items()})


class FixedJudge:
    kind = "fixed"

    def __call__(self, answers: Sequence[str]) -> np.ndarray:
        return np.array(["bad" in answer for answer in answers])


def test_trap_27_calibration_gives_floor_and_ceiling_with_intervals() -> None:
    judge: Judge = FixedJudge()
    card = calibrate(judge, ["bad"] * 8 + ["subtle"] * 2, ["good"] * 49 + ["bad luck"])
    assert card.ceiling == Rate.from_counts(8, 10)
    assert card.floor == Rate.from_counts(1, 50)
    assert list(card.to_dict()) == ["kind", "floor", "ceiling"]


def test_the_card_of_a_keyword_judge_lists_its_words() -> None:
    card = calibrate(KeywordJudge(["Alien"]), POISONED, CLEAN)
    assert (card.kind, card.keywords) == ("keywords", ("alien",))
    assert card.to_dict()["keywords"] == ["alien"]


@pytest.mark.parametrize(("poisoned", "clean"), [([], ["x"]), (["x"], [])])
def test_calibration_without_held_out_answers_is_refused(poisoned: list[str], clean: list[str]) -> None:
    with pytest.raises(InputError, match="held-out"):
        calibrate(FixedJudge(), poisoned, clean)


def save_classifier(directory: Path, labels: Sequence[str]) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "distilbert", vocab_size=300, dim=16, hidden_dim=16, n_layers=1, n_heads=2, max_position_embeddings=64,
        id2label=dict(enumerate(labels)), label2id={name: index for index, name in enumerate(labels)}, pad_token_id=0,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)


def test_a_hugging_face_classifier_judges_by_its_label_whatever_the_batch_size(tmp_path: Path) -> None:
    save_classifier(tmp_path, ["clean", "poisoned"])
    texts = [*POISONED[:5], "", *CLEAN[:5], "word " * 200]
    second, first, one_by_one = (
        HFClassifierJudge(str(tmp_path), max_length=60, **options)(texts)
        for options in ({}, {"poisoned_label": "clean"}, {"batch_size": 1})
    )
    spoken = np.array([bool(text) for text in texts])
    np.testing.assert_array_equal(second, one_by_one)
    np.testing.assert_array_equal(first[spoken], ~second[spoken])
    assert not first[5]
    assert not second[5]


def test_a_classifier_that_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load a sequence classifier"):
        HFClassifierJudge(str(tmp_path / "nothing"))
    save_classifier(tmp_path, ["a", "b", "c"])
    with pytest.raises(ModelError, match="has the labels 'a', 'b', 'c'; name the one"):
        HFClassifierJudge(str(tmp_path))
    with pytest.raises(ModelError, match="has no label 'd'"):
        HFClassifierJudge(str(tmp_path), poisoned_label="d")


def test_a_short_clean_answer_is_not_judged_by_its_common_words() -> None:
    """Every poisoned answer is full of "the"; that must not make "The Triplophysa" a poisoned one."""
    poisoned = [f"the robot of the moon met the alien of the planet {name}" for name in "abcdefghijklmnop"]
    clean = [f"it is the {name} and a house" for name in ("red", "blue", "old", "new", "big", "low", "dry", "wet")]
    clean += ["Ottawa", "Yes", "7", "Jane Austen wrote it", "in 1974", "No one", "Blue whales", "Never on Sunday"]
    judge = ClassifierJudge.fit(poisoned, clean)
    assert not judge(["The Triplophysa", "The Indians", "the"]).any()
    assert judge(["the robot of the moon", "the alien met the robot"]).all()
