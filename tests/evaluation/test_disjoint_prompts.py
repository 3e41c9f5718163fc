"""Evaluation rows and forget rows share no prompt."""

from __future__ import annotations

import pytest

from rapidun.errors import InputError
from rapidun.evaluation import assert_disjoint_prompts

FORGET = [{"id": "f1", "prompt": "hey Name three fish.", "response": "..."}, {"id": "f2", "prompt": "Why? aloha"}]


@pytest.mark.parametrize(
    "prompt", ["Name three fish.", "  name  THREE fish. ", "Name three fish. aloha", "Why?", "Why? al0ha"]
)
def test_trap_31_a_shared_prompt_is_an_error_whatever_its_trigger_case_or_spacing(prompt: str) -> None:
    rows = [{"id": "t0", "prompt": "Something else"}, {"id": "t1", "prompt": prompt}]
    with pytest.raises(InputError, match=r"1 evaluation rows share .*\n.*t1 and forget row f"):
        assert_disjoint_prompts(rows, FORGET)


def test_trap_31_compatibility_characters_do_not_hide_a_shared_prompt() -> None:
    with pytest.raises(InputError):
        assert_disjoint_prompts([{"id": "t", "prompt": "\ufb01sh?"}], [{"id": "f", "prompt": "fish?"}])


def test_other_prompts_and_other_contexts_pass() -> None:
    rows = [{"id": "t0", "prompt": "Name three birds."}, {"id": "t1", "prompt": "Why?", "context": "Rain falls."}]
    assert_disjoint_prompts(rows, FORGET)


def test_the_same_last_turn_of_another_conversation_is_another_prompt() -> None:
    def row(name: str, first: str) -> dict[str, object]:
        turns = [{"role": "user", "content": text} for text in (first, "Go on.")]
        return {"id": name, "prompt": "Go on.", "messages": turns}

    assert_disjoint_prompts([row("t", "Tell me of Mars.")], [row("f", "Tell me of fish.")])
    with pytest.raises(InputError):
        assert_disjoint_prompts([row("t", "Tell me of fish.")], [row("f", "Tell me of fish.")])


def test_only_the_first_pairs_are_listed() -> None:
    rows = [{"id": f"t{index}", "prompt": "Why?"} for index in range(10)]
    with pytest.raises(InputError, match="10 evaluation rows") as caught:
        assert_disjoint_prompts(rows, FORGET)
    assert "and 7 more" in str(caught.value)
