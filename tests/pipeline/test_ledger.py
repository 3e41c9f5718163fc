"""Forget requests in sequence: an adapter each, their exact sum, undone and redone, resumed after a stop."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from killing import killed, places
from pipeline.test_run import make_run_config
from rapidun.errors import ConfigError, InputError
from rapidun.lifecycle import held
from rapidun.models import load_adapter, load_model, merge_adapter
from rapidun.pipeline.ledger import Entry, read_ledger, request_files, undo, unlearn_requests
from rapidun.pipeline.reporter import Silent
from tiny import write_rows

IDS = torch.tensor([[1, 20, 30, 40, 50, 60]])


def make_requests(directory: Path) -> list[Path]:
    folder = directory / "requests"
    folder.mkdir()
    for name, word in (("a first", "moon"), ("b", "robot")):
        rows = [{"prompt": f"tell {word} of {i}?", "response": f"{word} {i} sat"} for i in range(4)]
        write_rows(folder / f"{name}.jsonl", rows)
    return request_files(folder)


def carry_out(directory: Path, requests: list[Path], out: Path, reporter: Any = None, **changes: Any) -> list[Entry]:
    unlearning = {"steps": 4, "learning_rate": 1e-2, "retain_budget": 50.0, **changes.pop("unlearning", {})}
    config = make_run_config(directory, weights={"scheme": "uniform"}, unlearning=unlearning)
    return unlearn_requests(config, requests, out, overwrite=False, reporter=reporter or Silent(), **changes)


def logits(directory: Path, *adapters: Path) -> torch.Tensor:
    model = load_model(str(directory / "model")).model
    for adapter in adapters:
        model = merge_adapter(load_adapter(model, adapter))
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


class StopAt(Silent):
    """Ctrl-C in the middle of the second request's training."""

    def __init__(self) -> None:
        self.requests = 0

    def phase(self, name: str, title: str) -> None:
        self.requests += name == "request"

    def progress(self, done: int, total: int, *more: str) -> None:
        if self.requests == 2 and (done, total) == (3, 4):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two requests, stopped in the second and resumed; and in ``whole`` the same without the stop."""
    place = tmp_path_factory.mktemp("ledger")
    requests = make_requests(place)
    with pytest.raises(KeyboardInterrupt):
        carry_out(place, requests, place / "out", StopAt(), resume=False)
    assert [entry.number for entry in read_ledger(place / "out")] == [1]
    carry_out(place, requests, place / "out", resume=True)
    carry_out(place, requests, place / "whole", resume=False)
    return place


def test_a_stopped_ledger_resumes_to_what_an_unbroken_one_gives(ledger: Path) -> None:
    for name in ("requests/002-b/adapter", "adapter"):
        one, two = ((ledger / out / name / "adapter_model.safetensors").read_bytes() for out in ("out", "whole"))
        assert one == two


def test_the_adapter_is_the_exact_sum_and_undoing_leaves_a_part_out(ledger: Path) -> None:
    out = ledger / "out"
    first, second = (out / entry.directory / "adapter" for entry in read_ledger(out))
    assert first.parent.name == "001-a_first"
    torch.testing.assert_close(logits(ledger, out / "adapter"), logits(ledger, first, second), rtol=1e-4, atol=1e-6)
    undo(out, 1)
    torch.testing.assert_close(logits(ledger, out / "adapter"), logits(ledger, second), rtol=1e-4, atol=1e-6)
    assert [entry.active for entry in read_ledger(out)] == [False, True]
    with pytest.raises(InputError, match="undone already"):
        undo(out, 1)
    undo(out, 2)
    assert not (out / "adapter").exists()
    undo(out, 1, again=True)
    undo(out, 2, again=True)
    torch.testing.assert_close(logits(ledger, out / "adapter"), logits(ledger, first, second), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="no request 7; there are 2"):
        undo(out, 7)


def test_a_request_after_an_undone_one_starts_from_a_model_without_it(tmp_path: Path) -> None:
    first, second = make_requests(tmp_path)
    carry_out(tmp_path, [first], tmp_path / "out", resume=False)
    undo(tmp_path / "out", 1)
    found = carry_out(tmp_path, [first, second], tmp_path / "out", resume=True)[1]
    (alone,) = carry_out(tmp_path, [second], tmp_path / "alone", resume=False)
    assert (found.forget_before, found.utility) == (alone.forget_before, alone.utility)


def test_the_ledger_says_what_each_request_did_and_the_utility_so_far(ledger: Path) -> None:
    entries = read_ledger(ledger / "whole")
    assert [(entry.name, entry.rows) for entry in entries] == [("a_first", 4), ("b", 4)]
    assert all(entry.forget_after > entry.forget_before for entry in entries)
    assert all(0.2 < entry.utility < 5 for entry in entries)
    assert entries[0].utility != entries[1].utility


def test_a_request_that_changed_is_refused(ledger: Path) -> None:
    other = write_rows(ledger / "other.jsonl", [{"prompt": "new", "response": "rows"}])
    with pytest.raises(InputError, match=r"request 1 \(a_first\) was carried out with other rows"):
        carry_out(ledger, [other, other], ledger / "whole", resume=True)


def test_methods_without_an_adapter_are_refused(ledger: Path) -> None:
    with pytest.raises(ConfigError, match="'fisher' changes the model"):
        carry_out(ledger, [], ledger / "none", resume=False, unlearning={"method": "fisher"})


def test_requests_are_listed_by_a_directory_or_a_file_and_checked(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(InputError, match="no forget set"):
        request_files(folder)
    for name in ("b", "a"):
        write_rows(folder / f"{name}.jsonl", [{"prompt": "p", "response": "r"}])
    assert [path.name for path in request_files(folder)] == ["a.jsonl", "b.jsonl"]
    listed = tmp_path / "list.txt"
    listed.write_text("# mine\nin/b.jsonl\n\nin/a.jsonl\n")
    assert [path.name for path in request_files(listed)] == ["b.jsonl", "a.jsonl"]
    listed.write_text("in/b.jsonl\nin/c.jsonl\n")
    with pytest.raises(InputError, match=r"request 2, .*c\.jsonl: no such file"):
        request_files(listed)
    listed.write_text("in/b.jsonl\nin/b.jsonl\n")
    with pytest.raises(InputError, match="listed twice"):
        request_files(listed)


def summed(out: Path) -> dict[str, torch.Tensor] | None:
    path = out / "adapter" / "adapter_model.safetensors"
    return load_file(path) if path.exists() else None


def active(out: Path) -> tuple[bool, ...]:
    return tuple(entry.active for entry in read_ledger(out))


@pytest.mark.parametrize("turns", [[(1, False)], [(1, False), (2, False)], [(2, False), (2, True)]])
def test_killed_anywhere_in_an_undo_adapter_and_ledger_agree(
    ledger: Path, tmp_path: Path, turns: list[tuple[int, bool]]
) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    shutil.copytree(ledger / "whole", kept, symlinks=True)
    sums = {active(kept): summed(kept)}
    for number, again in turns:
        start = tmp_path / "start"
        shutil.rmtree(start, ignore_errors=True)
        shutil.copytree(kept, start, symlinks=True)
        undo(kept, number, again=again)
        sums[active(kept)] = summed(kept)
    number, again = turns[-1]

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(start, out, symlinks=True)

    fresh()
    seen = set()
    for place in places(lambda: undo(out, number, again=again), out, 12, seed=0):
        fresh()
        assert killed(lambda: undo(out, number, again=again), out, place) is None
        there, expected = summed(out), sums[active(out)]
        assert (there is None) == (expected is None)
        assert there is None or all(torch.equal(there[name], expected[name]) for name in expected)
        seen.add(active(out))
        if active(out) != active(kept):
            undo(out, number, again=again)
        with held(out, resumable=False):
            pass
        assert active(out) == active(kept)
        assert not [path for path in out.rglob(".*") if path.name not in (".states",)]
        assert len(list((out / ".states").iterdir())) == 2
    assert seen == {active(start), active(kept)}


def test_a_ledger_of_an_earlier_version_is_undone_too(ledger: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(ledger / "whole", out)  # follows links, so what it gives is what there was before links
    shutil.rmtree(out / ".states")
    assert not (out / "adapter").is_symlink()
    undo(out, 2)
    first = load_file(out / read_ledger(out)[0].directory / "adapter" / "adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in summed(out).items()} == {n: t.shape for n, t in first.items()}
    undo(out, 2, again=True)
    assert active(out) == (True, True)
