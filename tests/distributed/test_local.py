"""Worker processes on this machine write what one process writes, also when one of them is killed."""

from __future__ import annotations

import pytest

from distributed.cases import Once, build_alone, descendants, hashes, make_house, make_job
from rapidun.distributed import Settings, build
from rapidun.errors import FingerprintError, OutputError
from tiny import write_rows


@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3]
)
def test_any_number_of_workers_writes_the_bytes_of_one_process(tmp_path, workers):
    house = make_house(tmp_path, 20)
    alone = build_alone(make_job(house, "alone", precondition="kfac"))
    job = make_job(house, precondition="kfac")
    manifest = build(job, "local", Settings(workers=workers))
    assert manifest is not None
    assert "preconditioner/preconditioner.safetensors" in alone
    assert len(manifest.shards) == 7
    assert hashes(job.out) == alone
    with pytest.raises(OutputError, match="--resume"):
        build(job, "local", Settings(workers=workers))
    assert build(job, "local", Settings(workers=workers, resume=True)) == manifest


def test_the_shards_of_a_killed_worker_are_made_by_others(tmp_path):
    house = make_house(tmp_path, 60)
    alone = build_alone(make_job(house, "alone"))
    killed = []

    def kill():
        worker = descendants("spawn_main")[0]
        worker.kill()
        killed.append(worker.pid)

    reporter = Once(kill)
    job = make_job(house)
    build(job, "local", Settings(workers=2, reporter=reporter))
    assert killed
    assert any("a worker was lost" in note for note in reporter.notes)
    assert hashes(job.out) == alone
    assert not descendants("spawn_main")


def test_what_a_worker_raises_reaches_the_caller_and_nothing_is_left_running(tmp_path):
    house = make_house(tmp_path, 20)
    other = [{"prompt": f"others {i}", "response": "dog"} for i in range(20)]
    changing = Once(lambda: write_rows(house / "rows.jsonl", other) and None, at="index")
    with pytest.raises(FingerprintError, match=r"rows\.jsonl: a worker found 20 rows that are not the 20 rows"):
        build(make_job(house), "local", Settings(workers=1, reporter=changing))
    assert not descendants("spawn_main")
