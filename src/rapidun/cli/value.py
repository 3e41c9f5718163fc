"""``rapidun value``: what every row of a pool is worth for a task, before training on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rapidun.cli import options as o
from rapidun.cli.common import make_settings
from rapidun.cli.console import ConsoleReporter, print_json, quiet_libraries, say
from rapidun.cli.shared import Shared, with_shared
from rapidun.errors import ConfigError, InputError

if TYPE_CHECKING:
    from rapidun.pipeline.valuing import Uses

_TEACHER, _STUDENT, _USE = "Teacher", "Student", "Use"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "value",
        epilog=o.examples(
            "rapidun value --model M --task-data wanted.jsonl --candidates pool.jsonl --select top:10% --out V",
            "rapidun value --model M --task-data wanted.jsonl --candidates pool.jsonl --student ridge --out V",
            "rapidun value --student V/student --candidates tomorrow.jsonl --out W",
        ),
    )(value)


@dataclass(frozen=True)
class TeacherOptions:
    """LinFiK."""

    exact: Annotated[bool, o.flag("--exact", help="Whole gradients instead of sketches.", rich_help_panel=_TEACHER)] = (
        False
    )
    k: o.SketchLength = 65_536
    sketch: o.Sketch = "rapidgrad"
    similarity: Annotated[
        str,
        typer.Option(
            "--similarity",
            help="cosine: direction alone; dot: the loss drop of the task, in nats for a learning rate of 1.",
            rich_help_panel=_TEACHER,
        ),
    ] = "cosine"
    normalize: o.Normalize = "none"
    optimizer: Annotated[
        str,
        typer.Option(
            "--optimizer", help="Whose training step on the row is imagined: sgd or adam.", rich_help_panel=_TEACHER
        ),
    ] = "sgd"
    targets: o.Targets = "auto"
    max_tokens: o.MaxTokens = 4096

    def section(self) -> dict[str, Any]:
        """The section ``value`` of the configuration."""
        return {**vars(self), "targets": o.layers(self.targets)}


@dataclass(frozen=True)
class StudentOptions:
    """ALinFiK."""

    student: Annotated[
        str | None,
        typer.Option(
            "--student",
            help="ridge, kernel or encoder: fitted to a sample, it values the pool. Or a saved student's directory.",
            rich_help_panel=_STUDENT,
        ),
    ] = None
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder",
            help="Directory of the model that --student encoder starts from.",
            rich_help_panel=_STUDENT,
        ),
    ] = ""
    sample: Annotated[
        str | None,
        typer.Option("--sample", help="Rows that the teacher values: 5% (default) or 500.", rich_help_panel=_STUDENT),
    ] = None
    sampling: Annotated[
        str,
        typer.Option("--sampling", help="How they are drawn: stratified, random, uncertain.", rich_help_panel=_STUDENT),
    ] = "stratified"

    def section(self) -> dict[str, Any]:
        """The section ``student`` of the configuration; ``--sample`` alone means the ridge student."""
        kind = "ridge" if self.student is None and self.sample is not None else self.student
        if self.encoder and kind != "encoder":
            raise ConfigError("--encoder goes with --student encoder.")
        options = {"source": self.encoder} if self.encoder else {}
        return {"kind": kind, "options": options, "sampling": self.sampling, "sample": self.sample or "5%"}

    @property
    def saved(self) -> Path | None:
        """The directory of a saved student, where ``--student`` is a place rather than a kind."""
        from rapidun.valuation.students import known_students

        if self.student is None or self.student in known_students():
            return None
        if not Path(self.student).exists():
            kinds = ", ".join(known_students())
            raise InputError(f"--student {self.student}: no such student: give {kinds}, or a saved one's directory.")
        return Path(self.student)


@dataclass(frozen=True)
class UseOptions:
    """What is done with the values."""

    select: Annotated[
        str | None,
        typer.Option(
            "--select",
            help="Write the chosen rows: top:10%, top:500, budget:1e6tokens or threshold:0.2.",
            rich_help_panel=_USE,
        ),
    ] = None
    diversity: Annotated[
        str | None,
        typer.Option(
            "--diversity",
            help="With --select: matching (rows whose gradients together point as the task's), facility or mmr (rows "
            "unlike each other).",
            rich_help_panel=_USE,
        ),
    ] = None
    by: Annotated[
        str | None,
        typer.Option("--by", help="Column that names each row's source: say the share of each.", rich_help_panel=_USE),
    ] = None
    form: Annotated[
        str, typer.Option("--format", help="Of the file of values: jsonl, csv or parquet.", rich_help_panel=_USE)
    ] = "jsonl"

    def settings(self) -> Uses:
        """As the pipeline takes them."""
        from rapidun.pipeline import make_config
        from rapidun.pipeline.valuing import Uses

        own = {"select": self.select, "diversity": self.diversity, "by": self.by, "format": self.form}
        return make_config(own, Uses, "command line")


@with_shared
def value(
    candidates: Annotated[
        Path,
        typer.Option(
            "--candidates",
            help="File of rows to value; never all in memory.",
            rich_help_panel="Rows",
        ),
    ],
    out: o.Out,
    model: Annotated[
        str,
        typer.Option(
            "--model", help="Directory or hub id of the model as it is before training.", rich_help_panel="Model"
        ),
    ] = "",
    task_data: Annotated[
        Path | None,
        typer.Option(
            "--task-data",
            help="Rows that the model should become good at; a column 'task' gives each task a value of its own.",
            rich_help_panel="Rows",
        ),
    ] = None,
    adapter: o.Adapter = None,
    checkpoint: Annotated[
        list[Path],
        typer.Option(
            "--checkpoint",
            help="Weights of another step of training: average over it too. Repeatable.",
            rich_help_panel="Model",
        ),
    ] = [],  # noqa: B006
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    *,
    teacher: TeacherOptions,
    student: StudentOptions,
    use: UseOptions,
    shared: Shared,
) -> int:
    """What is each candidate row worth for a task, before the model is trained on it?

    LinFiK, the teacher, compares gradients. For large pools --student learns from a sample and values the rest from
    text; it is kept in OUT/student and values other pools later without the model. A finished run can be asked again
    with --resume and another --select, --diversity, --by or --format.
    """
    quiet_libraries()
    from rapidun.pipeline import valuing

    raw, saved = shared.raw(model), student.saved
    with ConsoleReporter(dry_run=dry_run, as_json=shared.as_json) as reporter:
        if saved is not None:
            if model or task_data is not None:
                raise ConfigError("a saved student has its model and task in it: leave out --model and --task-data.")
            own = {name: raw[name] for name in ("data", "seed")}
            found = valuing.value_by_student(
                make_settings(own, valuing.SavedConfig, shared.overrides), saved, candidates, out, use.settings(),
                resume=resume, overwrite=overwrite, reporter=reporter,
            )  # fmt: skip
        else:
            if not model or task_data is None:
                raise ConfigError("give --model and --task-data, or --student DIRECTORY of a saved student.")
            raw |= {"value": teacher.section(), "student": student.section()}
            files = valuing.ValueFiles(task=task_data, candidates=candidates, adapter=adapter, checkpoints=checkpoint)
            found = valuing.value(
                make_settings(raw, valuing.ValueConfig, shared.overrides), files, out, use.settings(),
                resume=resume, overwrite=overwrite, reporter=reporter,
            )  # fmt: skip
    _say(found, out, shared.as_json)
    return 0


def _say(found: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        shown = {name: found[name] for name in found if name not in ("best", "worst", "histogram")}
        print_json({**shown, "out": str(out)})
        return
    summary = found["summary"]
    say(
        f"{found['rows']} rows: median {summary['median']:.4g}, 90% between {summary['low']:.4g} and "
        f"{summary['high']:.4g}, {100 * summary['positive']:.1f}% above 0"
    )
    if "student" in found and "spearman" in found["student"]:
        spearman = found["student"]["spearman"]
        say(f"student against teacher, held-out rows: Spearman {spearman['value']:.3f} "
                   f"[{spearman['low']:.3f}, {spearman['high']:.3f}]")  # fmt: skip
    if "selection" in found:
        chosen = found["selection"]
        tokens = "" if chosen["tokens"] is None else f", {chosen['tokens']} tokens"
        say(f"selected: {chosen['rows']} rows{tokens}: {out / chosen['file']}")
    for share in found.get("by", {}).get("shares", []):
        say(f"{100 * share['value']:6.1f}% [{100 * share['low']:.1f}, {100 * share['high']:.1f}]  {share['name']}")
    say(f"values:  {out / found['values']}")
    say(f"report:  {out / 'report.html'}")
