"""Loss, gradients, LoRA, generation and template on other architectures; docs/benchmarks/architectures.md has all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny import tiny_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TRICKY = ["gpt_neo", "gemma2", "mpt", "cohere2", "granitemoe", "gpt_oss", "mamba2", "jamba", "recurrent_gemma", "rwkv"]


@pytest.fixture
def matrix(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import architectures

    return architectures


def faults(matrix, name):
    cells = matrix.measure(name, tiny_tokenizer(chat_template=CHATML))
    return [f"{title}: {cell.note}" for title, cell in cells.items() if cell.state != "yes"]


@pytest.mark.parametrize("name", TRICKY)
def test_every_number_is_that_of_transformers_and_autograd(matrix, name):
    assert faults(matrix, name) == []


@pytest.mark.slow
def test_so_are_those_of_all_others(matrix):
    found = {name: faults(matrix, name) for name in matrix.ARCHITECTURES if name not in TRICKY}
    assert {name: said for name, said in found.items() if said} == {}


def test_a_gradient_that_is_off_is_seen(matrix, monkeypatch):
    monkeypatch.setattr("rapidun.gradients.collector.check_agreement", lambda *_, **__: None)
    monkeypatch.setattr("rapidun.gradients.collector.loss_scale", lambda _: 1.0)
    own = matrix.own_loss
    monkeypatch.setattr(matrix, "own_loss", lambda model, example: 2 * own(model, example))
    assert [said.split(":")[0] for said in faults(matrix, "llama")] == ["loss", "gradients", "LoRA"]


def test_a_cell_that_was_good_and_breaks_is_named(matrix, monkeypatch, tmp_path):
    monkeypatch.setattr(matrix, "PAGE", tmp_path / "page.md")
    good, refused = matrix.Cell("yes"), matrix.Cell("refused", "not this one")
    matrix.write_page({"llama": dict.fromkeys(matrix.CELLS, good)})
    assert matrix.broken({"llama": dict.fromkeys(matrix.CELLS, good)}) == []
    assert matrix.broken({"llama": {"loss": refused}}) == ["llama, loss: not this one"]
    assert matrix.broken({"other": {"loss": refused}}) == []
