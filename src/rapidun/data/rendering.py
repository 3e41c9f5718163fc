"""What a template makes of a row, and the care that running somebody else's template takes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import FrameType
from typing import Any

from rapidun.data.badrows import RowFaultError

SECONDS = 5.0  # a template that takes longer for one row does not end
LONGEST = 1_000_000  # characters that a template may add to a row's own
_DIRECTIVES = "aAbBcdDeFgGhHIjklmMnpPrRStTuUVwWxXyYCzZ"


class _Endless(BaseException):
    """The time is up. No template error: jinja would look for the template's line, and there may be none."""


@dataclass(frozen=True)
class Rendering:
    """A row's text: prompt, answer and the end of its turn.

    Args:
        text: The whole, up to and including the end of the answer's turn.
        start: Where the answer begins; what stands before is the prompt.
        stop: Where it ends; what stands behind is the turn's end.
        whole: Whether all of the row's answer is in it; a template may drop the reasoning.
    """

    text: str
    start: int
    stop: int
    whole: bool = True


def rendered(render: Callable[[], Any], given: int, what: str) -> str:
    """What ``render`` returns, within limits of time and size.

    Args:
        render: Runs the template.
        given: Characters of the row.
        what: The template, for messages.

    Raises:
        RowFaultError: If it fails in any way, does not end, or writes without measure.
    """
    try:
        with _time_limit():
            text = str(render())
    except _Endless as error:
        raise RowFaultError(f"{what} does not end: it was stopped after {SECONDS:g} seconds") from error
    except Exception as error:  # a template is a program: it can raise anything
        raise RowFaultError(f"{what} cannot write it ({_one_line(error)})") from error
    if len(text) > LONGEST + 10 * given:
        raise RowFaultError(f"{what} writes {len(text)} characters for the {given} of the row")
    return text


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split())[:200]
    return said if said and type(error).__name__ == "TemplateError" else f"{type(error).__name__}: {said}".rstrip(": ")


@contextmanager
def _time_limit() -> Iterator[None]:
    """`_Endless` after `SECONDS`, where the platform has an alarm; one that somebody else has set goes on after it."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _Endless

    handler = signal.signal(signal.SIGALRM, stop)
    begun = time.monotonic()
    delay, interval = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        left = max(delay - (time.monotonic() - begun), 1e-3) if delay else 0.0
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left, interval)


def with_fixed_date(source: str, day: datetime) -> str:
    """A chat template for which ``strftime_now`` tells ``day``: defined in front of it, as a macro of its own.

    A macro because transformers passes no function into a template; of the platform's own directives, each replaced
    by what it says of that day.
    """
    if "strftime_now" not in source:
        return source
    names = [f"%{flag}{letter}" for flag in ("", "-", "#") for letter in _DIRECTIVES]
    says = {name: said for name in names if (said := _said(day, name)) != name}
    filters = "".join(f" | replace({name!r}, {said!r})" for name, said in says.items())
    body = "{{ format | replace('%%', '\\x00')" + filters + " | replace('\\x00', '%') }}"
    return "{%- macro strftime_now(format) %}" + body + "{% endmacro %}\n" + source


def _said(day: datetime, directive: str) -> str:
    try:
        return day.strftime(directive)
    except ValueError:  # not one of this platform
        return directive
