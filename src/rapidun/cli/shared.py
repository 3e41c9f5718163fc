"""Option sets: options that belong together as one dataclass, which a verb takes as one argument.

`Shared` holds those of every verb that loads a model and reads rows. A decorator makes the command line show each field
as an option of its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

from rapidun.cli import options as o
from rapidun.cli.common import make_raw

Verb = Callable[..., int]


@dataclass(frozen=True)
class Shared:
    """The values of the shared options, under their names on the command line."""

    columns: o.Columns = field(default_factory=list)
    template: o.Template = "auto"
    max_length: o.MaxLength = None
    on_bad_row: o.OnBadRow = "error"
    device: o.Device = "auto"
    dtype: o.Dtype = "auto"
    in_4bit: o.In4Bit = False
    in_8bit: o.In8Bit = False
    remote_code: o.RemoteCode = False
    pickle: o.Pickle = False
    seed: o.Seed = 0
    overrides: o.Set = field(default_factory=list)
    as_json: o.Json = False

    def raw(self, model: str, **rows: Path | None) -> dict[str, Any]:
        """The plain configuration mapping for this model and these row files."""
        own = {name: value for name, value in vars(self).items() if name not in ("overrides", "as_json")}
        return make_raw(model=model, rows=rows, **own)


def with_shared(verb: Verb) -> Verb:
    """`shared_without` with nothing left out."""
    return shared_without()(verb)


def shared_without(*names: str) -> Callable[[Verb], Verb]:
    """A command out of a verb that takes option sets, dataclasses such as `Shared` whose fields are options.

    The command has every field of every set as an option of its own, but the fields ``names``, which something else,
    an index for instance, decides; they keep their defaults.
    """

    def decorate(verb: Verb) -> Verb:
        hints = get_type_hints(verb, include_extras=True)
        sets: dict[str, Callable[..., Any]] = {}
        taken: dict[str, list[str]] = {}
        every: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(verb).parameters.items():
            kind = hints[name]
            if not is_dataclass(kind):
                every.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
                continue
            own = [option for option in _options_of(kind) if option.name not in names]
            sets[name], taken[name] = cast("Callable[..., Any]", kind), [option.name for option in own]
            every += own

        @functools.wraps(verb)
        def command(**options: Any) -> int:
            for name, make in sets.items():
                options[name] = make(**{each: options.pop(each) for each in taken[name]})
            return verb(**options)

        command.__signature__ = inspect.Signature(every, return_annotation=int)  # type: ignore[attr-defined]
        command.__annotations__ = {option.name: option.annotation for option in every} | {"return": int}
        return command

    return decorate


def _options_of(kind: Any) -> list[inspect.Parameter]:
    """The fields of an option set as parameters of a command."""
    hints = get_type_hints(kind, include_extras=True)
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    made = {each.name: each.default_factory() for each in fields(kind) if each.default_factory is not MISSING}
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=made.get(name, default), annotation=hints[name])
        for name, default in defaults.items()
    ]
