"""A user's own methods, schemes, scorers, judges, attacks and suites: files of Python, run before names are checked.

A plugin registers what it brings with `register_method`, `register_scheme`, `register_scorer`, `register_judge`,
`register_attack` or `register_suite`. It is a program like any other and can do anything its user can.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from rapidun.errors import ConfigError, RapidunError
from rapidun.reading import path_fault, read_bytes

_MODULES = "rapidun_plugin_"


def load_plugin(path: Path) -> None:
    """Run a plugin, once.

    Raises:
        ConfigError: If it is no file of Python, or raises; names the line.
    """
    if (fault := path_fault(str(path))) or not path.is_file():
        raise ConfigError(f"--plugin {str(path)[:200]}: {fault or 'no such file'}.")
    name = f"{_MODULES}{fingerprint(path)[:16]}"
    if name in sys.modules:
        return
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ConfigError(f"--plugin {path}: not a file of Python; its name ends in .py.")
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"--plugin {_place(path, error)}: {_said(error)}") from error


def fault_of_a_plugin(error: BaseException) -> str | None:
    """``--plugin FILE:LINE: what`` of an exception that came out of a plugin's code; None of any other."""
    files = {module.__file__ for name, module in sys.modules.items() if name.startswith(_MODULES)}
    lines = [each for each in traceback.extract_tb(error.__traceback__) if each.filename in files]
    return f"--plugin {lines[-1].filename}:{lines[-1].lineno}: {_said(error)}" if lines else None


def fingerprint(path: Path) -> str:
    """SHA-256 of a plugin's content."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def plugin_marks(paths: Sequence[Path]) -> dict[str, str]:
    """What a run's identity says of its plugins: the content of each, by its place in the list."""
    return {f"plugin {number}": fingerprint(path) for number, path in enumerate(paths, 1)}


def _place(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path.absolute()
    ]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _said(error: BaseException) -> str:
    if isinstance(error, RapidunError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}".rstrip(": ").rstrip(".") + "."
