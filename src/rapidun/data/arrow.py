"""Rows to a `datasets.Dataset`, a few at a time: in memory while small, a memory-mapped Arrow file when large.

Extra columns are the user's and may mix types, or show their type late. So rows are kept in parts, each with the types
it has by itself, and brought to one type at the end: the wider one, or JSON text where Arrow has none that holds all.
Nested values (messages, tools) are always JSON text: a struct type would give every row the keys of all others. The
text is decoded where a row is read (`JsonText`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]

from rapidun.files import atomic_write, disk_error, file_sha256

if TYPE_CHECKING:
    import datasets

_IN_MEMORY_BYTES = 32 * 2**20
_ROWS_AT_ONCE = 1024
_AS_JSON = {b"rapidun": b"json"}  # marks a part's column that is JSON text already
_WRONG_TYPE = (pa.ArrowException, OverflowError, ValueError, TypeError)


@dataclasses.dataclass
class JsonText:
    """A column of any JSON values, as text in Arrow and as values in rows; a feature of `datasets`.

    `datasets.Json` is not it: its parser rounds numbers and refuses whole ones beyond 64 bits.
    """

    _type: str = dataclasses.field(default="RapidunJson", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        """The type in Arrow."""
        return pa.string()

    def encode_example(self, value: Any) -> str | None:
        """The text of a value."""
        return None if value is None else _text(value)

    def decode_example(self, text: str | None, **_: Any) -> Any:
        """The value of a text."""
        return None if text is None else json.loads(text)


def register_json_text() -> None:
    """Make `JsonText` known to `datasets`, which reads the features of a saved dataset by their names."""
    from datasets.features import features

    if JsonText()._type not in features._FEATURE_TYPES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this is experimental
            features.register_feature(JsonText, JsonText()._type)


def to_dataset(rows: Iterable[dict[str, Any]], *, in_memory_bytes: int = _IN_MEMORY_BYTES) -> datasets.Dataset:
    """The rows as a dataset; columns in order of first appearance, None where a row lacks one.

    Rows are taken one by one, and at most about ``in_memory_bytes`` of them are held. More go to a file of the local
    datasets cache, named by its content, and are memory-mapped from there.

    Raises:
        OutputError: If the cache cannot be written.
    """
    import datasets

    register_json_text()
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "rapidun"
    held: list[pa.Table] = []
    parts: list[Path] = []
    with ExitStack() as undo:
        spilled = cache(lambda: undo.enter_context(_temporary(folder)))  # made when it is first needed
        for table in _tables(rows):
            held.append(table)
            if sum(table.nbytes for table in held) > in_memory_bytes:
                parts.append(_spill(held, spilled() / f"{len(parts)}.arrow"))
                held = []
        if not parts:
            whole = _with_features(_joined(held)).combine_chunks()
            # given here, because datasets would pickle the table to find one
            return datasets.Dataset(datasets.table.InMemoryTable(whole), fingerprint=_fingerprint(whole))
        if held:
            parts.append(_spill(held, spilled() / f"{len(parts)}.arrow"))
        return datasets.Dataset.from_file(str(_one_file(parts, folder)))


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A directory below ``folder``, removed at the end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(dir=folder, prefix=".rows-")
    except OSError as error:
        raise disk_error(error, folder) from error
    with made as name:
        yield Path(name)


def _fingerprint(table: pa.Table) -> str:
    """16 hex digits of the SHA-256 of the table as an Arrow stream."""
    digest = hashlib.sha256()
    with pa.ipc.new_stream(_Sink(digest.update), table.schema) as writer:
        writer.write_table(table, max_chunksize=_ROWS_AT_ONCE)
    return digest.hexdigest()[:16]


class _Sink(io.RawIOBase):
    """A file of which every written piece goes to a function, and nothing is kept."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._take(piece)
        return len(piece)


def _tables(rows: Iterable[dict[str, Any]]) -> Iterator[pa.Table]:
    """Some rows at a time, with the types that they have by themselves."""
    waiting: list[dict[str, Any]] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == _ROWS_AT_ONCE:
            yield _table(waiting)
            waiting = []
    if waiting:
        yield _table(waiting)


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    columns, fields = [], []
    for name in names:
        values = [row.get(name) for row in rows]
        column = _plain_array(values)
        fields.append(_json_field(name) if column is None else pa.field(name, column.type))
        columns.append(_json(values) if column is None else column)
    return pa.table(columns, schema=pa.schema(fields))


