"""Loading: a real folder works, every broken one says what is wrong, nothing dangerous happens by default."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from data.zoo import small_tokenizer
from rapidun.data import Template, collate, tokenize_rows
from rapidun.errors import ModelError
from rapidun.evaluation import generate_answers
from rapidun.models import choose_device, choose_dtype, load_model, model_fingerprint, save_model
from rapidun.models.attention import forms_attention
from tiny import ARCHITECTURES, tiny_model, tiny_tokenizer


@pytest.fixture
def saved(tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_loads_as_it_was_saved(architecture, tmp_path):
    model = tiny_model(architecture)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert loaded.fingerprint == model_fingerprint(model)
    assert (loaded.device, loaded.dtype, loaded.source) == (torch.device("cpu"), torch.float32, str(tmp_path))
    assert not loaded.model.training
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(loaded.model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_real_model_loads_and_tells_a_story():
    shared = Path(os.environ.get("RAPIDUN_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set RAPIDUN_DATA to the folder that holds models/stories260K")
    loaded = load_model(folder, device="cpu")
    ids = loaded.tokenizer("<s>Once upon a time", add_special_tokens=False, return_tensors="pt").input_ids
    story = loaded.tokenizer.decode(loaded.model.generate(ids, max_new_tokens=8, do_sample=False)[0])
    assert "there was" in story
    assert loaded.context_length == 512


@pytest.mark.parametrize(
    ("dtype", "length", "plain"), [("bfloat16", 512, True), ("bfloat16", 513, False), ("float32", 512, False)]
)
def test_attention_is_plain_products_where_the_fused_kernel_is_slower(saved, tmp_path, dtype, length, plain):
    loaded = load_model(saved, device="cpu", dtype=dtype)
    assert forms_attention(loaded.model, length) is plain
    save_model(loaded.model, loaded.tokenizer, tmp_path / "again")
    assert "plain_when" not in (tmp_path / "again" / "config.json").read_text()  # others have no attention of that name


def test_loading_is_silent_and_leaves_transformers_settings_alone(saved, capfd, recwarn):
    from transformers.utils import logging

    logging.set_verbosity_info()
    try:
        capfd.readouterr()
        load_model(saved, device="cpu")
        assert capfd.readouterr() == ("", "")
        assert logging.get_verbosity() == logging.INFO
        assert not recwarn.list
    finally:
        logging.set_verbosity_warning()


def test_a_place_without_a_model_says_what_is_there(tmp_path, saved):
    cases = {
        str(tmp_path / "nowhere"): "no such directory",
        "./nowhere": "no such directory",
        str(saved / "config.json"): "is a file, not a model directory",
        str(tmp_path): "no config.json",
    }
    for source, message in cases.items():
        with pytest.raises(ModelError, match=message):
            load_model(source)


def test_an_adapter_given_as_a_model_is_recognised(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"this is an adapter.*--adapter"):
        load_model(tmp_path)


def test_missing_weights_and_missing_tokenizers_are_told_apart(saved):
    (saved / "tokenizer.json").rename(saved / "away")
    with pytest.raises(ModelError, match="no tokenizer"):
        load_model(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_model(saved)


def test_trap_35_pickled_weights_are_refused_unless_asked_for(saved):
    model = tiny_model()
    torch.save(model.state_dict(), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*--dangerously-allow-pickle"):
        load_model(saved)
    loaded = load_model(saved, device="cpu", dangerously_allow_pickle=True)
    assert loaded.fingerprint == model_fingerprint(model)


def test_trap_35_code_that_comes_with_a_model_does_not_run(saved, tmp_path):
    witness = tmp_path / "ran"
    (saved / "evil.py").write_text(f"open({str(witness)!r}, 'w')\n")
    edit(
        saved / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    )
    with pytest.raises(ModelError, match="--dangerously-trust-remote-code"):
        load_model(saved)
    assert not witness.exists()


def test_missing_tensors_are_an_error_and_not_random_numbers(saved):
    from safetensors.torch import load_file, save_file

    tensors = load_file(saved / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing, e\.g\. model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(saved)


def test_a_damaged_weight_file_is_a_model_error(saved):
    whole = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(saved)


def test_a_tokenizer_without_eos_is_refused(saved):
    edit(saved / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        load_model(saved)


def test_trap_3_a_tokenizer_without_pad_gets_one_that_is_not_eos_and_says_so(saved):
    edit(saved / "tokenizer_config.json", pad_token=None)
    loaded = load_model(saved, device="cpu")
    assert loaded.pad_token_id == 0 != loaded.tokenizer.eos_token_id
    assert any("no pad token" in note for note in loaded.notes)


def test_the_tokenizer_that_is_saved_is_the_one_that_came(tmp_path):
    """One without pad and unknown tokens, whose token 0 is a character, as GPT-2's and Llama 3's."""
    saved = tmp_path / "model"
    tokenizer = small_tokenizer(["<|end|>"], bos="<|end|>", eos="<|end|>")
    assert tokenizer.convert_ids_to_tokens(0) == "!" and tokenizer.pad_token_id is None
    model = tiny_model()
    model.resize_token_embeddings(len(tokenizer) + 7)
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    came = AutoTokenizer.from_pretrained(saved)
    loaded = load_model(saved, device="cpu")
    template = Template.resolve("plain", loaded.tokenizer)
    examples = tokenize_rows([{"prompt": "Wow!", "response": "No!!"}] * 2, loaded.tokenizer, template, 64)
    collate(examples, loaded.pad_token_id)
    generate_answers(loaded, ["Wow!", "the cat sat"], max_new_tokens=3)
    save_model(loaded.model, loaded.tokenizer, tmp_path / "again")
    kept = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert kept.backend_tokenizer.to_str() == came.backend_tokenizer.to_str()
    assert kept.special_tokens_map == came.special_tokens_map and kept.pad_token is None
    for text in ("Stop!! the cat", "!", '"#$ the'):
        assert kept(text)["input_ids"] == came(text)["input_ids"]
        assert kept.decode(came(text)["input_ids"], skip_special_tokens=True) == came.decode(
            came(text)["input_ids"], skip_special_tokens=True
        )


def test_a_tokenizer_of_another_model_is_refused(saved):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"extra{n}" for n in range(305 - len(tokenizer))])
    tokenizer.save_pretrained(saved)
    with pytest.raises(ModelError, match="305 tokens but the model embeds 300"):
        load_model(saved)


def test_a_hub_id_without_network_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ModelError, match=r"nobody/nothing-rapidun: no such directory, .*tokenizer.*hub.*Check the path or the id"
    ):
        load_model("nobody/nothing-rapidun")


def test_quantised_loading_names_the_extra_or_the_missing_gpu(saved, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'rapidun\[quant\]'"):
        load_model(saved, device="cpu", quantize="4bit")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ModelError, match="needs a CUDA GPU"):
        load_model(saved, device="cpu", quantize="8bit")
    with pytest.raises(ModelError, match="Choose 4bit or 8bit"):
        load_model(saved, device="cpu", quantize="2bit")


def test_devices_and_dtypes_are_checked_by_name(monkeypatch):
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ModelError, match="'gpu' is unknown"):
        choose_device("gpu")
    with pytest.raises(ModelError, match=r"this machine has \d+ CUDA GPUs"):
        choose_device("cuda:99")
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(ModelError, match="dtype 'half' is unknown"):
        choose_dtype("half", torch.device("cpu"))
    for supported, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda supported=supported, **_: supported)
        assert choose_dtype("auto", torch.device("cuda")) == expected


def test_a_model_can_be_loaded_in_another_dtype(saved):
    loaded = load_model(saved, device="cpu", dtype="bfloat16")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
