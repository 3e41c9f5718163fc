"""Several files and directories of one directory, replaced at one instant, so that they agree whenever a kill comes.

What belongs together lies in ``.states/N``. ``.states/current`` is a link to the present ``N``, and
``DIRECTORY/NAME`` is a link through it, where the state holds such a name. A new state is written whole beside the
present one; then one rename turns ``current`` to it, which turns every name at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rapidun.files import disk_error

STATES = ".states"


@contextmanager
def replaced_together(directory: Path, names: Sequence[str]) -> Iterator[Path]:
    """Give an empty directory; when the block ends without an error, ``directory`` shows what it holds under ``names``.

    A name that it does not hold is gone from ``directory`` afterwards. Call it only while holding ``directory``.

    Args:
        directory: Of the results.
        names: What is replaced together; always the same for one directory.

    Raises:
        OutputError: If the disk is full or the place cannot be written; everything is then as it was.
    """
    states = directory / STATES
    number = 1 + max((int(path.name) for path in states.glob("[0-9]*")), default=0)
    new = states / str(number)
    try:
        new.mkdir(parents=True)
        yield new
        if not _present(states):
            _adopt(directory, names)
        for name in names:
            _link(directory / name, needed=(new / name).exists())
        _point(states / "current", str(number))
        for name in names:
            if not (new / name).exists():
                (directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, directory) from error
    finally:
        drop_old_states(directory)


def drop_old_states(directory: Path) -> None:
    """Remove every state but the present one; a kill leaves some."""
    states = directory / STATES
    for path in states.glob("[0-9]*"):
        if path.name != _present(states):
            shutil.rmtree(path, ignore_errors=True)


def _present(states: Path) -> str:
    link = states / "current"
    return link.readlink().name if link.is_symlink() else ""


def _adopt(directory: Path, names: Sequence[str]) -> None:
    """Make a state of what stands under the names itself: older versions, and copies that follow links, leave it so."""
    states = directory / STATES
    shutil.rmtree(states / "current", ignore_errors=True)
    shutil.rmtree(states / "0", ignore_errors=True)
    (states / "0").mkdir()
    for path in (directory / name for name in names if (directory / name).exists()):
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, states / "0" / path.name)
    _point(states / "current", "0")


def _link(path: Path, *, needed: bool) -> None:
    """Make ``path`` a link through ``current``, where it is ``needed`` or something else is there."""
    aside = path.with_name(f".{path.name}.old")  # from where `remove_leftovers` puts it back, should a kill come now
    if path.is_dir() and not path.is_symlink():
        path.rename(aside)
    if not path.is_symlink() and (needed or path.exists() or aside.exists()):
        _point(path, f"{STATES}/current/{path.name}")
    shutil.rmtree(aside, ignore_errors=True)


def _point(link: Path, target: str) -> None:
    """Make ``link`` a link to ``target``, in one step."""
    beside = link.with_name(f".{link.name}.part")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(link)
