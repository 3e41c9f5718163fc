"""`rapidun.unlearn` on what people hold: the same adapter as the command line's, and their model as it was."""

from __future__ import annotations

import copy

import datasets
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import command_line
import rapidun
from rapidun.errors import ConfigError, InputError, ModelError, TrainingError
from rapidun.models import attach_lora, model_fingerprint
from rapidun.reading import read_json
from tiny import tiny_model, tiny_rows, tiny_tokenizer

FORGET, RETAIN = tiny_rows("forget", 4), tiny_rows("retain", 8)
SHORT = {"steps": 4, "learning_rate": 0.05, "retain_budget": 10.0}


def held(place):
    return AutoModelForCausalLM.from_pretrained(place / "model"), AutoTokenizer.from_pretrained(place / "model")


def factors(model, name="default"):
    return {
        key.replace(f".{name}.", ".").replace("base_model.model.", ""): value.clone()
        for key, value in model.state_dict().items()
        if ".lora_" in key and f".{name}." in key
    }


def logits(model):
    with torch.no_grad():
        return model(torch.arange(5, 25)[None]).logits


@pytest.fixture
def of_the_command_line(place):
    rows = ("--forget", "bad.jsonl", "--retain", "good.jsonl")
    more = ("--steps", 4, "--learning-rate", 0.05, "--set", "unlearning.retain_budget=10", "--seed", 3)
    done = command_line.rapidun("unlearn", "--model", "model", *rows, "--out", "cli", *more)
    assert done.returncode == 0, done.stderr
    saved = load_file(place / "cli" / "adapter" / "adapter_model.safetensors")
    return {key.replace("base_model.model.", ""): value for key, value in saved.items()}, read_json(
        place / "cli" / "unlearning.json"
    )


def test_a_plain_model_and_lists_of_rows_give_the_adapter_of_the_command_line(place, of_the_command_line):
    expected, numbers = of_the_command_line
    model, tokenizer = held(place)
    adapted = rapidun.unlearn(model, tokenizer, forget=FORGET, retain=RETAIN, seed=3, **SHORT)
    found = factors(adapted)
    assert isinstance(adapted, PeftModel) and found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert adapted.unlearning.forget_loss_after == numbers["forget_loss_after"]
    assert adapted.unlearning.forget_loss_after != adapted.unlearning.forget_loss_before
    assert (adapted.unlearning.share, adapted.unlearning.learning_rate) == (numbers["share"], 0.05)


@pytest.mark.parametrize("form", ["dataset", "path", "rows", "loaded"])
def test_every_form_of_rows_and_model_gives_the_same(place, of_the_command_line, form):
    expected, _ = of_the_command_line
    forget, retain = "bad.jsonl", place / "good.jsonl"
    given = held(place) if form in ("dataset", "rows") else ("model", None)
    if form == "dataset":
        forget, retain = datasets.Dataset.from_list(FORGET), datasets.Dataset.from_list(RETAIN)
    elif form == "rows":
        forget, retain = rapidun.load_rows(forget), rapidun.load_rows(retain)
    elif form == "loaded":
        given = (rapidun.load_model("model"), None)
    found = factors(rapidun.unlearn(*given, forget=forget, retain=retain, seed=3, **SHORT))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_plain_weights_are_as_they_were_and_the_adapter_can_be_taken_off(place):
    model, tokenizer = held(place)
    model.train()
    model.lm_head.weight.requires_grad_(False)
    before, mark = logits(model.eval()), model_fingerprint(model)
    adapted = rapidun.unlearn(model, tokenizer, forget=FORGET, retain=RETAIN, **SHORT)
    assert model_fingerprint(adapted) == mark
    assert not torch.equal(logits(adapted), before)
    assert not adapted.training
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), before)
    assert torch.equal(logits(adapted.unload()), before)


def test_a_refused_call_leaves_the_model_as_it_was(place):
    model, tokenizer = held(place)
    model.train()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(TrainingError):
        rapidun.unlearn(model, tokenizer, forget=[{"prompt": "a", "response": "b"}], retain=RETAIN, method="dpo")
    assert model.training and type(model).__name__ == "LlamaForCausalLM"
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert not any(".lora_" in name for name, _ in model.named_parameters())


