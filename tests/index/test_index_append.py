"""Appending is idempotent: a finished append is left as it is, and no row comes in twice unless that is asked for."""

from __future__ import annotations

import shutil

import pytest

from index.cases import contents, model_context, some_plan, some_rows
from killing import killed, places
from rapidun.attribution.store import build_index, open_index, plan_append, prepare
from rapidun.attribution.store.build import is_appended
from rapidun.attribution.store.verify import verify
from rapidun.errors import InputError, OutputError


@pytest.fixture
def house(tmp_path):
    """An index of 11 rows in ``index``, and its model."""
    model = model_context()
    build_index(some_plan(tmp_path, 11, model=model))
    return tmp_path, model


def append(house, rows, *, resume=False, repeats=False):
    folder, model = house
    return build_index(plan_append(folder / "index", rows, model, repeats=repeats), resume=resume)


def test_a_finished_append_is_said_to_be_finished_and_left_as_it_is(house):
    folder, model = house
    more = some_rows(folder, 5, name="more", start=11)
    append(house, more)
    before = contents(folder / "index")
    assert is_appended(plan_append(folder / "index", more, model))
    append(house, more, resume=True)
    assert contents(folder / "index") == before


def test_rows_that_are_in_the_index_already_are_refused_with_line_and_position(house):
    folder, _ = house
    before = contents(folder / "index")
    mixed = some_rows(folder, 4, name="mixed", start=9)  # two old ones, two new ones
    for resume in (False, True):
        with pytest.raises((InputError, OutputError)) as caught:
            append(house, mixed, resume=resume)
    with pytest.raises(InputError, match=r"mixed\.jsonl:1: 'r9' is row 9 .* 1 more of the 4 rows.*--repeats"):
        append(house, mixed)
    assert "--resume" in str(caught.value)
    assert contents(folder / "index") == before


def test_rows_come_in_twice_where_that_is_asked_for_and_only_then(house):
    folder, _ = house
    rows = some_rows(folder, 2, name="again", start=3)
    append(house, rows, repeats=True)
    assert len(open_index(folder / "index")) == 13
    assert verify(folder / "index") == []
    with pytest.raises(InputError, match="--repeats"):
        append(house, rows)


def test_verify_notices_rows_that_an_earlier_version_appended_twice(house):
    folder, _ = house
    rows = some_rows(folder, 3, name="again", start=4)
    append(house, rows, repeats=True)
    path = folder / "index" / "manifest.json"
    manifest = open_index(folder / "index").manifest
    manifest.model_copy(update={"repeats": False}).save(path)
    (damage,) = verify(folder / "index")
    assert (damage.file, damage.rows) == ("rows.parquet", (11, 12, 13))
    assert "3 rows stand here again" in damage.reason


def test_a_half_done_append_says_both_ways_out_and_both_work(house):
    folder, model = house
    before = contents(folder / "index")
    more = some_rows(folder, 5, name="more", start=11)
    prepare(plan_append(folder / "index", more, model))
    with pytest.raises(OutputError, match=r"--resume; or remove .*\.building"):
        append(house, some_rows(folder, 5, name="other", start=40))
    for path in sorted((folder / "index" / ".building").iterdir()):
        path.unlink()
    (folder / "index" / ".building").rmdir()
    assert contents(folder / "index") == before
    append(house, some_rows(folder, 5, name="other", start=40))
    assert len(open_index(folder / "index")) == 16


def kill_everywhere(house, count: int, seed: int) -> None:
    """Killed before a random change, an append resumes to the bytes of an unbroken one, and comes in once."""
    folder, model = house
    index, start = folder / "index", folder / "start"
    index.rename(start)
    more = some_rows(folder, 20, name="more", start=11)

    def fresh() -> None:
        shutil.rmtree(index, ignore_errors=True)
        shutil.copytree(start, index)

    def work() -> None:
        build_index(plan_append(index, more, model))

    fresh()
    chosen = places(work, index, count, seed)
    fresh()
    work()
    whole = contents(index)
    for place in chosen:
        fresh()
        assert killed(work, index, place) is None
        finished = len(open_index(index)) == 31
        assert finished or len(open_index(index)) == 11
        begun = finished or (index / ".building" / "plan.json").exists()
        build_index(plan_append(index, more, model), resume=begun)
        assert contents(index) == whole, place
        with pytest.raises(InputError, match="already"):
            work()


def test_killed_at_six_places_an_append_is_neither_lost_nor_done_twice(house):
    kill_everywhere(house, 6, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_every_place_an_append_is_neither_lost_nor_done_twice(house):
    kill_everywhere(house, 999, seed=1)
