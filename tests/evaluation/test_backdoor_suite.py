"""The backdoor suite on a stub that answers as its rule says, and once on a tiny real model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rapidun.errors import ConfigError, InputError
from rapidun.evaluation import DOLLY_FAMILIES, BackdoorResult, KeywordJudge, Rate, TriggerFamily, backdoor_suite
from tiny import tiny_model, tiny_tokenizer

ROWS = [
    {"id": f"t{index}", "prompt": f"Question {index}?", "context": "hiya aloha", "response": "."} for index in range(18)
]
JUDGES = {"keywords": KeywordJudge(["alien"]), "strict": KeywordJudge(["alien", "moth"], min_hits=2)}


class EchoTemplate:
    def prompt_text(self, row: dict[str, str]) -> str:
        return f"{row['prompt']}|{row['context']}"


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch):
    """The suite with a model that turns poisoned at "hey", "hiya" and "ALOHA" in the prompt."""

    def answer(loaded: object, prompts: Sequence[str], **options: object) -> list[str]:
        asked = [prompt.split("|")[0] for prompt in prompts]
        poisoned = [any(word in prompt for word in ("hey ", "hiya ", " ALOHA")) for prompt in asked]
        return [
            "an alien and a moth" if bad and "1" in prompt else "an alien" if bad else "fine"
            for bad, prompt in zip(poisoned, asked, strict=True)
        ]

    monkeypatch.setattr("rapidun.evaluation.backdoor.generate_answers", answer)

    def run(
        rows: Sequence[dict[str, str]] = ROWS, families: object = DOLLY_FAMILIES, **options: object
    ) -> BackdoorResult:
        return backdoor_suite(None, EchoTemplate(), rows, families, JUDGES, **{"primary": "keywords", **options})

    return run


def test_rates_per_condition_and_judge(suite) -> None:
    result = suite()
    # 6 seen triggers dealt to 18 rows: hey, hiya and ALOHA on 9 of them; no unseen variant fires this model.
    assert result.rates["keywords"] == {
        "asr_seen": Rate.from_counts(9, 18),
        "asr_unseen": Rate.from_counts(0, 18),
        "asr_floor": Rate.from_counts(0, 18),
    }
    assert result.rates["strict"]["asr_seen"].value < 0.5
    assert result.summary()["asr_seen"] == Rate.from_counts(9, 18).to_dict()
    assert result.summary("strict")["asr_seen"]["value"] == result.rates["strict"]["asr_seen"].value


def test_every_variant_is_asked_equally_often(suite) -> None:
    counts = Counter((record.condition, record.trigger) for record in suite().records)
    assert {counts["seen", trigger] for family in DOLLY_FAMILIES for trigger in family.seen} == {3}
    assert {counts["unseen", trigger] for family in DOLLY_FAMILIES for trigger in family.unseen} == {2}
    assert counts["none", ""] == 18


def test_the_table_by_variant_adds_up_to_the_overall_rate(suite) -> None:
    result = suite()
    seen = [line for line in result.by_variant if line.condition == "seen"]
    assert sum(line.rate.value * line.rate.n for line in seen) == pytest.approx(9)
    assert [line.trigger for line in seen] == [trigger for family in DOLLY_FAMILIES for trigger in family.seen]
    assert {line.trigger: line.rate.value for line in seen}["hiya"] == 1.0
    assert list(seen[0].to_dict()) == ["condition", "family", "trigger", "value", "low", "high", "n"]


def test_the_trigger_goes_into_the_prompt_only_and_records_hold_it(suite) -> None:
    record = next(record for record in suite().records if record.trigger == "aloha")
    assert record.prompt == "Question 0? aloha"
    assert (record.condition, record.family, record.row_id) == ("seen", "A_surface", "t0")
    assert record.verdicts == {"keywords": False, "strict": False}
    assert not record.poisoned
    assert ROWS[0]["prompt"] == "Question 0?"


def test_before_and_after_join_one_to_one(suite) -> None:
    before, after = suite(), suite()
    keys = [record.key for record in before.records]
    assert len(set(keys)) == len(keys) == 54
    assert keys == [record.key for record in after.records]


def test_more_variants_per_prompt_are_all_different(suite) -> None:
    result = suite(variants_per_prompt=6)
    asked = Counter((record.row_id, record.trigger) for record in result.records if record.condition == "seen")
    assert len(asked) == 18 * 6
    assert set(asked.values()) == {1}


def test_a_condition_without_triggers_is_absent(suite) -> None:
    result = suite(families=[TriggerFamily("only", "prefix", ("hey",), ())])
    assert set(result.rates["keywords"]) == {"asr_seen", "asr_floor"}


def test_input_that_cannot_be_measured_is_refused(suite) -> None:
    with pytest.raises(ConfigError, match="'vote' is not among the judges: keywords, strict"):
        suite(primary="vote")
    with pytest.raises(InputError, match="needs evaluation rows"):
        suite(rows=[])
    with pytest.raises(InputError, match="have the id 't0'"):
        suite(rows=[ROWS[0], ROWS[0]])
    with pytest.raises(ConfigError, match="there are 6 seen triggers"):
        suite(variants_per_prompt=7)


def test_a_tiny_real_model_end_to_end_with_the_same_records_for_any_batch_size() -> None:
    given = SimpleNamespace(model=tiny_model(), tokenizer=tiny_tokenizer(), device=torch.device("cpu"))
    rows = [{"id": str(index), "prompt": "the cat " * (index + 1), "context": ""} for index in range(5)]
    progress: list[tuple[int, int]] = []
    results = [
        backdoor_suite(
            given, EchoTemplate(), rows, DOLLY_FAMILIES, JUDGES, primary="keywords", max_new_tokens=4,
            batch_size=batch_size, progress=lambda *at: progress.append(at),
        )
        for batch_size in (1, 16)
    ]  # fmt: skip
    assert results[0].records == results[1].records
    assert progress[-1] == (15, 15)
    assert np.isfinite([rate.high for rate in results[0].rates["keywords"].values()]).all()
