"""Which line has which id, for any number of rows: a private SQLite table that spills to a temporary file."""

from __future__ import annotations

import sqlite3
from types import TracebackType

from rapidun.errors import OutputError

_CACHE_KIB = 8192


class IdLines:
    """Ids and their lines, exact, in constant memory.

    About 40 bytes an id lie in a file of SQLite's temporary directory (``SQLITE_TMPDIR`` or ``TMPDIR``) that is
    removed at the end, also after a kill; 8 MiB of it are held in memory. Use as a context manager.

    Raises:
        OutputError: If the temporary file cannot be written.
    """

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None)  # the empty name: a temporary file of this connection
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}"):
            self._table.execute(f"PRAGMA {setting}")
        self._table.execute("CREATE TABLE ids (id TEXT PRIMARY KEY, line INTEGER NOT NULL) WITHOUT ROWID")
        self._table.execute("BEGIN")

    def claim(self, id_: str, line: int) -> bool:
        """Give ``id_`` to ``line``; False where another line has it already."""
        try:
            return self._table.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (id_, line)).rowcount == 1
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"the temporary file of row ids cannot be written ({error}). Free some space, or set TMPDIR to a "
                "directory that has some."
            ) from error

    def line_of(self, id_: str) -> int:
        """The line that has claimed ``id_``.

        Raises:
            KeyError: If none has.
        """
        found = self._table.execute("SELECT line FROM ids WHERE id = ?", (id_,)).fetchone()
        if found is None:
            raise KeyError(id_)
        return int(found[0])

    def __enter__(self) -> IdLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._table.close()
