"""Directories of results, models and indexes with one damaged file: used, or refused in one message of ours.

Each is made once by the verb that makes it; then one of its files is damaged and the directory is used as users do: it
is loaded, searched, reported on, undone, resumed. `benchmarks/fuzz.py` does it many times over.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from data.test_fuzzed_files import _check, _write
from fuzz import Case, copied, damage_one, damaged_bytes, damaged_value, refusals
from index.cases import gradient_scorer, model_context, some_plan, some_rows
from killing import killed
from pipeline import test_killed, test_tuning, test_valuing
from pipeline.test_reveal_run import TASK, make_house, make_reveal
from pipeline.test_run import make_run_config
from rapidun.attribution import HiddenScorer, LexicalScorer, TraceQuery, fused_hits, rankings
from rapidun.attribution.scorers.gradient import Precondition
from rapidun.attribution.store import build_index, open_index, plan_append
from rapidun.attribution.store.verify import verify
from rapidun.data import Template, load_rows, tokenize_rows
from rapidun.models import load_model
from rapidun.pipeline import RevealConfig, make_config, read_task, reveal, run, undo
from rapidun.pipeline.attacking import attack_run
from rapidun.pipeline.ledger import undo as undo_request
from rapidun.report import write_report
from rapidun.settings.attack import AttackConfig
from rapidun.settings.plugins import load_plugin
from rapidun.statement.attest import attest
from rapidun.statement.verify import verify as verify_statement
from rapidun.yaml_files import parse_yaml
from registers import registers_kept
from report.make_run import make_run
from report.make_valuation import make_valuation
from statement.conftest import REQUEST
from tiny import save_tiny, write_rows

CASES: dict[str, Case] = {}
HEAVY: dict[str, Case] = {}
"""Those that take a second or more; only by ``make test-slow`` and `benchmarks/fuzz.py`."""


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def heavy(function: Case) -> Case:
    HEAVY[function.__name__] = function
    return function


@case
def rows(draw: random.Random, place: Path) -> None:
    folder = place / "rows"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = _write(folder, draw)
    _check(path, draw)
    load_rows(path)


@case
def model(draw: random.Random, place: Path) -> None:
    folder = copied(place, "model", save_tiny)
    damage_one(folder, draw)
    loaded = load_model(folder, device="cpu")
    template = Template.resolve("auto", loaded.tokenizer)
    some = write_rows(place / "of_model.jsonl", [{"prompt": "the cat", "response": "sat"}])
    tokenize_rows(load_rows(some), loaded.tokenizer, template, 32)


@case
def task(draw: random.Random, place: Path) -> None:
    raw = parse_yaml(TASK, "task")
    (place / "task.yaml").write_text(
        json.dumps(damaged_value(raw, draw), ensure_ascii=True), encoding="utf-8", errors="surrogatepass"
    )
    if draw.random() < 0.3:
        (place / "task.yaml").write_bytes(damaged_bytes(TASK.encode(), draw))
    make_config({"model": {"source": "m"}, "task": read_task(place / "task.yaml")}, RevealConfig)


PLUGIN = b"""from rapidun.evaluation import register_judge
from rapidun.evaluation.task_judges import each_answer

@register_judge("shouting NUMBER")
def shouting(share: float = 0.5):
    return each_answer(lambda answer, reference: float(answer.isupper()))
