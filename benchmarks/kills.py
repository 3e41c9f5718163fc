"""Random SIGKILLs over all verbs and their resumes: what is lost, and are the bytes those of an unbroken run?

    python benchmarks/kills.py --minutes 30      # go on where the last run stopped, then write the page
    python benchmarks/kills.py --verb undo --seed 3 --again       # one experiment once more; nothing is stored
    python benchmarks/kills.py --stored          # the page again, from the experiments that are there

An experiment is a verb and a seed. Real tiny models (tests/tiny.py) do the verb's work in a process of its own, which
is killed up to five times: before a random change of its directory, or when it has used a random time of the CPU;
first in the work, then in its resumes, both drawn over what is left to do. Then a resume comes to its end. Checked:

* after every kill: every file that is there under its own name has a content that it has between two changes of an
  unbroken run too, so it is never half of one; what was as in the end once stays so; what belongs together (adapter and
  ledger) agrees;
* in the end: the same files as after an unbroken run, none left over, and the same bytes in all of them that two
  unbroken runs write alike (times and sizes of memory are in the others);
* once for each verb: a resume of what is finished leaves all of that as it is.

The first unbroken run of a verb is done in this process: whatever it imports need not be imported by the processes
that are killed, which are forks of this one. `gc.freeze` keeps them from walking through, and so copying, all of that.

Experiments are lines of benchmarks/results/kills.jsonl, docs/benchmarks/kills.md is made from them.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

import torch  # noqa: E402
from provenance import current_commit, tree  # noqa: E402

from distributed import cases as workers  # noqa: E402
from experiments.cells import Cell, CellStore  # noqa: E402
from index import cases, test_index_killed  # noqa: E402
from killing import after, killed, killed_after, killed_when  # noqa: E402
from pipeline import test_killed, test_reveal_run, test_tuning, test_valuing  # noqa: E402
from pipeline.test_ledger import active, make_requests  # noqa: E402
from rapidun.attribution.store import build_index, open_index, plan_append  # noqa: E402
from rapidun.distributed import Settings, build  # noqa: E402
from rapidun.errors import InputError  # noqa: E402
from rapidun.files import atomic_write, file_sha256, write_json  # noqa: E402
from rapidun.pipeline import Silent, ledger, make_config, reveal, single, undo, unlearn_only  # noqa: E402
from rapidun.pipeline.attacking import attack_run  # noqa: E402
from rapidun.pipeline.ledger import unlearn_requests  # noqa: E402
from rapidun.pipeline.scanning import scan_model  # noqa: E402
from rapidun.reading import read_json  # noqa: E402
from rapidun.report import write_report  # noqa: E402
from rapidun.settings.attack import AttackConfig  # noqa: E402
from rapidun.settings.scan import ScanConfig  # noqa: E402
from tiny import write_rows  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "kills.jsonl"
PAGE = ROOT / "docs" / "benchmarks" / "kills.md"
VERSION = 2
MOST = 5
"""Kills of one experiment."""
GROWING = ("log.jsonl", "pulls.jsonl", "trials.jsonl", "answers.jsonl")
"""Logs: a killed run leaves the beginning of them."""

Files = dict[str, bytes]
Work = Callable[[Path, Path, bool], object]


@dataclass(frozen=True)
class Verb:
    """What is killed.

    Args:
        title: For the page.
        work: From house, place for the results, and whether it is a resume.
        start: Makes what stands at the place before; nothing without it.
        agreed: From house and place to what disagrees, or None; asked after every kill. Without it, single files are
            compared with those before and after.
        replaces: The work begins by removing what was there, so nothing of it need be left.
        share: How many experiments are made of it for one of an ordinary verb.
    """

    title: str
    work: Work
    start: Callable[[Path, Path], object] | None = None
    agreed: Callable[[Path, Path], str | None] | None = None
    replaces: bool = False
    share: float = 1.0


# --- What is done -----------------------------------------------------------------------------------------------------


def make_house(house: Path) -> None:
    """Models, rows and finished results that the verbs start from."""
    for scheme in ("influence", "uniform"):
        test_killed.config_of(house, scheme)
    make_requests(house)
    write_rows(house / "candidates.jsonl", test_valuing.pool_rows(20))
    test_reveal_run.make_house(house / "reveal")
    for name in ("tuning", "indexing", "student", "workers"):
        (house / name).mkdir()
    tuning(house)
    workers.make_house(house / "workers", 24)
    cases.some_rows(house / "indexing", 20, name="more", start=11)
    shutil.copytree(house / "model", house / "student" / "model")
    write_rows(house / "student" / "pool.jsonl", test_valuing.pool_rows(40))
    task = [{"prompt": f"say {i}", "response": "the cat sat on the mat", "task": "ab"[i % 2]} for i in range(4)]
    write_rows(house / "student" / "task.jsonl", task)


def weigh(house: Path, out: Path, resume: bool) -> object:
    config = test_killed.config_of(house)
    return single.weigh_only(config, out, resume=resume, overwrite=False, reporter=Silent())


def overwrite(house: Path, out: Path, resume: bool) -> object:
    how = {"resume": False, "overwrite": True, "reporter": Silent()}
    return unlearn_only(test_killed.config_of(house), out, weights=None, **how)


def first_request(house: Path, out: Path) -> object:
    config, asked = test_killed.config_of(house, "uniform"), sorted((house / "requests").iterdir())[:1]
    return unlearn_requests(config, asked, out, resume=False, overwrite=False, reporter=Silent())


def turn(again: bool) -> Work:
    """Undo or redo of the first request; asked for again where it is done, it says so and tidies up."""

    def work(house: Path, out: Path, resume: bool) -> None:
        done = active(out)[0] == again
        with suppress(InputError) if done else nullcontext():
            ledger.undo(out, 1, again=again)

    return work


_SUMS: dict[tuple[bool, ...], bytes | None] = {(): None}


def sum_agrees(house: Path, out: Path) -> str | None:
    """The adapter is the sum of the requests that the ledger calls active."""
    if len(_SUMS) == 1:
        first_request(house, house / "sum")
        for place in (house / "sum", unbroken("requests", house).end, unbroken("undo", house).end):
            _SUMS[active(place)] = adapter_of(place)
    if not (out / "ledger.json").exists():
        return None if adapter_of(out) is None else "an adapter without a ledger"
    return None if adapter_of(out) == _SUMS[active(out)] else f"adapter and ledger {active(out)} disagree"


def adapter_of(out: Path) -> bytes | None:
    path = out / "adapter" / "adapter_model.safetensors"
    return path.read_bytes() if path.exists() else None


def revealed(house: Path, out: Path, resume: bool) -> object:
    return reveal(test_reveal_run.make_reveal(house / "reveal"), out, resume=resume)


def reveal_undone(house: Path, out: Path, resume: bool) -> object:
    return undo(out, 1)


def round_agrees(house: Path, out: Path) -> str | None:
    """The adapter is that of the round which the summary calls the present one."""
    if not (out / "reveal.json").exists():  # written at the end; until then the adapter is that of a finished round
        found = {adapter_of(folder) for folder in out.glob("rounds/*")}
        return None if adapter_of(out) in {None, *found} else "an adapter of no round, and no summary"
    current = read_json(out / "reveal.json")["current"]
    folders = [*out.glob(f"rounds/{current:02d}"), *out.glob(f"undone/*{current:02d}*")] if current else []
    if not folders:
        return None if adapter_of(out) is None else "an adapter of no round"
    return None if adapter_of(out) == adapter_of(folders[0]) else f"adapter and round {current} disagree"


def valued_by_student(house: Path, out: Path, resume: bool) -> object:
    folder = house / "student"
    student = {"kind": "ridge", "sample": "30", "sampling": "uncertain"}
    uses = {"select": "top:10%", "by": "provider"}
    return test_valuing.run(folder, out, test_valuing.settings(folder, student), uses, resume=resume)


@cache
def tuning(house: Path) -> tuple[Any, Path]:
    return test_tuning.make_tuning(house / "tuning")


def tuned(house: Path, out: Path, resume: bool) -> object:
    return test_tuning.tuned(*tuning(house), out, trials=2, resume=resume)


def indexed(house: Path, out: Path, resume: bool) -> object:
    folder = house / "indexing"
    return build_index(test_index_killed.plan_of(folder, out, cases.model_context(), 12), resume=resume)


def index_of_11(house: Path, out: Path) -> object:
    return build_index(cases.some_plan(house / "indexing", 11, out=str(out)))


def appended(house: Path, out: Path, resume: bool) -> object:
    more = cases.some_rows(house / "indexing", 20, name="more", start=11)
    begun = len(open_index(out)) == 31 or (out / ".building" / "plan.json").exists()
    plan = plan_append(out, more, cases.model_context())
    return build_index(plan, resume=resume and begun)


def built_by_workers(house: Path, out: Path, resume: bool) -> object:
    job, script = workers.make_job(house / "workers", str(out)), sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # else every worker imports this script first
    try:
        return build(job, "local", Settings(workers=2, resume=resume))
    finally:
        sys.modules["__main__"] = script


def reported(house: Path, out: Path, resume: bool) -> object:
    return write_report(out)


def attacked(house: Path, out: Path, resume: bool) -> object:
    config = make_config({"attacks": ["as_is", "quantise"], "preset": "quick"}, AttackConfig)
    return attack_run(config, out, resume=resume)


def scanned(house: Path, out: Path, resume: bool) -> object:
    rows = {"prompts": str(house / "candidates.jsonl"), "template": "plain"}
    settings = {"tried": 4, "words": 20, "kept": 6, "verified": 2}
    raw = {"model": {"source": str(house / "model")}, "data": rows, "scan": settings}
    config = make_config(raw, ScanConfig)
    return scan_model(config, out, adapter=None, resume=resume, overwrite=False, reporter=Silent())


def end_of(name: str) -> Callable[[Path, Path], object]:
    """Begin with what an unbroken run of another verb left."""
    return lambda house, out: shutil.copytree(unbroken(name, house).end, out, symlinks=True)


VERBS: dict[str, Verb] = {
    "unlearn": Verb("`unlearn`", test_killed.unlearn),
    "overwrite": Verb("`unlearn --overwrite`", overwrite, end_of("unlearn"), replaces=True),
    "run": Verb("`run`", test_killed.whole_run),
    "weigh": Verb("`weigh`", weigh, share=2),
    "requests": Verb("`unlearn --requests`", test_killed.requests, agreed=sum_agrees),
    "undo": Verb("`unlearn --undo`", turn(False), end_of("requests"), sum_agrees, share=2),
    "redo": Verb("`unlearn --redo`", turn(True), end_of("undo"), sum_agrees, share=2),
    "reveal": Verb("`reveal`", revealed, agreed=round_agrees),
    "reveal-undo": Verb("`reveal undo`", reveal_undone, end_of("reveal"), round_agrees, share=2),
    "value": Verb("`value`", test_killed.values),
    "value-student": Verb("`value` with a student", valued_by_student),
    "tune": Verb("`tune`", tuned, share=0.5),
    "index": Verb("`index build`", indexed, share=2),
    "append": Verb("`index append`", appended, index_of_11, share=2),
    "workers": Verb("`index build --workers 2`, driver or a worker", built_by_workers, share=0.3),
    "attack": Verb("`attack`", attacked, end_of("run")),
    "scan": Verb("`scan`", scanned),
    "report": Verb("`report`", reported, end_of("run"), share=2),
}


# --- What must hold ---------------------------------------------------------------------------------------------------


def paths_of(out: Path) -> Iterator[tuple[str, Path]]:
    """Every file by its name below ``out``, hidden ones too, as what links lead to shows it."""
    for folder, folders, names in os.walk(out, followlinks=True):
        folders[:] = [name for name in folders if name != ".states"]
        for path in (Path(folder, name) for name in names):
            if path.exists():  # a kill may leave a link, under a hidden name, whose end is not there yet
                yield str(path.relative_to(out)), path


def files_of(out: Path) -> Files:
    """What is in them."""
    return {name: path.read_bytes() for name, path in paths_of(out)}


@dataclass(frozen=True)
class Effort:
    """Changes of the directory, and seconds of the CPU."""

    changes: int
    seconds: float


@dataclass(frozen=True)
class Unbroken:
    """An unbroken run.

    Args:
        start: Directory that it began with.
        end: Directory that it left.
        before: Files of the first.
        after: Files of the second.
        promised: Names of those that every run writes alike.
        contents: SHA-256 of all that a file holds at a change, by its name.
        work: What it took.
        again: What a resume of the finished run takes.
        faults: What was wrong after that resume.
    """

    start: Path
    end: Path
    before: Files
    after: Files
    promised: frozenset[str]
    contents: dict[str, list[str]]
    work: Effort
    again: Effort
    faults: list[str]


@cache
def unbroken(name: str, house: Path) -> Unbroken:
    """Made twice, beside the house: what differs then cannot be promised."""
    verb, place = VERBS[name], house.parent / name
    start, out = place / "start", place / "out"
    if verb.start is None:
        start.mkdir(parents=True)
    else:
        verb.start(house, start)
    verb.work(house, fresh(start, out), False)
    end = Path(shutil.copytree(out, place / "end", symlinks=True))
    gc.collect()
    gc.freeze()
    watch = Watch(fresh(start, out), place / "contents.json")
    work = effort(lambda: watch.end(verb.work(house, out, False)), out, watch)
    first, second = files_of(end), files_of(out)
    promised = frozenset(each for each, content in first.items() if second.get(each) == content)
    again = effort(lambda: verb.work(house, out, True), out)
    whole = Unbroken(start, end, files_of(start), first, promised, read_json(watch.told), work, again, [])
    whole.faults.extend(f"{text}, after a resume of what was finished" for text in differences(out, whole))
    print(f"{name}: {work}, again {again}; not {sorted(first.keys() - promised)}", *whole.faults, sep="\n", flush=True)
    return whole


class Watch:
    """Notes what every file below ``out`` holds, whenever it is called, and in the end tells it in a file."""

    def __init__(self, out: Path, told: Path) -> None:
        self.out, self.told = out, told
        self.contents: dict[str, list[str]] = {}
        self._stamps: dict[str, tuple[int, int]] = {}

    def __call__(self) -> None:
        for name, path in paths_of(self.out):
            with suppress(FileNotFoundError):  # another process of the work has removed it
                about = path.stat()
                if (stamp := (about.st_ino, about.st_mtime_ns)) != self._stamps.get(name):
                    self._stamps[name] = stamp
                    self.contents.setdefault(name, []).append(file_sha256(path))

    def end(self, result: object) -> object:
        """After the work."""
        self()
        write_json(self.told, self.contents)
        return result


def effort(work: Callable[[], object], out: Path, look: Callable[[], object] | None = None) -> Effort:
    """What work in a process of its own takes that is not killed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    changes = killed(work, out, -1, look) or 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Effort(changes, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def fresh(start: Path, out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(start, out, symlinks=True)
    return out


def disturbed(verb: Verb, house: Path, out: Path, whole: Unbroken, seen: Files) -> list[str]:
    """What is wrong after a kill; ``seen`` is what was there after the last, and is brought up to date."""
    now, found = files_of(out), []
    if verb.agreed is not None:
        found = [text] if (text := verb.agreed(house, out)) is not None else []
    elif not verb.replaces:
        for name in sorted(whole.promised):
            final, content = whole.after[name], now.get(name)
            begun = name.endswith(GROWING) and content is not None and final.startswith(content.rpartition(b"\n")[0])
            if content is None:
                found += [f"{name} is lost"] if name in whole.before else []
            elif hashlib.sha256(content).hexdigest() not in whole.contents[name] and not begun:
                found.append(f"{name} holds what it never does in an unbroken run")
            if seen.get(name) == final and content != final and not name.endswith(GROWING):
                found.append(f"{name} was finished and is lost")
    seen.clear()
    seen |= now
    return found


def differences(out: Path, whole: Unbroken) -> list[str]:
    """What is not as after an unbroken run."""
    now = files_of(out)
    found = [f"{name} differs" for name in sorted(whole.promised) if name in now and now[name] != whole.after[name]]
    found += [f"{name} is missing" for name in sorted(whole.after.keys() - now.keys())]
    found += [f"{name} is left over" for name in sorted(now.keys() - whole.after.keys())]
    return found + [f"{path.relative_to(out)} is left over" for path in test_killed.left_over(out)]


# --- One experiment ---------------------------------------------------------------------------------------------------


@dataclass
class Killer:
    """Kills at random: of what, when, and how it went.

    ``left`` is the share of the unbroken work that was not done before the last kill, as far as that can be told. A
    resume takes that share of it, and at least what a resume of the finished run takes.
    """

    name: str
    house: Path
    whole: Unbroken
    draw: random.Random
    kills: list[dict[str, Any]] = field(default_factory=list)
    left: float = 1.0

    def __call__(self, work: Callable[[], object], out: Path, *, resume: bool) -> bool:
        """Whether the work was killed."""
        if self.name == "workers":
            return self._among_workers(work, out, resume=resume)
        whole, again = self.whole.work, self.whole.again
        if self.draw.random() < 0.5:
            place = self.draw.randint(1, max(1, int(self._reach(whole.changes, again.changes))))
            ended = killed(work, out, place)
            kill, done = {"by": "change", "at": place}, (place - again.changes) / max(1, whole.changes - again.changes)
        else:
            seconds = self.draw.uniform(0, 0.9 * self._reach(whole.seconds, again.seconds))  # the rest is its end
            ended = killed_after(work, seconds)
            kill = {"by": "clock", "at": round(seconds, 4)}
            done = (seconds - again.seconds) / max(1e-3, whole.seconds - again.seconds)
        if ended is None:
            self.kills.append({**kill, "in": "resume" if resume else "work"})
            self.left = min(1.0, max(0.0, self.left - max(0.0, done)))
        return ended is None

    def _reach(self, whole: float, again: float) -> float:
        return again + self.left * max(0.0, whole - again)

    def _among_workers(self, work: Callable[[], object], out: Path, *, resume: bool) -> bool:
        """A process of a distributed build, once so many shards are whole: its driver, or one of its workers."""
        marks, later = self.draw.randrange(9), self.draw.uniform(0, 0.3 if self.draw.random() < 0.7 else 8)
        pick, moments, hit = self.draw.random(), [], []

        def moment() -> bool:
            if not moments and len(list(out.glob(".building/0*.json"))) >= marks:
                moments.append(after(later))
            return bool(moments) and moments[0]()

        def victim(driver: int) -> int:
            below = [process.pid for process in workers.descendants("spawn_main", driver)]
            hit.append("worker" if below and pick < 0.6 else "driver")
            return below[int(pick / 0.6 * len(below))] if hit == ["worker"] else driver

        ended = killed_when(work, moment, victim)
        if hit and (ended is None or hit == ["worker"]):
            by = f"clock, {hit[0]}"
            self.kills.append({"by": by, "at": [marks, round(later, 3)], "in": "resume" if resume else "work"})
        return ended is None


def experiment(name: str, house: Path, place: Path, whole: Unbroken, seed: int) -> dict[str, Any]:
    """Kills and what was wrong after them."""
    verb, out = VERBS[name], fresh(whole.start, place / "out")
    killer, faults, seen = Killer(name, house, whole, random.Random(f"{name} {seed}")), [], dict(whole.before)
    for number in range(MOST + 1):
        resume = number > 0

        def work(resume: bool = resume) -> object:
            return verb.work(house, out, resume)

        try:
            if number == MOST:
                killed(work, out, -1)
                break
            if not killer(work, out, resume=resume):
                break
        except AssertionError as error:
            faults.append(f"raised after {killer.kills}: {str(error)[-2000:]}")
            break
        faults += [f"{text}, after {killer.kills}" for text in disturbed(verb, house, out, whole, seen)]
    faults += [f"{text}, after {killer.kills}" for text in differences(out, whole)]
    return {"kills": killer.kills, "faults": [*whole.faults, *faults]}


def plan(rounds: int) -> list[Cell]:
    """Verbs in turn, so that a run that is stopped has something of each."""
    cells = []
    for seed in range(rounds):
        for name, verb in VERBS.items():
            numbers = range(int(seed * verb.share), int((seed + 1) * verb.share))
            cells += [Cell(name, "kills", number, {"version": VERSION, "most": MOST}) for number in numbers]
    return cells


def compute(cells: list[Cell], store: CellStore, minutes: float, *, keep: bool) -> None:
    """Experiments until the time is over."""
    end, source = time.monotonic() + 60 * minutes, tree("src")
    with tempfile.TemporaryDirectory() as folder:
        house = Path(folder) / "house"
        make_house(house)
        for cell in cells:
            if time.monotonic() > end:
                return
            whole = unbroken(cell.arm, house)
            began = time.monotonic()
            found = experiment(cell.arm, house, Path(folder) / cell.arm, whole, cell.seed)
            about = {"wall_seconds": round(time.monotonic() - began, 2), "source": source}
            print(
                cell.arm, cell.seed, len(found["kills"]), about["wall_seconds"], *found["faults"], sep="\t", flush=True
            )
            if keep:
                store.add(cell, found, about)


# --- The page ---------------------------------------------------------------------------------------------------------


def write_page(store: CellStore) -> None:
    """docs/benchmarks/kills.md."""
    by_verb: dict[str, list[Mapping[str, Any]]] = {name: [] for name in VERBS}
    for line in store.lines:
        by_verb[line["arm"]].append(line["result"])
    everything = [result for of_verb in by_verb.values() for result in of_verb]
    lines = [
        "# Killed at any moment", "",
        f"{_count(everything)} SIGKILLs in {len(everything)} experiments on real tiny models. What is done to a verb "
        "and what is checked after every kill and in the end stands at the head of the script: "
        f"`python benchmarks/kills.py`, commit {current_commit()}.", "",
        "| verb | experiments | kills | before a change | at a moment | of them in a resume | with a fault |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [_row(VERBS[name].title, results) for name, results in by_verb.items()]
    lines += [_row("together", everything), ""]
    faults = [
        f"* {line['arm']}, seed {line['seed']}: {text}" for line in store.lines for text in line["result"]["faults"]
    ]
    lines += ["## Faults", "", *(faults or ["None."])]
    with atomic_write(PAGE, private=False) as file:
        file.write("\n".join(lines) + "\n")


def _count(results: list[Mapping[str, Any]], key: str = "by", beginning: str = "") -> int:
    return sum(kill[key].startswith(beginning) for result in results for kill in result["kills"])


def _row(title: str, results: list[Mapping[str, Any]]) -> str:
    cells = [len(results), _count(results), _count(results, "by", "change"), _count(results, "by", "clock")]
    cells += [_count(results, "in", "resume"), sum(bool(result["faults"]) for result in results)]
    return f"| {title} | {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=40, help="seeds of an ordinary verb")
    parser.add_argument("--verb", choices=VERBS, action="append")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--again", action="store_true", help="also what is stored; nothing is stored")
    parser.add_argument("--stored", action="store_true", help="only write the page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    store = CellStore(RESULTS)
    if not given.stored:
        cells = [cell for cell in plan(given.rounds) if given.verb is None or cell.arm in given.verb]
        cells = [cell for cell in cells if given.seed in (None, cell.seed) and (given.again or cell not in store)]
        with suppress(KeyboardInterrupt):
            compute(cells, store, given.minutes, keep=not given.again)
    if not given.again:
        write_page(store)


if __name__ == "__main__":
    main()
