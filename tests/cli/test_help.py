"""Help answers at once, for every verb, without torch."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from rapidun.cli import app
from rapidun.unlearning import method_names

VERBS = ("demo", "run", "index", "trace", "weigh", "unlearn", "tune", "evaluate", "attack", "reveal", "value", "attest",
         "verify", "report")  # fmt: skip


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_every_verb_explains_itself(rapidun: Any, verb: str | None) -> None:
    done = rapidun(*([verb] if verb else []), "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    for name in VERBS if verb is None else ():
        assert name in done.stdout


def test_trap_34_nothing_heavy_is_imported_to_print_help() -> None:
    code = (
        "import sys\nsys.argv = ['rapidun', '--help']\n"
        "from rapidun.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'numpy', 'pandas', 'plotly', 'pydantic', 'sklearn'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_a_page_of_help_is_made_without_torch() -> None:
    """One process makes all pages, so that a verb is to blame where the first of the heavy ones is loaded after it."""
    code = (
        "import sys\nfrom rapidun.cli import main\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'numpy', 'pandas', 'plotly', 'sklearn', 'scipy'}\n"
        "for verb in sys.argv[1:]:\n"
        "    sys.argv = ['rapidun', verb, '--help']\n"
        "    try:\n        main()\n    except SystemExit:\n        pass\n"
        "    print('LOADED', verb, sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *VERBS], capture_output=True, text=True, check=True)
    loaded = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert loaded == [f"LOADED {verb} []" for verb in VERBS]


def test_version_is_the_packages(rapidun: Any) -> None:
    import rapidun as package

    assert rapidun("--version").stdout.strip() == f"rapidun {package.__version__}"


def pages(command: Any, name: str = "rapidun") -> Iterator[tuple[str, Any]]:
    """Every verb that does something, under its whole name."""
    verbs = getattr(command, "commands", {})
    if not verbs or getattr(command, "invoke_without_command", False):
        yield name, command
    for verb, below in verbs.items():
        yield from pages(below, f"{name} {verb}")


PAGES = {name: command for name, command in pages(typer.main.get_command(app)) if " " in name}


def test_the_help_of_unlearn_names_every_method() -> None:
    (method,) = [each for each in PAGES["rapidun unlearn"].params if each.name == "method"]
    named = method.help.split(":")[0].replace(" or ", ", ").split(", ")
    assert sorted(name for name in named if name) == sorted(method_names())


@pytest.mark.parametrize("name", PAGES)
def test_the_terminal_breaks_the_lines_of_help(name: str) -> None:
    paragraphs = (PAGES[name].help or "").split("\n\n")
    assert paragraphs[0]
    assert not any("\n" in paragraph.strip() for paragraph in paragraphs)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_ends_with_examples_that_can_be_typed(name: str) -> None:
    heading, *examples = (PAGES[name].epilog or "").replace("\\[", "[").split("\n\n")
    assert "Examples" in heading
    assert any(example.startswith(name) for example in examples)
    for example in examples:
        verb = max((page for page in PAGES if example.startswith(page)), key=len)
        options = {option for parameter in PAGES[verb].params for option in parameter.opts}
        assert {part for part in shlex.split(example) if part.startswith("--")} <= options, example


@pytest.mark.parametrize("name", PAGES)
def test_every_option_says_what_it_is_and_a_flag_takes_no_value(name: str) -> None:
    for parameter in PAGES[name].params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name
            assert not parameter.is_flag or parameter.metavar == "", parameter.name


def test_an_extra_in_brackets_is_shown(rapidun: Any) -> None:
    assert "rapidun[tune]" in rapidun("tune", "--help").stdout
