"""A real run on a tiny model, and its signed statement; both made once and copied for each test that changes them."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest

from pipeline.test_run import make_run_config
from rapidun.pipeline import run
from rapidun.statement.attest import attest
from rapidun.statement.content import Request
from rapidun.statement.keys import new_key, read_private, read_public

HAS_BOM = importlib.util.find_spec("cyclonedx") is not None
REQUEST = Request(id="R-17", received=date(2026, 11, 2), basis="GDPR Art. 17", approved_by=["A. Jones", "B. Khan"])


@dataclass(frozen=True)
class House:
    """A run in ``out/`` with its rows and model beside it, a key, and the statement in ``out/statement``."""

    path: Path

    @property
    def run(self) -> Path:
        return self.path / "out"

    @property
    def statement(self) -> Path:
        return self.run / "statement" / "statement.json"

    @property
    def key(self) -> Path:
        return self.path / "signer.pem"

    @property
    def public(self):
        return read_public(self.path / "signer.pem.pub")

    def attest(self, **changes):
        wanted = {"key": read_private(self.key), "overwrite": True, **changes}
        return attest(self.run, REQUEST, **wanted)


@pytest.fixture(scope="session")
def attested(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Not to be changed."""
    path = tmp_path_factory.mktemp("house")
    run(make_run_config(path), path / "out")
    new_key(path / "signer.pem")
    house = House(path)
    house.attest()
    return house


@pytest.fixture
def house(attested: House, tmp_path: Path) -> House:
    """A copy of the run and its statement, to be changed; the model and the rows lie where they lay."""
    shutil.copytree(attested.run, tmp_path / "out")
    for name in ("signer.pem", "signer.pem.pub"):
        shutil.copy(attested.path / name, tmp_path / name)
    return House(tmp_path)
