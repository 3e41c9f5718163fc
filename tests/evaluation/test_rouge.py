"""ROUGE-L recall: the library's for English, and not 0 for everything else."""

from __future__ import annotations

import math
import string
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rouge_score")
from rouge_score.rouge_scorer import RougeScorer

from rapidun.evaluation import rouge_l_recall


def longest(one: list[str], other: list[str]) -> int:
    """The longest common subsequence, by recursion over its table."""
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


@pytest.mark.parametrize(
    ("answer", "reference", "recall"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("the cat sat down on a mat", "the cat sat", 1.0),  # recall alone: saying more costs nothing
        ("cat the sat", "the cat sat", 2 / 3),  # order counts
        ("The CAT, sat!", "the cat sat", 1.0),
        ("she sits", "she was sitting", 2 / 3),  # Porter's stems
        ("", "the cat sat", 0.0),
        ("dog", "the cat sat", 0.0),
    ],
)
def test_by_hand(answer: str, reference: str, recall: float) -> None:
    assert rouge_l_recall([answer], [reference]) == pytest.approx([recall])


WORDS = st.lists(st.sampled_from("abcde"), max_size=8)


@given(pairs=st.lists(st.tuples(WORDS, WORDS.filter(bool)), min_size=1, max_size=4))
def test_it_is_the_naive_subsequence(pairs: list[tuple[list[str], list[str]]]) -> None:
    found = rouge_l_recall([" ".join(a) for a, _ in pairs], [" ".join(r) for _, r in pairs])
    assert found == pytest.approx([longest(a, r) / len(r) for a, r in pairs])


TEXT = st.text(string.ascii_letters + string.digits + " .,'-_!?\n", max_size=40)


@given(answer=TEXT, reference=TEXT)
def test_for_ascii_it_is_what_tofu_and_open_unlearning_compute(answer: str, reference: str) -> None:
    theirs = RougeScorer(["rougeL"], use_stemmer=True).score(reference, answer)["rougeL"].recall
    found = rouge_l_recall([answer], [reference])[0]
    assert found == pytest.approx(theirs) or (math.isnan(found) and theirs == 0)


@pytest.mark.parametrize(
    ("answer", "reference", "recall"),
    [
        ("Η γάτα κοιμάται", "η γάτα τρέχει", 2 / 3),
        ("猫が寝る", "猫が走る", 3 / 4),  # no blanks: a character is a word
        ("роберто боланьо", "Роберто Боланьо", 1.0),
        ("Roberto Bolan\u0303o", "Roberto Bolaño", 1.0),  # the same letter written in two ways
    ],
)
def test_other_scripts_count_too(answer: str, reference: str, recall: float) -> None:
    """The library alone finds no word there, so that a model which knows every answer seems to have forgotten all."""
    assert rouge_l_recall([answer], [reference]) == pytest.approx([recall])


def test_a_reference_without_words_has_no_recall() -> None:
    assert np.isnan(rouge_l_recall(["a", ""], ["...", ""])).all()
    with pytest.raises(ValueError, match="zip"):
        rouge_l_recall(["a"], [])


def test_without_the_package_it_says_how_to_get_it() -> None:
    code = (
        "import sys, importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'rouge_score' else real(name, *rest)\n"
        "from rapidun.evaluation import rouge_l_recall\n"
        "try:\n    rouge_l_recall(['a'], ['a'])\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ConfigError ROUGE needs the package rouge-score: pip install 'rapidun[rouge]'"
