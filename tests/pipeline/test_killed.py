"""Every verb with a run directory, killed at random changes of it, resumes to what an unbroken run gives."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from killing import killed, places
from pipeline.test_ledger import make_requests
from pipeline.test_run import make_run_config
from pipeline.test_valuing import pool_rows
from rapidun.errors import FingerprintError, OutputError
from rapidun.pipeline import Silent, make_config, run, unlearn_only
from rapidun.pipeline.ledger import unlearn_requests
from rapidun.pipeline.valuing import value
from rapidun.settings.value import Uses, ValueConfig, ValueFiles
from tiny import tiny_rows, write_rows

Verb = Callable[[Path, Path, bool], object]
TRAINING = {"steps": 6, "learning_rate": 1e-2, "retain_budget": 50.0, "checkpoint_every": 2, "check_every": 2}


@cache
def config_of(house: Path, scheme: str = "influence") -> Any:
    """Writes model and rows when it is asked for the first time, so that no kill comes while they are written."""
    return make_run_config(house, weights={"scheme": scheme}, unlearning=TRAINING)


def unlearn(house: Path, out: Path, resume: bool) -> object:
    how = {"resume": resume, "overwrite": False, "reporter": Silent()}
    return unlearn_only(config_of(house), out, weights=None, **how)


def whole_run(house: Path, out: Path, resume: bool) -> object:
    return run(config_of(house), out, resume=resume)


def requests(house: Path, out: Path, resume: bool) -> object:
    asked = sorted((house / "requests").iterdir())
    return unlearn_requests(
        config_of(house, "uniform"), asked, out, resume=resume, overwrite=False, reporter=Silent()
    )  # fmt: skip


def values(house: Path, out: Path, resume: bool) -> object:
    raw = {
        "model": {"source": str(house / "model"), "device": "cpu"},
        "data": {"template": "plain", "max_length": 64},
        "value": {"k": 64, "part_rows": 5},
    }
    files = ValueFiles(task=house / "validation.jsonl", candidates=house / "candidates.jsonl")
    uses = Uses(select="top:20%")
    config = make_config(raw, ValueConfig)
    return value(config, files, out, uses, resume=resume, overwrite=False, reporter=Silent())


VERBS: dict[str, tuple[Verb, tuple[str, ...]]] = {
    "unlearn": (unlearn, ("adapter/adapter_model.safetensors", "weights.jsonl")),
    "run": (whole_run, ("adapter/adapter_model.safetensors", "weights.jsonl", "samples.jsonl", "trace.jsonl")),
    "requests": (requests, ("adapter/adapter_model.safetensors", "requests/002-b/adapter/adapter_model.safetensors")),
    "value": (values, ("values.jsonl", "selected.jsonl")),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    make_run_config(folder)
    make_requests(folder)
    write_rows(folder / "candidates.jsonl", pool_rows(20))
    return folder


def logged(out: Path) -> dict[Path, bytes]:
    """Every training log: a line's means are over the same steps, wherever a kill came in between."""
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("log.jsonl")}


def left_over(out: Path) -> list[Path]:
    """What no finished run holds: half-written files, locks, checkpoints, states that are not the present one."""
    hidden = [path for path in out.rglob(".*") if path.name != ".states"]
    return [*hidden, *out.rglob("checkpoint*"), *list(out.rglob(".states/[0-9]*"))[1:]]


def kill_and_resume(verb: str, house: Path, tmp_path: Path, count: int, seed: int) -> None:
    work, files = VERBS[verb]
    whole, out = tmp_path / "whole", tmp_path / "out"
    work(house, whole, False)
    assert not left_over(whole)
    for place in places(lambda: work(house, out, False), out, count, seed):
        shutil.rmtree(out, ignore_errors=True)
        assert killed(lambda: work(house, out, False), out, place) is None
        again = killed(lambda: work(house, out, True), out, place // 2 + 1)  # and once more while it is resumed
        work(house, out, True)
        for name in files:
            assert (out / name).read_bytes() == (whole / name).read_bytes(), (place, again, name)
        assert logged(out) == logged(whole), place
        assert not left_over(out), place


@pytest.mark.parametrize("verb", ["unlearn", "value"])
def test_killed_twice_a_verb_ends_with_the_bytes_of_an_unbroken_run(verb: str, house: Path, tmp_path: Path) -> None:
    kill_and_resume(verb, house, tmp_path, 2, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_forty_places_a_verb_ends_with_the_bytes_of_an_unbroken_run(
    verb: str, house: Path, tmp_path: Path
) -> None:
    kill_and_resume(verb, house, tmp_path, 40, seed=1)


@pytest.mark.parametrize(
    ("group", "column", "now"),
    [
        ("forget", "response_clean", "another answer that is preferred"),
        ("retain", "response", "the dog number 3 sat"),
        ("forget", "context", "what is known"),
    ],
)
def test_a_resume_after_any_field_of_a_row_was_edited_is_refused_and_names_the_file(
    group: str, column: str, now: str, house: Path, tmp_path: Path
) -> None:
    place, out = tmp_path / "house", tmp_path / "out"
    shutil.copytree(house, place)
    unlearn(place, out, False)
    rows = tiny_rows(group, {"forget": 8, "retain": 12}[group])
    rows[3][column] = now
    config = config_of(place)
    write_rows(place / f"{group}.jsonl", rows)
    how = {"resume": True, "overwrite": False, "reporter": Silent()}
    with pytest.raises(FingerprintError, match=rf"cannot resume: rows {group} \(.*{group}\.jsonl\) was"):
        unlearn_only(config, out, weights=None, **how)


def test_a_resume_with_other_weights_is_refused(house: Path, tmp_path: Path) -> None:
    unlearn(house, tmp_path / "first", False)
    given = shutil.copyfile(tmp_path / "first" / "weights.jsonl", tmp_path / "weights.jsonl")
    how = {"overwrite": False, "reporter": Silent()}
    unlearn_only(config_of(house), tmp_path / "out", weights=given, resume=False, **how)
    given.write_text(given.read_text().replace('"prompt": "hey', '"prompt": "hay', 1))
    with pytest.raises(FingerprintError, match="cannot resume: weights was"):
        unlearn_only(config_of(house), tmp_path / "out", weights=given, resume=True, **how)


def test_every_file_with_rows_of_a_run_is_its_owners_alone(house: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole_run(house, out, False)
    for path in out.rglob("*"):
        if path.is_file() and path.parent.name != "adapter":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert (out / "report.html").is_file()


def test_a_finished_training_is_not_done_again(house: Path, tmp_path: Path) -> None:
    first = unlearn(house, tmp_path / "out", False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "adapter").iterdir()}
    assert unlearn(house, tmp_path / "out", True) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "adapter").iterdir()} == before
    with pytest.raises(OutputError, match="--resume"):
        unlearn(house, tmp_path / "out", False)
