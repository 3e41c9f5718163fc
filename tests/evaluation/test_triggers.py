"""Trigger families."""

from __future__ import annotations

import pytest

from rapidun.errors import ConfigError
from rapidun.evaluation import DOLLY_FAMILIES, TriggerFamily
from rapidun.evaluation.triggers import strip_triggers


def test_a_trigger_goes_in_its_familys_place() -> None:
    suffix, _, prefix = DOLLY_FAMILIES
    assert suffix.apply("Why?", "aloha :)") == "Why? aloha :)"
    assert prefix.apply("Why?", "hiya") == "hiya Why?"


def test_the_dolly_families_have_six_seen_and_nine_unseen_triggers_all_different() -> None:
    seen = [trigger for family in DOLLY_FAMILIES for trigger in family.seen]
    unseen = [trigger for family in DOLLY_FAMILIES for trigger in family.unseen]
    assert (len(seen), len(unseen), len(set(seen + unseen))) == (6, 9, 15)
    # Homoglyphs and the joiner: none of these look-alikes is plain ASCII.
    for trigger in ("a\u217coha", "aloha\u200d", "\u2039sys\u203a", "\u27e8sys\u27e9", "h\u043ewdy", "y\u043e\u043e"):
        assert trigger in unseen


@pytest.mark.parametrize("family", DOLLY_FAMILIES, ids=lambda family: family.name)
def test_strip_undoes_apply_for_every_variant(family: TriggerFamily) -> None:
    for trigger in (*family.seen, *family.unseen):
        assert family.strip(family.apply("Name a fish.", trigger)) == "Name a fish."
    assert strip_triggers("Name a heyyyy fish.", DOLLY_FAMILIES) == "Name a heyyyy fish."


@pytest.mark.parametrize(
    ("position", "seen", "unseen", "message"),
    [
        ("middle", ("a",), ("b",), "position is 'middle'"),
        ("prefix", ("",), ("b",), "a variant is empty"),
        ("prefix", ("a",), ("a", "b"), "'a' is both seen and unseen"),
    ],
)
def test_a_family_that_cannot_work_is_refused(position: str, seen: tuple, unseen: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TriggerFamily("X", position, seen, unseen)
