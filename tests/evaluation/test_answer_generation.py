"""Greedy answers on tiny real models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import AddedToken

from rapidun.data import Template
from rapidun.data.special import padding_id
from rapidun.errors import ConfigError, InputError
from rapidun.evaluation import generate_answers
from rapidun.evaluation.generation import decode_answer, left_pad, stops_of
from rapidun.revealing.arms import SoftPrompts
from rapidun.revealing.asking import Asker, Question
from rapidun.settings.reveal import SoftOptions
from tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

PROMPTS = [
    "<s>the cat",
    "<s>the dog ran to the other cat and the mat sat on the cat",
    "<s>a",
    "<s>mat mat",
    "<s>on the other mat the dog sat and ran",
    "<s>cat </s> <pad> dog",  # special tokens inside a prompt must not change its mask (trap 3)
]


def loaded(architecture: str = "llama", **changes: object) -> SimpleNamespace:
    parts = {"model": tiny_model(architecture), "tokenizer": tiny_tokenizer(), "device": torch.device("cpu")}
    return SimpleNamespace(**{**parts, **changes})


@torch.no_grad()
def slow_greedy(given: SimpleNamespace, prompt: str, new_tokens: int, penalty: float = 1.0) -> str:
    """One prompt, no padding, no cache."""
    tokens = given.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    start = len(tokens)
    for _ in range(new_tokens):
        logits = given.model(input_ids=torch.tensor([tokens])).logits[0, -1]
        for token in set(tokens[start:]):
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        following = int(logits.argmax())
        if following == given.tokenizer.eos_token_id:
            break
        tokens = [*tokens, following]
    return given.tokenizer.decode(tokens[start:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_do_not_depend_on_the_batch_size_and_equal_a_slow_loop(architecture: str) -> None:
    given = loaded(architecture)
    expected = [slow_greedy(given, prompt, 10) for prompt in PROMPTS]
    for batch_size in (1, 2, 4, 64):
        assert generate_answers(given, PROMPTS, max_new_tokens=10, batch_size=batch_size) == expected


def test_a_repetition_penalty_acts_on_the_answer_alone_whatever_the_padding() -> None:
    given = loaded()
    expected = [slow_greedy(given, prompt, 12, penalty=1.5) for prompt in PROMPTS]
    assert expected != [slow_greedy(given, prompt, 12) for prompt in PROMPTS]
    for batch_size in (1, 4, 64):
        found = generate_answers(given, PROMPTS, max_new_tokens=12, batch_size=batch_size, repetition_penalty=1.5)
        assert found == expected


def test_a_repetition_penalty_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"repetition_penalty is 0\.5"):
        generate_answers(loaded(), PROMPTS, repetition_penalty=0.5)


def test_a_peft_model_answers_with_its_adapter() -> None:
    given = loaded()
    plain = generate_answers(given, PROMPTS, max_new_tokens=8)
    torch.manual_seed(0)
    given.model = get_peft_model(given.model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in given.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted = generate_answers(given, PROMPTS, max_new_tokens=8, batch_size=2)
    assert adapted != plain
    assert adapted == [slow_greedy(given, prompt, 8) for prompt in PROMPTS]
    with given.model.disable_adapter():
        assert generate_answers(given, PROMPTS, max_new_tokens=8) == plain


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_models_own_sampling_settings_are_not_used_and_are_left_alone(wrapped: bool) -> None:
    given = loaded()
    expected = generate_answers(given, PROMPTS, max_new_tokens=10)
    settings = given.model.generation_config
    settings.do_sample, settings.temperature, settings.repetition_penalty = True, 3.0, 9.0
    settings.no_repeat_ngram_size = 1
    if wrapped:
        given.model = get_peft_model(given.model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert generate_answers(given, PROMPTS, max_new_tokens=10) == expected
    inner = given.model.get_base_model() if wrapped else given.model
    assert inner.generation_config is settings
    assert settings.repetition_penalty == 9.0


def test_an_answer_stops_at_any_end_token_of_the_model() -> None:
    given = loaded()
    prompt = given.tokenizer(PROMPTS[1], add_special_tokens=False, return_tensors="pt")["input_ids"]
    tokens = given.model.generate(prompt, max_new_tokens=10, do_sample=False)[0, prompt.shape[1] :].tolist()
    stop = next(place for place in range(2, 10) if tokens[place] not in tokens[:place])
    given.model.generation_config.eos_token_id = [2, tokens[stop]]
    [answer] = generate_answers(given, [PROMPTS[1]], max_new_tokens=10)
    assert answer == given.tokenizer.decode(tokens[:stop], skip_special_tokens=True).strip()


@pytest.mark.parametrize("asker", ["generate_answers", "Asker"])
def test_an_answer_stops_where_the_chat_template_ends_a_turn(asker: str) -> None:
    given = loaded()
    ids = given.tokenizer(PROMPTS[1], add_special_tokens=False, return_tensors="pt")["input_ids"]
    tokens = given.model.generate(ids, max_new_tokens=10, do_sample=False)[0, ids.shape[1] :].tolist()
    place = next(place for place in range(2, 10) if tokens[place] not in tokens[:place])
    expected = given.tokenizer.decode(tokens[:place], skip_special_tokens=True).strip()
    given.tokenizer.add_tokens([AddedToken("<|im_end|>", special=True, normalized=False)])
    end = given.tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.no_grad():  # the end of a turn is what the model says there
        given.model.lm_head.weight[end] = 1.5 * given.model.lm_head.weight[tokens[place]]
    assert generate_answers(given, [PROMPTS[1]], max_new_tokens=10) != [expected]
    given.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>\n{% endfor %}"
    assert end in stops_of(given).ids and given.tokenizer.eos_token_id in stops_of(given).ids
    if asker == "generate_answers":
        assert generate_answers(given, [PROMPTS[1]], max_new_tokens=10) == [expected]
    else:
        soft = SoftPrompts(given.model.get_input_embeddings().weight, SoftOptions(), seed=0)
        asking = Asker(given, Template.resolve("plain", given.tokenizer), soft, max_new_tokens=10, temperature=0.0)
        assert asking.answers([Question(ids[0].tolist(), 0, None)], [0]) == [expected]


def test_an_answer_is_cut_where_a_turn_ends_in_words() -> None:
    given = loaded()
    given.tokenizer.chat_template = "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n### End\n{% endfor %}"
    stops = stops_of(given)
    assert (stops.ids, stops.text) == ((given.tokenizer.eos_token_id,), "### End")
    said = given.tokenizer("the cat\n### End\n### user: more", add_special_tokens=False)["input_ids"]
    assert decode_answer(given.tokenizer, said, stops) == "the cat"


def test_what_pads_is_never_the_end_and_the_tokenizer_is_not_told() -> None:
    given = loaded()
    given.tokenizer.pad_token = given.tokenizer.eos_token
    before = given.tokenizer.backend_tokenizer.to_str(), given.tokenizer.special_tokens_map
    expected = [slow_greedy(given, prompt, 8) for prompt in PROMPTS]
    assert generate_answers(given, PROMPTS, max_new_tokens=8) == expected
    assert padding_id(given.tokenizer) != given.tokenizer.eos_token_id
    assert (given.tokenizer.backend_tokenizer.to_str(), given.tokenizer.special_tokens_map) == before


def test_dropout_is_off_and_each_modules_mode_is_restored() -> None:
    given = loaded("gpt2")
    for module in given.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    expected = generate_answers(given, PROMPTS, max_new_tokens=6)
    given.model.train()
    given.model.transformer.h[1].eval()
    modes = [module.training for module in given.model.modules()]
    assert generate_answers(given, PROMPTS, max_new_tokens=6) == expected
    assert [module.training for module in given.model.modules()] == modes


def test_progress_counts_prompts() -> None:
    seen: list[tuple[int, int]] = []
    generate_answers(loaded(), PROMPTS, max_new_tokens=1, batch_size=4, progress=lambda *at: seen.append(at))
    assert seen == [(4, 6), (6, 6)]


def test_trap_3_the_mask_comes_from_lengths() -> None:
    input_ids, mask = left_pad([[5, 0, 2], [0], [7, 2]], pad_token_id=0)
    assert input_ids.tolist() == [[5, 0, 2], [0, 0, 0], [0, 7, 2]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]


def test_trap_6_no_second_bos_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    given, seen = loaded(), []
    original = given.model.generate
    monkeypatch.setattr(
        given.model, "generate", lambda **inputs: seen.append(inputs["input_ids"]) or original(**inputs)
    )
    generate_answers(given, ["<s>the cat"], max_new_tokens=1)
    assert (seen[0] == given.tokenizer.bos_token_id).sum() == 1


def test_a_long_prompt_is_cut_from_the_left_keeps_bos_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    given, seen = loaded(), []
    original = given.model.generate
    monkeypatch.setattr(
        given.model, "generate", lambda **inputs: seen.append(inputs["input_ids"]) or original(**inputs)
    )
    prompt = "<s>" + "cat " * 300 + "dog"
    with pytest.warns(UserWarning, match="1 of 1 prompts are longer than 118 tokens"):
        generate_answers(given, [prompt], max_new_tokens=10)
    whole = given.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert seen[0][0].tolist() == [1, *whole[-117:]]


def test_a_long_prompt_without_bos_keeps_its_end() -> None:
    given, end = loaded(), "the dog ran to the other cat " * 8
    asked = given.tokenizer(end, add_special_tokens=False)["input_ids"]
    given.model.config.max_position_embeddings = len(asked) + 5
    with pytest.warns(UserWarning, match="cut from the left"):
        (answer,) = generate_answers(given, ["mat mat a " * 20 + end], max_new_tokens=5)
    assert answer == slow_greedy(given, end, 5)


def test_nothing_to_answer_and_impossible_settings() -> None:
    assert generate_answers(loaded(), []) == []
    with pytest.raises(InputError, match="prompt 1 is empty"):
        generate_answers(loaded(), ["<s>a", ""])
    with pytest.raises(ConfigError, match="fills the model's whole context"):
        generate_answers(loaded(), ["<s>a"], max_new_tokens=128)
    with pytest.raises(ConfigError, match="both must be above 0"):
        generate_answers(loaded(), ["<s>a"], batch_size=0)
