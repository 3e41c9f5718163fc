"""Files that came from elsewhere: read whole, checked, and one line that names the file where they cannot be used.

Our own files are among them: a run's directory may be copied, cut off, edited or made by somebody else. So every file
of text or JSON is read here, and a path that a file holds is taken only as far as it stays inside its directory.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar, cast

from rapidun.errors import InputError

Value = TypeVar("Value")
RESTORE = "It is not as rapidun wrote it: restore the file, or start anew in another --out."
LONGEST_PATH, LONGEST_NAME = 4096, 255
"""Bytes of a path and of one name in it; the systems that take more do not agree on how much."""


def read_text(path: Path) -> str:
    """A text file, line ends as they are.

    Raises:
        InputError: If it is missing, cannot be read, or is not UTF-8.
    """
    return decoded(read_bytes(path), path)


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """A file's content, of ``most`` bytes where that is given.

    Raises:
        InputError: If it is missing, cannot be read, or holds more.
    """
    try:
        with path.open("rb") as file:
            content = file.read(-1 if most is None else most + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: no such file.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a directory. Name a file.") from error
    except (OSError, ValueError) as error:  # a path may hold what no system call takes
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    if most is not None and len(content) > most:
        raise InputError(f"{path}: more than {most} bytes, which is more than such a file holds.")
    return content


def is_regular(path: Path) -> bool:
    """Whether a path is, or links to, an ordinary file: not a pipe or a device, whose reading may never end."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def decoded(content: bytes, where: object) -> str:
    """UTF-8 text, without a byte order mark.

    Raises:
        InputError: If it is something else.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8 text ({error.reason} at byte {error.start}). Save the file as UTF-8."
        ) from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: If the file is missing, cannot be read, or is not JSON.
    """
    return parse_json(read_text(path), path)


def parse_json(text: str, where: object) -> Any:
    """The value of a JSON text.

    Raises:
        InputError: If it is not JSON, is nested too deeply, or holds a number of too many digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if isinstance(where, Path) else ""
        raise InputError(f"{where}{line}: not JSON ({error.msg}).") from error
    except RecursionError as error:
        raise InputError(f"{where}: not usable JSON (nested too deeply).") from error
    except ValueError as error:  # Python's limit on digits
        raise InputError(f"{where}: not usable JSON (a number has too many digits).") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file is.

    Raises:
        InputError: As `read_json`, and if it is no object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: must be one JSON object, and is {_kind(value)}.")
    return value


def as_kind(kind: type[Value], raw: Any, where: object, advice: str) -> Value:
    """``raw`` as a ``kind``: any type that pydantic checks, dataclasses among them.

    Raises:
        InputError: Naming the place, the first key that is unknown, missing or wrong, and ``advice``.
    """
    from pydantic import ValidationError

    try:
        return cast("Value", _adapter(cast("Any", kind)).validate_python(raw))
    except (ValidationError, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: {first_fault(error).rstrip('.')}. {advice}") from error


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_kind(path: Path, kind: type[Value]) -> Value:
    """A JSON file of ours as the ``kind`` that was written.

    Raises:
        InputError: As `read_json` and `as_kind`.
    """
    return as_kind(kind, read_json(path), path, RESTORE)


@contextmanager
def made_from(path: Path) -> Iterator[None]:
    """Inside, values are made from what a file of ours holds; what an odd one raises becomes one line.

    Raises:
        InputError: Naming the file.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"{path}: does not hold what it should ({error!r:.200}). {RESTORE}") from error


def first_fault(error: Exception) -> str:
    """What is wrong first, and where, of what pydantic found."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return "nested too deeply" if isinstance(error, RecursionError) else "a number is too large"
    first = error.errors(include_url=False)[0]
    key, value = ".".join(str(part) for part in first["loc"]), first.get("input")
    said = first["msg"].removeprefix("Value error, ")
    if key and (value is None or isinstance(value, str | int | float)) and first["type"] != "missing":
        return f"{key} is {value!r:.80}: {said}"
    return f"{key}: {said}" if key else said


def inside(directory: Path, name: str, where: object) -> Path:
    """``directory / name``, if that is below ``directory``; ``name`` stands in the file ``where``.

    Raises:
        InputError: If it is elsewhere, or is no path at all.
    """
    parts = PurePosixPath(name).parts
    windows = PureWindowsPath(name)
    apart = not parts or ".." in parts or PurePosixPath(name).is_absolute() or windows.drive or ".." in windows.parts
    if apart or (fault := path_fault(name)):
        reason = "leads out of its directory" if apart else fault
        raise InputError(f"{where}: the path {name!r} in it {reason}. {RESTORE}")
    return directory / name


def path_fault(name: str) -> str | None:
    """Why no file can have this path on the systems there are; None where one can."""
    try:
        content = name.encode("utf-8")
    except UnicodeEncodeError:
        return None if _is_undecoded(name) else "holds half a character"
    if b"\0" in content:
        return "holds a NUL"
    longest = max((len(part) for part in content.split(b"/")), default=0)
    if len(content) > LONGEST_PATH or longest > LONGEST_NAME:
        return f"is too long ({len(content)} bytes)"
    return None


def _is_undecoded(name: str) -> bool:
    """Whether the half characters are bytes of a file's name that are no UTF-8, as Python keeps them."""
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    return {"NoneType": "null", "list": "a list", "str": "a text"}.get(type(value).__name__, "a single value")
