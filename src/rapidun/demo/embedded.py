"""What is embedded in the package: the demo's models and rows."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from rapidun.errors import InputError


def asset(name: str) -> Path:
    """A file or directory of the embedded model and data.

    Raises:
        InputError: If the installation lacks it.
    """
    path = Path(str(files("rapidun.demo") / "assets" / name))
    if not path.exists():
        raise InputError(f"{path}: missing. Install rapidun again, or run recipes/demo_model/build.py.")
    return path