def _plain_array(values: Sequence[Any]) -> pa.Array | None:
    """The values as Arrow infers their type; None where it has none, or where it is nested."""
    if any(isinstance(value, dict) or (isinstance(value, list) and _is_nested(value)) for value in values):
        return None
    try:
        return pa.array(values)
    except _WRONG_TYPE:
        return None


def _is_nested(values: list[Any]) -> bool:
    return any(isinstance(value, dict | list) for value in values)


def _spill(tables: Sequence[pa.Table], path: Path) -> Path:
    joined = _joined(tables)
    with atomic_write(path, "wb") as file, pa.ipc.new_stream(file, joined.schema) as writer:
        writer.write_table(joined)
    return path


def _joined(tables: Sequence[pa.Table], as_json: frozenset[str] = frozenset()) -> pa.Table:
    if not tables:
        return pa.table({})
    try:
        return pa.concat_tables(list(_alike(tables, [table.schema for table in tables], as_json)))
    except _MixedError as mixed:
        return _joined(tables, as_json | {mixed.column})


def _one_file(parts: Sequence[Path], folder: Path, as_json: frozenset[str] = frozenset()) -> Path:
    """All parts in one file named by its content."""
    beside = parts[0].with_name("whole.arrow")
    schemas = [_opened(path).schema for path in parts]
    try:
        with (
            atomic_write(beside, "wb") as file,
            pa.ipc.new_stream(file, _features(_unified(schemas, as_json))) as writer,
        ):
            for table in _alike((_opened(path).read_all() for path in parts), schemas, as_json):
                writer.write_table(_with_features(table), max_chunksize=_ROWS_AT_ONCE)
    except _MixedError as mixed:
        return _one_file(parts, folder, as_json | {mixed.column})
    path = folder / f"{file_sha256(beside)[:32]}.arrow"
    if not path.exists():
        beside.replace(path)
    return path


def _opened(path: Path) -> pa.ipc.RecordBatchStreamReader:
    return pa.ipc.open_stream(pa.memory_map(str(path)))


def _with_features(table: pa.Table) -> pa.Table:
    return pa.table(table.columns, schema=_features(table.schema))


def _features(schema: pa.Schema) -> pa.Schema:
    """The same columns, described as `datasets` describes them instead of marked."""
    import datasets

    marked = {field.name for field in schema if field.metadata}
    plain = pa.schema([field.remove_metadata() for field in schema])
    features = datasets.Features.from_arrow_schema(plain)
    described = {name: JsonText() if name in marked else features[name] for name in schema.names}
    return plain.with_metadata(datasets.Features(described).arrow_schema.metadata)


# one type a column ---------------------------------------------------------------------------------------------------


class _MixedError(Exception):
    """A column whose values do not go into the type that their types suggest."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def _alike(tables: Iterable[pa.Table], schemas: Sequence[pa.Schema], as_json: frozenset[str]) -> Iterator[pa.Table]:
    """The tables, of these schemas, with one type a column."""
    wanted = _unified(schemas, as_json)
    for table in tables:
        yield pa.table([_brought_to(table, field) for field in wanted], schema=wanted)


def _unified(schemas: Sequence[pa.Schema], as_json: frozenset[str]) -> pa.Schema:
    """Every column once, in order of first appearance, with the narrowest type for all; JSON text is marked."""
    found: dict[str, pa.Field] = {}
    for field in (field for schema in schemas for field in schema):
        found[field.name] = _wider(found[field.name], field) if field.name in found else field
    return pa.schema([_json_field(name) if name in as_json else field for name, field in found.items()])


def _wider(one: pa.Field, other: pa.Field) -> pa.Field:
    """A field for the values of both; JSON text where one is JSON text, or Arrow knows no such type."""
    if one.metadata or other.metadata:
        return _json_field(one.name)
    try:
        return pa.unify_schemas([pa.schema([one]), pa.schema([other])], promote_options="permissive").field(0)
    except pa.ArrowException:
        return _json_field(one.name)


def _json_field(name: str) -> pa.Field:
    return pa.field(name, pa.string(), metadata=_AS_JSON)


def _json(values: Iterable[Any]) -> pa.Array:
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _text(value: Any) -> str:
    return json.dumps(value, default=str)


def _brought_to(table: pa.Table, wanted: pa.Field) -> pa.ChunkedArray:
    if wanted.name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, wanted.type)])
    column, own = table.column(wanted.name), table.schema.field(wanted.name)
    if wanted.metadata and not own.metadata:
        return pa.chunked_array([_json(column.to_pylist())])
    try:
        return column if own.type.equals(wanted.type) else column.cast(wanted.type)
    except pa.ArrowException as error:
        raise _MixedError(wanted.name) from error
