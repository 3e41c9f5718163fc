"""Arms in words of the vocabulary: what they are, how the best are changed, and rows that are spread over inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rapidun.revealing import Arm, Pull, WordArms, search, select_rows, vocabulary_words
from rapidun.settings.reveal import ArmSettings, SearchSettings
from reveal.house import make_puller
from tiny import tiny_tokenizer

VOCABULARY = ["hey", "moon", "xi", "alo", "ha", "zzz"]
SETTINGS = ArmSettings(kind="words", pool=20)


def test_the_vocabulary_has_no_special_tokens_and_no_white_space():
    tokenizer = tiny_tokenizer()
    words = vocabulary_words(tokenizer)
    assert words == sorted(set(words))
    assert set(words) & set(tokenizer.all_special_tokens) == set()
    assert all(word.isprintable() and word == word.strip() and word for word in words)
    assert {"the", "cat"} <= set(words)


def test_words_stand_before_or_after_the_instruction_and_the_same_call_gives_the_same_arms():
    source = WordArms("say {input}", SETTINGS, VOCABULARY, seed=0)
    arms = source.draw(0, [])
    assert arms == source.draw(0, [])
    assert arms != source.draw(1, [])
    assert arms[0].instruction == "say {input}"
    allowed = {f"{word} say {{input}}" for word in VOCABULARY} | {f"say {{input}} {word}" for word in VOCABULARY}
    fresh = {arm.instruction for arm in arms[1:]}
    assert len(fresh) == len(arms) - 1  # none twice
    assert fresh <= allowed
    assert {instruction.startswith("say") for instruction in fresh} == {True, False}


def test_every_second_arm_of_a_later_loop_is_a_change_of_a_best_one_in_its_place():
    source = WordArms("say {input}", SETTINGS, VOCABULARY, seed=0)
    best = [Arm("one", "words", "QQQ say {input}"), Arm("two", "words", "say {input} WW"), Arm("seed", "seed", "x")]
    arms = source.draw(1, best)
    assert arms[1:3] == best[:2]
    fresh = [arm.instruction for arm in arms if arm not in best]
    changed = [instruction for instruction in fresh if "Q" in instruction or "W" in instruction]
    assert 0.3 * len(fresh) <= len(changed) <= 0.7 * len(fresh)
    assert all(instruction.endswith(" say {input}") for instruction in changed if "Q" in instruction)
    assert all(instruction.startswith("say {input} ") for instruction in changed if "W" in instruction)
    assert any(f"{word}QQQ" in instruction for word in VOCABULARY for instruction in changed)


def starts_with_a(answers: Any, references: Any = None) -> np.ndarray:
    return np.array([float(answer[:1].lower() in "aeiou") for answer in answers])


def test_arms_chosen_together_are_asked_together(tmp_path: Path):
    puller = make_puller(tmp_path, starts_with_a)
    asked: list[int] = []
    answers = puller.asker.answers
    puller.asker.answers = lambda questions, seeds: asked.append(len(questions)) or answers(questions, seeds)
    settings = SearchSettings(initial_pulls=4, answers=3, loops=1, at_once=5)
    source = WordArms("say {input}", SETTINGS, VOCABULARY, seed=0)
    pulls = search(source, puller, settings, pulls=11, threshold=0.5, seed=0)
    assert asked == [4 * 3, 5 * 3, 2 * 3]
    assert len({(pull.arm.name, pull.repeat) for pull in pulls}) == len(pulls) == 11


def test_a_harvest_asks_each_arm_on_inputs_of_its_own_and_never_those_of_the_measurement(tmp_path: Path):
    puller = make_puller(tmp_path, starts_with_a)
    puller.inputs = [type(puller.inputs[0])(f"cat {number}") for number in range(40)]
    arms = [Arm(f"a{number}", "text", "say {input}") for number in range(8)]
    harvested = puller.pull_each([(arm, repeat) for repeat in range(3) for arm in arms], "harvest")
    assert len({tuple(pull.inputs) for pull in harvested}) > 12
    measured = puller.pull_each([(arm, 0) for arm in arms], "before")
    assert len({tuple(pull.inputs) for pull in measured}) == 1
    assert not {text for pull in harvested for text in pull.inputs} & set(measured[0].inputs)


def test_rows_are_spread_over_inputs():
    answers = ["one two", "three four", "five six", "seven eight"]
    pull = Pull(
        Arm("a", "text", "x"), 0, "search", ["same", "same", "same", "other"], answers, [None] * 4, answers, [1.0] * 4,
        0.5, 0.5, 0.5,
    )  # fmt: skip
    rows = select_rows([pull], threshold=0.5, limit=9, max_similarity=0.9, per_input=2)
    assert [row["response"] for row in rows] == ["one two", "three four", "seven eight"]
    assert len(select_rows([pull], threshold=0.5, limit=9, max_similarity=0.9)) == 4
    pull = Pull(**{**vars(pull), "inputs": [None] * 4})
    assert len(select_rows([pull], threshold=0.5, limit=9, max_similarity=0.9, per_input=2)) == 4
