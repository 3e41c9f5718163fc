"""The valuation of a pool: the same bytes after a kill, nothing mixed, and uses that may change."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from rapidun.data import Template, load_rows, tokenize_rows
from rapidun.errors import ConfigError, FingerprintError, InputError
from rapidun.gradients import RapidGrad
from rapidun.models import load_model
from rapidun.pipeline import Silent, make_config
from rapidun.pipeline.valuing import value, value_by_student
from rapidun.settings.value import SavedConfig, Uses, ValueConfig, ValueFiles
from rapidun.valuation import LinFiK, parts
from tiny import save_tiny, write_rows

FORK = multiprocessing.get_context("fork")
WORDS = ("the cat sat", "a dog ran", "to the mat", "over there", "and then some")


def pool_rows(count):
    return [
        {
            "id": f"r{i}",
            "prompt": f"tell me of {WORDS[i % 5]}",
            "response": f"{WORDS[i % 3]} {'more ' * (i % 4)}{i}",
            "provider": "north" if i % 3 else "south",
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    save_tiny(folder / "model")
    write_rows(folder / "pool.jsonl", pool_rows(60))
    write_rows(
        folder / "task.jsonl",
        [{"prompt": f"say {i}", "response": "the cat sat on the mat", "task": "ab"[i % 2]} for i in range(4)],
    )
    return folder


def settings(house, student=None, **value_settings):
    student = student or {}
    options = {"buckets": 256} if student.get("kind") == "ridge" else {}
    raw = {
        "model": {"source": str(house / "model"), "device": "cpu"},
        "data": {"template": "plain", "max_length": 64},
        "value": {"k": 64, "part_rows": 8, **value_settings},
        "student": {
            "rounds": 2,
            "options": options,
            **student,
        },
    }
    return make_config(raw, ValueConfig)


def run(house, out, config=None, uses=None, *, candidates="pool.jsonl", resume=False, **files):
    given = ValueFiles(task=house / "task.jsonl", candidates=house / candidates, **files)
    uses = Uses(**(uses or {}))
    config = config or settings(house)
    return value(config, given, out, uses, resume=resume, overwrite=False, reporter=Silent())


class Noted(Silent):
    """Keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def bytes_of(directory):
    skipped = ("manifest.json", "phases.json", "report.html")  # say when and how long
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in skipped
    }


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def killed_at(call, house, out, config, resume):
    """Run in a process that kills itself at the given part: before it is written, or with half of it on disk."""

    def work():
        torch.set_num_threads(1)
        write, seen = parts._write_part, []

        def deadly(path, *rest):
            seen.append(path)
            if len(seen) == call:
                path.with_name(f".{path.name}.1.part").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, *rest)

        parts._write_part = deadly
        run(house, out, config, {"select": "top:10%", "by": "provider"}, resume=resume)

    child = FORK.Process(target=work)
    child.start()
    child.join(120)
    return child.exitcode


@pytest.mark.parametrize("student", [None, {"kind": "ridge", "sample": "40", "sampling": "uncertain"}])
def test_a_valuation_killed_twice_ends_with_the_bytes_of_an_unbroken_one(house, tmp_path, student):
    config, uses = settings(house, student), {"select": "top:10%", "by": "provider"}
    run(house, tmp_path / "whole", config, uses)
    for call, resume in ((3, False), (4, True)):
        assert killed_at(call, house, tmp_path / "killed", config, resume) == -signal.SIGKILL
    run(house, tmp_path / "killed", config, uses, resume=True)
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_values_are_linfiks_row_by_row_and_the_value_is_the_mean_over_tasks(house, tmp_path):
    run(house, tmp_path / "out", settings(house, sketch="exact"))
    loaded = load_model(house / "model", device="cpu")
    template = Template.resolve("plain", loaded.tokenizer)
    task, pool = (load_rows(house / name) for name in ("task.jsonl", "pool.jsonl"))
    examples = [tokenize_rows(rows, loaded.tokenizer, template, 64) for rows in (task, pool)]
    expected = LinFiK(loaded.model).fit(examples[0], 0, list("abab")).values(examples[1], 0)
    found = lines(tmp_path / "out" / "values.jsonl")
    np.testing.assert_allclose([[line["value.a"], line["value.b"]] for line in found], expected, atol=1e-5)
    np.testing.assert_allclose([line["value"] for line in found], expected.mean(axis=1), atol=1e-5)
    assert [line["id"] for line in found] == [f"r{i}" for i in range(60)]


