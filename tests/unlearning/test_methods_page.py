"""docs/methods.md names every method with exactly the options and defaults that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rapidun.unlearning import get_method, method_names

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
TABLE = {
    cells[0].strip("` "): cells[-1]
    for line in PAGE.splitlines()
    if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5
}


def test_the_page_has_every_method_once() -> None:
    assert sorted(TABLE) == method_names()


@pytest.mark.parametrize("name", method_names())
def test_the_page_gives_the_options_and_defaults_of_the_code(name: str) -> None:
    shown = re.findall(r"(\w+) (\([^)]*\)|[\w.]+)", TABLE[name]) if TABLE[name] != "none" else []
    options = get_method(name).options
    assert [option for option, _ in shown] == sorted(options, key=[option for option, _ in shown].index)
    for option, value in shown:
        default = options[option]
        if default in (None, ""):
            assert value.startswith("(")
        elif isinstance(default, bool):
            assert value == str(default).lower()
        else:
            assert value == (default if isinstance(default, str) else f"{default:g}")