"""


@case
def plugin(draw: random.Random, place: Path) -> None:
    path = place / "plugin.py"
    path.write_bytes(damaged_bytes(PLUGIN.replace(b"NUMBER", draw.randbytes(6).hex().encode()), draw))
    with registers_kept():
        load_plugin(path)


def make_index(folder: Path) -> None:
    scorers = {
        "gradient": gradient_scorer(precondition=Precondition(kind="kfac", rows=6)),
        "hidden": HiddenScorer(layers=[-1]),
        "lexical": LexicalScorer(),
    }
    build_index(some_plan(folder.parent, 7, out=folder.name, views=scorers, shard_rows=3))


@case
def index(draw: random.Random, place: Path) -> None:
    folder = copied(place, "index", make_index)
    damage_one(folder, draw)
    verify(folder)
    found, context = open_index(folder), model_context()
    asked = some_rows(place, 1, name="asked")
    examples = tokenize_rows(asked, context.loaded.tokenizer, context.template, 96)
    ranked = rankings(found, context, TraceQuery(list(asked), examples), ["gradient", "answer", "lexical"])
    for hits in fused_hits(found, ranked, 2):
        found.rows([hit.position for hit in hits.helpful])


def append(folder: Path) -> None:
    more = some_rows(folder.parent, 6, name="more", start=7)
    resume = (folder / ".building" / "plan.json").exists()
    build_index(plan_append(folder, more, model_context()), resume=resume)


def make_half_appended(folder: Path) -> None:
    """Killed again and again, until it leaves a plan and a whole shard."""
    build_index(some_plan(folder.parent, 7, out=folder.name, shard_rows=3))
    for change in range(1, 99):
        killed(lambda: append(folder), folder, change)
        if list(folder.glob(".building/0*.json")):
            return


@heavy
def index_append(draw: random.Random, place: Path) -> None:
    folder = copied(place, "half", make_half_appended)
    damage_one(folder, draw)
    append(folder)


@case
def report(draw: random.Random, place: Path) -> None:
    folder = copied(place, "run", make_run)
    damage_one(folder, draw)
    write_report(folder)


@case
def report_of_values(draw: random.Random, place: Path) -> None:
    folder = copied(place, "valuation", make_valuation)
    damage_one(folder, draw)
    write_report(folder)


@heavy
def reveal_undo(draw: random.Random, place: Path) -> None:
    def finished(folder: Path) -> None:
        reveal(make_reveal(make_house(folder.parent / "reveal house")), folder)

    folder = copied(place, "revealed", finished)
    damage_one(folder, draw)
    if draw.random() < 0.5:
        write_report(folder)
    undo(folder, draw.choice([0, 1]))


def stopped(work: test_killed.Verb, house: Path, out: Path, sign: str) -> None:
    """Killed as late as the last change before ``sign`` is there is over."""
    for change in range(5, 999, 5):
        shutil.rmtree(out, ignore_errors=True)
        if killed(lambda: work(house, out, False), out, change) is not None:
            raise AssertionError(f"never found {sign}")
        if list(out.glob(sign)):
            return


@heavy
def resumed_training(draw: random.Random, place: Path) -> None:
    house = place.parent / "run house"
    if not house.exists():
        house.mkdir()
        test_killed.config_of(house)
    folder = copied(
        place, "training", lambda path: stopped(test_killed.unlearn, house, path, "checkpoints/*-4/trainer_state.json")
    )
    damage_one(folder, draw)
    test_killed.unlearn(house, folder, True)


@heavy
def resumed_value(draw: random.Random, place: Path) -> None:
    house = place.parent / "value house"
    if not house.exists():
        save_tiny(house / "model")
        write_rows(house / "validation.jsonl", [{"prompt": "say", "response": "the cat sat"}] * 4)
        write_rows(house / "candidates.jsonl", test_valuing.pool_rows(12))
    folder = copied(place, "values", lambda path: test_killed.values(house, path, False))
    damage_one(folder, draw)
    test_killed.values(house, folder, True)


@heavy
def resumed_tuning(draw: random.Random, place: Path) -> None:
    house = place.parent / "tuning house"
    if not house.exists():
        house.mkdir()
    config, tuning = test_tuning.make_tuning(house)
    folder = copied(place, "tuned", lambda path: test_tuning.tuned(config, tuning, path, trials=1))
    (folder / "trials.jsonl").write_bytes(damaged_trials((folder / "trials.jsonl").read_bytes(), draw))
    test_tuning.tuned(config, tuning, folder, trials=2, resume=True)


def damaged_trials(content: bytes, draw: random.Random) -> bytes:
    return json.dumps(damaged_value(json.loads(content), draw)).encode() + b"\n"


@heavy
def requests_undo(draw: random.Random, place: Path) -> None:
    house = place.parent / "requests house"

    def finished(folder: Path) -> None:
        house.mkdir()
        test_killed.config_of(house, "uniform")
        test_killed.make_requests(house)
        test_killed.requests(house, folder, False)

    folder = copied(place, "ledger", finished)
    damage_one(folder, draw)
    undo_request(folder, draw.choice([1, 2]))


def attacked(folder: Path, *, resume: bool) -> None:
    config = make_config({"attacks": ["as_is", "quantise"], "preset": "quick"}, AttackConfig)
    attack_run(config, folder, resume=resume)


@heavy
def resumed_attack(draw: random.Random, place: Path) -> None:
    def finished(folder: Path) -> None:
        house = place.parent / "attacked house"
        house.mkdir()
        run(make_run_config(house, weights={"scheme": "uniform"}), folder)
        attacked(folder, resume=False)

    folder = copied(place, "attacked", finished)
    damage_one(folder / draw.choice(["attacks", ""]), draw)
    attacked(folder, resume=True)


@heavy
def attested_run(draw: random.Random, place: Path) -> None:
    def finished(folder: Path) -> None:
        house = place.parent / "attested house"
        house.mkdir()
        run(make_run_config(house, weights={"scheme": "uniform"}), folder)
        attest(folder, REQUEST, key=None)

    folder = copied(place, "attested", finished)
    damage_one(folder, draw)
    if draw.random() < 0.5:
        attest(folder, REQUEST, key=None, overwrite=True)
    list(verify_statement(folder / "statement" / "statement.json", run=folder))


@pytest.fixture(autouse=True)
def _alone() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_directory_is_used_or_refused_in_a_message(name: str, tmp_path: Path) -> None:
    refusals(CASES[name], range(10), tmp_path / "files")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*CASES, *HEAVY])
def test_a_hundred_damaged_directories_are_used_or_refused_in_a_message(name: str, tmp_path: Path) -> None:
    assert refusals({**CASES, **HEAVY}[name], range(10, 110), tmp_path / "files") > 10
