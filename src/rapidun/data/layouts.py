"""Which columns of a file are the prompt, the context and the answer: detected, named, and overridable.

A layout is a tuple of candidate columns per field. `choose_layout` picks the first layout whose required
columns a file has; `columns={"prompt": "question"}` (``--map prompt=question``) overrides single fields.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from rapidun.errors import InputError

FIELDS = ("id", "prompt", "context", "response", "response_clean", "response_poisoned", "messages")
_ALWAYS: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "response_clean": ("response_clean",),
    "response_poisoned": ("response_poisoned",),
}


@dataclass(frozen=True)
class Layout:
    """Candidate column names of each field, best first.

    Args:
        name: As it is said to the user.
        candidates: Field to column names; a field that is absent here is never read.
        required: Fields without which a file does not have this layout.
    """

    name: str
    candidates: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]


LAYOUTS = (
    Layout(
        "instruction/context|input/response|output",
        {"prompt": ("instruction",), "context": ("context", "input"), "response": ("response", "output")},
        ("prompt", "response"),
    ),
    Layout(
        "prompt/completion|response",
        {
            "prompt": ("prompt",),
            "context": ("context",),
            "response": ("response", "completion"),
            "messages": ("messages",),
        },
        ("prompt", "response"),
    ),
    Layout(
        "question/answer",
        {"prompt": ("question",), "context": ("context",), "response": ("answer",)},
        ("prompt", "response"),
    ),
    Layout("messages", {"messages": ("messages",)}, ("messages",)),
    Layout("text", {"response": ("text",)}, ("response",)),
)


@dataclass(frozen=True)
class ColumnMap:
    """The chosen layout of one file: ``columns`` is field to column name, only for columns the file has."""

    layout: str
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def chat(self) -> bool:
        """Whether the answer is the last assistant message."""
        return "messages" in self.columns and "response" not in self.columns and "prompt" not in self.columns


def choose_layout(
    found: Collection[str], path: str, *, columns: Mapping[str, str] | None = None, require_response: bool = True
) -> ColumnMap:
    """The layout of a file whose columns are ``found``.

    Args:
        found: Column names.
        path: For messages.
        columns: Field to column name; overrides detection.
        require_response: Whether a file without answers is refused.

    Raises:
        InputError: If no layout fits, or ``columns`` names an unknown field or an absent column.
    """
    given = dict(columns or {})
    _check_given(given, found, path)
    if given:
        return _mapped(given, found, path, require_response)
    for layout in LAYOUTS:
        needed = [name for name in layout.required if require_response or name != "response" or layout.name == "text"]
        chosen = _first_present(layout.candidates, found)
        if all(name in chosen for name in needed):
            return ColumnMap(layout.name, {**_first_present(_ALWAYS, found), **chosen})
    raise InputError(_unknown_layout(found, path))


def _check_given(given: Mapping[str, str], found: Collection[str], path: str) -> None:
    for name, column in given.items():
        if name not in FIELDS:
            raise InputError(f"--map {name}={column}: there is no field {name!r}. Fields: {', '.join(FIELDS)}.")
        if column not in found:
            raise InputError(f"--map {name}={column}: {path} has no column {column!r}. It has: {_names(found)}.")


def _mapped(given: dict[str, str], found: Collection[str], path: str, require_response: bool) -> ColumnMap:
    """Fields that were not given fall back to any layout's column that is not already taken."""
    taken = set(given.values())
    candidates = dict(_ALWAYS)
    for layout in LAYOUTS[:3]:
        for name, options in layout.candidates.items():
            candidates[name] = candidates.get(name, ()) + options
    if "messages" in given:
        candidates = dict(_ALWAYS)
    left = [name for name in found if name not in taken]
    chosen = {**_first_present(candidates, left), **given}
    complete = "messages" in given or ("response" in chosen and ("prompt" in chosen or "response" in given))
    if not complete and (require_response or "prompt" not in chosen):
        raise InputError(_unknown_layout(found, path))
    shown = "/".join(chosen[name] for name in ("messages", "prompt", "context", "response") if name in chosen)
    return ColumnMap(f"{shown} (by --map)", chosen)


def _first_present(candidates: Mapping[str, tuple[str, ...]], found: Collection[str]) -> dict[str, str]:
    present = {}
    for name, options in candidates.items():
        for option in options:
            if option in found:
                present[name] = option
                break
    return present


def _unknown_layout(found: Collection[str], path: str) -> str:
    layouts = "\n".join(f"  {layout.name}" for layout in LAYOUTS)
    return (
        f"{path}: cannot tell the prompt from the answer. Columns found: {_names(found)}.\n"
        f"Known layouts:\n{layouts}\n"
        "Name the columns yourself, e.g. --map prompt=COLUMN --map response=COLUMN."
    )


def _names(found: Collection[str]) -> str:
    return ", ".join(map(str, found)) or "none"