def test_a_peft_model_keeps_its_adapter_and_gets_a_second_one_on_top_of_it(place):
    model, tokenizer = held(place)
    peft_model = attach_lora(model, rank=2, seed=5)
    for name, parameter in peft_model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.5)
    before, own = logits(peft_model.eval()), factors(peft_model)
    merged = copy.deepcopy(peft_model).merge_and_unload()
    flags = {name: p.requires_grad for name, p in peft_model.named_parameters()}
    adapted = rapidun.unlearn(peft_model, tokenizer, forget=FORGET, retain=RETAIN, **SHORT)
    expected = rapidun.unlearn(merged, tokenizer, forget=FORGET, retain=RETAIN, **SHORT)
    assert adapted is peft_model and list(adapted.active_adapters) == ["default", "unlearned"]
    assert all(torch.equal(value, own[name]) for name, value in factors(adapted).items())
    added, wanted = factors(adapted, "unlearned"), factors(expected)
    assert all(torch.equal(added[name], wanted[name]) for name in wanted)
    assert torch.allclose(logits(adapted), logits(expected), atol=1e-4)
    assert not torch.allclose(logits(adapted), before, atol=1e-4)
    assert {name: p.requires_grad for name, p in adapted.named_parameters() if name in flags} == flags
    again = rapidun.unlearn(adapted, tokenizer, forget=FORGET, retain=RETAIN, **SHORT)
    assert list(again.active_adapters) == ["default", "unlearned", "unlearned_again"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"forget": []}, "forget: there are no rows"),
        ({"retain": []}, "retain: there are no rows"),
        ({"forget": datasets.Dataset.from_list(FORGET).select([])}, "forget: there are no rows"),
        ({"forget": [{"prompt": "a", "response": "b"}, {"prompt": "c"}]}, r"forget:2: column 'response' is missing"),
        ({"forget": [{"prompt": "a", "response": ""}]}, r"forget:1: the answer \(column 'response'\) is empty"),
        ({"forget": [{"prompt": "a"}]}, "^forget: "),
        ({"forget": ["a text"]}, "forget:1: a row is a dict"),
        ({"retain": (row for row in RETAIN)}, "retain: a generator is no list of rows"),
        ({"retain": datasets.DatasetDict(train=datasets.Dataset.from_list(RETAIN))}, r"Name one split"),
        ({"retain": FORGET}, "forget"),
    ],
)
def test_rows_that_cannot_be_used_are_named_by_group_and_number(place, rows, said):
    with pytest.raises(InputError, match=said) as caught:
        rapidun.unlearn("model", **{"forget": FORGET, "retain": RETAIN, **rows})
    assert "/tmp" not in str(caught.value) and "rapidun-" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"step": 3}, "unknown setting 'step'. Did you mean 'steps'?"),
        ({"steps": 0}, r"settings: unlearning\.steps = 0"),
        ({"method": "retrain"}, "leaves a whole model and no adapter"),
        ({"lora": {"ranks": 2}}, "Did you mean 'rank'"),
        ({"top_k": 3}, r"weights\.top_k is now weights\.options\.top_k"),
    ],
)
def test_wrong_settings_are_named_with_the_nearest(place, settings, said):
    with pytest.raises(ConfigError, match=said):
        rapidun.unlearn("model", forget=FORGET, retain=RETAIN, **settings)


def test_a_setting_of_loading_is_refused_for_a_model_that_is_loaded(place):
    with pytest.raises(ConfigError, match="dtype is of how a model is loaded"):
        rapidun.unlearn(*held(place), forget=FORGET, retain=RETAIN, dtype="bfloat16")
    with pytest.raises(ConfigError, match="leave tokenizer out"):
        rapidun.unlearn("model", held(place)[1], forget=FORGET, retain=RETAIN)


def test_sections_can_be_given_whole_and_one_by_one(place):
    adapted = rapidun.unlearn(
        "model", forget=FORGET, retain=RETAIN, lora={"rank": 3}, weights={"scheme": "uniform"}, steps=2,
        unlearning={"learning_rate": 0.01},
    )  # fmt: skip
    assert adapted.peft_config["default"].r == 3
    assert adapted.unlearning.learning_rate == 0.01


def test_what_is_no_language_model_is_refused(place):
    model, tokenizer = held(place)
    quantised = torch.ao.quantization.quantize_dynamic(tiny_model(), {torch.nn.Linear})
    cases = [
        ((torch.nn.Linear(2, 2), tokenizer), "a Linear is no language model"),
        ((model, None), "give its tokenizer"),
        ((quantised, tokenizer), "quantised"),
        ((tiny_model().to("meta"), tokenizer), "weights are on meta"),
    ]
    for given, said in cases:
        with pytest.raises(ModelError, match=said):
            rapidun.unlearn(*given, forget=FORGET, retain=RETAIN)
    other = tiny_tokenizer()
    other.add_tokens([f"<{number}>" for number in range(99)])
    with pytest.raises(ModelError, match="do not belong together"):
        rapidun.unlearn(model, other, forget=FORGET, retain=RETAIN)


def test_a_model_that_transformers_quantised_so_that_it_cannot_be_trained_is_refused(place):
    from transformers.quantizers.quantizer_mxfp4 import Mxfp4HfQuantizer
    from transformers.utils.quantization_config import Mxfp4Config

    model, tokenizer = held(place)
    model.hf_quantizer = Mxfp4HfQuantizer(Mxfp4Config())
    with pytest.raises(ModelError, match=r"quantised \(mxfp4\).*Load it in bfloat16"):
        rapidun.unlearn(model, tokenizer, forget=FORGET, retain=RETAIN)
