"""The run directory: nothing a user made is lost, and a resume mixes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from rapidun.errors import FingerprintError, OutputError
from rapidun.pipeline import RunDirectory

SAME = {"model": "abc", "rows forget": "123"}


def claim(path: Path, *, resume: bool = False, overwrite: bool = False, **changes: str) -> RunDirectory:
    return RunDirectory.claim(path, {**SAME, **changes}, resume=resume, overwrite=overwrite)


def test_a_directory_that_is_not_empty_is_refused_with_the_two_ways_on(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match=r"--resume.*--overwrite"):
        claim(tmp_path)


def test_overwrite_never_removes_what_rapidun_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="not a directory that rapidun made"):
        claim(tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "x"


def test_overwrite_replaces_a_run(tmp_path: Path) -> None:
    claim(tmp_path / "run").mark({"name": "before"})
    assert not claim(tmp_path / "run", overwrite=True).done("before")


def test_resume_keeps_the_finished_phases(tmp_path: Path) -> None:
    claim(tmp_path / "run").mark({"name": "before", "seconds": 1.0})
    resumed = claim(tmp_path / "run", resume=True)
    assert resumed.done("before")
    assert not resumed.done("after")


def test_trap_14_a_resume_with_another_fingerprint_is_refused_and_names_both(tmp_path: Path) -> None:
    claim(tmp_path / "run")
    with pytest.raises(FingerprintError, match="model was abc and is now xyz"):
        claim(tmp_path / "run", resume=True, model="xyz")


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="nothing to resume"):
        claim(tmp_path, resume=True)


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        claim(tmp_path / "run")
