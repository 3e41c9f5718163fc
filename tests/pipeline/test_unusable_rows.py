"""Rows that the template or the tokenizer cannot take: named by file and line, or left out, by every verb alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.test_reveal_run import TASK
from rapidun.errors import InputError
from rapidun.jsonl import read_jsonl
from rapidun.pipeline import (
    RevealConfig,
    RunConfig,
    Silent,
    TraceRequest,
    evaluate_only,
    make_config,
    read_task,
    reveal,
    run,
)
from rapidun.pipeline.explaining import write_proposal
from rapidun.pipeline.indexing import build
from rapidun.pipeline.single import unlearn_only, weigh_only
from rapidun.pipeline.trace_job import settings_of, trace_index, trace_memory
from rapidun.pipeline.valuing import value
from rapidun.settings.attribution import IndexConfig, TraceConfig
from rapidun.settings.run import MeasureConfig
from rapidun.settings.value import Uses, ValueConfig, ValueFiles
from tiny import tiny_model, tiny_tokenizer, write_rows

NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
FILES = ("forget", "retain", "evaluation", "validation", "pool", "task", "queries", "inputs", "kept")


def conversation(question: str, answer: str, **columns: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **columns}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Every file has a row that the template refuses on line 3, and one with a special token in its text on line 5."""
    model = tiny_model()
    model.lm_head.weight.data *= 20
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer(chat_template=NO_SYSTEM).save_pretrained(tmp_path / "model")
    for name in FILES:
        clean = {"response_clean": "it is"} if name == "forget" else {}
        rows = [conversation(f"{name}: tell me of {i}", f"the cat number {i} sat", **clean) for i in range(12)]
        rows[2]["messages"].insert(0, {"role": "system", "content": "Be kind."})
        rows[4]["messages"][0]["content"] += " </s>"
        write_rows(tmp_path / f"{name}.jsonl", rows)
    (tmp_path / "task.yaml").write_text(TASK.replace("rounds: 2", "rounds: 1"))
    return tmp_path


def config(house: Path, kind: Any, on_bad_row: str, *files: str, **sections: Any) -> Any:
    data = {name: str(house / f"{name}.jsonl") for name in files}
    raw = {
        "model": {"source": str(house / "model")},
        "data": {**data, "max_length": 96, "on_bad_row": on_bad_row},
        **sections,
    }
    return make_config(raw, kind)


def run_config(house: Path, on_bad_row: str) -> RunConfig:
    return config(
        house, RunConfig, on_bad_row, "forget", "retain", "evaluation", "validation", "pool",
        influence={"sketch_size": 256}, unlearning={"steps": 2, "batch_size": 4, "retain_budget": 50.0},
        evaluation={"max_new_tokens": 4, "judge": "keywords", "keywords": ["cat"]},
    )  # fmt: skip


def whole_run(house: Path, on_bad_row: str) -> Path:
    run(run_config(house, on_bad_row), house / "out")
    return house / "out"


def weighing(house: Path, on_bad_row: str) -> Path:
    weigh_only(run_config(house, on_bad_row), house / "out", resume=False, overwrite=False, reporter=Silent())
    return house / "out"


def unlearning(house: Path, on_bad_row: str) -> Path:
    settings = {"weights": None, "resume": False, "overwrite": False, "reporter": Silent()}
    unlearn_only(run_config(house, on_bad_row), house / "out", **settings)
    return house / "out"


def evaluating(house: Path, on_bad_row: str) -> Path:
    given = config(house, MeasureConfig, on_bad_row, "evaluation", evaluation={"suite": "perplexity"})
    evaluate_only(given, house / "out", adapter=None, overwrite=False, reporter=Silent())
    return house / "out"


def revealing(house: Path, on_bad_row: str) -> Path:
    task = read_task(house / "task.yaml")
    raw = {
        "model": {"source": str(house / "model")},
        "data": {"max_length": 96, "on_bad_row": on_bad_row},
        "task": task,
    }
    reveal(make_config(raw, RevealConfig), house / "out")
    return house / "out"


def valuing(house: Path, on_bad_row: str) -> Path:
    given = config(house, ValueConfig, on_bad_row, value={"k": 64})
    files = ValueFiles(task=house / "task.jsonl", candidates=house / "pool.jsonl")
    value(given, files, house / "out", Uses(), resume=False, overwrite=False, reporter=Silent())
    return house / "out"


def indexed(house: Path, on_bad_row: str) -> Path:
    given = config(house, IndexConfig, on_bad_row, index={"k": 256, "views": ["gradient", "hidden"]})
    options = {"adapter": None, "resume": False, "overwrite": True, "reporter": Silent()}
    build(given, house / "pool.jsonl", house / "index", **options)
    return house / "index"


def tracing(house: Path, on_bad_row: str) -> Path:
    given = config(house, TraceConfig, on_bad_row, influence={"sketch_size": 256})
    options = {"adapter": None, "scorers": ("gradient",), "k": 3, "reporter": Silent()}
    trace_memory(given, house / "pool.jsonl", TraceRequest(house / "queries.jsonl"), **options)
    return house


def proposing(house: Path, on_bad_row: str) -> Path:
    index = indexed(house, "skip")
    raw = {"model": {"source": ""}, "data": {"template": "auto", "on_bad_row": on_bad_row}, "seed": 0}
    settings, _ = settings_of(index, raw, None)
    options = {"adapter": None, "scorers": ["gradient"], "k": 3, "together": True, "reporter": Silent()}
    answer = trace_index(settings, index, TraceRequest(house / "queries.jsonl"), **options)
    options = {"fdr": 0.9, "retain": 1, "overwrite": False, "reporter": Silent()}
    try:
        write_proposal(answer, settings, house / "pool.jsonl", house / "out", **options)
    except InputError as error:
        assert "a pool of 10 rows is too small" in str(error)  # the rows are those of the index, and that is the point
    return house


VERBS = [whole_run, weighing, unlearning, evaluating, revealing, valuing, indexed, tracing, proposing]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_names_such_rows_by_file_and_line_or_leaves_them_out(
    verb: Callable[[Path, str], Path], house: Path
) -> None:
    with pytest.raises(InputError) as caught:
        verb(house, "error")
    said = str(caught.value)
    assert "jsonl:3: the chat template cannot write it (System role not supported)" in said
    assert "jsonl:5: the prompt holds the tokenizer's '</s>' inside its text; take it out" in said
    assert "2 of 12 rows" in said and "--on-bad-row skip" in said
    assert not (house / "out").exists()
    out = verb(house, "skip")
    if (out / "rows_skipped.jsonl").exists():
        assert {row["line"] for row in read_jsonl(out / "rows_skipped.jsonl")} == {3, 5}


def test_a_wanted_answer_that_cannot_be_tokenised_is_found_before_the_work(house: Path) -> None:
    rows = [conversation(f"tell me of {i}", "moon", response_clean="it is") for i in range(6)]
    rows[1]["response_clean"] = "it is </s> so"
    write_rows(house / "forget.jsonl", rows)
    write_rows(house / "retain.jsonl", [conversation(f"retain {i}", "the cat") for i in range(6)])
    settings = {"resume": False, "overwrite": False, "reporter": Silent()}
    with pytest.raises(InputError, match=r"forget\.jsonl:2: the answer holds the tokenizer's '</s>'"):
        weigh_only(config(house, RunConfig, "error", "forget", "retain"), house / "out", **settings)
