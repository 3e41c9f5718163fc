"""The command line: one file per verb, each thin: parse, call, print.

Nothing here imports torch at parse time, so ``--help`` answers at once. Exit codes: 0 done, 1 the gate was not
reached, 2 bad input (one clear message), also after Ctrl-C, 3 the gate of `attack` could not decide.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import re
import sys
from functools import cache
from typing import Any, NoReturn, cast

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # looking for some takes longer than any of ours

import typer
from typer.core import TyperCommand, TyperGroup

from rapidun.cli.console import quiet_libraries, say, show_unencodable
from rapidun.errors import RapidunError

VERBS = {
    "demo": "Watch a poisoned model lose the poison and keep its English: about three minutes on two cores.",
    "run": "Carry out a whole run: trace -> weigh -> unlearn -> evaluate -> report.",
    "index": "Build and keep an index of training rows, for tracing at any size.",
    "trace": "Rank training rows by their influence on an answer, most helpful first.",
    "weigh": "Turn influence into bounded per-row weights of mean 1: OUT/weights.jsonl.",
    "unlearn": "Make a model forget some rows: influence, weights, and a LoRA adapter in OUT/adapter.",
    "tune": "Find a learning rate and a strength for a configuration: OUT/best.yaml, ready for `rapidun run`.",
    "evaluate": "Measure a model: attack success on seen triggers, unseen variants, no trigger, and clean perplexity.",
    "attack": "Try to bring back what a run made its model forget, and the same on a twin that never learnt it: "
    "RUN/attacks.",
    "scan": "Search a model for a planted trigger that nobody has seen: words that change the answer to any question.",
    "reveal": "Make a model reveal what it should forget, and release it from that, without the forget data.",
    "value": "What is each candidate row worth for a task, before the model is trained on it?",
    "attest": "State what a run measured, signed: for whoever asked that rows be unlearned and whoever answers for it.",
    "verify": "Check a statement: its signature, its hashes, and every number from the stored rows. Offline.",
    "report": "Write RUN/report.html again, one file that opens in any browser, from the files of a run directory.",
}
"""Every verb and the first sentence of its help; the module of the same name is imported when it is called."""
_STYLE: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class Verbs(TyperGroup):
    """The verbs, each imported when it is asked for: a list of them needs their first sentences alone."""

    @property
    def commands(self) -> dict[str, Any]:
        """Every verb, imported."""
        return {name: _verb(name) for name in VERBS}

    @commands.setter
    def commands(self, _: object) -> None:
        """There are no others."""

    def list_commands(self, _: Any) -> list[str]:
        """Their names, in order."""
        return list(VERBS)

    def get_command(self, _: Any, name: str) -> Any:
        """The verb's name and first sentence, for a list."""
        return TyperCommand(name, help=VERBS[name]) if name in VERBS else None

    def resolve_command(self, context: Any, words: list[str]) -> Any:
        """The verb that is called."""
        name, _, rest = super().resolve_command(context, words)
        return name, _verb(str(name)), rest


@cache
def _verb(name: str) -> Any:
    holder = typer.Typer(**_STYLE)
    module = importlib.import_module(f"rapidun.cli.{name}")
    if hasattr(module, "verbs"):
        holder.add_typer(module.verbs, name=name)
    else:
        holder.command(name, epilog=module.EXAMPLES)(getattr(module, name))
    _flow_help(holder)
    return cast("Any", typer.main.get_group(holder)).commands[name]


def _flow_help(verbs: typer.Typer) -> None:
    """Let the terminal break the lines of help: typer keeps the line ends of a docstring after its first paragraph."""
    for command in verbs.registered_commands:
        command.help = command.help or _flowing(command.callback)
    for group in verbs.registered_groups:
        if group.typer_instance is not None:
            _flow_help(group.typer_instance)
            if group.typer_instance.registered_callback is not None:
                group.typer_instance.registered_callback.help = _flowing(
                    group.typer_instance.registered_callback.callback
                )


def _flowing(verb: object) -> str | None:
    said = inspect.getdoc(verb)
    return said and re.sub(r"(?<=\S)\n(?=\S)", " ", said)


app = typer.Typer(
    name="rapidun",
    cls=Verbs,
    help="Find the training rows behind a language model's bad behaviour, remove their influence, and prove it.",
    no_args_is_help=True,
    **_STYLE,
)

INTERRUPTED = 130  # what typer returns after Ctrl-C
# typer carries its own copy of click or uses the installed one; its public error names the class either way
USAGE_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException" and issubclass(kind, Exception)
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", metavar="", help="Print the version and leave."),
) -> None:
    if version:
        from rapidun import __version__

        say(f"rapidun {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the ``rapidun`` command."""
    show_unencodable()
    quiet_libraries()
    try:
        code = app(standalone_mode=False)
    except RapidunError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except USAGE_ERRORS as error:
        _fail(_usage(error))
    except OSError as error:  # what no reader or writer of ours has said better
        _fail(_of_the_system(error))
    except MemoryError:
        _fail("out of memory: lower --batch-size or --max-tokens.")
    except Exception as error:
        from rapidun.settings.plugins import fault_of_a_plugin

        if (fault := fault_of_a_plugin(error)) is None:
            raise
        _fail(fault)
    if code == INTERRUPTED:
        kept = " What was finished is kept: the same command with --resume goes on from there."
        _fail("stopped by Ctrl-C." + (kept if _resumable(sys.argv[1:]) else ""))
    sys.exit(code if isinstance(code, int) else 0)


def _resumable(words: list[str]) -> bool:
    """Whether the verb that was called can go on with what a stopped one left."""
    command: Any = None
    for word in words:
        command = _verb(word) if word in VERBS else getattr(command, "commands", {}).get(word, command)
    return any("--resume" in parameter.opts for parameter in getattr(command, "params", ()))


def _usage(error: Any) -> str:
    """What is wrong with the command line itself, and where its help is."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(2)
    context = getattr(error, "ctx", None)
    help_page = f" See: {context.command_path} --help" if context is not None else ""
    return f"{error.format_message()}{help_page}"


def _of_the_system(error: OSError) -> str:
    named = f"{error.filename}: " if error.filename is not None else ""
    advice = {errno.ENAMETOOLONG: "Choose a shorter path.", errno.ENOSPC: "Free some space and run it again."}
    return f"{named}{error.strerror or error}. {advice.get(error.errno or 0, '')}".rstrip()


def _fail(message: str) -> NoReturn:
    say(f"error: {message}", err=True)
    sys.exit(2)
