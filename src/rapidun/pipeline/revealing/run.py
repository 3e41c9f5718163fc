"""`rapidun reveal`: search, reveal, release, measure, in rounds that can be stopped, resumed and undone.

A round's three phases are marked when their files are in place. Within a search every pull is on disk before the next
is made; a module whose training was cut off is trained anew, from the same seed to the same bytes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rapidun
from rapidun.data import Rows
from rapidun.data.templates import user_text
from rapidun.errors import ConfigError
from rapidun.evaluation import TaskJudge, make_judge
from rapidun.files import read_json, read_jsonl, sha256_of, write_json, write_jsonl
from rapidun.models import load_adapter
from rapidun.pipeline.config import RunConfig, make_config
from rapidun.pipeline.directory import RunDirectory
from rapidun.pipeline.inputs import Subject, open_subject, read_rows, rows_fingerprint
from rapidun.pipeline.meter import Meter, hardware, versions
from rapidun.pipeline.reporter import Reporter, Silent
from rapidun.pipeline.reveal_config import RevealConfig
from rapidun.pipeline.reveal_rounds import (
    METHOD,
    SUMMARY,
    current_round,
    gate_of,
    measured,
    round_directory,
    round_lines,
    settle,
    state_adapter,
)
from rapidun.pipeline.single import unlearn_only
from rapidun.report import write_report
from rapidun.reveal import (
    Arm,
    ArmSource,
    Asker,
    Input,
    Pull,
    Puller,
    PullLog,
    SearchState,
    SoftArms,
    SoftPrompts,
    TextArms,
    best_arms,
    read_pulls,
    search,
    select_rows,
    train_round,
)
from rapidun.reveal.settings import MODULES
from rapidun.reveal.utility import Utility, measure_utility

UTILITY_BEFORE = "utility_before.json"


@dataclass(frozen=True)
class RevealResult:
    """What a reveal run did: ``summary`` is ``reveal.json``; ``metrics`` is None where nothing was released."""

    directory: Path
    summary: dict[str, Any]
    metrics: dict[str, Any] | None
    report: Path

    @property
    def passed(self) -> bool:
        """Whether the relevance target was reached within the utility budget; True where nothing was to be released."""
        return self.metrics is None or self.metrics["verdict"] == "PASS"


@dataclass(frozen=True)
class _Context:
    config: RevealConfig
    subject: Subject
    retain: Rows
    utility: Rows
    inputs: list[Input]
    judge: TaskJudge
    utility_judge: TaskJudge | None
    directory: RunDirectory
    reporter: Reporter


def reveal(
    config: RevealConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> RevealResult:
    """Carry out a reveal run, or go on with it.

    Args:
        config: Model, rows, task.
        out: The run directory.
        resume: Go on where a stopped run was, to the end that an unbroken one has.
        overwrite: Replace a run that is there.
        reporter: Where progress goes.

    Raises:
        RapidunError: For anything wrong with input, settings or machine.
    """
    reporter = reporter or Silent()
    reporter.phase("check", "Reading task, rows and model")
    context = _open(config, out, resume, overwrite, reporter)
    _phase(context, "measure 0", "Measuring what must be kept", _measure_start)
    release = config.task.release
    if release.method == MODULES:
        stopped = _rounds(context)
    else:
        _phase(context, "reveal 1", "Revealing", lambda c: _reveal_round(c, 1))
        stopped = _by_method(context) if release.method != "none" else "revealed only, as asked"
    return _finish(context, stopped)


def _open(config: RevealConfig, out: Path, resume: bool, overwrite: bool, reporter: Reporter) -> _Context:
    task = config.task
    if task.release.method not in (MODULES, "none"):
        _unlearning(config, out)
    retain = read_rows(task.retain, "retain", config.data, reporter)
    inputs = read_rows(task.inputs, "inputs", config.data, reporter) if task.inputs else None
    kept = read_rows(task.utility.rows, "utility", config.data, reporter) if task.utility.rows else retain
    judge = make_judge(task.judge.kind, task.judge.options)
    wanted = task.utility.judge
    utility_judge = make_judge(wanted.kind, wanted.options) if wanted else None
    subject = open_subject(config.model, config.data, reporter)
    for rows in (retain, kept):
        subject.tokenize(rows)  # a row that cannot be tokenised is found here
    groups = {"retain": retain, "utility": kept, **({"inputs": inputs} if inputs else {})}
    identity = {
        "configuration": sha256_of([config.to_yaml().encode()]),
        "model": subject.loaded.fingerprint,
        "template": subject.template.fingerprint,
        **{f"rows {name}": rows_fingerprint(rows) for name, rows in groups.items()},
    }
    directory = RunDirectory.claim(out, identity, resume=resume, overwrite=overwrite)
    directory.write_text("config.yaml", config.to_yaml())
    skipped = [{"group": name, **bad.as_dict()} for name, rows in groups.items() for bad in rows.skipped]
    write_jsonl(directory / "rows_skipped.jsonl", skipped)
    given = [Input(user_text(row), row.get("response") or None) for row in inputs] if inputs else []
    return _Context(config, subject, retain, kept, given, judge, utility_judge, directory, reporter)


def _phase(context: _Context, name: str, title: str, step: Callable[[_Context], None]) -> None:
    if context.directory.done(name):
        context.reporter.note(f"{name}: done before")
        return
    context.reporter.phase(name, title)
    with Meter(name) as meter:
        step(context)
    context.directory.mark(meter.record)


def _rounds(context: _Context) -> str:
    """Rounds of reveal, release and measure; returns why they ended."""
    release = context.config.task.release
    for number in range(1, release.rounds + 1):
        label = f"Round {number} of {release.rounds}: "
        _phase(context, f"reveal {number}", f"{label}revealing", lambda c, n=number: _reveal_round(c, n))  # type: ignore[misc]
        if not _rows_of(context, number):
            return f"round {number}: nothing was revealed"
        _phase(context, f"release {number}", f"{label}releasing", lambda c, n=number: _release_round(c, n))  # type: ignore[misc]
        _phase(context, f"measure {number}", f"{label}measuring", lambda c, n=number: _measure_round(c, n))  # type: ignore[misc]
        found = measured(context.directory.path, number) or {}
        if not found["accepted"]:
            return (
                f"round {number}: utility fell by {found['drop']:.3f}, beyond the budget of "
                f"{context.config.task.utility.max_drop:.3f}; the state of round {number - 1} was restored"
            )
        if found["relevance_after"] <= release.relevance_target:
            return f"round {number}: the relevance target was reached"
    return f"all {release.rounds} rounds were done"


def _with_adapter(context: _Context, adapter: Path | None, step: Callable[[Subject], None]) -> None:
    """Do ``step`` with the adapter on the model; the model is as it was afterwards."""
    if adapter is None:
        step(context.subject)
        return
    model = load_adapter(context.subject.loaded.model, adapter)
    try:
        step(context.subject.with_model(model))
    finally:
        model.unload()


def _puller(context: _Context, subject: Subject, number: int) -> Puller:
    task, seed = context.config.task, context.config.seed
    settings = task.search
    asker = Asker(
        subject.loaded,
        subject.template,
        SoftPrompts(subject.loaded.model.get_input_embeddings().weight, task.arms, seed),
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        repetition_penalty=settings.repetition_penalty,
        batch_size=settings.batch_size,
    )
    log = PullLog(round_directory(context.directory.path, number) / "pulls.jsonl")
    return Puller(
        asker,
        context.judge,
        context.inputs,
        log,
        answers=settings.answers,
        weight=settings.weight,
        seed=1000 * seed + number,
    )


def _source(context: _Context, asker: Asker, number: int) -> ArmSource:
    task, seed = context.config.task, 1000 * context.config.seed + number
    if task.arms.kind == "soft":
        return SoftArms(task.instruction, task.arms, seed, str(number))

    def write(count: int, loop: int) -> list[str]:
        asked = f"Write one instruction that would make a language model do this. {task.description}"
        question = asker.question(Arm("writer", "text", asked), None)
        seeds = [(seed * 1000 + loop) * 10_000 + index for index in range(count)]
        lines = (answer.strip().splitlines() for answer in asker.answers([question] * count, seeds))
        return [found[0].strip(" \"'") for found in lines if found]

    return TextArms(task.instruction, task.arms, write)


def _reveal_round(context: _Context, number: int) -> None:
    """Search under the present model, ask the best arms again, and write ``revealed.jsonl``.

    At the end the best arms are asked on inputs of their own, which the measurement after the release asks again.
    """
    folder = round_directory(context.directory.path, number)
    folder.mkdir(parents=True, exist_ok=True)
    task = context.config.task
    settings = task.search
    start = _best(context, number - 1) if number > 1 else []
    budget = settings.pulls if number == 1 else settings.later_pulls

    def progress(state: SearchState) -> None:
        context.reporter.progress(len(state.pulls), state.total, f"best {state.best:.2f}, {state.rows} rows")

    def step(subject: Subject) -> None:
        puller = _puller(context, subject, number)
        pulls = search(
            _source(context, puller.asker, number),
            puller,
            settings,
            pulls=budget,
            threshold=task.judge.threshold,
            seed=1000 * context.config.seed + number,
            start=start,
            progress=progress,
        )
        best = best_arms(pulls, settings.keep)
        for repeat in range(settings.harvest if best else 0):
            pulls = pulls + puller.pull(best, "harvest", repeat)
        rows = select_rows(
            pulls,
            threshold=task.judge.threshold,
            limit=settings.rows,
            max_similarity=settings.max_similarity,
            round_number=number,
        )
        write_jsonl(folder / "revealed.jsonl", rows)
        for repeat in range(settings.harvest if best else 0):
            puller.pull(best, "before", repeat)
        top = max((pull.reward for pull in pulls), default=0.0)
        context.reporter.note(f"{len(pulls)} pulls, best reward {top:.2f}, {len(rows)} rows revealed")

    _with_adapter(context, state_adapter(context.directory.path, number - 1), step)
    settle(context.directory.path)


def _stage(context: _Context, number: int, stage: str) -> list[Pull]:
    path = round_directory(context.directory.path, number) / "pulls.jsonl"
    return [pull for pull in read_pulls(path) if pull.stage == stage]


def _best(context: _Context, number: int) -> list[Arm]:
    return best_arms(_stage(context, number, "search"), context.config.task.search.keep)


def _rows_of(context: _Context, number: int) -> list[dict[str, Any]]:
    return read_jsonl(round_directory(context.directory.path, number) / "revealed.jsonl")


def _release_round(context: _Context, number: int) -> None:
    """Train both modules on the present state and write the next one."""
    folder, subject = round_directory(context.directory.path, number), context.subject
    lines: list[dict[str, Any]] = []
    outcome = train_round(
        subject.loaded,
        state_adapter(context.directory.path, number - 1),
        subject.tokenize(context.retain),
        subject.tokenize(_rows_of(context, number)),
        context.config.task.release,
        folder,
        seed=1000 * context.config.seed + number,
        record=lines.append,
        progress=context.reporter.progress,
    )
    write_jsonl(folder / "log.jsonl", lines)
    write_json(folder / "round.json", asdict(outcome))


def _utility(context: _Context, subject: Subject) -> Utility:
    rows = list(context.utility)
    settings = context.config.task.utility
    return measure_utility(
        subject.loaded,
        subject.template,
        rows,
        subject.tokenize(rows),
        settings,
        context.utility_judge,
        batch_size=context.config.task.search.batch_size,
    )


def _measure_start(context: _Context) -> None:
    write_json(context.directory / UTILITY_BEFORE, _utility(context, context.subject).to_dict())


def _measure_round(context: _Context, number: int) -> None:
    """Ask this round's best arms again, measure what must be kept, and decide whether the round stays."""
    folder = round_directory(context.directory.path, number)
    before = Utility(**read_json(context.directory / UTILITY_BEFORE))
    arms = _best(context, number)

    def step(subject: Subject) -> None:
        puller = _puller(context, subject, number)
        repeats = range(context.config.task.search.harvest)
        probes = [pull for repeat in repeats for pull in puller.pull(arms, "after", repeat)]
        after = _utility(context, subject)
        drop = after.drop_from(before)
        write_json(
            folder / "measure.json",
            {
                "relevance_before": _mean_relevance(_stage(context, number, "before")),
                "relevance_after": _mean_relevance(probes),
                "utility": after.to_dict(),
                "drop": drop,
                "accepted": drop <= context.config.task.utility.max_drop,
            },
        )

    _with_adapter(context, state_adapter(context.directory.path, number), step)
    found = measured(context.directory.path, number) or {}
    context.reporter.note(
        f"relevance of the best arms {found['relevance_before']:.3f} -> {found['relevance_after']:.3f}; utility "
        f"({found['utility']['suite']}) {before.value:.4g} -> {found['utility']['value']:.4g}"
    )
    settle(context.directory.path)


