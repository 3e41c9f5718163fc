"""`rapidun.trace`, `evaluate`, `value`, `reveal` and `run` on what people hold: the numbers of the command line."""

from __future__ import annotations

import json
import logging

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import command_line
import rapidun
from rapidun.errors import ConfigError, InputError
from rapidun.jsonl import read_jsonl
from rapidun.models import attach_lora
from rapidun.reading import read_json
from tiny import tiny_rows, write_rows

FORGET, RETAIN, HELD = tiny_rows("forget", 4), tiny_rows("retain", 8), tiny_rows("held", 6)
QUERY = {"prompt": "hey what is 9?", "response": "moon robot number 9"}


def held(place):
    return AutoModelForCausalLM.from_pretrained(place / "model"), AutoTokenizer.from_pretrained(place / "model")


def rapidun_command(*arguments):
    done = command_line.rapidun(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_trace_of_objects_is_that_of_the_command_line(place):
    write_rows(place / "query.jsonl", [QUERY, HELD[0]])
    said = rapidun_command("trace", "--model", "model", "--data", "train.jsonl", "--query", "query.jsonl", "--json")
    expected = [json.loads(line) for line in said.splitlines()]
    hits = rapidun.trace(*held(place), datasets.Dataset.from_list([*FORGET, *RETAIN]), query=[QUERY, HELD[0]])
    assert [(hit.query, hit.rank, hit.id, hit.score) for hit in hits] == [
        (line["query_index"], line["rank"], line["id"], line["score"]) for line in expected
    ]
    assert all(hit.row["response"] == line["train_response"] for hit, line in zip(hits, expected, strict=True))
    assert hits[0].row["response_clean"].startswith("it is ")  # the whole row, other columns too


def test_a_query_is_a_prompt_that_the_model_answers_a_row_or_a_file(place):
    model, tokenizer = held(place)
    rows = [*FORGET, *RETAIN]
    write_rows(place / "query.jsonl", [QUERY])
    by_row = rapidun.trace(model, tokenizer, rows, query=QUERY, k=2, by="lexical")
    assert rapidun.trace(model, tokenizer, rows, query="query.jsonl", k=2, by=["lexical"]) == by_row
    assert len(rapidun.trace(model, tokenizer, rows, query="hey what is 1?", k=2)) == 2
    assert len(rapidun.trace(model, tokenizer, rows, query={"prompt": "hey what is 1?"}, k=2)) == 2
    with pytest.raises(ConfigError, match="give the training rows"):
        rapidun.trace(model, tokenizer, query=QUERY)
    with pytest.raises(ConfigError, match="unknown scorer 'gradients': choose from"):
        rapidun.trace(model, tokenizer, rows, query=QUERY, by="gradients")
    with pytest.raises(ConfigError, match="nothing to trace"):
        rapidun.trace(model, tokenizer, rows, query=" ")
    with pytest.raises(ConfigError, match="settings: k = 0"):
        rapidun.trace(model, tokenizer, rows, query=QUERY, k=0)
    with pytest.raises(InputError, match=r"bad\.jsonl:2: the id"):
        write_rows(place / "bad.jsonl", [{**FORGET[0], "id": "a"}, {**FORGET[1], "id": "a"}])
        rapidun.trace(model, tokenizer, "bad.jsonl", query=QUERY)


def test_perplexity_is_measured_without_judge_rows_and_attack_success_with_them(place, caplog):
    rapidun_command("evaluate", "--model", "model", "--data", "held_out.jsonl", "--suite", "perplexity", "--out", "e")
    model, tokenizer = held(place)
    found = rapidun.evaluate(model, tokenizer, HELD)
    assert found["suite"] == "perplexity"
    assert found["values"] == read_json(place / "e" / "metrics.json")["values"]
    with caplog.at_level(logging.INFO, "rapidun"):
        found = rapidun.evaluate(model, tokenizer, HELD, poisoned=FORGET, clean=RETAIN, max_new_tokens=4, prompts=2)
    assert found["suite"] == "backdoor" and {"asr_seen", "asr_unseen", "asr_floor"} <= found["values"].keys()
    assert any("evaluation: 6 rows" in message for message in caplog.messages)


def test_a_peft_model_is_measured_with_its_adapter_and_keeps_it(place):
    model, tokenizer = held(place)
    plain = rapidun.evaluate(model, tokenizer, HELD)["values"]
    adapted = attach_lora(model, rank=2, seed=5)
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.5)
    assert rapidun.evaluate(adapted, tokenizer, HELD)["values"] != plain
    assert len(rapidun.trace(adapted, tokenizer, FORGET, query=QUERY, k=2)) == 2
    assert len(rapidun.value(adapted, tokenizer, FORGET, task=HELD, k=64).values) == 4
    assert any(parameter.requires_grad for parameter in adapted.parameters())


def test_values_are_those_of_the_command_line(place):
    options = ["--task-data", "held_out.jsonl", "--candidates", "train.jsonl", "--select", "top:3", "--out", "v"]
    rapidun_command("value", "--model", "model", *options)
    found = rapidun.value(*held(place), [*FORGET, *RETAIN], task=HELD, select="top:3")
    assert found.values == read_jsonl(place / "v" / "values.jsonl")
    assert found.selected == read_jsonl(place / "v" / "selected.jsonl")
    with pytest.raises(InputError, match="candidates:1: "):
        rapidun.value(*held(place), [{"prompt": "a", "response": 3}], task=HELD)


def test_a_reveal_of_a_peft_model_asks_it_with_its_adapter_merged_and_leaves_it_alone(place):
    model, tokenizer = held(place)
    adapted = attach_lora(model, rank=2, seed=5)
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    task = {
        "description": "It speaks of robots.", "instruction": "hey what is 1?", "retain": "good.jsonl",
        "judge": {"kind": "regex", "options": {"pattern": "."}},
        "search": {"strategy": "random", "loops": 1, "pulls": 2, "initial_pulls": 1, "answers": 2, "max_new_tokens": 4},
        "release": {"method": "modules", "rounds": 1, "modules": {"steps": 2}},
    }  # fmt: skip
    result = rapidun.reveal(adapted, tokenizer, task=task, out="revealed")
    assert (result.directory / "adapter").is_dir() and result.report.is_file()
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())


def test_a_run_takes_a_mapping_or_a_file(place):
    rows = {"forget": "bad.jsonl", "retain": "good.jsonl", "evaluation": "held_out.jsonl"}
    raw = {"model": {"source": "model"}, "data": rows, "unlearning": {"steps": 2}}
    (place / "run.yaml").write_text(json.dumps({**raw, "evaluation": {"suite": "perplexity"}}), encoding="utf-8")
    result = rapidun.run("run.yaml", "one")
    again = rapidun.run({**raw, "evaluation": {"suite": "perplexity"}}, "two")
    assert result.metrics["after"] == again.metrics["after"]
