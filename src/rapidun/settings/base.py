"""What every settings class is made of, and how a plain mapping becomes one.

A field's annotation, default, limits and description are said once, here in `rapidun.settings`. The command line
(`Flag`), ``--print-config``, the YAML files and the documentation's table are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic.fields import FieldInfo

from rapidun import yaml_files
from rapidun.errors import ConfigError
from rapidun.reading import path_fault
from rapidun.settings.moved import moved
from rapidun.settings.names import nearest

LONGEST, LARGEST_SKETCH, MANY, LARGEST_SEED = 2**20, 2**24, 2**16, 2**32 - 1
"""Most tokens, values of a sketch, rows at once; what NumPy takes as a seed. More is a slip of the keyboard."""
COMMAND_LINE = "command line"
"""Origin of what options say."""
LONGEST_SHOWN = 200
FAR = 10_000
"""An upper limit beyond this is not worth saying."""
SHOWN = 8
"""Most wrong settings in one message."""


class Flag:
    """Says in an annotation that a setting is an option of the command line, and under which names.

    Args:
        names: ``"--max-length"``; several are the same option.
        commas: Whether a list is written as one word with commas; otherwise the option is repeated.
        value: What the option stands for, where it takes no value itself.
        panel: The heading on a help page, where it is not that of the section.
    """

    def __init__(self, *names: str, commas: bool = False, value: Any = None, panel: str | None = None) -> None:
        self.names, self.commas, self.value, self.panel = names, commas, value, panel


class Section(BaseModel):
    """Some settings that belong together; anything else in their place is refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True)
    panel: ClassVar[str | None] = None
    """The heading on a help page."""

    @field_validator("*")
    @classmethod
    def _usable_path(cls, value: Any) -> Any:
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Path) and (fault := path_fault(str(part))):
                raise ValueError(f"{shown(str(part))} is no path: it {fault}")
        return value


class NoOptions(Section):
    """Of a thing that takes none."""


class Replayable(Section):
    """A whole configuration: written into its run directory, it does the run again."""

    def to_yaml(self) -> str:
        """The complete configuration as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


Config = TypeVar("Config", bound=BaseModel)


def read_mapping(path: Path, expected: str) -> dict[str, Any]:
    """A YAML file that holds a mapping; ``expected`` says of what, for the error.

    Raises:
        InputError: If the file is missing, a directory, or not YAML; names the line.
        ConfigError: If it is not a mapping.
    """
    raw = yaml_files.read_yaml(path)
    if not isinstance(raw, dict) or not all(isinstance(name, str) for name in raw):
        raise ConfigError(f"{path}: {expected}")
    return raw


def make_config(
    raw: Mapping[str, Any],
    kind: type[Config],
    origin: str = "configuration",
    files: Mapping[str, str] | None = None,
) -> Config:
    """Validate a plain mapping as a configuration of ``kind``.

    Args:
        raw: The mapping.
        kind: The configuration.
        origin: What errors name.
        files: Sections that came from a file of their own, for which errors name that.

    Raises:
        ConfigError: If a key is unknown or a value is of the wrong type; names the nearest valid key.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(
                _explain(kind, (files or {}).get(str(item["loc"][:1] and item["loc"][0]), origin), item)
                for item in error.errors()[:SHOWN]
            )
        ) from error
    except (RecursionError, OverflowError) as error:
        raise ConfigError(f"{origin}: a value is nested too deeply or too large.") from error


def make_options(what: str, kind: type[Config], given: Mapping[str, Any]) -> Config:
    """Options of one thing that is called by a name, as their class.

    Args:
        what: The thing, for the error: ``"scheme 'loss'"``.
        kind: The class of its options.
        given: By name.

    Raises:
        ConfigError: If an option is unknown (lists the valid ones and names the nearest) or a value does not fit.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        found = error.errors()[0]
    name = ".".join(map(str, found["loc"]))
    if found["type"] == "extra_forbidden":
        listed = ", ".join(f"{each}={field.default}" for each, field in kind.model_fields.items()) or "none"
        near = nearest(name, kind.model_fields)
        raise ConfigError(f"{what} has no option {name!r}; its options: {listed}.{near}")
    if found["type"] == "value_error":  # a check of ours
        raise ConfigError(f"{what} {found['ctx']['error']}.")
    raise ConfigError(f"{what}: option {name} = {shown(found.get('input'))}: {found['msg']}.")


def valid_options(what: str, kind: type[Section], given: Mapping[str, Any]) -> None:
    """`make_options`, as a validator wants it. Raises ValueError."""
    try:
        make_options(what, kind, given)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def set_dotted(raw: dict[str, Any], dotted: str, value: Any) -> None:
    """Set ``a.b.c`` in nested mappings, making those that are missing."""
    *parents, last = dotted.split(".")
    for name in parents:
        raw = raw.setdefault(name, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {dotted}: {name} is a value, not a section.")
    raw[last] = value


def section_of(annotation: Any) -> type[Section] | None:
    """The settings class that a field holds, or None where it holds a value."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _section_at(root: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    kind: type[BaseModel] | None = root
    for name in path:
        field = kind.model_fields.get(name) if kind is not None else None
        kind = section_of(field.annotation) if field is not None else None
    return kind


def _flag_at(root: type[BaseModel], path: tuple[Any, ...]) -> str:
    """The option that sets the field at ``path``, in brackets, where there is one."""
    section = _section_at(root, path[:-1])
    field = section.model_fields.get(path[-1]) if path and section is not None else None
    flags = [each for each in field.metadata if isinstance(each, Flag)] if field is not None else []
    return f" ({flags[0].names[0]})" if flags else ""


def limits(field: FieldInfo) -> str:
    """``"From 1 to 512."``, ``"Above 0."`` or nothing."""
    said = [(Ge, "from {}"), (Gt, "above {}"), (Le, "to {}"), (Lt, "below {}")]
    text = " ".join(
        words.format(_number(getattr(each, kind.__name__.lower())))
        for kind, words in said
        for each in field.metadata
        if isinstance(each, kind) and not _is_far(each)
    )
    return text[:1].upper() + text[1:] + "." if text else ""


def _is_far(limit: Any) -> bool:
    """Whether it only stops a slip of the keyboard."""
    return isinstance(limit, Le) and isinstance(limit.le, int) and limit.le > FAR


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def shown(value: Any) -> str:
    """A value as Python writes it, which no terminal obeys, cut where it is long."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply"
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def _explain(kind: type[BaseModel], origin: str, item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "a name"  # of a key that is no text pydantic tells no place
    if item["type"] == "extra_forbidden":
        if (now := moved(where)) is not None:
            return f"{origin}: {where} {now}."
        section = _section_at(kind, tuple(item["loc"][:-1]))
        names = list(section.model_fields) if section else []
        hint = nearest(str(item["loc"][-1]), names) or (f" Valid here: {', '.join(names)}." if names else "")
        return f"{origin}: unknown key {where!r}.{hint}"
    if item["type"] == "missing":
        return f"{origin}: {where} is missing."
    if item["type"] == "value_error":  # a check of ours, which names the value itself
        said = str(item["ctx"]["error"])
        of_one = f"{where}: " if item["loc"] else ""  # several settings that do not go together have no place
        return f"{origin}: {of_one}{said if said.endswith(('.', '?')) else said + '.'}"
    flag = _flag_at(kind, tuple(item["loc"])) if origin == COMMAND_LINE else ""
    return f"{origin}: {where} = {shown(item.get('input'))}{flag}: {item['msg']}."
