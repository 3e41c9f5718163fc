"""Files that came from elsewhere, damaged in every way: read, or refused in one message of ours, never a traceback.

A few of each kind in every run of the tests; ten thousand by ``make test-slow``.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import yaml

from experiments.cells import CellStore
from fuzz import NAUGHTY, Case, copied, damage_one, damaged_bytes, damaged_json, damaged_table, damaged_value, refusals
from rapidun.attribution import Blocks
from rapidun.attribution.checkpoints import at_checkpoint
from rapidun.cli.console import parse_pairs
from rapidun.cli.options import make_settings
from rapidun.data import Template
from rapidun.errors import RapidunError
from rapidun.evaluation.qa_table import read_ids, read_rows
from rapidun.evaluation.row_table import write_table
from rapidun.gradients import Preconditioner, load_preconditioner
from rapidun.lifecycle import RunDirectory
from rapidun.models.adapters import combine_adapters
from rapidun.models.fingerprints import adapter_fingerprint
from rapidun.models.lora import attach_lora, load_adapter, save_adapter
from rapidun.pipeline.ledger import Entry, describe, read_ledger, request_files, summary
from rapidun.report.run_files import read_run
from rapidun.revealing import read_pulls
from rapidun.settings.run import RunConfig, load_config
from rapidun.statement.exclusion import Exclusion
from rapidun.statement.keys import new_key, read_private, read_public
from rapidun.statement.verify import verify
from rapidun.valuation import parts
from rapidun.valuation.distil import distil
from rapidun.valuation.saved import load_student, save_student
from rapidun.weighting import read_rapidin, read_weights
from tiny import tiny_model, tiny_tokenizer
from valuation.test_kernel_student import labelled

CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@case
def ledger(draw: random.Random, place: Path) -> None:
    entries = [
        Entry(n, f"name {n}", 3, "0" * 64, f"requests/00{n}-a", 1.0, 2.0, 1.01, None, 3.0, active=n > 1)
        for n in (1, 2, 3)
    ]
    written = damaged_json({"requests": [asdict(entry) for entry in entries]}, draw)
    (place / "ledger.json").write_bytes(written)
    found = read_ledger(place)
    for entry in found:
        describe(entry)
        assert (place / entry.directory).resolve().is_relative_to(place.resolve())
    json.dumps(summary(found), allow_nan=False)


@case
def requests(draw: random.Random, place: Path) -> None:
    (place / "list.txt").write_bytes(damaged_bytes(b"a.jsonl\n# one\nb.jsonl\n", draw))
    for name in "ab":
        (place / f"{name}.jsonl").write_text("{}\n")
    request_files(place / "list.txt")


MANIFEST: dict[str, Any] = {
    "format": "rapidun-index", "version": 1, "model": "m", "template": "plain", "max_length": 64, "max_tokens": 512,
    "fingerprints": dict.fromkeys(("model", "adapter", "tokenizer", "template", "data"), "0" * 64),
    "views": {"hidden": {"layers": [1, 2], "dtype": "float16"}, "lexical": {}},
    "matrices": {"hidden.1.answer": {"width": 16, "dtype": "float16"}},
    "shard_rows": 2, "rows": 3,
    "shards": [
        {"number": n, "first": 2 * n, "rows": 2 - n,
         "files": [{"name": f"shards/0000{n}.safetensors", "bytes": 10, "sha256": "0" * 64}]} for n in (0, 1)
    ],
    "files": [{"name": "hidden_stats.safetensors", "bytes": 10, "sha256": "0" * 64}],
}  # fmt: skip


@case
def manifest(draw: random.Random, place: Path) -> None:
    from rapidun.attribution.store import open_index
    from rapidun.attribution.store.verify import verify as verify_index
    from rapidun.pipeline.indexing import describe as describe_index

    (place / "manifest.json").write_bytes(damaged_json(MANIFEST, draw))
    (place / "shards").mkdir(exist_ok=True)
    for number in (0, 1):
        rows = 2 - number
        tensors = {"hidden.1.answer": np.zeros((rows, 16), np.float16)}
        tensors |= {f"hidden.1.answer.{part}": np.ones(rows, np.float32) for part in ("scale", "norm")}
        whole = safetensors.numpy.save(tensors)
        shard = damaged_bytes(whole, draw) if draw.random() < 0.3 else whole
        (place / f"shards/0000{number}.safetensors").write_bytes(shard)
    index = open_index(place)
    describe_index(index)
    verify_index(place)
    for name in index.matrices:
        index.features(name)


def tiny_adapter(place: Path) -> Path:
    return save_adapter(attach_lora(tiny_model(), rank=2, targets=["q_proj", "v_proj"]), place)


@case
def adapter(draw: random.Random, place: Path) -> None:
    folder, whole = copied(place, "adapter", tiny_adapter), place.parent / "adapter"
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if draw.random() < 0.7:
        config.write_bytes(damaged_json(json.loads(config.read_text()), draw))
    else:
        weights.write_bytes(damaged_bytes(weights.read_bytes(), draw))
    refused = None
    for use in (
        lambda: adapter_fingerprint(folder),
        lambda: combine_adapters([whole, folder], place / "sum"),
        lambda: load_adapter(tiny_model(), folder),
    ):
        try:
            use()
        except RapidunError as error:
            refused = error
    if refused is not None:
        raise refused


KEYS = (
    "lora.rank",
    "data.columns.prompt",
    "index.k",
    "model",
    "a.b.c",
    "unlearning.options",
    "evaluation.triggers",
    "..",
)
VALUES = (
    "[", "{", "]", "&a [*a]", "*a", "!!python/object:os.system x", "!!int x", "2020-13-45", "0x", "1:99:99", "<<: x",
    "{<<: [1]}", "? [a]: b", "!!binary x", "!!set {a", "- a\n- b", "'", "\0", "1" * 5000, "[" * 3000, "~", "1e400",
    "!!timestamp 0000-00-00", "!!float x", "!!bool x", "!!pairs [a]", "!!omap [a]", ".inf", "%TAG", "---\n...\n---",
)  # fmt: skip


@case
def set_option(draw: random.Random, place: Path) -> None:
    value = draw.choice([*VALUES, *NAUGHTY]) if draw.random() < 0.6 else str(draw.choice(VALUES)) * draw.randrange(1, 4)
    pair = f"{draw.choice([*KEYS, *NAUGHTY])}={value}"
    raw = {"model": {"source": "m"}, "data": {"forget": "f", "retain": "r"}}
    parse_pairs([pair], "--set")
    parse_pairs([pair], "--template-option")
    make_settings(raw, RunConfig, [pair])


RUN: dict[str, Any] = {
    "model": {"source": "m", "device": "cpu"}, "seed": 1,
    "data": {"forget": "f.jsonl", "retain": "r.jsonl", "columns": {"id": "n"}}, "weights": {"scheme": "uniform"},
    "influence": {"targets": ["q"], "checkpoints": ["a"]}, "lora": {"rank": 2, "targets": ["q_proj"]},
    "unlearning": {"method": "npo", "options": {"beta": 0.1}, "learning_rate": "auto"},
    "evaluation": {"triggers": [{"name": "a", "position": "prefix", "seen": ["x"], "unseen": []}]},
}  # fmt: skip


@case
def yaml_settings(draw: random.Random, place: Path) -> None:
    value = damaged_value(RUN, draw) if draw.random() < 0.6 else RUN
    try:
        text = yaml.safe_dump(value, allow_unicode=True)
    except (yaml.YAMLError, RecursionError):
        text = json.dumps(value)
    if draw.random() < 0.4:
        lines = text.split("\n")
        lines.insert(draw.randrange(len(lines)), f"  {draw.choice(VALUES)}")
        text = "\n".join(lines)
    content = text.encode("utf-8", "surrogatepass")
    (place / "run.yaml").write_bytes(damaged_bytes(content, draw) if draw.random() < 0.4 else content)
    load_config(place / "run.yaml")


@case
def weights(draw: random.Random, place: Path) -> None:
    rows = [{"id": "a", "group": "forget", "index": 0, "score": 0.1, "weight": 1.0, "moved": True}]
    rows.append({"id": "b", "group": "retain", "index": 0, "score": 0.1, "weight": 1.0, "prompt": "p", "response": "r"})
    (place / "weights.jsonl").write_bytes(b"\n".join(damaged_json(row, draw) for row in rows) + b"\n")
    read_weights(place / "weights.jsonl")


@case
def pulls(draw: random.Random, place: Path) -> None:
    arm = {"name": "a", "kind": "soft", "instruction": "i", "point": [0.1, 0.2]}
    pull = {"arm": arm, "repeat": 0, "stage": "search", "inputs": [None], "prompts": ["p"], "references": [None],
            "answers": ["a\u2028b"], "scores": [0.5], "relevance": 0.5, "diversity": 1.0, "reward": 0.5}  # fmt: skip
    whole = json.dumps(pull).encode()
    (place / "pulls.jsonl").write_bytes(whole + b"\n" + damaged_json(pull, draw) + b"\n" + whole[:20])
    read_pulls(place / "pulls.jsonl")


@case
def cells(draw: random.Random, place: Path) -> None:
    cell = {"key": "k", "arm": "a", "scenario": "s", "seed": 0, "result": {"x": 1.0}, "about": {}, "config": {}}
    (place / "cells.jsonl").write_bytes(damaged_json(cell, draw) + b"\n")
    CellStore(place / "cells.jsonl")


@case
def run_directory(draw: random.Random, place: Path) -> None:
    for name, value in (("identity.json", {"model": "0" * 64}), ("phases.json", [{"name": "weigh", "seconds": 1.0}])):
        (place / name).write_bytes(damaged_json(value, draw))
    (place / "config.yaml").write_bytes(damaged_bytes(b"model:\n  source: m\n", draw))
    marks = {"model": draw.choice("01") * 64}
    RunDirectory.check(place, marks, resume=True, overwrite=False, configuration="model: {source: n}\n")


@case
def run_report(draw: random.Random, place: Path) -> None:
    for name, value in (("manifest.json", {"seed": 0}), ("metrics.json", {"verdict": "PASS", "gate": {"checks": []}})):
        (place / name).write_bytes(damaged_json(value, draw))
    for name in ("samples", "trace", "log"):
        (place / f"{name}.jsonl").write_bytes(damaged_json({"step": 1, "loss": 0.5}, draw) + b"\n")
    (place / "config.yaml").write_bytes(draw.randbytes(9))
    read_run(place)


@case
def blocks(draw: random.Random, place: Path) -> None:
    arrays = {"ff": (2, 2), "fr": (2, 3), "rf": (3, 2), "rr": (3, 3)}
    whole = safetensors.numpy.save({name: np.zeros(shape, np.float32) for name, shape in arrays.items()})
    (place / "blocks.safetensors").write_bytes(damaged_bytes(whole, draw))
    Blocks.load(place / "blocks.safetensors")


@case
def rapidin(draw: random.Random, place: Path) -> None:
    ranked = {"helpful": [0, 1], "helpful_infl": [0.2, 0.1], "harmful": [1], "harmful_infl": [0.1]}
    for suffix in ("FTF", "FTR", "RTF", "RTR"):
        (place / f"influence_results_2_{suffix}.json").write_bytes(damaged_json({"0": ranked, "1": ranked}, draw))
    read_rapidin(place)


@case
def student(draw: random.Random, place: Path) -> None:
    from rapidun.valuation.features import HashedText

    settings = {"buckets": 256, "words": 2, "alpha": 1.0}
    config = {"format": "rapidun-student", "version": 1, "kind": "ridge", "settings": settings, "tasks": ["task"],
              "mean": [0.0], "deviation": [1.0]}  # fmt: skip
    (place / "config.json").write_bytes(damaged_json(config, draw))
    arrays = {"weights": np.zeros((HashedText(256, 2).width, 1), np.float32), "intercept": np.zeros(1, np.float32)}
    (place / "ridge.safetensors").write_bytes(damaged_bytes(safetensors.numpy.save(arrays), draw))
    load_student(place)


def kernel(place: Path) -> None:
    some = labelled(24, len)
    how = {"options": {}, "seed": 0, "progress": lambda done, of: None}
    save_student(place, distil("kernel", some.rows, some.values, np.arange(24), **how), "kernel", ["task"], {})


@case
def kernel_student(draw: random.Random, place: Path) -> None:
    folder = copied(place, "kernel", kernel)
    damage_one(folder, draw)
    load_student(folder).predict(labelled(3, len, seed=2).rows)


@case
def preconditioner(draw: random.Random, place: Path) -> None:
    def fitted(folder: Path) -> None:
        moments = {"a.weight": {"second": torch.rand(4, 3)}, "b.weight": {"second": torch.rand(2, 3)}}
        folder.mkdir()
        Preconditioner("adam", statistics=moments).save(folder)

    folder = copied(place, "preconditioner", fitted)
    damage_one(folder, draw)
    load_preconditioner(folder).transform("query")


@case
def checkpoint(draw: random.Random, place: Path) -> None:
    folder = copied(place, "checkpoint", tiny_adapter)
    damage_one(folder, draw)
    with at_checkpoint(load_adapter(tiny_model(), place.parent / "checkpoint"), folder):
        pass


@case
def qa_table(draw: random.Random, place: Path) -> None:
    def written(folder: Path) -> None:
        numbers = {"truth_ratio": [0.5, 0.25, 1.0], "probability": [0.1, 0.2, 0.3]}
        folder.mkdir()
        write_table(
            folder / "rows.parquet", {"model": ["model"] * 3, "group": list("aab"), "id": list("xyz"), **numbers}
        )

    path = copied(place, "table", written) / "rows.parquet"
    path.write_bytes(damaged_table(path.read_bytes(), draw))
    read_rows(path)
    read_ids(path)


@case
def value_parts(draw: random.Random, place: Path) -> None:
    def scored(folder: Path) -> None:
        rows = [(line, {"id": f"r{line}"}) for line in range(1, 6)]
        parts.write_parts(
            folder, iter(rows), lambda rows: np.ones((len(rows), 2), np.float32), ["a", "b"], part_rows=2, total=5,
            extra=lambda first, rows: {"tokens": [3] * len(rows)},
        )  # fmt: skip

    folder = copied(place, "values", scored)
    damage_one(folder, draw)
    found = sorted(folder.glob("*.parquet"))
    for name in ("value", "value.b", "tokens"):
        parts.read_column(found, name).astype(np.float32)
    for form in ("jsonl", "csv", "parquet"):
        parts.write_values(found, place, form)


STATEMENT = Path(__file__).parent / "statement" / "golden"


@case
def statement(draw: random.Random, place: Path) -> None:
    folder = copied(place, "statement", lambda folder: shutil.copytree(STATEMENT, folder))
    damage_one(folder, draw)
    list(verify(folder / "statement.json", key=read_public(folder / "public.pem")))
    Exclusion.read(folder)


@case
def signing_key(draw: random.Random, place: Path) -> None:
    folder = copied(place, "key", lambda folder: (folder.mkdir(), new_key(folder / "signer.pem")))
    for path in folder.iterdir():
        path.write_bytes(damaged_bytes(path.read_bytes(), draw))
    read_private(folder / "signer.pem")
    read_public(folder / "signer.pem.pub")


PARTS = (
    "{{ prompt }}", "{{ x }}", "{% for i in range(5) %}", "{% endfor %}", "{% if prompt %}", "{% endif %}", "{{ 1/0 }}",
    "{{ prompt.__class__ }}", "{{ 'x' * 9**9 }}", "{{ 'x' * 999999999999 }}", "{% macro f() %}{{ f() }}{% endmacro %}",
    "{{ f() }}", "{{ 9" + "9" * 5000 + " }}", "{{ " + "(" * 300 + "1" + ")" * 300 + " }}", "{{ messages[9].content }}",
    "{{ raise_exception('\x1b[31m') }}", "{% set y = [1] %}", "{{ y.append(1) }}", "{% include 'x' %}",
    "{{ '%d' % 'x' }}",
    "{{ prompt | tojson | replace('a', 'b' * 99) }}", "{# ", "{%", "}}", "\0", "\ud7ff", "{{ lipsum(n=9) }}",
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}",
)  # fmt: skip


@case
def template(draw: random.Random, place: Path) -> None:
    source = "".join(draw.choice(PARTS) for _ in range(draw.randrange(1, 6)))
    row = {"id": "a", "prompt": "hello", "response": "you"}
    if draw.random() < 0.5:
        (place / "t.jinja").write_bytes(
            damaged_bytes(source.encode(), draw) if draw.random() < 0.2 else source.encode()
        )
        Template.resolve(str(place / "t.jinja"), tiny_tokenizer()).full_text(row)
    else:
        Template.resolve("chat", tiny_tokenizer(chat_template=source)).full_text(row)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rapidun.data.rendering.SECONDS", 1.0)


@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_read_or_refused_in_a_message(name: str, tmp_path: Path) -> None:
    assert refusals(CASES[name], range(25), tmp_path / "files") > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_ten_thousand_damaged_files_are_read_or_refused_in_a_message(name: str, tmp_path: Path) -> None:
    seeds = range(25, 25 + -(-10_000 // len(CASES)))
    assert refusals(CASES[name], seeds, tmp_path / "files") > len(seeds) / 10
