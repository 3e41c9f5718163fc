"""What anybody wrote is shown on a terminal and never obeyed, and lines end at a line feed alone."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidun.errors import InputError
from rapidun.jsonl import append_log, read_jsonl, read_log, write_jsonl
from rapidun.text import json_line, on_one_line, terminal_safe

PACKAGE = Path(__file__).parents[1] / "src" / "rapidun"
LINE_ENDS = "a\u2028b\u2029c\u0085d\x0be\x0cf\rg\x1ch"
OBEYED = {
    "\x1b[31m": "\\u001b[31m",  # colour
    "\x1b]52;c;cm0gLXJm\x07": "\\u001b]52;c;cm0gLXJm\\u0007",  # OSC 52: the clipboard
    "\x9b2J": "\\u009b2J",  # C1: clears the screen
    "a\x08b": "a\\u0008b",
    "a\rb": "a\\rb",
    "a\tb": "a\\tb",
    "\x7f": "\\u007f",
    "user\u202etxt.exe": "user\\u202etxt.exe",
    "\u2066a\u2069": "\\u2066a\\u2069",
    "zero\u200bwidth": "zero\\u200bwidth",
    "\U000e0041": "\\U000e0041",  # a tag: drawn as nothing
    "\ud800": "\\ud800",
    "\u2028": "\\u2028",
}


@pytest.mark.parametrize("text", OBEYED)
def test_what_a_terminal_would_obey_is_shown_as_its_escape(text: str) -> None:
    assert terminal_safe(text) == OBEYED[text]


@pytest.mark.parametrize(
    "text", ["plain", "Füße, 漢字　と、עברית", "e\u0301", "a\u00a0b", "two\nlines", "[/x] \\[b]", "👩"]
)
def test_what_can_be_drawn_stays_as_it_is(text: str) -> None:
    assert terminal_safe(text) == text


def test_on_one_line_there_is_one_line() -> None:
    assert on_one_line("a\r\nb\u2028c") == "a\\r\\nb\\u2028c"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_a_json_line_is_one_safe_line_that_reads_back(value: object) -> None:
    line = json_line(value)
    assert line == terminal_safe(line)
    assert len(line.splitlines()) <= 1
    assert json.loads(line) == value


def test_a_number_that_json_has_not_is_null() -> None:
    assert json_line({"a": [float("nan"), float("-inf"), 1.5]}) == '{"a": [null, null, 1.5]}'


def test_line_ends_of_other_kinds_stay_inside_a_line(tmp_path: Path) -> None:
    rows = [{"answer": LINE_ENDS}, {"answer": "next"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
    assert len((tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)  # as another program writes them
    (tmp_path / "theirs.jsonl").write_bytes(raw.encode())
    assert read_jsonl(tmp_path / "theirs.jsonl") == rows


def test_a_log_cut_off_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path: Path) -> None:
    path, lines = tmp_path / "log.jsonl", [{"n": n, "text": LINE_ENDS * n} for n in range(3)]
    append_log(path, lines)
    content = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(content) if byte == 10]
    for cut in range(0, len(content), 7):
        path.write_bytes(content[:cut])
        whole = sum(end <= cut for end in ends)
        assert read_log(path) == lines[:whole]
        append_log(path, [{"after": "the kill"}])
        assert read_log(path) == [*lines[:whole], {"after": "the kill"}]


def test_a_log_is_cut_back_over_a_long_unfinished_line(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"n": 1}\n{"text": "' + b"x" * 20_000)
    append_log(tmp_path / "log.jsonl", [{"n": 2}])
    assert read_log(tmp_path / "log.jsonl") == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"n": ' + b"1" * 5000 + b"}", b"null", b'{"a": 1} {"b": 2}']
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"n": 1}\n\n' + line + b"\n")
    with pytest.raises(InputError, match=r"rows\.jsonl:3: not .*JSON|rows\.jsonl:3: not UTF-8"):
        read_jsonl(tmp_path / "rows.jsonl")


# one place ------------------------------------------------------------------------------------------------------------

PRINTS = {"print", "echo", "secho"}
CUTS = {"splitlines", "readlines"}


def calls(path: Path) -> set[str]:
    """Names that are called in a module, and ``sys.stdout``, ``Console`` and ``escape`` where it mentions them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.add(node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr") and ast.unparse(node.value) == "sys":
            found.add(f"sys.{node.attr}")
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
            found.update(name.name for name in node.names if name.name in ("Console", "escape", "print"))
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda path: path.name)
def test_one_module_of_the_command_line_writes_to_the_terminal(path: Path) -> None:
    ways = {"echo", "secho", "sys.stdout", "sys.stderr", "Console", "escape"}
    assert path.name == "console.py" or not calls(path) & ways


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_reads_lines_or_untrusted_files_by_itself(path: Path) -> None:
    own = {"reading.py", "jsonl.py", "yaml_files.py", "tensor_files.py"}
    if path.relative_to(PACKAGE).as_posix() in own:
        return
    source = path.read_text(encoding="utf-8")
    ours = ("__doc__", "done.stderr")  # a docstring, and what a program of ours said
    assert not [line for line in source.split("\n") if ".splitlines(" in line and not any(one in line for one in ours)]
    assert "safe_load" not in source and "yaml.load" not in source
    assert "load_file" not in source and "safe_open" not in source


def test_the_guard_sees_every_way_to_write(tmp_path: Path) -> None:
    (tmp_path / "verb.py").write_text(
        "import sys, typer\nfrom rich.console import Console\nfrom rich.markup import escape\n"
        "typer.echo('a')\nsys.stdout.write('b')\n"
    )
    assert {"echo", "sys.stdout", "Console", "escape"} <= calls(tmp_path / "verb.py")
