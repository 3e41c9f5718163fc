"""``rapidun value``: what every row of a pool is worth for a task, before training on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rapidun.cli import options as o
from rapidun.cli.common import make_settings
from rapidun.cli.console import ConsoleReporter, print_json, quiet_libraries
from rapidun.cli.shared import Shared, with_shared
from rapidun.errors import ConfigError

_TEACHER, _STUDENT, _USE = "Teacher", "Student", "Use"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("value")(value)


@with_shared
def value(
    candidates: Annotated[
        Path, typer.Option("--candidates", help="Rows to value; read in passes, never held.", rich_help_panel="Rows")
    ],
    out: o.Out,
    model: Annotated[
        str, typer.Option("--model", help="Directory or hub id; not trained on the rows.", rich_help_panel="Model")
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
        typer.Option("--checkpoint", help="Average over this one too. Repeatable.", rich_help_panel="Model"),
    ] = [],  # noqa: B006
    exact: Annotated[
        bool, typer.Option("--exact", help="Whole gradients instead of sketches.", rich_help_panel=_TEACHER)
    ] = False,
    k: Annotated[int, typer.Option("--k", help="Length of a gradient sketch.", rich_help_panel=_TEACHER)] = 65_536,
    sketch: Annotated[
        str, typer.Option("--sketch", help="Kind of the sketch.", rich_help_panel=_TEACHER)
    ] = "rapidgrad",
    similarity: Annotated[
        str, typer.Option("--similarity", help="cosine, or dot: the loss drop itself.", rich_help_panel=_TEACHER)
    ] = "cosine",
    normalize: Annotated[
        str, typer.Option("--normalize", help="Of each row's gradient: none, layer or unit.", rich_help_panel=_TEACHER)
    ] = "none",
    optimizer: Annotated[
        str, typer.Option("--optimizer", help="The step imagined: sgd or adam.", rich_help_panel=_TEACHER)
    ] = "sgd",
    targets: Annotated[
        str,
        typer.Option(
            "--targets", help="auto (lora with an adapter, else linear), or layer names.", rich_help_panel=_TEACHER
        ),
    ] = "auto",
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Padded tokens in a batch.", rich_help_panel=_TEACHER)
    ] = 4096,
    student: Annotated[
        str | None,
        typer.Option(
            "--student",
            help="ridge or encoder: fit one to a sample and let it value the pool. Or a saved student's directory.",
            rich_help_panel=_STUDENT,
        ),
    ] = None,
    encoder: Annotated[
        str, typer.Option("--encoder", help="Local model that the encoder starts from.", rich_help_panel=_STUDENT)
    ] = "",
    sample: Annotated[
        str | None, typer.Option("--sample", help="Rows for the teacher: 5% or 500.", rich_help_panel=_STUDENT)
    ] = None,
    sampling: Annotated[
        str, typer.Option("--sampling", help="stratified, random or uncertain.", rich_help_panel=_STUDENT)
    ] = "stratified",
    select: Annotated[
        str | None,
        typer.Option(
            "--select",
            help="Write the chosen rows: top:10%, top:500, budget:1e6tokens or threshold:0.2.",
            rich_help_panel=_USE,
        ),
    ] = None,
    diversity: Annotated[
        str | None, typer.Option("--diversity", help="facility or mmr, with --select.", rich_help_panel=_USE)
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Column whose values share the value.", rich_help_panel=_USE)
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="Of the values: jsonl, csv or parquet.", rich_help_panel=_USE)
    ] = "jsonl",
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    *,
    shared: Shared,
) -> int:
    """What is each candidate row worth for a task, before the model is trained on it?

    LinFiK, the teacher, compares gradients. For large pools --student learns from a sample and values the rest from
    text; it is kept in OUT/student and values other pools later without the model. A finished run can be asked again
    with --resume and another --select, --diversity, --by or --format.
    """
    quiet_libraries()
    raw = shared.raw(model)
    uses = {"select": select, "diversity": diversity, "by": by, "format": form}
    reporter = ConsoleReporter()
    try:
        if student is not None and _is_saved(student):
            found = _saved(
                raw, shared.overrides, uses, Path(student), candidates, out,
                model=model, task_data=task_data, resume=resume, overwrite=overwrite, reporter=reporter,
            )  # fmt: skip
        else:
            if not model or task_data is None:
                raise ConfigError("give --model and --task-data, or --student DIRECTORY of a saved student.")
            raw["value"] = {
                "exact": exact, "k": k, "sketch": sketch, "similarity": similarity, "normalize": normalize,
                "optimizer": optimizer, "targets": _names(targets), "max_tokens": max_tokens,
            }  # fmt: skip
            raw["student"] = _student(student, encoder, sample, sampling)
            found = _value(
                raw, shared.overrides, uses, task_data, candidates, out,
                adapter=adapter, checkpoints=checkpoint, resume=resume, overwrite=overwrite, reporter=reporter,
            )  # fmt: skip
    finally:
        reporter.close()
    _say(found, out, shared.as_json)
    return 0


def _is_saved(student: str) -> bool:
    """Whether ``--student`` is a place rather than a kind."""
    from rapidun.valuation.students import known_students

    return student not in known_students()


def _student(kind: str | None, encoder: str, sample: str | None, sampling: str) -> dict[str, Any]:
    """The section ``student`` of the configuration; ``--sample`` alone means the ridge student."""
    if kind is None and sample is not None:
        kind = "ridge"
    if encoder and kind != "encoder":
        raise ConfigError("--encoder goes with --student encoder.")
    options = {"source": encoder} if encoder else {}
    return {"kind": kind, "options": options, "sampling": sampling, "sample": sample or "5%"}


def _value(
    raw: dict[str, Any], overrides: list[str], uses: dict[str, Any], task_data: Path, candidates: Path, out: Path, *,
    adapter: Path | None, checkpoints: list[Path], resume: bool, overwrite: bool, reporter: ConsoleReporter,
) -> dict[str, Any]:  # fmt: skip
    from rapidun.pipeline import valuing
    from rapidun.pipeline.config import make_config
    from rapidun.pipeline.value_config import Uses, ValueConfig, ValueFiles

    return valuing.value(
        make_settings(raw, ValueConfig, overrides),
        ValueFiles(task=task_data, candidates=candidates, adapter=adapter, checkpoints=checkpoints),
        out,
        make_config(uses, Uses, "command line"),
        resume=resume,
        overwrite=overwrite,
        reporter=reporter,
    )


def _saved(
    raw: dict[str, Any], overrides: list[str], uses: dict[str, Any], student: Path, candidates: Path, out: Path, *,
    model: str, task_data: Path | None, resume: bool, overwrite: bool, reporter: ConsoleReporter,
) -> dict[str, Any]:  # fmt: skip
    from rapidun.pipeline import valuing
    from rapidun.pipeline.config import make_config
    from rapidun.pipeline.value_config import SavedConfig, Uses

    if model or task_data is not None:
        raise ConfigError("a saved student has its model and task in it: leave out --model and --task-data.")
    settings = make_settings({name: raw[name] for name in ("data", "seed")}, SavedConfig, overrides)
    return valuing.value_by_student(
        settings, student, candidates, out, make_config(uses, Uses, "command line"),
        resume=resume, overwrite=overwrite, reporter=reporter,
    )  # fmt: skip


def _names(text: str) -> str | list[str]:
    return text if text in ("auto", "linear", "lora") else [part.strip() for part in text.split(",") if part.strip()]


def _say(found: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        shown = {name: found[name] for name in found if name not in ("best", "worst", "histogram")}
        print_json({**shown, "out": str(out)})
        return
    summary = found["summary"]
    typer.echo(
        f"{found['rows']} rows: median {summary['median']:.4g}, 90% between {summary['low']:.4g} and "
        f"{summary['high']:.4g}, {100 * summary['positive']:.1f}% above 0"
    )
    if "student" in found and "spearman" in found["student"]:
        spearman = found["student"]["spearman"]
        typer.echo(f"student against teacher, held-out rows: Spearman {spearman['value']:.3f} "
                   f"[{spearman['low']:.3f}, {spearman['high']:.3f}]")  # fmt: skip
    if "selection" in found:
        chosen = found["selection"]
        tokens = "" if chosen["tokens"] is None else f", {chosen['tokens']} tokens"
        typer.echo(f"selected: {chosen['rows']} rows{tokens}: {out / chosen['file']}")
    for share in found.get("by", {}).get("shares", []):
        typer.echo(
            f"{100 * share['value']:6.1f}% [{100 * share['low']:.1f}, {100 * share['high']:.1f}]  {share['name']}"
        )
    typer.echo(f"values:  {out / found['values']}")
    typer.echo(f"report:  {out / 'report.html'}")
