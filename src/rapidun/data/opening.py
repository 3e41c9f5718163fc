"""Bytes of a row file: plain or compressed, and one clear line where they are not what the name says."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa  # type: ignore[import-untyped]

from rapidun.errors import InputError

_BEGINNING = 64
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)


def _open_plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _open_zstd(path: Path) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")))


_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _open_zstd,
}
_MAGIC = {
    b"\x1f\x8b": "gzip data; let its name end in .gz",
    b"BZh": "bzip2 data; let its name end in .bz2",
    b"\xfd7zXZ": "xz data; let its name end in .xz",
    b"\x28\xb5\x2f\xfd": "Zstandard data; let its name end in .zst",
    b"PK\x03\x04": "a ZIP archive; unpack it first",
    b"PAR1": "a Parquet file; let its name end in .parquet",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"version https://git-lfs": "only Git LFS's pointer to the data; fetch the data with: git lfs pull",
}


def check_file(path: Path) -> None:
    """Refuse what is no file with something in it.

    Raises:
        InputError: If there is no such file, it cannot be looked at, is no regular file, or is empty.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: no such file or directory.") from error
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{_printable(path)}: cannot be read ({cause}).") from error
    if stat.S_ISDIR(status.st_mode):
        return
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file but a pipe or a device. Save the rows to a file first.")
    if status.st_size == 0:
        raise InputError(f"{path}: the file is empty.")


def plain_suffixes(path: Path) -> str:
    """The file's name in lower case, without the suffix of its compression."""
    name = path.name.lower()
    return name.removesuffix(next((suffix for suffix in _OPENERS if name.endswith(suffix)), ""))


@contextmanager
def open_rows(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed where its name says so.

    Raises:
        InputError: If the file is damaged, or is another kind of file than its name says; also while it is read.
    """
    suffix = path.suffix.lower()
    try:
        with _OPENERS.get(suffix, _open_plain)(path) as file:
            yield file
    except _DAMAGE as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}).{_advice(path, suffix, error)}") from error


def beginning(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        InputError: As `open_rows`, and if they are of another kind of file.
    """
    with open_rows(path) as file:
        head = file.read(_BEGINNING)
    refuse_disguised(path, head)
    return head


def refuse_disguised(path: Path, head: bytes) -> None:
    """Refuse bytes that are of another kind of file than the name says.

    Raises:
        InputError: Says what it is, and what to do.
    """
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            raise InputError(f"{path}: this is {kind}.")


def one_line(error: BaseException) -> str:
    """An error's text on one line; its type where it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _advice(path: Path, suffix: str, error: BaseException) -> str:
    if suffix not in _OPENERS or isinstance(error, PermissionError):
        return ""
    with path.open("rb") as file:
        head = file.read(8)
    own = next(magic for magic, kind in _MAGIC.items() if kind.endswith(suffix))
    if head.startswith(own):
        return " It is damaged or was cut off: copy or download it again."
    return f" It is no {suffix} data: take {suffix} off its name if it is plain text."


def _printable(path: Path) -> str:
    text = str(path).replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 200 else f"{text[:200]}..."
