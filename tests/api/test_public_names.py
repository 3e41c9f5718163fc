"""What `import rapidun` gives: a dozen names, lazily, typed, each with an example that runs."""

from __future__ import annotations

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import rapidun
from rapidun.pipeline import Silent, make_config
from rapidun.pipeline.indexing import IndexConfig, build

NAMES = [name for name in rapidun.__all__ if name != "__version__"]


def in_a_new_process(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_package_imports_nothing_heavy_and_lists_its_names():
    code = """
import sys, rapidun
print([name for name in ("torch", "transformers", "datasets", "pydantic", "numpy") if name in sys.modules])
print(len(dir(rapidun)), "unlearn" in dir(rapidun), hasattr(rapidun, "unlern"))
"""
    assert in_a_new_process(code).stdout.splitlines() == ["[]", "17 True False"]


def test_every_name_comes_from_where_the_types_say():
    stub = ast.parse(Path(rapidun.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    typed = {node.names[0].name: node.module for node in stub.body if isinstance(node, ast.ImportFrom)}
    assert typed == rapidun._HOMES
    for name in NAMES:
        assert callable(getattr(rapidun, name)), name


@pytest.fixture
def index(place):
    config = make_config({"model": {"source": "model"}, "index": {"k": 64}}, IndexConfig)
    build(config, Path("train.jsonl"), Path("index"), adapter=None, resume=False, overwrite=False, reporter=Silent())


@pytest.mark.parametrize("name", NAMES)
def test_its_example_runs_and_prints_what_it_says(place, registers, request, name):
    if name == "open_index":
        request.getfixturevalue("index")
    found = getattr(rapidun, name)
    text = inspect.getdoc(found)
    assert ">>> " in text
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.failed == 0 and result.attempted >= 2, "".join(said)


def test_no_module_takes_the_name_of_a_function():
    """Importing ``rapidun.X`` sets ``rapidun.X`` to the module, whatever it was before."""
    package = Path(rapidun.__file__).parent
    assert not [name for name in NAMES if (package / name).exists() or (package / f"{name}.py").exists()]
