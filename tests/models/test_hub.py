"""A hub that cannot be reached is noticed in seconds, with the message that says so."""

from __future__ import annotations

import time

import pytest

from rapidun.errors import ModelError
from rapidun.models import load_model
from rapidun.models.sources import PATIENCE, hub_answers, hub_options


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub at a port that nothing listens on."""
    for name in ("HF_HUB_OFFLINE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


def test_a_model_that_no_hub_can_give_is_refused_without_retries(no_hub: None) -> None:
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"nobody/nothing: no such directory.*Check the path or the id"):
        load_model("nobody/nothing")
    assert time.monotonic() - began < PATIENCE + 10


def test_only_the_local_cache_is_asked_where_there_is_no_hub(no_hub: None) -> None:
    assert not hub_answers()
    assert hub_options() == {"local_files_only": True}


def test_a_proxy_is_taken_at_its_word(no_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert hub_options() == {}


def test_offline_as_the_user_set_it_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("socket.create_connection", lambda *a, **k: pytest.fail("a connection was opened"))
    assert not hub_answers()
