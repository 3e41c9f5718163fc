"""Which columns of a file are the prompt, the context and the answer: detected, named, and overridable.

A layout is a tuple of candidate columns per field. All rows of a file are looked at, in any order, before one is
chosen: the first known layout that at least half of the rows have. Optional columns are then read in every row that
has them. ``columns={"prompt": "question"}`` (``--map prompt=question``) overrides single fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from rapidun.data.badrows import printable
from rapidun.errors import InputError

FIELDS = (
    "id",
    "prompt",
    "context",
    "response",
    "response_clean",
    "response_poisoned",
    "response_paraphrased",
    "response_wrong",
    "prompt_paraphrased",
    "messages",
    "system",
    "history",
    "tools",
)
_ALWAYS: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "response_clean": ("response_clean",),
    "response_poisoned": ("response_poisoned",),
    "response_paraphrased": ("response_paraphrased", "paraphrased_answer"),  # the second of each is TOFU's
    "response_wrong": ("response_wrong", "perturbed_answer"),
    "prompt_paraphrased": ("prompt_paraphrased", "paraphrased_question"),
}
_CHAT: dict[str, tuple[str, ...]] = {"system": ("system", "system_prompt"), "tools": ("tools", "functions")}


@dataclass(frozen=True)
class Layout:
    """Candidate column names of each field, best first.

    Args:
        name: As it is said to the user.
        candidates: Field to column names; a field that is absent here is never read.
        required: Fields without which a row does not have this layout.
    """

    name: str
    candidates: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]

    def needs(self, require_response: bool) -> tuple[str, ...]:
        """The fields that a row must have; a query needs no answer."""
        plain = "prompt" not in self.required
        return tuple(name for name in self.required if require_response or plain or name != "response")

    def fits(self, names: Collection[str], require_response: bool) -> bool:
        """Whether columns of these names are enough."""
        return all(any(option in names for option in self.candidates[one]) for one in self.needs(require_response))


LAYOUTS = (
    Layout(
        "instruction/context|input/response|output",
        {
            "prompt": ("instruction",),
            "context": ("context", "input"),
            "response": ("response", "output"),
            "history": ("history",),
            **_CHAT,
        },
        ("prompt", "response"),
    ),
    Layout(
        "prompt/completion|response",
        {
            "prompt": ("prompt",),
            "context": ("context",),
            "response": ("response", "completion"),
            "messages": ("messages",),
            **_CHAT,
        },
        ("prompt", "response"),
    ),
    Layout(
        "question/answer|response",
        {"prompt": ("question",), "context": ("context",), "response": ("answer", "response"), **_CHAT},
        ("prompt", "response"),
    ),
    Layout(
        "messages|conversations", {"messages": ("messages", "conversations", "conversation"), **_CHAT}, ("messages",)
    ),
    Layout("text", {"response": ("text",)}, ("response",)),
)

_TWO_ANSWERS = (
    "These rows hold two answers each. Say which one is which: --map response=rejected --map response_clean=chosen "
    "for rows to forget, --map response=chosen for rows to keep or to trace."
)
_SEGMENTS = (
    "Rows of segments carry the text of their own template. Give the question and the answer in columns of their own, "
    "and the template with --template."
)
_REFUSED = {("chosen", "rejected"): _TWO_ANSWERS, ("segments",): _SEGMENTS}


class ColumnCount:
    """What a first pass over a file finds: its columns, and how many rows have each layout.

    Args:
        require_response: Whether a row without an answer has no layout.
    """

    def __init__(self, require_response: bool = True) -> None:
        self.names: dict[str, None] = {}
        self.rows = 0
        self.require_response = require_response
        self._having: Counter[str] = Counter()

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one row; a column without a value is a column, but does not make a layout."""
        self.rows += 1
        for name in record:
            self.names.setdefault(name)
        present = frozenset(name for name, value in record.items() if name in _KNOWN and value is not None)
        self._having.update(_layouts_of(present, self.require_response))

    def layout(self) -> Layout | None:
        """The first layout that at least half of the rows have; where there is none, that of the most rows."""
        possible = [layout for layout in LAYOUTS if layout.fits(self.names, self.require_response)]
        common = [layout for layout in possible if 2 * self._having[layout.name] >= self.rows]
        if common:
            return common[0]
        return max(possible, key=lambda layout: self._having[layout.name], default=None)


