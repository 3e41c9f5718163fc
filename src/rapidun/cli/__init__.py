"""The command line: one file per verb, each thin: parse, call, print.

Nothing here imports torch at parse time, so ``--help`` answers at once. Exit codes: 0 done, 1 the gate was not
reached, 2 bad input (one clear message), also after Ctrl-C.
"""

from __future__ import annotations

import errno
import inspect
import re
import sys
from typing import Any, NoReturn

import typer

from rapidun.cli import demo, evaluate, index, report, reveal, run, trace, tune, unlearn, value, weigh
from rapidun.cli.console import say, show_unencodable
from rapidun.errors import RapidunError

app = typer.Typer(
    name="rapidun",
    help="Find the training rows behind a language model's bad behaviour, remove their influence, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (demo, run, index, trace, weigh, unlearn, tune, evaluate, reveal, value, report):
    verb.register(app)


def _flow_help(verbs: typer.Typer) -> None:
    """Let the terminal break the lines of help: typer keeps the line ends of a docstring after its first paragraph."""
    for command in verbs.registered_commands:
        command.help = command.help or _flowing(command.callback)
    if verbs.registered_callback is not None:
        verbs.registered_callback.help = _flowing(verbs.registered_callback.callback)
    for group in verbs.registered_groups:
        if group.typer_instance is not None:
            _flow_help(group.typer_instance)


def _flowing(verb: object) -> str | None:
    said = inspect.getdoc(verb)
    return said and re.sub(r"(?<=\S)\n(?=\S)", " ", said)


_flow_help(app)

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
    if code == INTERRUPTED:
        kept = " What was finished is kept: the same command with --resume goes on from there."
        _fail("stopped by Ctrl-C." + (kept if _resumable(sys.argv[1:]) else ""))
    sys.exit(code if isinstance(code, int) else 0)


def _resumable(words: list[str]) -> bool:
    """Whether the verb that was called can go on with what a stopped one left."""
    command: Any = typer.main.get_command(app)
    for word in words:
        command = getattr(command, "commands", {}).get(word, command)
    return any("--resume" in parameter.opts for parameter in command.params)


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
