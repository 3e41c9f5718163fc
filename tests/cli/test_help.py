"""Help answers at once, for every verb, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

VERBS = ("demo", "run", "index", "trace", "weigh", "unlearn", "tune", "evaluate", "reveal", "value", "report", "bench")


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


def test_version_is_the_packages(rapidun: Any) -> None:
    import rapidun as package

    assert rapidun("--version").stdout.strip() == f"rapidun {package.__version__}"
