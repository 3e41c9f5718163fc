"""``rapidun reveal``: unlearning where the forget data is not there; ``rapidun reveal undo`` goes back a round."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rapidun.cli import options as o
from rapidun.cli.console import say
from rapidun.cli.made import Raw, Shows, made
from rapidun.settings.reveal import RevealConfig, read_task

verbs = typer.Typer(
    name="reveal",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@verbs.callback(
    epilog=o.examples(
        "rapidun reveal --model M --task task.yaml --out runs/reveal",
        "rapidun reveal --model M --task task.yaml --method none --out runs/revealed-only",
        "rapidun reveal undo runs/reveal --to-round 1",
    )
)
@made
def reveal(
    context: typer.Context,
    given: Annotated[
        Raw, Shows(RevealConfig, "model", "data", "task.release.method", "seed", "plugins", optional=("model.source",))
    ],
    task: Annotated[Path | None, o.option("--task", "Task file (YAML): what to look for and how to judge it.")],
    out: Annotated[Path | None, o.option("--out", "New directory for the run.", "Run")],
    how: o.Job,
) -> int:
    """Make a model reveal what it should forget, and release it from that, without the forget data.

    A bandit looks for the ways to ask under which answers are to the point and different from each other; the answers
    that the task's judge calls unwanted become the forget rows (revealed.jsonl); the model is released from them in
    rounds, each of which can be undone. See docs/guide/without-forget-data.md.

    Exit code 0 when the relevance target was reached within the utility budget, 1 when not, 2 for bad input.
    """
    if context.invoked_subcommand is not None:
        return 0
    if "model" not in given or task is None or out is None:
        raise typer.BadParameter("give --model M --task T.yaml --out DIR, or see `rapidun reveal undo --help`.")
    method = given.pop("task", {}).get("release", {})
    given["task"] = read_task(task)
    if isinstance(given["task"].setdefault("release", {}), dict):
        given["task"]["release"] |= method
    settings = o.make_settings(given, RevealConfig, how.overrides, files={"task": task})
    from rapidun.pipeline import reveal as run_reveal

    result = how.carry_out(run_reveal, settings, out, **how.place)
    found = {"directory": str(out), "report": str(result.report), **result.summary, "metrics": result.metrics}
    how.show(found, lambda _: _print(result))
    return 0 if result.passed else 1


def _print(result: Any) -> None:
    for line in result.summary["rounds"]:
        text = f"round {line['round']}: {line['rows']} rows revealed"
        if "relevance_after" in line:
            text += (
                f", relevance {line['relevance_before']:.3f} -> {line['relevance_after']:.3f}, "
                f"utility {line['utility']['value']:.4g}{'' if line['accepted'] else ' (not kept)'}"
            )
        say(text)
    say(f"stopped: {result.summary['stopped']}")
    if result.metrics is not None:
        for check in result.metrics["gate"]["checks"]:
            say(f"{'pass' if check['passed'] else 'FAIL'}  {check['text']}")
        say(f"verdict: {result.metrics['verdict']}")
    say(f"rows:    {result.directory / 'revealed.jsonl'}")
    if (result.directory / "adapter").is_dir():
        say(f"adapter: {result.directory / 'adapter'}")
    say(f"report:  {result.report}")


@verbs.command("undo", epilog=o.examples("rapidun reveal undo runs/reveal --to-round 1"))
@made
def undo(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a reveal run.")],
    to_round: Annotated[int, o.option("--to-round", "Round to go back to; 0 is the model as it was.", min=0)],
    how: Annotated[o.How, o.Asks("as_json")],
) -> int:
    """Go back to the state after an earlier round, exactly. Later rounds are kept under RUN/undone."""
    from rapidun.pipeline import undo as undo_rounds

    how.show(undo_rounds(run, to_round), _print_undone)
    return 0


def _print_undone(done: dict[str, Any]) -> None:
    say(f"went back from round {done['from']} to round {done['to']}")
    say(f"adapter: {done['adapter'] or 'none: the model is as it was'}")
    for place in done["moved"]:
        say(f"kept:    {place}")
