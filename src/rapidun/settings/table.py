"""All settings as tables in Markdown: ``python -m rapidun.settings.table > docs/settings.md``."""

from __future__ import annotations

from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

FAR = 10_000


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
