"""``manifest.json``: what an index is of, how it was made, and every file with its SHA-256, its own included.

Nothing in it depends on when or where the index was built, so two builds of the same rows are the same bytes. Format 1
had no checksum of the manifest itself: such an index is read as before, a changed byte of its manifest is found only
where it makes no sense any more, and the next append writes format 2.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

import rapidun.attribution.scorers  # noqa: F401 (so that the scorers that a manifest names are known)
from rapidun.attribution.scorer import SCORERS, MatrixSpec, Scorer
from rapidun.errors import ConfigError, InputError
from rapidun.files import atomic_write
from rapidun.reading import as_kind, inside
from rapidun.sealed import altered, read_sealed, write_sealed

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
BUILDING = ".building"
"""Present while rows are being added: the plan, and a mark for every whole shard."""
PLAN = f"{BUILDING}/plan.json"


def shard_file(number: int) -> str:
    """The tensors of one shard."""
    return f"shards/{number:05d}.safetensors"


def table_file(number: int) -> str:
    """The shard's part of ``rows.parquet``, which is a directory that every Parquet reader opens as one table."""
    return f"rows.parquet/{number:05d}.parquet"


def mark_file(number: int) -> str:
    """Written after a shard's files are in place."""
    return f"{BUILDING}/{number:05d}.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Part):
    """One file, relative to the index."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str

    @field_validator("name")
    @classmethod
    def _below_the_index(cls, value: str) -> str:
        try:
            inside(Path(), value, MANIFEST)
        except InputError as error:
            raise ValueError(str(error)) from error
        return value


def entry_of(name: str, content: bytes) -> FileEntry:
    """The entry of a file called ``name`` that holds ``content``."""
    return FileEntry(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def write_entry(directory: Path, name: str, content: bytes) -> FileEntry:
    """Write the file ``name`` of the index in ``directory``, atomically."""
    with atomic_write(directory / name, "wb") as file:
        file.write(content)
    return entry_of(name, content)


class ShardFiles(_Part):
    """One shard: rows ``first`` to ``first + rows - 1`` of the index, and its files."""

    number: int = Field(ge=0)
    first: int = Field(ge=0)
    rows: int = Field(ge=0)
    files: list[FileEntry]


class Fingerprints(_Part):
    """What the rows were looked at with, and the rows themselves."""

    model: str
    adapter: str
    tokenizer: str
    template: str
    data: str


class Manifest(_Part):
    """The whole description of an index."""

    format: Literal["rapidun-index"] = "rapidun-index"
    version: Literal[1, 2] = 2
    model: str = Field(description="The model as the user named it.")
    adapter: str = Field("", description="The adapter as the user named it.")
    dtype: str = Field(
        "", description="Of the model's weights and activations; empty in an index built before this was kept."
    )
    quantize: str | None = Field(None, description="How the model's weights were quantised when it was loaded.")
    template: str = Field(description="The template's name.")
    template_options: dict[str, Any] = Field(default_factory=dict, description="The template's variables.")
    fingerprints: Fingerprints
    views: dict[str, SerializeAsAny[Scorer]]
    matrices: dict[str, MatrixSpec]
    max_length: int = Field(ge=2, description="Longest row in tokens.")
    max_tokens: int = Field(ge=1, description="Padded tokens in a batch.")
    shard_rows: int = Field(ge=1, description="Rows of a full shard.")
    rows: int = Field(ge=0)
    appended_to: str = Field("", description="Fingerprint of the rows before the last append; empty before the first.")
    plugins: dict[str, str] = Field(default_factory=dict, description="Content of the plugins that scorers came from.")
    repeats: bool = Field(False, description="Whether rows were appended again because that was asked for.")
    shards: list[ShardFiles] = Field(default_factory=list)
    files: list[FileEntry] = Field(default_factory=list, description="Files that are not of one shard.")

    @field_validator("views", mode="before")
    @classmethod
    def _known_views(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        try:
            return {
                name: view if isinstance(view, Scorer) else SCORERS[name].model_validate(view)
                for name, view in value.items()
            }
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _shards_follow_each_other(self) -> Manifest:
        first = 0
        for number, shard in enumerate(self.shards):
            if (shard.number, shard.first) != (number, first):
                raise ValueError(f"shard {number} is {shard.number} and begins at row {shard.first}, not {first}")
            first += shard.rows
        if first > self.rows:
            raise ValueError(f"its shards hold {first} rows, and it says {self.rows}")
        return self

    def every_file(self) -> list[FileEntry]:
        """All files but the manifest."""
        return [file for shard in self.shards for file in shard.files] + self.files

    def planned(self) -> Manifest:
        """The manifest without what was fitted on the way."""
        return self.model_copy(update={"views": {name: view.planned() for name, view in self.views.items()}})

    def save(self, path: Path) -> None:
        """Write as JSON with its checksum, atomically."""
        content = self.model_dump(mode="json")
        if not self.plugins:  # the bytes of an index without any are those of before there were plugins
            del content["plugins"]
        write_sealed(path, content)


def load_manifest(directory: Path) -> Manifest:
    """The manifest of a finished index.

    Raises:
        InputError: If there is no index, it is not finished, or the manifest cannot be used; says why.
    """
    path = directory / MANIFEST
    if not path.is_file():
        if (directory / BUILDING).is_dir():
            raise InputError(f"{directory}: this index is not finished. Run the same build again with --resume.")
        raise InputError(f"{directory}: no index here ({MANIFEST} is missing). Make one with: rapidun index build.")
    found = parse_manifest(path)
    if (held := sum(shard.rows for shard in found.shards)) != found.rows:
        raise InputError(f"{path}: its shards hold {held} rows, and it says {found.rows}. Build the index again.")
    return found


def parse_manifest(path: Path) -> Manifest:
    """A manifest file, checked.

    Raises:
        InputError: Naming the key that is unknown, missing or wrong, or if a byte was changed.
    """
    raw, whole = read_sealed(path)
    version = raw.get("version")
    if isinstance(version, int) and not 1 <= version <= FORMAT_VERSION:
        raise InputError(
            f"{path}: index format {version}; this rapidun reads formats 1 and {FORMAT_VERSION}. Build the index again."
        )
    manifest = as_kind(Manifest, raw, path, "Is this an index?")
    if whole is False or (whole is None and manifest.version > 1):
        raise altered(path)
    return manifest
