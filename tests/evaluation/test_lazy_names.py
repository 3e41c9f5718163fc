"""`rapidun.evaluation` imports its names at first use; a module of the same name would hide one once it is imported."""

from __future__ import annotations

import pkgutil

import rapidun.evaluation
from rapidun.evaluation import public


def test_no_module_hides_a_public_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(rapidun.evaluation.__path__)}
    assert not modules & set(public.__all__)


def test_every_public_name_is_there() -> None:
    assert all(getattr(rapidun.evaluation, name) is getattr(public, name) for name in public.__all__)
