"""The options of every verb that loads a model and reads rows: written once, added to a verb by a decorator.

A verb takes them as one argument, ``shared``; the command line shows each of them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from rapidun.cli import options as o
from rapidun.cli.common import make_raw

Verb = Callable[..., int]


@dataclass(frozen=True)
class Shared:
    """The values of the shared options, under their names on the command line."""

    columns: o.Columns = field(default_factory=list)
    template: o.Template = "auto"
    max_length: o.MaxLength = 512
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
    """``verb(..., shared: Shared)`` as a command that has every field of `Shared` as an option."""
    return shared_without()(verb)


def shared_without(*names: str) -> Callable[[Verb], Verb]:
    """`with_shared` for a verb where something else, an index for instance, decides the fields ``names``."""
    parameters = {name: parameter for name, parameter in _parameters().items() if name not in names}

    def decorate(verb: Verb) -> Verb:
        @functools.wraps(verb)
        def command(**options: Any) -> int:
            taken = {name: options.pop(name) for name in parameters}
            return verb(**options, shared=Shared(**taken))

        hints = get_type_hints(verb, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(verb).parameters.values()
            if parameter.name != "shared"
        ]
        every = [*own, *parameters.values()]
        command.__signature__ = inspect.Signature(every, return_annotation=int)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in every} | {"return": int}
        return command

    return decorate


@functools.cache
def _parameters() -> dict[str, inspect.Parameter]:
    hints = get_type_hints(Shared, include_extras=True)
    defaults = vars(Shared())
    return {
        each.name: inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=defaults[each.name], annotation=hints[each.name]
        )
        for each in fields(Shared)
    }
