"""Engines are found by name, and what is wrong with the choice is said before anything is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distributed.cases import make_job
from rapidun.distributed import Settings, build, engine_names, register_engine
from rapidun.errors import ConfigError


@pytest.fixture
def job(tmp_path: Path):
    return make_job(tmp_path)  # of files that are not there: nothing may be read


def test_an_unknown_engine_is_answered_with_the_nearest_name(job):
    with pytest.raises(ConfigError, match=r"torchrum is unknown.*local, ray, torchrun.*mean .torchrun"):
        build(job, "torchrum")


def test_without_ray_the_extra_is_named(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'rapidun\[ray\]'"):
        build(job, "ray")


def test_torchrun_needs_its_environment(job, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set.*torchrun --np"):
        build(job, "torchrun")


def test_torchrun_decides_the_number_of_workers(job, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(ConfigError, match="--workers: torchrun decides"):
        build(job, "torchrun", Settings(workers=2))


def test_no_workers_are_too_few(job):
    with pytest.raises(ConfigError, match="--workers 0: give at least 1"):
        build(job, "local", Settings(workers=0))


def test_an_engine_is_one_registered_function(job, registers):
    seen = []
    register_engine("mine")(lambda job, settings: seen.append((job, settings.workers)))
    assert build(job, "mine", Settings(workers=5)) is None
    assert seen == [(job, 5)]
    assert "mine" in engine_names()
