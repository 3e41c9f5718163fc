"""A part that somebody registers is checked where it comes in and where it answers: what is wrong is said in a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rapidun
from rapidun.attribution import MatrixBuffer, MatrixSpec, Recorder, Scorer
from rapidun.errors import ConfigError, InputError, RapidunError, TrainingError
from rapidun.evaluation import each_answer, make_judge
from rapidun.models import load_model
from rapidun.pipeline.suites import Suite
from rapidun.unlearning import METHODS, RETAIN_LOSS, Answers, cross_entropy
from rapidun.weighting import Evidence, Needs, Weights, scheme_weights

pytestmark = pytest.mark.usefixtures("registers")
EVEN = Weights(np.ones(3), np.ones(2), np.zeros(3), np.zeros(2))


def scheme(weights: Any) -> None:
    rapidun.register_scheme("mine", needs=Needs.NOTHING)(lambda evidence, generator, options: weights)
    scheme_weights("mine", Evidence(3, 2))


@pytest.mark.parametrize(
    ("forget", "said"),
    [
        (np.ones(2), r"scheme 'mine': forget weights have the shape \(2,\); 3 rows need \(3,\)"),
        (np.full(3, 10.0), "scheme 'mine': forget weights have the mean 10; divide them by it"),
        (np.array([3.0, 1.0, -1.0]), "forget weights go from -1 to 3; none may be below 0 or NaN"),
        (np.array([np.nan, 1.0, 1.0]), "forget weights go from nan to nan"),
    ],
)
def test_weights_that_are_not_one_a_row_of_mean_1_are_refused(forget: np.ndarray, said: str) -> None:
    scheme(EVEN)
    with pytest.raises(InputError, match=said):
        scheme(Weights(forget, np.ones(2), np.zeros(3), np.zeros(2)))


def test_a_scheme_that_gives_nothing_is_told_what_to_return() -> None:
    with pytest.raises(InputError, match="scheme 'mine' gave NoneType; a scheme returns Weights"):
        scheme(None)


def test_options_that_are_no_section_are_refused_when_they_are_registered() -> None:
    with pytest.raises(ConfigError, match="let its options Plain be a rapidun"):
        rapidun.register_scheme("mine", options=type("Plain", (), {}))


def method(loss: Callable[..., Any], **options: Any) -> torch.Tensor:
    rapidun.register_method("mine", retain=RETAIN_LOSS, source="a test")(loss)
    labels = torch.tensor([[-100, 1, 2], [-100, 2, 1]])
    return METHODS["mine"].forget(Answers(torch.zeros(2, 3, 4), labels), **options)


def test_a_loss_that_is_not_one_number_a_row_is_refused() -> None:
    assert method(lambda rows: -cross_entropy(rows)).shape == (2,)
    with pytest.raises(TrainingError, match=r"gave a Tensor of shape \(\); a term returns one loss for each row.*\(2,"):
        method(lambda rows: -cross_entropy(rows).mean())
    with pytest.raises(TrainingError, match="gave a float; a term returns"):
        method(lambda rows: 0.0)


def test_a_parameter_of_a_method_that_nothing_could_set_is_refused_when_it_is_registered() -> None:
    with pytest.raises(ConfigError, match="write a \\* before 'cap'; the options of a method are its keyword"):
        method(lambda rows, cap=5.0: -cross_entropy(rows).clamp(max=cap))
    with pytest.raises(ConfigError, match="method 'mine': <lambda> needs 'cap'; give that parameter a default"):
        method(lambda rows, *, cap: -cross_entropy(rows).clamp(max=cap))


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (3.0, "judge 'mine' gave 3 to an answer; a score is from 0 to 1"),
        (float("nan"), "judge 'mine' gave nan to an answer"),
        ("yes", "gave 'yes' to an answer; a score is a number from 0 to 1"),
    ],
)
def test_a_score_outside_of_0_to_1_is_refused(score: Any, said: str) -> None:
    rapidun.register_judge("mine")(lambda: each_answer(lambda answer, reference: score))
    with pytest.raises(InputError, match=said):
        make_judge("mine", {})(["anything"])


def test_a_judge_that_is_none_is_refused() -> None:
    rapidun.register_judge("mine")(lambda: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match="judge 'mine' gave NoneType; return a judge, such as each_answer"):
        make_judge("mine", {})
    rapidun.register_judge("two")(lambda: lambda answers, references=None: [1.0, 1.0])
    with pytest.raises(InputError, match=r"judge 'two': 1 answers got scores of shape \(2,\)"):
        make_judge("two", {})(["anything"])


class Widths(Recorder):
    def __init__(self, name: str, rows: int, width: int) -> None:
        self.kept = MatrixBuffer(name, rows, width, "float32")
        self.kept.put(list(range(rows)), torch.ones(rows, width))

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.kept.tensors()


@pytest.mark.parametrize(
    ("announced", "stored", "said"),
    [
        (("mine", 7), ("mine", 5), r"matrices\(\) announces 'mine' of 12 rows and width 7, and .* of shape \(12, 5\)"),
        (("mine", 5), ("other", 5), "announces 'mine' of 12 rows and width 5, .* gives no tensor"),
        (("other", 5), ("other", 5), "scorer 'mine': its matrix 'other' must be called 'mine' or 'mine.NAME'"),
    ],
)
def test_features_that_are_not_what_a_scorer_announced_are_refused(
    place: Path, announced: tuple[str, int], stored: tuple[str, int], said: str
) -> None:
    @rapidun.register_scorer("mine")
    class Mine(Scorer):
        def matrices(self, model: Any) -> dict[str, MatrixSpec]:
            return {announced[0]: MatrixSpec(width=announced[1], dtype="float32")}

        def recorder(self, model: Any, rows: Any, fitted: Any, role: Any = "train") -> Widths:
            return Widths(stored[0], len(rows), stored[1])

    with pytest.raises(ConfigError, match=said):
        rapidun.trace("model", rows="train.jsonl", query={"prompt": "hey", "response": "moon"}, by="mine")


def test_a_class_that_leaves_a_method_open_is_refused_when_it_is_registered() -> None:
    with pytest.raises(ConfigError, match="scorer 'mine': the class Open lacks recorder"):
        rapidun.register_scorer("mine")(type("Open", (Scorer,), {}))
    with pytest.raises(ConfigError, match="suite 'mine': the class Open lacks rows, score, write"):
        rapidun.register_suite("mine")(type("Open", (Suite,), {}))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"numbers": {}}, r"suite 'mine': its write\(\) must return \{'values'"),
        ({"values": {"a": object()}}, r"suite 'mine': its write\(\) returns what is not JSON .*; see to_dict"),
    ],
)
def test_what_a_suite_writes_is_values_that_json_can_hold(place: Path, written: dict[str, Any], said: str) -> None:
    @rapidun.register_suite("mine")
    class Mine(Suite):
        def rows(self, run_model: Any) -> dict[str, Any]:
            return {}

        def score(self, run_model: Any, done: Any) -> None: ...

        def write(self, scores: Any, directory: Path) -> dict[str, Any]:
            return written

    loaded = load_model("model")
    with pytest.raises(ConfigError, match=said):
        rapidun.evaluate(loaded.model, loaded.tokenizer, "held_out.jsonl", suite="mine")


TAKEN: dict[str, Callable[[], Any]] = {
    "npo": lambda: rapidun.register_method("npo", retain=None, source="a test")(cross_entropy),
    "uniform": lambda: rapidun.register_scheme("uniform")(lambda evidence, generator, options: EVEN),
    "keywords": lambda: rapidun.register_judge("keywords")(lambda: each_answer(lambda answer, reference: 0.0)),
    "relearn": lambda: rapidun.register_attack("relearn", title="", unit="", efforts=(1,))(lambda target, efforts: []),
    "lexical": lambda: rapidun.register_scorer("lexical")(
        type("Mine", (Scorer,), {"recorder": lambda self, model, rows, fitted, role="train": Recorder()})
    ),
    "qa": lambda: rapidun.register_suite("qa")(
        type("Mine", (Suite,), dict.fromkeys(("rows", "score", "write"), lambda self: None))
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_name_of_what_comes_with_rapidun_is_not_replaced_in_silence(name: str) -> None:
    with pytest.raises(RapidunError, match=f"the name '{name}' is taken by what comes with rapidun; give yours"):
        TAKEN[name]()


def test_ones_own_part_may_be_registered_again_as_in_a_notebook() -> None:
    for score in (0.25, 0.5):
        rapidun.register_judge("mine")(lambda score=score: each_answer(lambda answer, reference: score))
    assert make_judge("mine", {})(["anything"]).tolist() == [0.5]
