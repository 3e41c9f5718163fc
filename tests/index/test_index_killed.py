"""A build killed at any moment, or stopped by a full disk, goes on and ends with the bytes of an unbroken one."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import time
import traceback

import pytest
import torch

from index.cases import contents, gradient_scorer, model_context, some_plan
from rapidun.attribution import HiddenScorer, LexicalScorer
from rapidun.attribution.scorers.gradient import Precondition
from rapidun.attribution.store import build_index, missing_shards, open_index
from rapidun.errors import OutputError

FORK = multiprocessing.get_context("fork")


def plan_of(folder, out, model, rows):
    gradient = gradient_scorer(precondition=Precondition(kind="kfac", rows=6))
    views = {"gradient": gradient, "hidden": HiddenScorer(layers=[-1]), "lexical": LexicalScorer()}
    return some_plan(folder, rows, out=out, model=model, views=views, shard_rows=2, max_tokens=60)


def work(plan, resume, limit):
    """The child: builds; exits with 0, or 7 where the disk was full, or 1."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        build_index(plan, resume=resume)
    except OutputError:
        os._exit(7)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def run(plan, *, resume=False, limit=None, kill_after=None):
    """Build in a process of its own; returns its exit code, -9 where it was killed."""
    child = FORK.Process(target=work, args=(plan, resume, limit))
    child.start()
    if kill_after is not None:
        time.sleep(kill_after)
        child.kill()
    child.join(900)
    code = child.exitcode
    child.kill()
    return code


def kill_and_resume(folder, kills, rows, seed):
    """Kill a build ``kills`` times at random moments; whenever one ends, it has the bytes of an unbroken one.

    The moments are drawn so that all kills fall into one build; where the machine has become faster and it ends
    before the last, the rest fall into the next.
    """
    model = model_context()
    started = time.monotonic()
    assert run(plan_of(folder, "whole", model, rows)) == 0
    longest = 1.2 * (time.monotonic() - started) / kills
    whole, generator, hit = contents(folder / "whole"), random.Random(seed), 0
    plan = plan_of(folder, "killed", model, rows)
    while hit < kills:
        code = run(plan, resume=True, kill_after=generator.uniform(0, longest))
        assert code in (-signal.SIGKILL, 0)
        hit += code != 0
        if code == 0:
            assert contents(folder / "killed") == whole
            shutil.rmtree(folder / "killed")
    assert run(plan, resume=True) == 0
    assert contents(folder / "killed") == whole


def test_killed_three_times_a_build_ends_with_the_bytes_of_an_unbroken_one(tmp_path):
    kill_and_resume(tmp_path, 3, 24, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_twenty_times_a_build_ends_with_the_bytes_of_an_unbroken_one(tmp_path):
    kill_and_resume(tmp_path, 20, 120, seed=1)


def test_a_file_that_cannot_be_written_stops_the_build_and_leaves_it_resumable(tmp_path):
    model = model_context()
    assert run(plan_of(tmp_path, "whole", model, 12)) == 0
    plan = plan_of(tmp_path, "full", model, 12)
    smallest = (tmp_path / "whole" / "shards" / "00000.safetensors").stat().st_size
    assert run(plan, limit=smallest - 1) == 7
    assert len(list(missing_shards(plan))) == 6
    assert not list((tmp_path / "full").rglob("*.part"))
    assert run(plan, resume=True) == 0
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_a_full_disk_says_so_and_the_build_goes_on_when_there_is_space(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        plan = plan_of(tmp_path, "disk/index", model_context(), 24)
        with pytest.raises(OutputError, match=r"the disk is full.*--resume"):
            build_index(plan)
        assert 0 < len(list(missing_shards(plan))) < 12
        subprocess.run([*mount[:4], "remount,size=8m", *mount[5:]], check=True)
        build_index(plan, resume=True)
        assert len(open_index(disk / "index")) == 24
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_error_of_the_writer_surfaces_in_the_main_thread_at_once(tmp_path, monkeypatch):
    def full(plan, content):
        raise OutputError(os.strerror(errno.ENOSPC))

    monkeypatch.setattr("rapidun.attribution.store.build.write_shard", full)
    seen = []
    with pytest.raises(OutputError, match="No space left"):
        build_index(plan_of(tmp_path, "index", model_context(), 24), progress=lambda done, total: seen.append(done))
    assert max(seen) <= 8  # two shards in flight, one being computed
