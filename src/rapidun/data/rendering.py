"""What a template makes of a row, and the care that running somebody else's template takes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rapidun.data.badrows import RowFaultError
from rapidun.errors import InputError, ModelError

SECONDS = 5.0  # of the processor: a template that takes more for one row does not end
LONGEST = 1_000_000  # characters that a template may add to a row's own
MEMORY = 512 * 2**20  # bytes that it may take on the way
_DIRECTIVES = "aAbBcdDeFgGhHIjklmMnpPrRStTuUVwWxXyYCzZ"


class Endless(BaseException):
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
    """What ``render`` returns, within limits of time, memory and size.

    Raises:
        RowFaultError: If it fails in any way, or writes without measure.
        ModelError: If it does not end: it would not for the next row, either.
    """
    try:
        with template_limits():
            text = str(render())
    except Endless as error:
        raise ModelError(
            f"{what} does not end: it was stopped after {SECONDS:g} seconds. Mend it, or use another --template."
        ) from error
    except MemoryError as error:
        raise RowFaultError(f"{what} writes without measure") from error
    except Exception as error:  # a template is a program: it can raise anything
        raise RowFaultError(f"{what} cannot write it ({_one_line(error)})") from error
    if len(text) > LONGEST + 10 * given:
        raise RowFaultError(f"{what} writes {len(text)} characters for the {given} of the row")
    return text


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split())[:200]
    return said if said and type(error).__name__ == "TemplateError" else f"{type(error).__name__}: {said}".rstrip(": ")


def compiled_template(source: str, where: object) -> tuple[jinja2.Template, set[str]]:
    """A Jinja file, to be rendered by `rendered`, and the names of the variables that it uses.

    Raises:
        InputError: If it is not Jinja, or raises to a power (`raises_to_a_power`); names the line.
    """
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, optimized=False)
    try:
        with template_limits():
            used = meta.find_undeclared_variables(environment.parse(source))
            template = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"{where}:{error.lineno}: not a Jinja template ({error.message}).") from error
    except Endless as error:
        raise InputError(f"{where}: not a usable Jinja template (it takes more than {SECONDS:g} seconds).") from error
    except Exception as error:  # the parser's depth, a number of too many digits, what Python cannot compile
        raise InputError(f"{where}: not a usable Jinja template ({type(error).__name__}).") from error
    if raises_to_a_power(source):
        raise InputError(f"{where}: the template uses **. {NO_POWERS}")
    return template, used


NO_POWERS = "A power can take for ever and cannot be stopped, so templates with one are not run."


def raises_to_a_power(source: str) -> bool:
    """Whether a template holds the operator ``**``, but for that of ``f(**names)``.

    A single power of large numbers is one step of the interpreter, so no time limit ends it.
    """
    before = ""
    try:
        for _, kind, value in jinja2.Environment().lex(source):
            if kind == "operator" and value == "**" and before not in ("(", ","):
                return True
            before = before if kind == "whitespace" else value
    except jinja2.TemplateError:
        return False  # it is refused as what it is
    return False


@contextmanager
def template_limits() -> Iterator[None]:
    """Inside, `Endless` is raised after `SECONDS`, and `MemoryError` where more than `MEMORY` bytes more are asked for.

    Time is that of the processor, so that a machine that is busy or sleeps counts for nothing. It is limited where the
    platform has such a timer, in the main thread; one that somebody else has set goes on after it. Memory is limited on
    Linux.
    """
    with _memory_limit(), _time_limit():
        yield


@contextmanager
def _time_limit() -> Iterator[None]:
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Endless

    handler = signal.signal(signal.SIGVTALRM, stop)
    delay, interval = signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        taken = SECONDS - signal.getitimer(signal.ITIMER_VIRTUAL)[0]
        signal.signal(signal.SIGVTALRM, handler)
        signal.setitimer(signal.ITIMER_VIRTUAL, max(delay - taken, 1e-3) if delay else 0.0, interval)


@contextmanager
def _memory_limit() -> Iterator[None]:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    allowed = pages * resource.getpagesize() + MEMORY
    soft = allowed if before[0] == resource.RLIM_INFINITY else min(allowed, before[0])
    resource.setrlimit(resource.RLIMIT_AS, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


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
