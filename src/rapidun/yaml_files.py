"""YAML that somebody else wrote: settings, tasks, and the values of ``--set``.

Read with PyYAML's safe loader, within limits. An alias (``*a``) stands for a whole part of the document, and aliases
of aliases for parts of parts: a kilobyte can mean gigabytes. So the document is measured with its aliases written out,
on the nodes and before any value is made of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rapidun.errors import InputError
from rapidun.reading import read_text

MOST_VALUES, DEEPEST = 100_000, 50
"""Values of a document with its aliases written out, and levels of lists and mappings. A configuration has hundreds."""
_WHAT_VALUES_RAISE = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)  # int(), date(), a bad merge


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        InputError: If it is missing, cannot be read, is not YAML, or is beyond the limits; names the line.
    """
    return parse_yaml(read_text(path), path)


def parse_yaml(text: str, where: object) -> Any:
    """The value of a YAML document.

    Args:
        text: The document.
        where: For the error; where it is a path, the line is added to it.

    Raises:
        InputError: If it is not YAML, is nested too deeply, or means too many values.
    """
    try:
        return _value(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None and isinstance(where, Path) else ""
        raise InputError(f"{where}{line}: not YAML ({problem(error)}).") from error
    except RecursionError as error:
        raise InputError(f"{where}: nested too deeply for a file of settings.") from error
    except _WHAT_VALUES_RAISE as error:
        raise InputError(f"{where}: not YAML ({problem(error)}).") from error


def problem(error: Exception) -> str:
    """What is wrong, in one line."""
    said = str(getattr(error, "problem", None) or error or type(error).__name__)
    return " ".join(said.split())[:200]


def _value(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_size(root: yaml.Node) -> None:
    """Refuse a document that means too much.

    Raises:
        YAMLError: With the place.
    """
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node) -> int:
        key = id(node)
        if key in above:
            raise _refusal("a value holds itself", node)
        if key not in sizes:
            above.add(key)
            if len(above) > DEEPEST:
                raise _refusal(f"nested more than {DEEPEST} deep", node)
            sizes[key] = 1 + sum(map(size, _children(node)))
            above.remove(key)
        if sizes[key] > MOST_VALUES:
            raise _refusal(f"with its aliases written out it holds more than {MOST_VALUES} values", node)
        return sizes[key]

    size(root)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _refusal(said: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, said, node.start_mark)
