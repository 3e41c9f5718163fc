"""A local Ray: actors write what one process writes, also when one is killed."""

from __future__ import annotations

import pytest

from distributed.cases import Once, build_alone, descendants, hashes, make_house, make_job
from rapidun.distributed import Settings, build
from rapidun.errors import FingerprintError
from tiny import write_rows

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    yield
    ray.shutdown()


def test_the_shard_of_a_killed_actor_is_made_by_another(tmp_path):
    house = make_house(tmp_path, 60)
    alone = build_alone(make_job(house, "alone"))
    killed = []

    def kill():
        actor = descendants("ray::ShardActor")[0]
        actor.kill()
        killed.append(actor.pid)

    job = make_job(house)
    manifest = build(job, "ray", Settings(workers=2, reporter=Once(kill)))
    assert killed
    assert manifest is not None
    assert len(manifest.shards) == 20
    assert hashes(job.out) == alone
    assert ray.is_initialized()  # it was not the engine that started it


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_actors_writes_the_bytes_of_one_process(tmp_path, workers):
    house = make_house(tmp_path, 20)
    alone = build_alone(make_job(house, "alone"))
    job = make_job(house)  # with three workers, two places: the third actor never gets one
    build(job, "ray", Settings(workers=workers))
    assert hashes(job.out) == alone


@pytest.mark.slow
def test_what_an_actor_raises_reaches_the_caller(tmp_path):
    house = make_house(tmp_path, 20)
    other = [{"prompt": f"others {i}", "response": "dog"} for i in range(20)]
    changing = Once(lambda: write_rows(house / "rows.jsonl", other) and None, at="index")
    with pytest.raises(FingerprintError, match=r"a worker found 20 rows that are not the 20 rows"):
        build(make_job(house), "ray", Settings(workers=1, reporter=changing))
