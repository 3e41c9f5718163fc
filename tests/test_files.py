"""Directories are replaced whole or not at all, whatever fails and wherever a process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from killing import killed
from rapidun.errors import OutputError
from rapidun.files import atomic_directory, atomic_write, check_replaceable, remove_half_written


def write(place: Path, text: str) -> None:
    with atomic_directory(place) as beside:
        (beside / "content.txt").write_text(text)


def content(place: Path) -> str:
    return (place / "content.txt").read_text()


def test_a_directory_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "adapter"
    write(place, "first")
    (place / "other.txt").write_text("of the first alone")
    write(place, "second")
    assert [path.name for path in place.iterdir()] == ["content.txt"]
    assert content(place) == "second"
    assert [path.name for path in place.parent.iterdir()] == ["adapter"]


def test_an_error_inside_leaves_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "adapter"
    write(place, "first")
    with pytest.raises(RuntimeError, match="half-way"), atomic_directory(place) as beside:
        (beside / "content.txt").write_text("second")
        raise RuntimeError("half-way")
    assert content(place) == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("failing", ["to the side", "into place"])
def test_nothing_is_lost_if_a_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    place = tmp_path / "adapter"
    write(place, "first")
    rename = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if self.name == {"to the side": "adapter", "into place": ".adapter.part"}[failing]:
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OutputError, match=r"adapter: cannot write \(Permission denied\)"):
        write(place, "second")
    assert content(place) == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


KILLED = """
import os, signal, sys
from pathlib import Path
from rapidun.files import atomic_directory

rename = Path.rename

def kill_before(self, target):
    if self.name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)

Path.rename = kill_before
with atomic_directory(Path(sys.argv[1])) as beside:
    (beside / "content.txt").write_text("second")
"""


@pytest.mark.parametrize("before", ["adapter", ".adapter.part"])
def test_a_kill_loses_nothing_and_the_next_write_cleans_up(tmp_path: Path, before: str) -> None:
    place = tmp_path / "adapter"
    write(place, "first")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(place), before], env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL
    kept = place if place.exists() else tmp_path / ".adapter.old"
    assert content(kept) == "first"
    with pytest.raises(RuntimeError), atomic_directory(place):
        raise RuntimeError
    assert content(place) == "first"
    write(place, "third")
    assert content(place) == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_file_or_a_foreign_directory_is_not_replaced(tmp_path: Path) -> None:
    file, foreign, own, empty = (tmp_path / name for name in ("file", "foreign", "own", "empty"))
    file.write_text("mine")
    write(foreign, "mine")
    write(own, "an adapter")
    empty.mkdir()
    for place in (file, foreign):
        with pytest.raises(OutputError, match=f"{place.name}: holds something that is not an adapter"):
            check_replaceable(place, "adapter_config.json", "an adapter")
    for place in (own, empty, tmp_path / "missing"):
        check_replaceable(place, "content.txt", "an adapter")
    with pytest.raises(OutputError, match="exists and is a file"):
        write(file, "second")
    assert file.read_text() == "mine"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    write(real, "first")
    link.symlink_to(real)
    write(link, "second")
    write(link, "third")
    assert link.is_symlink()
    assert content(real) == "third"


def test_what_a_killed_writer_left_of_a_file_goes_and_what_a_running_one_writes_stays(tmp_path: Path) -> None:
    page = tmp_path / "report.html"

    def written() -> None:
        remove_half_written(page)
        with atomic_write(page) as file:
            file.write("whole")

    assert killed(written, tmp_path, 4) is None  # before it is renamed
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    other = tmp_path / f".{page.name}.{os.getpid()}.part"
    other.write_text("being written")
    assert killed(written, tmp_path, -1) is not None
    assert sorted(tmp_path.iterdir()) == [other, page]
