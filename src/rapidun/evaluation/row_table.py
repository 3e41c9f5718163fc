"""Numbers of rows as a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from rapidun.files import atomic_write


def write_table(path: Path, columns: Any) -> None:
    """A mapping of names to columns of one length, or an Arrow table, as a file that is there whole or not at all."""
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    with atomic_write(path, "wb") as file:
        pq.write_table(table, file)
