"""A directory of results belongs to one process at a time, is never stuck, and a kill at any place only delays it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import time
from pathlib import Path

import pytest

from killing import FORK, killed, places
from rapidun.errors import InputError, OutputError
from rapidun.files import SHARED_FILES, disk_error, write_json
from rapidun.jsonl import write_jsonl
from rapidun.lifecycle import RunDirectory, check_free, held
from rapidun.sealed import altered, read_sealed, write_sealed
from rapidun.together import replaced_together

SAME = {"model": "abc"}


def claim(path: Path, *, resume: bool = False, overwrite: bool = False) -> RunDirectory:
    return RunDirectory.claim(path, SAME, resume=resume, overwrite=overwrite)


def some_run(path: Path) -> None:
    with claim(path) as run:
        write_jsonl(run / "rows.jsonl", [{"a": 1}])
        (run / "deep").mkdir()
        write_json(run / "deep" / "b.json", {})
        run.mark({"name": "first"})


def hold(path: Path, told: object) -> None:
    """A child that claims and stays."""
    with claim(path):
        told.send("mine")  # type: ignore[attr-defined]
        time.sleep(600)


@pytest.fixture
def holder(tmp_path: Path):
    """A process at work in ``run``."""
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=hold, args=(tmp_path / "run", theirs))
    child.start()
    assert ours.recv() == "mine"
    yield child
    child.kill()
    child.join()


@pytest.mark.parametrize("how", ["plain", "resume", "overwrite"])
def test_a_second_process_is_told_who_is_at_work_and_since_when(holder, tmp_path: Path, how: str) -> None:
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    said = rf"in use by process {holder.pid} on {socket.gethostname()} since 20\d\d-\d\d-\d\dT"
    ways = {name: name == how for name in ("resume", "overwrite")}
    if how != "plain":
        with pytest.raises(OutputError, match=said):
            RunDirectory.check(tmp_path / "run", **ways)  # before anything is read
        with pytest.raises(OutputError, match=said):
            claim(tmp_path / "run", **ways)
    with pytest.raises(OutputError, match=said), held(tmp_path / "run", resumable=False):
        pass
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_dead_ones_lock_is_taken_over(holder, tmp_path: Path) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert (tmp_path / "run" / ".lock").exists()
    check_free(tmp_path / "run")
    with claim(tmp_path / "run", resume=True):
        pass
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_directory_is_free_again_when_its_work_ends_well_or_not(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), claim(tmp_path / "run"):
        raise RuntimeError
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["identity.json"]
    assert killed(lambda: claim(tmp_path / "run", resume=True), tmp_path, -1) is not None


@pytest.mark.parametrize("how", ["plain", "resume", "overwrite"])
@pytest.mark.parametrize("left", [".identity.json.4711.part", ".adapter.part/", ".lock", ".adapter.gone/"])
def test_what_a_kill_leaves_before_the_identity_never_gets_a_directory_stuck(
    tmp_path: Path, how: str, left: str
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if left.endswith("/"):
        (run / left).mkdir()
        (run / left / "half").write_text("{")
    else:
        (run / left).write_text("{")
    ways = {name: name == how for name in ("resume", "overwrite")}
    RunDirectory.check(run, **ways)
    with claim(run, **ways):
        assert sorted(path.name for path in run.iterdir()) == [".lock", "identity.json"]
    assert [path.name for path in run.iterdir()] == ["identity.json"]


def test_leftovers_below_a_run_go_when_it_is_claimed_and_what_was_moved_aside_comes_back(tmp_path: Path) -> None:
    run = tmp_path / "run"
    some_run(run)
    for name in (".log.jsonl.1.part", "deep/.b.json.99.part", "deep/.lock"):
        (run / name).write_text("half")
    for name in (".adapter.part", "deep/.model.gone", ".adapter.old"):
        (run / name).mkdir()
        (run / name / "file").write_text(name)
    with claim(run, resume=True):
        assert (run / "adapter" / "file").read_text() == ".adapter.old"
        hidden = [path.name for path in run.rglob(".*")]
        assert hidden == [".lock"]
    assert not list(run.rglob(".*"))


def test_killed_anywhere_while_it_is_replaced_a_run_can_be_replaced_or_resumed(tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "kept"
    some_run(kept)

    def overwrite() -> None:
        with claim(run, overwrite=True) as directory:
            write_jsonl(directory / "rows.jsonl", [{"a": 2}])

    def fresh() -> None:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(kept, run)

    fresh()
    for number, place in enumerate(places(overwrite, run, 99, seed=0)):
        fresh()
        assert killed(overwrite, run, place) is None
        ways = ("resume", "overwrite")[number % 2]
        with claim(run, resume=ways == "resume", overwrite=ways == "overwrite") as directory:
            whole = directory.done("first")  # either nothing was removed yet, or all of it is
            assert {path.name for path in run.iterdir()} >= ({"rows.jsonl", "deep"} if whole else set())
            assert whole or not (run / "deep").exists()


def state_of(place: Path) -> tuple[str | None, str | None]:
    one, other = place / "one.json", place / "adapter" / "weights"
    return (one.read_text() if one.exists() else None, other.read_text() if other.exists() else None)


def put(place: Path, one: str | None, other: str | None) -> None:
    with replaced_together(place, ("one.json", "adapter")) as new:
        if one is not None:
            (new / "one.json").write_text(one)
        if other is not None:
            (new / "adapter").mkdir()
            (new / "adapter" / "weights").write_text(other)


@pytest.mark.parametrize("older", ["state", "plain", "copied"])
@pytest.mark.parametrize("after", ["2", None])
def test_what_is_replaced_together_agrees_wherever_a_kill_comes(tmp_path: Path, older: str, after: str | None) -> None:
    place, kept = tmp_path / "place", tmp_path / "kept"
    kept.mkdir()
    if older == "plain":  # as earlier versions left it
        (kept / "adapter").mkdir()
        (kept / "one.json").write_text("1")
        (kept / "adapter" / "weights").write_text("1")
    else:
        put(kept, "1", "1")

    def fresh() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(kept, place, symlinks=older == "state")

    fresh()
    found = set()
    for number in places(lambda: put(place, "2", after), place, 99, seed=0):
        fresh()
        assert killed(lambda: put(place, "2", after), place, number) is None
        found.add(state_of(place))
        with held(place, resumable=False):
            pass
        put(place, "3", None)
        assert state_of(place) == ("3", None)
        assert sorted(path.name for path in place.iterdir()) == [".states", "one.json"]
        assert len(list((place / ".states").iterdir())) == 2
    moving = {("1", None)} if older != "state" else set()  # a directory becomes a link, once
    assert {("1", "1"), ("2", after)} <= found <= {("1", "1"), ("2", after)} | moving


def test_files_are_their_owners_alone_unless_a_setting_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = os.umask(0o022)
    try:
        write_jsonl(tmp_path / "rows.jsonl", [{"a": 1}])
        assert stat.S_IMODE((tmp_path / "rows.jsonl").stat().st_mode) == 0o600
        monkeypatch.setenv(SHARED_FILES, "1")
        write_jsonl(tmp_path / "rows.jsonl", [{"a": 1}])
        assert stat.S_IMODE((tmp_path / "rows.jsonl").stat().st_mode) == 0o644
    finally:
        os.umask(old)


def test_a_full_disk_names_resume_only_where_there_is_one(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device")
    assert "--" not in str(disk_error(full, tmp_path))
    with pytest.raises(OutputError, match=r"the disk is full\..* with --resume\."), claim(tmp_path / "run"):
        raise disk_error(full, tmp_path)
    once = RunDirectory.claim(tmp_path / "once", SAME, resume=False, overwrite=False, resumable=False)
    with pytest.raises(OutputError, match=r"run the same command again\."), once:
        raise disk_error(full, tmp_path)
    taken = {"resume": False, "overwrite": False, "resumable": False}
    with pytest.raises(OutputError, match=r"not empty\. Replace it by --overwrite, or choose another place\."):
        RunDirectory.check(tmp_path / "once", **taken)


def test_a_sealed_file_knows_every_changed_byte(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_sealed(path, {"a": "0" * 64, "b": [1, 2]})
    assert read_sealed(path) == ({"a": "0" * 64, "b": [1, 2]}, True)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert read_sealed(path)[1] is not True
        except InputError as error:
            assert str(path) in str(error)
    assert str(path) in str(altered(path))
