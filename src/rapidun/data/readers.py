"""Files and folders to records, each format by its own reader.

Every reader yields ``(line, record)``: a 1-based line number (row number where the format has no lines) and
either a dict or the `RowFaultError` that says why this line holds no row. Nothing here touches the network.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from rapidun.data.json_files import Record, read_json
from rapidun.data.opening import beginning, check_file, plain_suffixes
from rapidun.data.tables import read_csv, read_parquet, read_saved
from rapidun.errors import InputError

__all__ = ["Record", "read_records"]

_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
}
_FORMATS = (*_READERS, ".parquet")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_DEPTHS = ("*", "*/*", "*/*/*")  # of row files below a folder
_SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}\b")
_SPLIT = re.compile(r"(?<![a-zA-Z])(train|training|test|testing|validation|valid|val|dev|eval|evaluation)(?![a-zA-Z])")


def read_records(path: Path) -> Iterator[Record]:
    """All records of ``path``, in order, in constant memory where the format allows it.

    Raises:
        InputError: If the file is missing, empty, unreadable, damaged or of an unknown format.
    """
    folder = _folder_of(path)
    if folder is not None:
        return _read_folder(*folder)
    check_file(path)
    if path.name.lower().endswith(".parquet"):
        return read_parquet(path)
    for suffix, reader in _READERS.items():
        if plain_suffixes(path).endswith(suffix):
            beginning(path)
            return reader(path)
    raise InputError(
        f"{path}: unknown format. Give a file that ends in {', '.join(_FORMATS)} (the text formats also with .gz, "
        ".bz2, .xz or .zst), a directory written by datasets.Dataset.save_to_disk, or a hub's folder of a data set."
    )


# folders -------------------------------------------------------------------------------------------------------------


def _folder_of(path: Path) -> tuple[Path, str | None] | None:
    """``(folder, None)``, or ``(folder, split)`` for ``FOLDER/SPLIT`` that is no path of its own; None for a file."""
    try:
        if path.is_dir():
            return path, None
        if path.suffix or path.exists() or not path.parent.is_dir() or path.parent == Path():
            return None
        return (path.parent, path.name) if path.name in _splits(path.parent) else None
    except (OSError, ValueError):
        return None  # `check_file` says what it is


def _read_folder(folder: Path, split: str | None) -> Iterator[Record]:
    if (folder / "dataset_dict.json").exists():
        names = sorted(child.name for child in folder.iterdir() if child.is_dir())
        return read_saved(folder / _only(folder, names))
    if (folder / "state.json").exists():
        return read_saved(folder)
    revisions = list(folder.glob("snapshots/*"))  # the hub's cache
    if len(revisions) == 1:
        return _read_folder(revisions[0], split)
    splits = _splits(folder)
    return _read_files(folder, splits[split or _only(folder, list(splits))])


def _only(folder: Path, splits: list[str]) -> str:
    if not splits:
        raise InputError(f"{folder}: a directory without row files. Give a file, or a directory of a data set.")
    if len(splits) > 1:
        raise InputError(f"{folder}: has the splits {', '.join(splits)}. Name one of them, e.g. {folder / splits[0]}.")
    return splits[0]


def _splits(folder: Path) -> dict[str, list[Path]]:
    """The row files of a data set's folder by split, told from the names of files and folders."""
    files = sorted(file for depth in _DEPTHS for file in folder.glob(depth) if _holds_rows(file, folder))
    splits: defaultdict[str, list[Path]] = defaultdict(list)
    for file in files:
        if (split := _split_of(file.relative_to(folder))) is not None:
            splits[split].append(file)
    if splits or len(files) < 2:
        return splits or {"train": files} if files else {}
    names = ", ".join(file.name for file in files[:5])
    raise InputError(f"{folder}: a directory with several row files ({names}). Give one of them.")


def _holds_rows(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and plain_suffixes(file).endswith(_FORMATS) and file.name not in _DESCRIPTIONS


def _split_of(file: Path) -> str | None:
    found = _SHARD.match(file.name) or _SPLIT.search(file.as_posix())
    return found.group(1) if found else None


def _read_files(folder: Path, files: list[Path]) -> Iterator[Record]:
    """The rows of all files of a split; numbered through where there are several."""
    kinds = {(file.parent, Path(plain_suffixes(file)).suffix): file for file in reversed(files)}
    if len(kinds) > 1:
        examples = " or ".join(map(str, kinds.values()))
        raise InputError(f"{folder}: the same split in several folders or formats. Give one: {examples}.")
    if len(files) == 1:
        return read_records(files[0])
    return enumerate((record for file in files for _, record in read_records(file)), 1)
