"""``rapidun ...`` in this process, which has imported torch already, as a shell sees it: exit code and two streams."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

from rapidun.cli import main
from registers import registers_kept

SHELL = {"HF_HUB_OFFLINE": "1", "COLUMNS": "110", "OMP_NUM_THREADS": "1"}


def rapidun(
    *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The whole command, from its entry point to its exit; an error that it does not say in a line is raised here."""
    words, shell = ["rapidun", *map(str, arguments)], {**SHELL, **(environment or {})}
    encoding = shell.get("PYTHONIOENCODING", "utf-8")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding, how) for how in ("strict", "backslashreplace"))
    with _process_kept(), pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", words)
        if cwd is not None:
            patch.chdir(cwd)
        os.environ.update(shell)
        with pytest.raises(SystemExit) as left:
            main()
    return subprocess.CompletedProcess(words, int(left.value.code or 0), *map(_written, (out, err)))


def _written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def rapidun_process(
    *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, for what only that can show; importing torch costs it seconds."""
    return subprocess.run(
        [sys.executable, "-m", "rapidun", *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
        timeout=240,
        cwd=cwd,
        env={**os.environ, **SHELL, **(environment or {})},
    )


@contextmanager
def _process_kept() -> Iterator[None]:
    """A command ends with its process: what it sets in its environment, its registers and its loggers ends too."""
    loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    levels = [(each, each.level) for each in loggers]
    with mock.patch.dict(os.environ), registers_kept():
        yield
    for logger, level in levels:
        logger.setLevel(level)
