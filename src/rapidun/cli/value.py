"""``rapidun value``: what every row of a pool is worth for a task, before training on it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from rapidun.cli import options as o
from rapidun.cli.console import say
from rapidun.cli.made import Raw, Shows, made
from rapidun.errors import ConfigError, InputError
from rapidun.settings import names
from rapidun.settings.base import COMMAND_LINE, make_config
from rapidun.settings.value import SavedConfig, Uses, ValueConfig, ValueFiles

EXAMPLES = o.examples(
    "rapidun value --model M --task-data wanted.jsonl --candidates pool.jsonl --select top:10% --out V",
    "rapidun value --model M --task-data wanted.jsonl --candidates pool.jsonl --student ridge --out V",
    "rapidun value --student V/student --candidates tomorrow.jsonl --out W",
)


@made
def value(
    out: o.Out,
    given: Annotated[
        Raw,
        Shows(
            ValueConfig,
            *("model", "data", "value", "student.kind", "student.sample", "student.sampling", "seed", "plugins"),
            optional=("model.source",),
        ),
    ],
    files: Annotated[Raw, Shows(ValueFiles, optional=("task",))],
    uses: Annotated[Raw, Shows(Uses)],
    adapter: o.Adapter,
    encoder: Annotated[
        str | None, o.option("--encoder", "Directory of the model that --student encoder starts from.", "Student")
    ],
    how: o.Job,
) -> int:
    """What is each candidate row worth for a task, before the model is trained on it?

    LinFiK, the teacher, compares gradients. For large pools --student learns from a sample and values the rest from
    text; it is kept in OUT/student and values other pools later without the model. A finished run can be asked again
    with --resume and another --select, --diversity, --by or --format.
    """
    use = make_config(uses, Uses, COMMAND_LINE)
    use.check()
    if (saved := _saved_student(given)) is not None:
        if "model" in given or "task" in files:
            raise ConfigError("a saved student has its model and task in it: leave out --model and --task-data.")
        known: Raw = {name: given[name] for name in ("data", "seed") if name in given}
        settings = o.make_settings(known, SavedConfig, how.overrides)
        from rapidun.pipeline.valuing import value_by_student

        pool = Path(files["candidates"])
        found = how.carry_out(value_by_student, settings, saved, pool, out, use, **how.place)
    else:
        if "model" not in given or "task" not in files:
            raise ConfigError("give --model and --task-data, or --student DIRECTORY of a saved student.")
        _settle_student(given.setdefault("student", {}), encoder)
        whole = o.make_settings(given, ValueConfig, how.overrides)
        from rapidun.pipeline.valuing import value as value_pool

        inputs = make_config({**files, "adapter": adapter}, ValueFiles)
        found = how.carry_out(value_pool, whole, inputs, out, use, **how.place)
    shown = {name: found[name] for name in found if name not in ("best", "worst", "histogram")}
    how.show({**shown, "out": str(out)}, partial(_say, out=out))
    return 0


def _settle_student(student: Raw, encoder: str | None) -> None:
    """``--sample`` alone means the ridge student; ``--encoder`` is an option of one kind."""
    if "sample" in student:
        student.setdefault("kind", "ridge")
    if encoder is not None:
        if student.get("kind") != "encoder":
            raise ConfigError("--encoder goes with --student encoder.")
        student["options"] = {"source": encoder}


def _saved_student(given: Raw) -> Path | None:
    """The directory of a saved student, where ``--student`` is a place rather than a kind."""
    kind = given.get("student", {}).get("kind")
    if kind is None or kind in names.STUDENTS:
        return None
    if not Path(kind).exists():
        raise InputError(f"--student {kind}: no such student: give {names.STUDENTS}, or a saved one's directory.")
    return Path(kind)


def _say(found: dict[str, Any], out: Path) -> None:
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
