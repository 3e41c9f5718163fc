"""Pulls are kept, searches are repeatable, rows are judged and without repetitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapidun.errors import FingerprintError, InputError
from rapidun.revealing import Pull, best_arms, read_pulls, search, select_rows
from rapidun.revealing.arms import Arm
from rapidun.settings.reveal import SearchSettings
from reveal.house import make_puller, soft_arms


def vowels(answers: Any, references: Any = None) -> np.ndarray:
    """A judge of random text: the share of letters that are a, e or t."""
    return np.array([sum(c in "aet" for c in a.lower()) / max(len(a), 1) for a in answers])


def run(folder: Path, *, pulls: int = 9, judge: Any = vowels, **changes: Any) -> list[Pull]:
    folder.mkdir(exist_ok=True)
    settings = SearchSettings(**{"initial_pulls": 4, "answers": 3, "keep": 2, "loops": 2, **changes})
    return search(soft_arms(), make_puller(folder, judge), settings, pulls=pulls, threshold=0.2, seed=0)


@pytest.mark.parametrize("strategy", ["neural_ucb", "random", "ucb", "greedy"])
def test_a_search_spends_its_budget_and_ends_the_same_every_time(tmp_path: Path, strategy: str):
    one, two = run(tmp_path / "a", strategy=strategy), run(tmp_path / "b", strategy=strategy)
    assert one == two
    assert len(one) == 9
    assert one[0].arm.name == "seed"
    assert (tmp_path / "a" / "pulls.jsonl").read_bytes() == (tmp_path / "b" / "pulls.jsonl").read_bytes()


def test_the_seed_alone_pulls_nothing_else(tmp_path: Path):
    pulls = run(tmp_path, strategy="seed", pulls=3)
    assert [(pull.arm.name, pull.repeat) for pull in pulls] == [("seed", 0), ("seed", 1), ("seed", 2)]
    assert pulls[0].answers != pulls[1].answers
    assert pulls[0].prompts != pulls[1].prompts  # the next inputs


def test_greedy_stays_with_the_best_of_the_initial_pulls(tmp_path: Path):
    pulls = run(tmp_path, strategy="greedy", loops=1, pulls=6)
    assert pulls[4].arm == best_arms(pulls[:4], 1)[0] == max(pulls[:4], key=lambda pull: pull.reward).arm


def test_an_outer_loop_begins_with_the_best_arms_and_does_not_pull_them_again(tmp_path: Path):
    pulls = run(tmp_path, pulls=12)
    second = pulls[6:]
    assert {pull.arm.name.split("-")[2] for pull in second if pull.arm.kind == "soft"} == {"1"}
    assert len({(pull.arm.name, pull.repeat) for pull in pulls}) == 12


def test_arms_to_start_from_are_pulled_even_where_a_loop_has_few_pulls(tmp_path: Path):
    start = [Arm(f"old-{index}", "soft", "say {input}", (0.1 * index,) * 4) for index in range(2)]
    settings = SearchSettings(initial_pulls=9, answers=2, keep=3, loops=2)
    puller = make_puller(tmp_path, vowels)
    pulls = search(soft_arms(), puller, settings, pulls=4, threshold=0.2, seed=0, start=start)
    assert {"old-0", "old-1"} <= {pull.arm.name for pull in pulls}


def test_a_killed_search_goes_on_from_its_log_and_asks_nothing_twice(tmp_path: Path):
    whole = run(tmp_path / "whole")
    log = (tmp_path / "whole" / "pulls.jsonl").read_bytes()
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "pulls.jsonl").write_bytes(log[: len(log) * 2 // 3])  # in the middle of a line
    asked: list[int] = []

    def counting(answers: Any, references: Any = None) -> np.ndarray:
        asked.append(len(answers))
        return vowels(answers)

    assert run(cut, judge=counting) == whole
    assert (cut / "pulls.jsonl").read_bytes() == log
    assert 0 < sum(asked) < 27


def test_a_log_of_another_search_is_refused(tmp_path: Path):
    run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "pulls.jsonl").read_text().splitlines()]
    lines[1]["arm"]["point"][0] += 0.01
    (tmp_path / "pulls.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(FingerprintError, match="is not the one of this search"):
        run(tmp_path)


def test_a_broken_line_is_named(tmp_path: Path):
    (tmp_path / "pulls.jsonl").write_text('{"arm": 1}\n')
    with pytest.raises(InputError, match=r"pulls\.jsonl:1"):
        read_pulls(tmp_path / "pulls.jsonl")


def test_judges_see_the_references_of_the_inputs(tmp_path: Path):
    seen: list[Any] = []

    def judge(answers: Any, references: Any = None) -> np.ndarray:
        seen.extend(references)
        return np.ones(len(answers))

    pull = make_puller(tmp_path, judge).pull_each([(Arm("seed", "seed", "say {input}"), 0)])[0]
    assert seen == pull.references
    assert [prompt.split()[-1] for prompt in pull.prompts] == [reference.split()[-1] for reference in seen]


def test_progress_tells_best_score_pulls_and_rows(tmp_path: Path):
    states: list[tuple[int, float, int]] = []
    settings = SearchSettings(initial_pulls=2, answers=3, loops=1)
    search(
        soft_arms(), make_puller(tmp_path, vowels), settings, pulls=4, threshold=0.2, seed=0,
        progress=lambda state: states.append((len(state.pulls), state.best, state.rows)),
    )  # fmt: skip
    assert [count for count, *_ in states] == [2, 3, 4]
    assert states[-1][1] == max(best for _, best, _ in states) > 0
    assert states[-1][2] >= states[0][2] > 0


def made(
    name: str, reward: float, answers: list[str], scores: list[float], clean: str | None = None, inputs: Any = None
) -> Pull:
    arm = Arm(name, "text", "x")
    prompts = [f"{name} {i}" for i in range(len(answers))]
    return Pull(
        arm,
        0,
        "search",
        inputs or [None] * len(answers),
        prompts,
        [clean] * len(answers),
        answers,
        scores,
        0.5,
        0.5,
        reward,
    )


def test_rows_are_judged_deduplicated_and_the_best_arms_first():
    pulls = [
        made("weak", 0.2, ["a robot sang of the moon", "plain bread"], [0.9, 0.1]),
        made("best", 0.8, ["A robot sang of the Moon!", "starships at dawn", " "], [0.6, 1.0, 1.0], clean="right"),
    ]
    rows = select_rows(pulls, threshold=0.5, limit=10, max_similarity=0.9, round_number=2)
    assert [row["response"] for row in rows] == ["starships at dawn", "A robot sang of the Moon!"]
    assert {row["arm"] for row in rows} == {"best"}
    first = {name: value for name, value in rows[0].items() if name != "id"}
    assert first == {
        "prompt": "best 1", "response": "starships at dawn", "response_clean": "right", "arm": "best",
        "arm_kind": "text", "score": 0.8, "judge": 1.0, "round": 2,
    }  # fmt: skip
    assert len({row["id"] for row in rows}) == 2
    assert len(select_rows(pulls, threshold=0.5, limit=1, max_similarity=0.9)) == 1
    assert select_rows([], threshold=0.5, limit=5, max_similarity=0.9) == []