_KNOWN = frozenset(option for layout in LAYOUTS for options in layout.candidates.values() for option in options)


@cache
def _layouts_of(names: frozenset[str], require_response: bool) -> tuple[str, ...]:
    return tuple(layout.name for layout in LAYOUTS if layout.fits(names, require_response))


@dataclass(frozen=True)
class ColumnMap:
    """The chosen layout of one file: ``columns`` is field to the columns that may hold it, best first."""

    layout: str
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def chat(self) -> bool:
        """Whether the answer is the last assistant message."""
        return "messages" in self.columns and "response" not in self.columns and "prompt" not in self.columns

    def values(self, record: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
        """Of each field that the record has: its value and its column, the first that is not empty, or not absent."""
        found: dict[str, tuple[Any, str]] = {}
        for name, options in self.columns.items():
            for option in options:
                value = record.get(option)
                if value is not None and (name not in found or found[name][0] == ""):
                    found[name] = (value, option)
        return found

    def column(self, name: str) -> str:
        """The column that a field's value should be in."""
        return self.columns.get(name, (name,))[0]


def choose_layout(found: ColumnCount, path: str, *, columns: Mapping[str, str] | None = None) -> ColumnMap:
    """The layout of a file whose rows were counted.

    Raises:
        InputError: If no layout fits, or ``columns`` names an unknown field or an absent column.
    """
    given = dict(columns or {})
    _check_given(given, found.names, path)
    if given:
        return _mapped(given, found, path)
    layout = found.layout()
    if layout is None:
        raise InputError(_unknown_layout(found.names, path))
    return ColumnMap(layout.name, _present({**_ALWAYS, **layout.candidates}, found.names))


def _check_given(given: Mapping[str, str], found: Collection[str], path: str) -> None:
    for name, column in given.items():
        if name not in FIELDS:
            raise InputError(f"--map {name}={column}: there is no field {name!r}. Fields: {', '.join(FIELDS)}.")
        if column not in found:
            raise InputError(f"--map {name}={column}: {path} has no column {column!r}. It has: {_names(found)}.")


def _mapped(given: dict[str, str], found: ColumnCount, path: str) -> ColumnMap:
    """Fields that were not given fall back to any layout's columns that are not already taken."""
    candidates = {**_ALWAYS, **_CHAT}
    for layout in LAYOUTS[:3] if "messages" not in given else ():
        for name, options in layout.candidates.items():
            candidates[name] = tuple(dict.fromkeys((*candidates.get(name, ()), *options)))
    taken = set(given.values())
    chosen = _present(candidates, [name for name in found.names if name not in taken])
    chosen |= {name: (column,) for name, column in given.items()}
    complete = "messages" in given or ("response" in chosen and ("prompt" in chosen or "response" in given))
    if not complete and (found.require_response or "prompt" not in chosen):
        raise InputError(_unknown_layout(found.names, path))
    shown = "/".join(chosen[name][0] for name in ("messages", "prompt", "context", "response") if name in chosen)
    return ColumnMap(f"{shown} (by --map)", chosen)


def _present(candidates: Mapping[str, tuple[str, ...]], found: Collection[str]) -> dict[str, tuple[str, ...]]:
    present = {name: tuple(option for option in options if option in found) for name, options in candidates.items()}
    return {name: options for name, options in present.items() if options}


def _unknown_layout(found: Collection[str], path: str) -> str:
    layouts = "\n".join(f"  {layout.name}" for layout in LAYOUTS)
    said = f"{path}: cannot tell the prompt from the answer. Columns found: {_names(found)}.\n"
    for names, advice in _REFUSED.items():
        if all(name in found for name in names):
            return said + advice
    return (
        f"{said}Known layouts:\n{layouts}\nName the columns yourself, e.g. --map prompt=COLUMN --map response=COLUMN."
    )


def _names(found: Collection[str], shown: int = 40) -> str:
    names = [printable(name) for name in list(found)[:shown]]
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return ", ".join(names) + more or "none"
