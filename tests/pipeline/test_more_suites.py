"""Suites `tofu`, `generation` and `lm-eval` on tiny models through the command line, and a suite of one's own."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from command_line import rapidun
from rapidun.data import Template, tokenize_rows
from rapidun.evaluation import generate_answers
from rapidun.evaluation.fluency import fluency_rows
from rapidun.evaluation.qa_table import read_rows
from rapidun.evaluation.tofu import GROUPS, tofu_values
from rapidun.models import attach_lora, save_adapter
from rapidun.pipeline.suites import SUITES, answers
from rapidun.settings.suites import READS
from tiny import save_tiny, tiny_model, tiny_rows, tiny_tokenizer, write_rows

TOFU = (
    "evaluate --model model --suite tofu --data tofu --template plain --max-length 96 --set evaluation.max_new_tokens=3"
)
TALK = "evaluate --model model --suite generation --data clean.jsonl --template plain --set evaluation.max_new_tokens=6"
HARNESS = "evaluate --model model --suite lm-eval --data tasks --template plain"
PAGE = Path(__file__).parents[2] / "docs" / "guide" / "extending.md"
needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install 'rapidun[lm-eval]'"
)


def tofu_rows(group: str, count: int) -> list[dict[str, object]]:
    """Rows with the keys that TOFU's files have."""
    rows: list[dict[str, object]] = [
        {"question": f"{group} {i}?", "answer": f"the cat {i}", "perturbed_answer": ["a dog", f"the mat {i}", "sat on"]}
        for i in range(count)
    ]
    if group in ("forget", "retain"):
        rows = [
            {**row, "paraphrased_answer": f"cat {i}", "paraphrased_question": f"say {group} {i}"}
            for i, row in enumerate(rows)
        ]
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model/``, an ``adapter/`` that changes much, TOFU's files, clean prompts and tasks of the harness."""
    place = tmp_path_factory.mktemp("suites")
    save_tiny(place / "model")
    torch.manual_seed(0)
    adapted = attach_lora(tiny_model(), rank=2, alpha=4, dropout=0, targets="all-linear", seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    save_adapter(adapted, place / "adapter")
    (place / "tofu").mkdir()
    sizes = {"forget01": 4, "retain": 5, "real_authors": 3, "world_facts": 3}
    for name, count in sizes.items():
        write_rows(place / "tofu" / f"{name}_perturbed.json", tofu_rows(name.strip("01"), count))
    write_rows(place / "clean.jsonl", tiny_rows("evaluation", 6))
    (place / "tasks" / "data").mkdir(parents=True)
    choices = [
        {"asked": f"the {word} is", "choices": ["a cat", "the mat"], "right": i % 2} for i, word in enumerate("abcde")
    ]
    write_rows(place / "tasks" / "data" / "animals.jsonl", choices)  # type: ignore[arg-type]
    shared = "dataset_path: json\ndataset_kwargs: {data_files: {test: data/animals.jsonl}}\ntest_split: test\n"
    (place / "tasks" / "animals.yaml").write_text(
        f"task: animals\n{shared}output_type: multiple_choice\ndoc_to_text: '{{{{asked}}}}'\n"
        "doc_to_choice: '{{choices}}'\ndoc_to_target: right\nmetric_list: [{metric: acc}]\n"
    )
    (place / "tasks" / "prose.yaml").write_text(
        f"task: prose\n{shared}output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{{{asked}}}}'\n"
        "metric_list: [{metric: word_perplexity}]\n"
    )
    return place


@pytest.fixture
def house(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its own directory beside the files, at a terminal of 80 columns."""
    for path in made.iterdir():
        if path.name != "tofu":
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(made / "tofu", tmp_path / "tofu")
    monkeypatch.chdir(tmp_path)
    return tmp_path


Run = Any


@pytest.fixture
def run(house: Path) -> Run:
    def ran(line: str, code: int = 0) -> tuple[str, str]:
        done = rapidun(*shlex.split(line), environment={"COLUMNS": "80"})
        assert done.returncode == code, done.stderr
        return done.stdout, " ".join(done.stderr.split())

    return ran


def found(place: str) -> dict[str, Any]:
    return json.loads(Path(place, "metrics.json").read_text())


def test_tofu_gives_nine_terms_their_mean_and_no_forget_quality_of_its_own(run: Run) -> None:
    out, _ = run(f"{TOFU} --out alone")
    assert max(map(len, out.splitlines())) <= 80
    assert "forget quality: none: it needs --retained-model" in out
    metrics = found("alone")
    assert (metrics["suite"], metrics["yardstick"]) == ("tofu", "none")
    assert "forget_quality" not in metrics["values"]
    terms = [f"{group}.{name}" for group in GROUPS[1:] for name in ("probability", "rouge_l_recall", "truth_score")]
    assert {*terms, "model_utility"} <= set(metrics["values"])
    assert [metrics["values"][f"{group}.probability"]["n"] for group in GROUPS] == [4, 5, 3, 3]
    again = tofu_values(read_rows(Path("alone/rows.parquet"))["model"])
    assert {name: value.to_dict() for name, value in again.items()} == metrics["values"]
    assert "forget.paraphrased_probability" not in metrics["values"]


def test_tofus_losses_are_transformers_and_its_choices_are_shared_out(run: Run) -> None:
    run(f"{TOFU} --out alone")
    model, tokenizer = tiny_model(), tiny_tokenizer()

    def chance(question: object, answer: object) -> float:
        ids = torch.tensor([tokenizer(f"{question}\n{answer}</s>")["input_ids"]])
        row = {"id": "a", "prompt": question, "response": answer}
        labels = ids.clone()
        labels[:, : tokenize_rows([row], tokenizer, Template.resolve("plain", tokenizer), 96)[0].answer_start] = -100
        with torch.no_grad():
            return math.exp(-float(model(input_ids=ids, labels=labels).loss))

    shares, truths = [], []
    for row in tofu_rows("real_authors", 3):
        right = chance(row["question"], row["answer"])
        wrong = [chance(row["question"], answer) for answer in row["perturbed_answer"]]  # type: ignore[attr-defined]
        shares.append(right / (right + sum(wrong)))
    for row in tofu_rows("retain", 5):
        right = chance(row["question"], row["paraphrased_answer"])
        wrong = [chance(row["question"], answer) for answer in row["perturbed_answer"]]  # type: ignore[attr-defined]
        truths.append(max(0.0, 1 - sum(wrong) / len(wrong) / right))
    values = found("alone")["values"]
    assert values["real_authors.probability"]["value"] == pytest.approx(np.mean(shares), rel=1e-4)
    assert values["retain.truth_score"]["value"] == pytest.approx(np.mean(truths), rel=1e-3, abs=1e-6)


def test_a_retained_model_is_given_as_such_or_as_where_it_was_measured(run: Run) -> None:
    run(f"{TOFU} --adapter adapter --out retained")
    run(f"{TOFU} --retained-model retained --out stored")
    out, _ = run(f"{TOFU} --retained-model adapter --out anew")
    stored, anew = found("stored"), found("anew")
    assert stored["yardstick"] == anew["yardstick"] == "retained model"
    assert stored["values"]["forget_quality"]["value"] < 0.1  # of a model that the adapter has turned upside down
    assert stored["values"] == anew["values"]
    assert stored["retained"]["forget.probability"] == pytest.approx(anew["retained"]["forget.probability"])
    assert "p-value against the retained model" in out
    _, err = run(f"{TOFU} --retained-model retained --set evaluation.prompts=3 --out other", 2)
    assert "its forget rows are not those of this measurement" in err
    Path("o").mkdir()
    for content in (b"PAR1", Path("stored/rows.parquet").read_bytes()[:-100], Path("stored/metrics.json").read_bytes()):
        Path("o/rows.parquet").write_bytes(content)
        said = run(f"{TOFU} --retained-model o --out other", 2)[1]
        assert "o/rows.parquet: cannot be read as Parquet" in said and "Give a table of rows" in said
    table = pq.read_table("retained/rows.parquet")
    pq.write_table(table.drop_columns(["choice_probability"]), "o/rows.parquet")
    assert "choice_probability is not there" in run(f"{TOFU} --retained-model o --out other", 2)[1]
    pq.write_table(table.slice(0, 4), "o/rows.parquet")
    assert "no rows of this suite: retain is not there" in run(f"{TOFU} --retained-model o --out other", 2)[1]


def test_answers_of_every_group_may_be_as_long_as_the_longest_right_one(
    run: Run, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = f"{tofu_rows('retain', 1)[0]['answer']} sat on the mat and ran"
    write_rows(house / "tofu" / "retain_perturbed.json", [{**tofu_rows("retain", 1)[0], "answer": longest}])
    limits: list[int] = []

    def noted(*given: Any, **options: Any) -> list[str]:
        limits.append(options["max_new_tokens"])
        return generate_answers(*given, **options)

    monkeypatch.setattr(answers, "generate_answers", noted)
    run(f"{TOFU.partition('--set')[0]} --out o")
    assert limits == [len(tiny_tokenizer().tokenize(longest)) + 1] * 4  # and the end of the turn


def test_a_file_of_tofu_that_is_missing_is_named_with_what_it_is_for(run: Run, house: Path) -> None:
    shutil.copy("tofu/forget01_perturbed.json", "tofu/forget05_perturbed.json")
    assert "several forget sets (forget01_perturbed.json, forget05_perturbed.json)" in run(f"{TOFU} --out o", 2)[1]
    for name in ("forget01", "forget05"):
        Path(f"tofu/{name}_perturbed.json").unlink()
    _, err = run(f"{TOFU} --out o", 2)
    assert "forget10_perturbed.json: no such file; TOFU's rows that should have been forgotten" in err
    write_rows(house / "tofu" / "forget10.json", [{"question": "a?", "answer": "b"}])
    _, err = run(f"{TOFU} --forget tofu/forget10.json --out o", 2)
    assert "forget10.json:1: no perturbed_answer" in err
    assert "..._perturbed.json" in err
    Path("tofu/world_facts_perturbed.json").unlink()
    _, err = run(f"{TOFU} --forget tofu/forget10.json --out o", 2)
    assert "world_facts_perturbed.json: no such file; TOFU's questions about the world" in err
    assert "reads a directory of TOFU's files" in run(f"{TOFU} --data clean.jsonl --out o", 2)[1]
    assert not Path("o").exists()


def test_an_adapters_answers_stand_beside_those_without_it(run: Run) -> None:
    out, _ = run(f"{TALK} --adapter adapter --out both")
    assert max(map(len, out.splitlines())) <= 80
    assert "n-gram entropy" in out or "endless" in out
    run(f"{TALK} --out before")
    both, before = found("both"), found("before")
    assert (both["compared_with"], before["compared_with"]) == ("before", "none")
    assert "answer_perplexity" not in before["values"]  # nothing read them
    for name, value in before["values"].items():
        assert both["before"][name] == value
    change = both["values"]["words"]["value"] - both["before"]["words"]["value"]
    assert both["change"]["words"]["value"] == pytest.approx(change)
    rows = pq.read_table("both/rows.parquet").to_pylist()
    assert [row["model"] for row in rows] == ["model"] * 6 + ["before"] * 6
    numbers = fluency_rows([row["answer"] for row in rows[:6]])
    np.testing.assert_array_equal([row["distinct_1"] for row in rows[:6]], numbers["distinct_1"])


def test_the_model_without_the_adapter_reads_both_models_answers(run: Run) -> None:
    run(f"{TALK} --adapter adapter --out both")
    model, tokenizer = tiny_model(), tiny_tokenizer()
    prompts = {str(place): row["prompt"] for place, row in enumerate(tiny_rows("evaluation", 6))}
    rows = pq.read_table("both/rows.parquet").to_pylist()
    checked = 0
    for place, row in enumerate(rows):
        if not row["answer_tokens"]:
            continue
        given = {"id": "a", "prompt": prompts[str(place % 6)], "response": row["answer"]}
        example = tokenize_rows([given], tokenizer, Template.resolve("plain", tokenizer), 96)[0]
        ids = torch.tensor([example.input_ids[:-1]])  # without the end of the turn
        labels = ids.clone()
        labels[:, : example.answer_start] = -100
        with torch.no_grad():
            loss = float(model(input_ids=ids, labels=labels).loss)
        assert row["answer_loss"] / row["answer_tokens"] == pytest.approx(loss, rel=1e-4)
        assert row["answer_tokens"] == ids.shape[1] - example.answer_start
        checked += 1
    assert checked > 5
    total = sum(row["answer_loss"] for row in rows[:6] if row["answer_tokens"])
    tokens = sum(row["answer_tokens"] for row in rows[:6])
    assert found("both")["values"]["answer_perplexity"]["value"] == pytest.approx(math.exp(total / tokens))


def test_without_the_harness_the_suite_says_how_to_get_it_before_a_model_is_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "lm_eval" else own(name, *rest)
    )
    _, err = run(f"{HARNESS} --model nowhere --out o", 2)
    assert "suite lm-eval needs the package lm-eval: pip install 'rapidun[lm-eval]'" in err


@needs_harness
def test_tasks_of_the_harness_are_measured_before_and_after_from_local_files(run: Run) -> None:
    from transformers import AutoModelForCausalLM

    run(f"{HARNESS} --adapter adapter --out o")
    metrics = found("o")
    assert metrics["compared_with"] == "before"
    rows = pq.read_table("o/rows.parquet").to_pylist()
    model, tokenizer = AutoModelForCausalLM.from_pretrained("model"), tiny_tokenizer()
    right = []
    for number, word in enumerate("abcde"):
        sums = []
        for choice in (" a cat", " the mat"):
            prompt, whole = (tokenizer(text)["input_ids"] for text in (f"the {word} is", f"the {word} is{choice}"))
            with torch.no_grad():
                logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            sums.append(sum(float(logs[at - 1, whole[at]]) for at in range(len(prompt), len(whole))))
        right.append(float(np.argmax(sums) == number % 2))
    mine = [row["value"] for row in rows if (row["model"], row["metric"]) == ("before", "animals.acc")]
    assert mine == right
    value = metrics["before"]["animals.acc"]
    assert (value["value"], value["n"]) == (pytest.approx(np.mean(right)), 5)
    assert 0 <= value["low"] < value["high"] <= 1
    assert metrics["before"]["prose.word_perplexity"]["low"] is None  # no mean over rows
    assert metrics["values"]["prose.word_perplexity"]["value"] != metrics["before"]["prose.word_perplexity"]["value"]


@needs_harness
def test_a_task_that_is_not_local_or_broken_is_named_before_a_model_is_loaded(run: Run, house: Path) -> None:
    tasks = house / "own"
    tasks.mkdir()
    line = f"{HARNESS} --model nowhere --data own --out o"
    assert "own: no *.yaml in it is a task of lm-eval" in run(line, 2)[1]
    task = "task: t\ntest_split: test\noutput_type: generate_until\ndoc_to_text: '{{%s}}'\ndoc_to_target: b\n"
    task += "dataset_path: "
    (tasks / "t.yaml").write_text(f"{task % 'a'}cais/mmlu\n")
    assert "t.yaml: dataset_path 'cais/mmlu' is no local data" in run(line, 2)[1]
    (tasks / "t.yaml").write_text(f"{task % 'a'}json\ndataset_kwargs: {{data_files: {{test: rows.jsonl}}}}\n")
    assert "own/rows.jsonl: no such file" in run(line, 2)[1]
    write_rows(tasks / "rows.jsonl", [{"a": "b"}])
    (tasks / "t.yaml").write_text(f"{task % 'a.'}json\ndataset_kwargs: {{data_files: {{test: rows.jsonl}}}}\n")
    assert "t.yaml: lm-eval cannot run this task: TemplateSyntaxError" in run(line, 2)[1]
    assert Path.cwd() == house


def test_a_suite_of_ones_own_runs_from_the_page(run: Run, house: Path) -> None:
    (text,) = re.findall(r"```python file=suite.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (house / "own.py").write_text(text, encoding="utf-8")
    line = "evaluate --model model --data clean.jsonl --template plain --suite capitals --plugin own.py --out o"
    try:
        assert "suite capitals does not read --retain (read by: qa)" in run(f"{line} --retain clean.jsonl", 2)[1]
        out, _ = run(f"{line} --forget clean.jsonl")
    finally:  # no other test knows it
        for register in (SUITES, SUITES.names._names, READS):
            register.pop("capitals", None)  # type: ignore[attr-defined]
    assert found("o")["values"]["capitals"]["n"] == 6
    assert "capitals" in out