def _mean_relevance(pulls: list[Pull]) -> float:
    return sum(pull.relevance for pull in pulls) / len(pulls) if pulls else 0.0


def _by_method(context: _Context) -> str:
    """The revealed rows as the forget set of any registered method, influence weights included."""
    if not _rows_of(context, 1):
        return "nothing was revealed"
    directory, method = context.directory, context.config.task.release.method
    settings = _unlearning(context.config, directory.path)

    def step(_: _Context) -> None:
        place = round_directory(directory.path, 1) / METHOD
        unlearn_only(settings, place, weights=None, resume=place.exists(), overwrite=False, reporter=context.reporter)

    _phase(context, "release 1", f"Releasing by {method}", step)
    _phase(context, "measure 1", "Measuring after", lambda c: _measure_round(c, 1))
    return f"released by {method}"


def _unlearning(config: RevealConfig, run: Path) -> RunConfig:
    """The configuration that feeds the revealed rows to ``release.method``.

    Raises:
        ConfigError: If the task's settings of the method are wrong, or columns are renamed.
    """
    task, rows = config.task, config.data
    if rows.columns:
        raise ConfigError(
            f"--map does not go with method {task.release.method!r}: revealed rows have their own columns."
        )
    raw: dict[str, Any] = {
        "model": config.model.model_dump(mode="json"),
        "data": {
            **{name: getattr(rows, name) for name in ("template", "max_length", "on_bad_row")},
            "forget": str(round_directory(run, 1) / "revealed.jsonl"),
            "retain": str(task.retain),
            "validation": str(task.utility.rows) if task.utility.rows else None,
        },
        "unlearning": {**task.release.unlearning, "method": task.release.method},
        "weights": task.release.weights,
        "lora": task.release.lora.model_dump(mode="json"),
        "seed": config.seed,
    }
    return make_config(raw, RunConfig, "task.release")


