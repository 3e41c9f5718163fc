"""``rapidun unlearn``: options of methods on the command line, and what goes with what; nothing here loads a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rapidun.cli import app
from rapidun.cli.console import parse_pairs
from rapidun.errors import ConfigError, InputError
from rapidun.files import write_json


def test_options_are_read_as_yaml_values() -> None:
    found = parse_pairs(["beta=0.2", "direction=high", "bounded=false", "layer=3"], "--option")
    assert found == {"beta": 0.2, "direction": "high", "bounded": False, "layer": 3}
    with pytest.raises(ConfigError, match=r"--option beta: write it as name=value"):
        parse_pairs(["beta"], "--option")


def failure(*arguments: object) -> BaseException | None:
    return CliRunner().invoke(app, ["unlearn", *map(str, arguments)]).exception


@pytest.mark.parametrize("more", [(), ("--model", "m", "--retain", "r"), ("--forget", "f", "--requests", "d")])
def test_a_forget_set_or_requests_with_model_and_retain_rows_are_needed(more: tuple[str, ...], tmp_path: Path) -> None:
    error = failure("--out", tmp_path / "out", *more)
    assert isinstance(error, ConfigError)
    assert "either --forget or --requests" in str(error)


def test_an_unknown_option_is_refused_before_any_file_is_read(tmp_path: Path) -> None:
    error = failure("--model", "m", "--forget", "f", "--retain", "r", "--out", tmp_path / "out", "--method", "npo",
                    "--option", "betta=1")  # fmt: skip
    assert isinstance(error, ConfigError)
    assert "has no option 'betta'" in str(error)
    assert "Did you mean 'beta'?" in str(error)


def test_undo_says_where_there_is_no_ledger_and_prints_the_one_there_is(tmp_path: Path) -> None:
    assert isinstance(failure("--out", tmp_path, "--undo", "1"), InputError)
    entry = {
        "number": 1, "name": "a", "rows": 3, "fingerprint": "x", "directory": "requests/001-a", "forget_before": 1.0,
        "forget_after": 4.0, "utility": 1.01, "stopped": None, "seconds": 2.0, "active": True,
    }  # fmt: skip
    write_json(tmp_path / "ledger.json", {"requests": [entry]})
    done = CliRunner().invoke(app, ["unlearn", "--out", str(tmp_path), "--undo", "1"])
    assert done.exit_code == 0
    assert (
        "request 1 (a): 3 rows, their loss 1.000 -> 4.000; validation loss 1.010 times the base model's, undone"
        in done.output
    )
    assert "no request is active" in done.output
