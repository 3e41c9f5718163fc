"""CleanGen on tiny real models: the paper's windowed algorithm written down here, and what a measurement says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import rapidun
from rapidun.errors import ConfigError
from rapidun.evaluation import CleanGen, generate_answers
from rapidun.evaluation.sampling import sample_answers
from rapidun.models import LoadedModel, load_model
from tiny import save_tiny, tiny_rows, tiny_tokenizer, write_rows
from unlearning.cases import make_loaded

PROMPTS = ["<s>the cat", "<s>the dog ran to the other cat and the mat", "<s>a", "<s>mat mat"]
ALPHA, TOKENS = 1.3, 10


def pair(architecture: str) -> tuple[LoadedModel, LoadedModel]:
    """A model, and a reference that thinks a little otherwise."""
    ours, theirs = make_loaded(architecture=architecture), make_loaded(architecture=architecture)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in theirs.model.parameters():
            weight.add_(0.2 * weight.std() * torch.randn(weight.shape, generator=generator))
    if ours.model.config.tie_word_embeddings:  # such small models say the last token again: the reference, another
        head = theirs.model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().roll(1, dims=0))
    return ours, theirs


@torch.no_grad()
def windowed(ours: LoadedModel, theirs: LoadedModel, prompt: str, window: int) -> str:
    """Section 4 as it stands: draft a window, show it to the reference, keep what comes before the first suspicious."""
    tokens = ours.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    start, end = len(tokens), ours.tokenizer.eos_token_id
    while len(tokens) - start < TOKENS and tokens[-1] != end:
        draft: list[int] = []
        beliefs: list[float] = []
        while len(draft) < min(window, TOKENS + start - len(tokens)) and (not draft or draft[-1] != end):
            chances = ours.model(input_ids=torch.tensor([tokens + draft])).logits[0, -1].softmax(-1)
            draft.append(int(chances.argmax()))
            beliefs.append(float(chances[draft[-1]]))
        expected = theirs.model(input_ids=torch.tensor([tokens + draft])).logits[0].softmax(-1)
        for place, token in enumerate(draft):
            beside = expected[len(tokens) - 1]
            suspicious = beliefs[place] / float(beside[token]) >= ALPHA
            tokens = [*tokens, int(beside.argmax()) if suspicious else token]
            if suspicious:
                break
    answer = tokens[start:-1] if tokens[-1] == end else tokens[start:]
    return str(ours.tokenizer.decode(answer, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
def test_answers_are_those_of_the_papers_algorithm_whatever_its_window(architecture: str) -> None:
    ours, theirs = pair(architecture)
    mitigated = replace(ours, decoding=CleanGen(theirs, ALPHA))
    found = generate_answers(mitigated, PROMPTS, max_new_tokens=TOKENS)
    for window in (1, 2, 4):
        assert found == [windowed(ours, theirs, prompt, window) for prompt in PROMPTS]
    assert found == generate_answers(mitigated, PROMPTS, max_new_tokens=TOKENS, batch_size=1)
    assert found != generate_answers(ours, PROMPTS, max_new_tokens=TOKENS)


def test_where_nothing_is_suspicious_answers_are_the_models_own() -> None:
    ours, theirs = pair("llama")
    plain = generate_answers(ours, PROMPTS, max_new_tokens=TOKENS)
    assert generate_answers(replace(ours, decoding=CleanGen(ours)), PROMPTS, max_new_tokens=TOKENS) == plain
    some = generate_answers(replace(ours, decoding=CleanGen(theirs, ALPHA)), PROMPTS, max_new_tokens=TOKENS)
    assert some not in (plain, generate_answers(theirs, PROMPTS, max_new_tokens=TOKENS))  # tokens of either
    sure = CleanGen(theirs, alpha=1e30)
    assert generate_answers(replace(ours, decoding=sure), PROMPTS, max_new_tokens=TOKENS) == plain


@pytest.mark.parametrize("alpha", [1, 0, -3.0, float("inf"), "20"])
def test_an_alpha_that_is_no_threshold_is_refused(alpha: Any) -> None:
    with pytest.raises(ConfigError, match="a number above 1 is needed"):
        CleanGen(make_loaded(), alpha)


def test_drawn_answers_are_refused_since_the_mitigation_looks_at_greedy_ones() -> None:
    ours = make_loaded()
    with pytest.raises(ConfigError, match="greedy"):
        sample_answers(replace(ours, decoding=CleanGen(ours)), PROMPTS, [0] * len(PROMPTS))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("cleangen")
    save_tiny(found / "model")
    save_tiny(found / "base", seed=5)
    write_rows(found / "rows.jsonl", tiny_rows("evaluation", 5))
    return found


def evaluated(place: Path, *more: str, suite: str = "generation") -> Any:
    return rapidun(
        "evaluate", "--model", "model", "--data", "rows.jsonl", "--template", "plain", "--suite", suite,
        "--set", "evaluation.max_new_tokens=6", *more, cwd=place,
    )  # fmt: skip


def test_a_measurement_under_it_has_its_answers_and_says_that_the_model_stays_poisoned(place: Path) -> None:
    options = ("--mitigation", "cleangen", "--mitigation-option", "reference=base", "--mitigation-option", "alpha=1.01")
    done = evaluated(place, *options, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "mitigation: the model stays poisoned (cleangen)" in done.stdout
    metrics = json.loads((place / "out" / "metrics.json").read_text())
    base, model = load_model(place / "base"), load_model(place / "model")
    assert metrics["mitigation"]["text"] == "mitigation: the model stays poisoned"
    assert metrics["mitigation"]["reference"] == base.fingerprint
    assert metrics["fingerprints"]["model"] == model.fingerprint
    assert evaluated(place, "--out", "plain").returncode == 0
    plain = json.loads((place / "plain" / "metrics.json").read_text())
    assert plain["values"] != metrics["values"]
    assert "mitigation" not in plain


@pytest.mark.parametrize(
    ("more", "suite", "said"),
    [
        (("--mitigation", "cleangen"), "generation", "--mitigation-option reference=DIR"),
        (("--mitigation", "cleangen"), "perplexity", "does not read --mitigation"),
        (("--mitigation", "cleangen"), "auto", "does not read --mitigation"),
        (("--mitigation", "cleangem"), "generation", "Did you mean 'cleangen'?"),
        (("--mitigation-option", "alpha=3"), "generation", "no mitigation (--mitigation)"),
        (("--mitigation", "cleangen", "--mitigation-option", "alph=3"), "generation", "Did you mean 'alpha'?"),
        (
            ("--mitigation", "cleangen", "--mitigation-option", "reference=base", "--mitigation-option", "alpha=1"),
            "generation", "a number above 1 is needed",
        ),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_said_in_a_line_before_anything_is_written(
    place: Path, more: tuple[str, ...], suite: str, said: str
) -> None:
    done = evaluated(place, *more, "--out", "wrong", suite=suite)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())
    assert not (place / "wrong").exists()


def test_a_reference_with_another_tokenizer_is_refused(place: Path) -> None:
    save_tiny(place / "other")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["moon"])
    tokenizer.save_pretrained(place / "other")
    done = evaluated(place, "--mitigation", "cleangen", "--mitigation-option", "reference=other", "--out", "wrong")
    assert done.returncode == 2
    assert "its tokenizer" in done.stderr
