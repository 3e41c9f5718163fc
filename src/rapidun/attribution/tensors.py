"""Tensors whose first dimension is rows, of which parts are read: from a safetensors file, or in memory.

The file's header says where each tensor lies, and rows are read from there.

Rows are read, not mapped, into memory that is given back: a search's memory then does not grow with the index even
where the system counts mapped pages, and a file that was cut short is an error instead of a crash. The pages come
from the system's cache either way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import torch

from rapidun.errors import InputError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
}
VERIFY = "Check the index with: rapidun index verify."
"""What is said where a file of an index is damaged."""
_LONGEST_HEADER = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in its file."""

    path: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows ``start`` to ``stop``, as a tensor of its own.

        Raises:
            InputError: If the file is missing or ends too early.
        """
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        rows = torch.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        self.read_into(rows, start)
        return rows

    def read_rows(self, rows: Sequence[int]) -> torch.Tensor:
        """Some rows, in the order asked for; the file is opened once. Raises as `read`."""
        found = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        with self._opened() as file:
            for place, row in enumerate(rows):
                self._fill(file, found[place : place + 1], row)
        return found

    def read_into(self, rows: torch.Tensor, start: int) -> None:
        """Fill the contiguous ``rows`` with those from ``start`` on."""
        with self._opened() as file:
            self._fill(file, rows, start)

    @contextmanager
    def _opened(self) -> Iterator[RawIOBase]:
        try:
            with self.path.open("rb", buffering=0) as file:
                yield file
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error}).") from error

    def _fill(self, file: RawIOBase, rows: torch.Tensor, start: int) -> None:
        if rows.numel() == 0:
            return
        raw = memoryview(rows.view(-1).view(torch.uint8).numpy().data)
        file.seek(self.offset + start * self.row_bytes)
        filled = 0
        while filled < len(raw):
            count = file.readinto(raw[filled:])
            if not count:
                raise InputError(f"{self.path}: the file is too short. {VERIFY}")
            filled += count


@dataclass(frozen=True)
class MemoryTensor:
    """A tensor whose first dimension is rows, in memory."""

    values: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return tuple(self.values.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.values.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.values[:1].nbytes

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows ``start`` to ``stop``."""
        return self.values[start:stop]

    def read_rows(self, rows: Sequence[int]) -> torch.Tensor:
        """Some rows, in the order asked for."""
        return self.values[list(rows)]

    def read_into(self, rows: torch.Tensor, start: int) -> None:
        """Fill ``rows`` with those from ``start`` on."""
        rows.copy_(self.values[start : start + len(rows)])


RowTensor = StoredTensor | MemoryTensor


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file, by name; reads only its header.

    Raises:
        InputError: If the file is missing or its header is damaged.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: _stored(path, 8 + length, entry) for name, entry in header.items()}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. {VERIFY}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). {VERIFY}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: damaged header. {VERIFY}") from error


def _stored(path: Path, data: int, entry: dict[str, Any]) -> StoredTensor:
    """A header's entry, if its bytes are as many as its shape says. Raises what a damaged one makes of it."""
    begin, end = entry["data_offsets"]
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    if not all(type(size) is int and size >= 0 for size in (begin, end, *shape)):
        raise ValueError("not a shape")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError("other bytes than its shape has")
    return StoredTensor(path, data + begin, dtype, shape)
