"""What a caller of `rapidun.api` holds already (a model, rows, settings by name), as the pipeline takes it.

Rows become row files in a directory of their own, which only its owner can read and which is gone when the call ends:
they pass the same reader, and the same checks, as the files of the command line.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from rapidun.errors import ConfigError, InputError, RapidunError
from rapidun.jsonl import write_jsonl
from rapidun.models import LoadedModel, borrowed
from rapidun.pipeline import make_config
from rapidun.pipeline.reporter import Silent
from rapidun.settings.moved import moved

Config = TypeVar("Config", bound=BaseModel)
_OF_LOADING = ("device", "dtype", "quantize", "dangerously_trust_remote_code", "dangerously_allow_pickle")


class Logged(Silent):
    """A reporter whose notes go to the log ``rapidun``."""

    def note(self, text: str) -> None:
        """Logged for those who ask for it, or as a warning where it is one."""
        level = logging.WARNING if text.startswith("warning: ") else logging.INFO
        logging.getLogger("rapidun").log(level, text.removeprefix("warning: "))


@contextmanager
def as_files(**groups: Any) -> Iterator[dict[str, Path]]:
    """Every group of rows that is not None as a row file, under its name.

    Args:
        groups: A path; a list of mappings; a ``datasets.Dataset``; or what `load_rows` returned.

    Raises:
        InputError: If a group is something else or empty. Whatever is found wrong with a row names group and number.
    """
    with tempfile.TemporaryDirectory(prefix="rapidun-") as name:
        place = Path(name)
        try:
            yield {name: _file(rows, name, place) for name, rows in groups.items() if rows is not None}
        except RapidunError as error:
            said = re.sub(rf"{re.escape(str(place))}/(\w+)(\.jsonl)?", r"\1", str(error))
            raise error if said == str(error) else type(error)(said) from error


def _file(rows: Any, name: str, place: Path) -> Path:
    if isinstance(rows, str | Path):
        return Path(rows)
    dataset = getattr(rows, "dataset", rows)  # of what load_rows returned
    stored = hasattr(dataset, "save_to_disk")
    if isinstance(dataset, Mapping) or not (stored or isinstance(dataset, Sequence)):
        hint = "Name one split, as data['train']." if stored else "Give a list of dicts, a datasets.Dataset or a path."
        raise InputError(f"{name}: a {type(rows).__name__} is no list of rows. {hint}")
    if not len(dataset):
        raise InputError(f"{name}: there are no rows.")
    if stored:
        dataset.save_to_disk(str(place / name))
        return place / name
    write_jsonl(place / f"{name}.jsonl", (_plain(row, f"{name}:{at}") for at, row in enumerate(dataset, 1)))
    return place / f"{name}.jsonl"


def _plain(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: a row is a dict with prompt and response, not a {type(row).__name__}.")
    found: dict[str, Any] = json.loads(json.dumps(dict(row), default=str))  # a date or a number of NumPy as its text
    return found


@contextmanager
def as_loaded(model: Any, tokenizer: Any) -> Iterator[LoadedModel | None]:
    """A model object as the pipeline takes it; None for a path, which the pipeline loads itself.

    Raises:
        ModelError, ConfigError: If model and tokenizer cannot be used together.
    """
    if isinstance(model, str | Path | LoadedModel) and tokenizer is not None:
        raise ConfigError("a path or what load_model returned has its tokenizer with it: leave tokenizer out.")
    if isinstance(model, str | Path):
        yield None
        return
    if isinstance(model, LoadedModel):
        model, tokenizer = model.model, model.tokenizer
    with borrowed(model, tokenizer) as loaded:
        yield loaded


def configured(
    kind: type[Config], model: Any, loaded: LoadedModel | None, sections: Sequence[str], settings: Mapping[str, Any]
) -> Config:
    """The configuration that settings by name amount to.

    Args:
        kind: Of which verb.
        model: A path, or an object whose ``loaded`` form is given.
        loaded: See `as_loaded`.
        sections: Where a name is looked for, in this order; a section itself can be given as a mapping.
        settings: By name, as on the command line; ``data`` holds the files.

    Raises:
        ConfigError: For an unknown name, with the nearest known one, or a value that does not fit.
    """
    if loaded is not None and (given := [name for name in _OF_LOADING if name in settings]):
        raise ConfigError(f"{given[0]} is of how a model is loaded, and this one is loaded already: leave it out.")
    raw: dict[str, Any] = {"model": {"source": str(model) if loaded is None else loaded.source}}
    known = {name: section for section in reversed(sections) for name in _fields(kind, section)}
    for name, value in settings.items():
        if name in kind.model_fields:
            raw[name] = {**raw.get(name, {}), **value} if isinstance(value, Mapping) else value
        elif name in known:
            raw.setdefault(known[name], {})[name] = value
        else:
            if gone := [f"{path} {said}" for section in sections if (said := moved(path := f"{section}.{name}"))]:
                raise ConfigError(f"{gone[0]}.")
            near = get_close_matches(name, [*known, *kind.model_fields], n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}; or a section."
            raise ConfigError(f"unknown setting {name!r}. {hint}")
    return make_config(raw, kind, "settings")


def _fields(kind: type[BaseModel], section: str) -> list[str]:
    annotation = kind.model_fields[section].annotation
    return list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
