"""An adapter's directory says what it is, and nothing of the machine that it was made on."""

from __future__ import annotations

import json
import re

import pytest
from peft import PeftModel

from rapidun.models import load_model
from rapidun.pipeline import RevealConfig, RunConfig, Silent, make_config, reveal, run, unlearn_only
from rapidun.pipeline.ledger import unlearn_requests

QUIET = {"resume": False, "overwrite": False, "reporter": Silent()}


def config(place, **more):
    rows = {name: str(place / f"{file}.jsonl") for name, file in (("forget", "bad"), ("retain", "good"))}
    raw = {"model": {"source": str(place / "model")}, "data": rows, "unlearning": {"steps": 2}, **more}
    return make_config(raw, RunConfig)


def said(adapter):
    """The card's lines by title; every file of the directory is looked at for paths of this machine first."""
    for file in adapter.iterdir():
        content = file.read_bytes()
        assert b"/tmp" not in content and not re.search(rb'"/|[ :(]/[a-z]+/|[A-Z]:\\\\', content), file.name
    return dict(re.findall(r"^\* \*\*(.+?):\*\* (.+)$", (adapter / "README.md").read_text(encoding="utf-8"), re.M))


def test_the_card_of_an_unlearned_adapter_says_base_template_method_and_that_nothing_was_measured(place):
    unlearn_only(config(place), place / "out", weights=None, **QUIET)
    card = said(place / "out" / "adapter")
    assert card["Base model"] == "model"
    assert card["Template of the rows"] == "plain" or card["Template of the rows"]
    assert card["Method"] == "rapidun_kl, 2 steps, weights by consistency_hidden"
    assert card["Verdict"].startswith("not measured")
    assert "## Limits" in (place / "out" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert json.loads((place / "out" / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        "model"
    )
    assert PeftModel.from_pretrained(load_model(place / "model").model, place / "out" / "adapter")


def test_the_card_of_a_run_has_its_verdict_and_the_gates_sentences(place):
    raw = config(place, evaluation={"suite": "perplexity"})
    metrics = run(raw, place / "run").metrics
    verdict = said(place / "run" / "adapter")["Verdict"]
    assert verdict.startswith(f"{metrics['verdict']}. ") and metrics["gate"]["checks"][0]["text"] in verdict


def test_the_adapter_of_a_ledger_says_of_how_many_requests_it_is_the_sum(place):
    unlearn_requests(config(place), [place / "bad.jsonl"], place / "ledger", **QUIET)
    assert said(place / "ledger" / "adapter")["Method"].endswith("the sum of 1 request")


@pytest.mark.parametrize("method", ["modules", "graddiff"])
def test_the_adapter_of_a_reveal_run_has_a_card_too(place, method):
    own = {} if method == "modules" else {"steps": 2}
    task = {
        "description": "It speaks.", "instruction": "hey what is 1?", "retain": str(place / "good.jsonl"),
        "judge": {"kind": "regex", "options": {"pattern": "."}},
        "search": {"strategy": "random", "loops": 1, "pulls": 2, "initial_pulls": 1, "answers": 2, "max_new_tokens": 4},
        "utility": {"max_drop": 100},
        "release": {"method": method, "rounds": 1, "modules": {"steps": 2}, "unlearning": own},
    }  # fmt: skip
    raw = {"model": {"source": str(place / "model")}, "task": task}
    reveal(make_config(raw, RevealConfig), place / "revealed")
    assert "Method" in said(place / "revealed" / "adapter")


def test_a_hub_id_stays(place):
    from rapidun.models.cards import base_name

    names = ("HuggingFaceTB/SmolLM2-135M", "gpt2", "/srv/models/mine", "./mine/", "..\\mine", str(place / "model"))
    assert [base_name(name) for name in names] == [
        "HuggingFaceTB/SmolLM2-135M", "gpt2", "mine", "mine", "mine", "model",
    ]  # fmt: skip
