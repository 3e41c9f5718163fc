"""The command started by torchrun: real gloo processes, one of them killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from distributed.cases import build_alone, descendants, hashes, make_house, make_job

pytestmark = pytest.mark.timeout(600)


def start(house, *more):
    """torchrun with two ranks of ``rapidun index build``, the settings of `make_job`."""
    job = make_job(house)
    settings = job.config.index
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2),
        *("-m", "rapidun", "index", "build", "--model", house / "model", "--data", job.data, "--out", job.out),
        *("--template", "plain", "--max-length", 96, "--k", settings.k, "--shard-rows", settings.shard_rows),
        *("--max-tokens", settings.max_tokens, "--device", "cpu", "--engine", "torchrun", *more),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(part) for part in command], env=environment, **streams)


def kill_a_rank_when_a_shard_is_whole(house, torchrun):
    """Kills the second rank once there is a mark; returns how many there were."""
    building = house / "index" / ".building"
    ranks = []
    while torchrun.poll() is None:
        marks = list(building.glob("0*.json"))
        if marks:
            ranks[-1].kill()
            return len(marks)
        if building.is_dir() and len(ranks) < 2:
            ranks = sorted(descendants("index build", torchrun.pid), key=lambda process: process.pid)
        time.sleep(0.002)
    raise AssertionError(torchrun.communicate())


def test_two_ranks_one_killed_and_resumed_write_the_bytes_of_one_process(tmp_path):
    house = make_house(tmp_path, 90)
    alone = build_alone(make_job(house, "alone"))
    torchrun = start(house)
    assert kill_a_rank_when_a_shard_is_whole(house, torchrun) < 30
    torchrun.communicate(timeout=300)
    assert torchrun.returncode != 0
    assert not (house / "index" / "manifest.json").exists()

    resumed = start(house, "--resume", "--json")
    said, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert said.count('"rows": 90') == 1  # one rank speaks
    assert hashes(house / "index") == alone


@pytest.mark.slow
def test_what_stops_one_rank_stops_all_with_its_message(tmp_path):
    house = make_house(tmp_path, 12)
    (house / "index").mkdir()
    (house / "index" / "thesis.tex").write_text("mine")
    torchrun = start(house)
    _, errors = torchrun.communicate(timeout=300)
    assert torchrun.returncode != 0
    assert "exists and is not empty" in errors
    assert [path.name for path in (house / "index").iterdir()] == ["thesis.tex"]
