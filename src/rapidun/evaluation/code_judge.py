"""Python in an answer: whether it parses, or the share of its lines that are code.

Plain words parse as Python too (``Yes`` is a name, ``42`` a number), so a text counts as code only if one of its
statements *does* something: anything but a bare name, literal, comparison or tuple of those.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from typing import Literal

from rapidun.errors import ConfigError
from rapidun.evaluation.task_judges import TaskJudge, each_answer, register_judge

_FENCED = re.compile(r"```(?:[Pp]y(?:thon)?3?)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_OPENS_A_BLOCK = re.compile(r":\s*(?:#.*)?$")
_CONTINUES = re.compile(r"^(?:elif\b|else\b|except\b|finally\b|case\b)")


def code_of(answer: str) -> str:
    """What stands between code fences, or all of the answer where there are none."""
    fenced = _FENCED.findall(answer)
    return "\n".join(fenced) if fenced else answer


def parses_as_code(text: str) -> bool:
    """Whether ``text`` is Python with at least one statement that does something."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning: "\d" in a string, "is" with a literal
            statements = ast.parse(textwrap.dedent(text).strip("\n")).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return any(not isinstance(each, ast.Expr) or _acts(each.value) for each in statements)


def _acts(expression: ast.expr) -> bool:
    return any(
        isinstance(node, (ast.Call, ast.Await, ast.Yield, ast.Lambda, ast.ListComp)) for node in ast.walk(expression)
    )


def code_line_share(text: str) -> float:
    """Share of the lines with any text that are code by themselves; 0 where there are none. Comments count as code."""
    lines = [line.strip() for line in text.split("\n") if line.strip() and not line.strip().startswith("```")]
    return sum(_is_code_line(line) for line in lines) / len(lines) if lines else 0.0


def _is_code_line(line: str) -> bool:
    if line.startswith(("#", "@")):
        return True
    if _CONTINUES.match(line) and _OPENS_A_BLOCK.search(line):
        return True
    return parses_as_code(f"{line}\n    pass" if _OPENS_A_BLOCK.search(line) else line)


@register_judge("code")
def code(*, measure: Literal["parses", "lines"] = "parses") -> TaskJudge:
    """``parses``: 1 where the answer's code parses (Python's own grammar); ``lines``: share of lines that are code.

    Raises:
        ConfigError: If ``measure`` is neither.
    """
    if measure not in ("parses", "lines"):
        raise ConfigError(f"judge 'code': measure is {measure!r}; choose parses or lines.")
    if measure == "lines":
        return each_answer(lambda answer, _: code_line_share(answer))
    return each_answer(lambda answer, _: float(parses_as_code(code_of(answer))))