def test_uses_may_change_after_the_values_are_there_and_nothing_is_computed_again(house, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = run(house, out, uses={"select": "top:3", "format": "csv"})
    assert first["selection"]["rows"] == 3
    monkeypatch.setattr(LinFiK, "values", lambda *_: pytest.fail("computed again"))
    second = run(house, out, uses={"select": "budget:60tokens", "by": "provider"}, resume=True)
    chosen = lines(out / "selected.jsonl")
    assert 0 < second["selection"]["tokens"] <= 60
    assert len(chosen) == second["selection"]["rows"]
    values = {line["id"]: line["value"] for line in lines(out / "values.jsonl")}
    assert all(row["value"] == values[row["id"]] and row["provider"] for row in chosen)
    assert sum(share["value"] for share in second["by"]["shares"]) == pytest.approx(1)
    assert not (out / "values.csv").exists()
    third = run(house, out, resume=True)
    assert "selection" not in third
    assert not (out / "selected.jsonl").exists()


@pytest.mark.parametrize("method", ["mmr", "facility", "matching"])
def test_a_diverse_selection_differs_from_the_plain_one_and_is_as_large(house, tmp_path, method):
    out = tmp_path / "out"
    run(house, out, uses={"select": "top:12"})
    plain = {row["id"] for row in lines(out / "selected.jsonl")}
    run(house, out, uses={"select": "top:12", "diversity": method}, resume=True)
    diverse = {row["id"] for row in lines(out / "selected.jsonl")}
    assert len(diverse) == 12
    assert diverse != plain


def test_a_student_is_kept_and_values_other_pools_without_model_and_task(house, tmp_path):
    first = run(house, tmp_path / "out", settings(house, {"kind": "ridge", "sample": "40"}))
    assert first["kind"] == "alinfik"
    seen = [line for line in lines(tmp_path / "out" / "values.jsonl") if "teacher" in line]
    assert len(seen) == 40
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "out" / "student", tmp_path / "student")
    config = SavedConfig()
    arguments = (config, tmp_path / "student", house / "pool.jsonl", other, Uses(select="budget:50"))
    again = value_by_student(*arguments, resume=False, overwrite=False, reporter=Silent())
    by_gradient = Uses(select="top:5", diversity="matching")
    with pytest.raises(ConfigError, match="a saved student has none"):
        value_by_student(*arguments[:3], tmp_path / "no", by_gradient, resume=False, overwrite=False, reporter=Silent())
    assert not (tmp_path / "no").exists()
    assert again["student"]["spearman"] == first["student"]["spearman"]
    before, after = ([line["value"] for line in lines(each / "values.jsonl")] for each in (tmp_path / "out", other))
    np.testing.assert_allclose(after, before, rtol=1e-6)
    (tmp_path / "student" / "teacher_tokenizer.json").unlink()
    with pytest.raises(FingerprintError, match="student was"):
        value_by_student(*arguments, resume=True, overwrite=False, reporter=Silent())
    with pytest.raises(ConfigError, match="--select budget"):
        value_by_student(*arguments[:3], tmp_path / "third", arguments[4], resume=False, overwrite=False,
                         reporter=Silent())  # fmt: skip


def test_a_resume_with_anything_else_is_refused_and_names_both_values(house, tmp_path):
    out = tmp_path / "out"
    run(house, out)
    with pytest.raises(FingerprintError, match=r"value\.similarity was \"cosine\" and is now \"dot\""):
        run(house, out, settings(house, similarity="dot"), resume=True)
    with pytest.raises(FingerprintError, match=r"value\.k was 64 and is now 128"):
        run(house, out, settings(house, k=128), resume=True)
    write_rows(house / "fewer.jsonl", pool_rows(59))
    with pytest.raises(FingerprintError, match=r"candidates \("):
        run(house, out, candidates="fewer.jsonl", resume=True)
    other = save_tiny(tmp_path / "other", seed=4)
    config = settings(house)
    config.model.source = str(other)
    with pytest.raises(FingerprintError, match=r"model \("):
        run(house, out, config, resume=True)