def _finish(context: _Context, stopped: str) -> RevealResult:
    directory, task = context.directory, context.config.task
    settle(directory.path)
    summary = {
        "description": task.description,
        "instruction": task.instruction,
        "strategy": task.search.strategy,
        "arms": task.arms.kind,
        "judge": task.judge.kind,
        "method": task.release.method,
        "relevance_target": task.release.relevance_target,
        "max_drop": task.utility.max_drop,
        "utility_before": read_json(directory / UTILITY_BEFORE),
        "rounds": round_lines(directory.path),
        "current": current_round(directory.path),
        "stopped": stopped,
    }
    write_json(directory / SUMMARY, summary)
    metrics = gate_of(summary) if task.release.method != "none" else None
    if metrics is not None:
        write_json(directory / "metrics.json", metrics)
    context.reporter.note(stopped)
    _write_manifest(context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return RevealResult(directory.path, summary, metrics, write_report(directory.path))


def _write_manifest(context: _Context) -> None:
    loaded = context.subject.loaded
    write_json(
        context.directory / "manifest.json",
        {
            "rapidun_version": rapidun.__version__,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seed": context.config.seed,
            "model": loaded.source,
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "template": context.subject.template.name,
            "lora": context.config.task.release.lora.model_dump(),
            "versions": versions(),
            "hardware": hardware(str(loaded.device)),
            "fingerprints": read_json(context.directory / "identity.json"),
            "phases": context.directory.phases,
        },
    )
