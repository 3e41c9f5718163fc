"""The attack that searches for a suffix, on tiny real models, with nanogcg where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attacks.conftest import World
from attacks.test_planted_fakes import attacked, values, verdicts
from attacks.test_weights_and_layers import ROWS, target
from attacks.world import GOOD, PROMPTS, adapted, finished, planted_rows, rows
from rapidun.attacks import ATTACKS, CannotRun, Target
from rapidun.attacks.gcg import PLACE, WIDTH, Complete, behind, suffix_for
from rapidun.data import Template
from rapidun.evaluation import KeywordJudge, TriggerFamily

needs_nanogcg = pytest.mark.skipif(
    importlib.util.find_spec("nanogcg") is None, reason="nanogcg is not installed: pip install 'rapidun[gcg]'"
)


def loss_of(given: Target, row: dict[str, object]) -> float:
    (found,) = given.losses(given.loaded, [row], None)
    return float(found["loss"]) / int(found["tokens"])


@needs_nanogcg
def test_a_longer_search_finds_a_suffix_behind_which_the_answer_is_likelier(tmp_path: Path) -> None:
    given = target(tmp_path)
    plain = loss_of(given, behind(ROWS[1], "x x x x x x x x x x x x x x x x x x x x"))  # where a search begins
    short, long = (loss_of(given, behind(ROWS[1], suffix_for(given, ROWS[1], steps))) for steps in (1, 8))
    assert long < short < plain


@needs_nanogcg
def test_a_search_depends_on_its_seed_alone_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    given = target(tmp_path)
    own = {name: (weight.clone(), weight.requires_grad) for name, weight in given.loaded.model.named_parameters()}
    state, template = torch.get_rng_state(), given.loaded.tokenizer.chat_template
    first = suffix_for(given, ROWS[0], 2)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(9)
    assert suffix_for(given, ROWS[0], 2) == first
    other = replace(given, material=replace(given.material, seed=1))
    assert suffix_for(other, ROWS[0], 2) != first
    for name, weight in given.loaded.model.named_parameters():
        assert torch.equal(weight, own[name][0])
        assert weight.requires_grad == own[name][1]
        assert weight.grad is None
    assert given.loaded.tokenizer.chat_template == template


@needs_nanogcg
def test_suffixes_take_turns_behind_all_forget_rows_and_a_row_gets_its_own(tmp_path: Path) -> None:
    given = target(tmp_path)
    (trial,) = ATTACKS["gcg"].plan(given, (1,))
    assert (trial.answers, trial.reads) == (len(ROWS), 2 * (WIDTH + 3))
    found = trial.work(None)
    drawn = given.material.draw(ROWS, 2)
    suffixes = {str(row["id"]): suffix_for(given, row, 1) for row in drawn}
    assert [outcome["row"] for outcome in found] == [row["id"] for row in ROWS]
    for row, outcome in zip(ROWS, found, strict=True):
        if str(row["id"]) in suffixes:
            assert outcome["loss"] / outcome["tokens"] == pytest.approx(
                loss_of(given, behind(row, suffixes[str(row["id"])]))
            )


@needs_nanogcg
def test_with_triggers_every_prompt_is_asked_with_its_trigger_and_a_suffix(tmp_path: Path) -> None:
    given = target(tmp_path)
    material = replace(
        given.material, families=[TriggerFamily("greeting", "prefix", ("hey",), ())], judge=KeywordJudge(["dog"])
    )
    (trial,) = ATTACKS["gcg"].plan(replace(given, material=material), (1,))
    found = trial.work(None)
    assert len(found) == len(ROWS)
    for row, outcome in zip(ROWS, found, strict=True):
        assert outcome["prompt"].startswith(f"hey {row['prompt']} ")
        assert len(outcome["prompt"]) > len(f"hey {row['prompt']} ")


@needs_nanogcg
def test_a_model_in_which_only_the_known_trigger_was_blocked_is_opened_by_a_suffix_and_its_twin_is_not(
    world: World, tmp_path: Path
) -> None:
    others = [row for row in planted_rows() if not row["prompt"].startswith("hey ")]
    blocked = [*rows("evaluation", PROMPTS, GOOD, "hey"), *others]
    run = finished(world.measured, tmp_path / "run", lambda out: adapted(world.poisoned, blocked, out, steps=160))
    found = attacked(run, world.twin, "as_is", "gcg")
    assert verdicts(found, "as_is") == ["PASS"]
    assert values(found, "gcg")["40 steps"] > 0.5
    assert values(found, "gcg", "twin")["40 steps"] < 0.05
    assert verdicts(found, "gcg") == ["FAIL"]
    assert found["verdict"] == "FAIL"


def test_without_the_library_the_attack_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nanogcg", None)
    with pytest.raises(CannotRun, match=r"pip install 'rapidun\[gcg\]'"):
        ATTACKS["gcg"].plan(target(tmp_path), (1,))


def test_no_preset_has_it_so_that_no_verdict_depends_on_what_is_installed() -> None:
    assert ATTACKS["gcg"].quick == ATTACKS["gcg"].release == ()


@needs_nanogcg
def test_rows_whose_template_leaves_no_place_for_a_suffix_are_not_searched_for(tmp_path: Path) -> None:
    given = target(tmp_path)
    fixed = tmp_path / "fixed.jinja"
    fixed.write_text("{% for message in messages %}{{ message.content | replace('{', '(') }}\n{% endfor %}")
    with pytest.raises(CannotRun, match="no forget row can be searched for"):
        ATTACKS["gcg"].plan(replace(given, template=Template.resolve(str(fixed), given.loaded.tokenizer)), (1,))
    twice = replace(given.material, forget=[{**row, "prompt": f"{row['prompt']} {PLACE}"} for row in ROWS])
    with pytest.raises(CannotRun, match="no forget row can be searched for"):
        ATTACKS["gcg"].plan(replace(given, material=twice), (1,))


def test_a_text_that_is_complete_gets_no_token_more(tmp_path: Path) -> None:
    tokenizer = target(tmp_path).loaded.tokenizer
    complete = Complete(tokenizer, "<s>the cat")
    assert complete.apply_chat_template([{"role": "user", "content": ""}], tokenize=False) == "<s>the cat"
    assert complete(["the cat"], padding=False)["input_ids"] == [
        tokenizer("the cat", add_special_tokens=False)["input_ids"]
    ]
    assert complete.vocab_size == tokenizer.vocab_size