def test_matching_chooses_the_rows_whose_gradients_agree_best_in_sum(house, tmp_path):
    def agreement(uses):
        run(house, tmp_path / "out", uses={"select": "top:8", **uses}, resume=(tmp_path / "out").exists())
        chosen = load_rows(tmp_path / "out" / "selected.jsonl")
        loaded = load_model(house / "model", device="cpu")
        teacher = LinFiK(loaded.model, RapidGrad(4096, seed=9))  # not the sketch that the choice was made in
        template = Template.resolve("plain", loaded.tokenizer)
        tokens = [
            tokenize_rows(rows, loaded.tokenizer, template, 64) for rows in (load_rows(house / "task.jsonl"), chosen)
        ]
        gradients, along = teacher.fit(tokens[0], 0).gradients(tokens[1], 0)
        return along.sum() / np.linalg.norm(gradients.sum(axis=0))

    assert agreement({"diversity": "matching"}) > agreement({})


def test_matching_leaves_out_what_the_model_cannot_read_and_says_so(house, tmp_path):
    rows = pool_rows(60)
    rows[7]["prompt"] = "a </s> b"
    write_rows(house / "odd.jsonl", rows)
    noted = Noted()
    config = settings(house, {"kind": "ridge", "sample": "25"})
    files = ValueFiles(task=house / "task.jsonl", candidates=house / "odd.jsonl")
    uses = Uses(select="top:100%", diversity="matching")
    config.data.on_bad_row = "skip"
    value(config, files, tmp_path / "out", uses, resume=False, overwrite=False, reporter=noted)
    chosen = {row["id"] for row in lines(tmp_path / "out" / "selected.jsonl")}
    assert chosen == {row["id"] for row in rows} - {"r7"}
    assert [note for note in noted.notes if "odd.jsonl:8" in note]


def test_checkpoints_and_the_adam_aware_form_change_the_values(house, tmp_path):
    plain = run(house, tmp_path / "plain")["summary"]["mean"]
    other = save_tiny(tmp_path / "other", seed=4)
    averaged = run(house, tmp_path / "two", checkpoints=[other])["summary"]["mean"]
    alone = settings(house)
    alone.model.source = str(other)
    second = run(house, tmp_path / "second", alone)["summary"]["mean"]
    assert averaged == pytest.approx((plain + second) / 2, abs=1e-6)
    adam = run(house, tmp_path / "adam", settings(house, optimizer="adam"))
    assert adam["summary"]["mean"] != pytest.approx(plain, abs=1e-6)
    assert (tmp_path / "adam" / "preconditioner" / "preconditioner.json").exists()


def test_bad_rows_are_named_by_line_before_the_work_or_left_out_everywhere(house, tmp_path):
    rows = [json.dumps(row) for row in pool_rows(12)]
    rows[3] = json.dumps({"id": "bos", "prompt": "a </s> b", "response": "c"})
    rows[7] = "not json"
    (house / "bad.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(InputError, match=r"(?s)2 of 12 rows.*bad\.jsonl:4: .*</s>.*bad\.jsonl:8: not JSON"):
        run(house, tmp_path / "out", candidates="bad.jsonl")
    assert not (tmp_path / "out").exists()
    config = settings(house)
    config.data.on_bad_row = "skip"
    found = run(house, tmp_path / "out", config, {"by": "provider"}, candidates="bad.jsonl")
    assert found["rows"] == 10
    assert [line["line"] for line in lines(tmp_path / "out" / "values.jsonl")] == [1, 2, 3, 5, 6, 7, 9, 10, 11, 12]
    assert [row["line"] for row in lines(tmp_path / "out" / "rows_skipped.jsonl")] == [4, 8]


@pytest.mark.parametrize(
    ("config", "uses", "kind", "message"),
    [
        ({}, {"by": "colour"}, InputError, "no column 'colour'. It has: id, prompt, response, provider"),
        ({}, {"select": "best"}, ConfigError, "--select best"),
        ({}, {"diversity": "mmr"}, ConfigError, "--diversity"),
        ({}, {"select": "threshold:0", "diversity": "mmr"}, ConfigError, "--diversity"),
        ({}, {"format": "xls"}, ConfigError, "--format xls"),
        ({"kind": "forest"}, {}, ConfigError, "--student forest"),
        ({"kind": "ridge", "sample": "70"}, {}, ConfigError, "70 of 60 rows"),
        ({"kind": "ridge", "sample": "10"}, {}, InputError, "a student needs 20"),
    ],
)
def test_bad_wishes_are_named(house, tmp_path, config, uses, kind, message):
    with pytest.raises(kind, match=message):
        run(house, tmp_path / "out", settings(house, config), uses)
    assert not (tmp_path / "out").exists()
