"""Arms: points that fill the cube, soft tokens in the scale of the embeddings, words where they belong."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch

from rapidun.reading import as_kind
from rapidun.revealing.arms import Arm, SoftArms, SoftPrompts, TextArms, sobol_points
from rapidun.settings.reveal import ArmSettings, SoftOptions
from reveal.house import ARMS, make_asker, tiny_loaded
from tiny import ARCHITECTURES, tiny_model


def test_blocks_of_the_sequence_are_one_sequence_cut():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scipy warns where the sequence loses its balance
        whole = sobol_points(12, 4, 0, 0)
        parts = [sobol_points(6, 4, 0, block) for block in (0, 1)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert whole.min() >= 0
    assert whole.max() < 1
    assert not np.array_equal(whole, sobol_points(12, 4, 1, 0))


def test_soft_tokens_have_the_mean_and_the_spread_of_the_embeddings():
    table = 3.0 + 0.5 * torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    soft = SoftPrompts(table, SoftOptions(dimension=10, tokens=5), seed=0)
    tokens = torch.stack([soft(point) for point in sobol_points(64, 10, 0, 0)])
    assert tokens.shape == (64, 5, 64)
    assert tokens.mean().item() == pytest.approx(3.0, abs=0.05)
    assert tokens.std().item() == pytest.approx(0.5, rel=0.1)
    torch.testing.assert_close(soft([0.5] * 10), torch.full((5, 64), table.mean().item()))
    wider = SoftPrompts(table, SoftOptions(scale=2.0), seed=0)
    assert wider([0.9] * 10).std().item() == pytest.approx(2 * soft([0.9] * 10).std().item(), rel=1e-3)
    with pytest.raises(ValueError, match="3 dimensions"):
        soft([0.1, 0.2, 0.3])


def test_the_projection_is_fixed_by_the_seed():
    table = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    point = [0.1, 0.9, 0.3, 0.4]
    one, same, other = (SoftPrompts(table, ARMS.own, seed)(point) for seed in (0, 0, 1))
    torch.testing.assert_close(one, same, rtol=0, atol=0)
    assert not torch.equal(one, other)


def test_the_seed_instruction_comes_first_then_the_best_then_fresh_points():
    source = SoftArms("say {input}", ARMS, seed=0)
    first = source.draw(0, [])
    assert [arm.name for arm in first[:2]] == ["seed", "soft-0-0-0"]
    assert len(first) == 13
    best = [first[5], first[2]]
    second = source.draw(1, best)
    assert second[0].point is None
    assert second[1:3] == best
    assert len({arm.name for arm in second}) == len(second) == 15
    fresh = second[3:]
    assert 0.125 < furthest(fresh, best) <= 0.25
    assert furthest(source.draw(2, best)[3:], best) <= 0.125


def furthest(fresh: list[Arm], best: list[Arm]) -> float:
    """Of every second arm from its best arm, in any dimension."""
    pairs = [(arm.point, best[(index // 2) % 2].point) for index, arm in enumerate(fresh) if index % 2]
    return max(float(np.abs(np.subtract(one, other)).max()) for one, other in pairs)


def test_words_keep_the_input_in_its_place():
    written: list[int] = []

    def write(count: int, loop: int) -> list[str]:
        written.append(loop)
        return [f"written {loop} {index}" for index in range(count)]

    options = {"candidates": ["Tell of space.", "As a robot: {input}!", " "], "generate": 2}
    settings = ArmSettings(kind="text", options=options)
    source = TextArms("{input}", settings, write)
    arms = source.draw(1, [])
    assert [arm.instruction for arm in arms] == [
        "{input}",
        "Tell of space. {input}",
        "As a robot: {input}!",
        *(f"written {loop} {index} {{input}}" for loop in (0, 1) for index in (0, 1)),
    ]
    assert arms[2].words("why?") == "As a robot: why?!"
    source.draw(1, arms[1:2])
    assert written == [0, 1]  # asked once a loop
    alone = TextArms("Write.", ArmSettings(kind="text", options={"candidates": ["Sing."]}), write).draw(0, [])
    assert [arm.instruction for arm in alone] == ["Write.", "Sing."]


def test_an_arm_comes_back_from_its_plain_values():
    for arm in (Arm("a", "soft", "x {input}", (0.25, 0.5)), Arm("b", "text", "y")):
        assert as_kind(Arm, json.loads(json.dumps(asdict(arm))), "here", "") == arm


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_soft_tokens_a_question_is_the_prompt_as_the_template_renders_it(architecture: str):
    from dataclasses import replace

    from rapidun.evaluation import generate_answers

    loaded = replace(tiny_loaded(), model=tiny_model(architecture))
    asker = make_asker(loaded, temperature=0)
    arm = Arm("seed", "seed", "tell me of {input}")
    inputs = ["it", "the cat and the dog"]
    texts = [asker.template.prompt_text({"id": "x", "prompt": arm.words(each)}) for each in inputs]
    mine = asker.answers([asker.question(arm, each) for each in inputs], [0, 0])
    assert mine == generate_answers(loaded, texts, max_new_tokens=6)


def test_soft_tokens_stand_before_the_instruction():
    loaded = tiny_loaded()
    asker = make_asker(loaded)
    question = asker.question(Arm("a", "soft", "say {input}", (0.1, 0.2, 0.3, 0.4)), "it")
    tokens = loaded.tokenizer.convert_ids_to_tokens(question.token_ids)
    assert tokens[: question.soft_at] == ["<s>"]
    embeds, mask = asker._embed([question])
    assert mask.sum() == len(question) == len(question.token_ids) + 2
    torch.testing.assert_close(embeds[0, 1:3], question.soft)


def test_a_question_that_is_too_long_keeps_its_soft_tokens_and_its_end():
    asker = make_asker(tiny_loaded())
    question = asker.question(Arm("a", "soft", "{input}", (0.1, 0.2, 0.3, 0.4)), "the cat " * 200)
    assert len(question) == 128 - 6
    assert question.soft_at == 1
    assert len(asker.answers([question], [1])) == 1


def test_an_answer_depends_on_its_seed_and_not_on_its_batch():
    loaded = tiny_loaded()
    arms = [Arm(f"a{i}", "soft", "say {input}", tuple(np.random.default_rng(i).random(4))) for i in range(5)]
    found = {}
    for size in (1, 5):
        asker = make_asker(loaded, batch_size=size)
        questions = [asker.question(arm, "it " * (1 + 2 * i)) for i, arm in enumerate(arms)]
        found[size] = asker.answers(questions, list(range(5)))
        again = asker.answers(questions, [seed + 100 for seed in range(5)])
        assert sum(a != b for a, b in zip(again, found[size], strict=True)) >= 4
    assert found[1] == found[5]


def test_one_token_a_row_is_left_and_it_is_sampled_from_the_softmax():
    from rapidun.evaluation.sampling import SeededSampling

    scores = torch.log(torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2])).repeat(4000, 1)
    sampling = SeededSampling(range(4000), 1.0, 2, torch.device("cpu"))
    for _ in range(2):
        left = sampling(torch.zeros(4000, 0), scores)
        assert (left.isfinite().sum(dim=1) == 1).all()
        shares = torch.bincount(left.argmax(dim=1), minlength=5) / 4000
        torch.testing.assert_close(shares, scores[0].exp(), atol=0.03, rtol=0)
    cold = SeededSampling(range(4000), 0.1, 1, torch.device("cpu"))(torch.zeros(4000, 0), scores)
    assert (cold.argmax(dim=1) == 1).float().mean() > 0.98


def test_contexts_tell_arms_apart_and_do_not_depend_on_padding():
    asker = make_asker(tiny_loaded())
    arms = [Arm("seed", "seed", "say {input}"), Arm("a", "soft", "say {input}", (0.9, 0.1, 0.8, 0.2))]
    questions = [asker.question(arm, "it") for arm in arms]
    together = asker.contexts(questions)
    alone = torch.cat([asker.contexts([question]) for question in questions])
    assert together.shape == (2, 16)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.01
