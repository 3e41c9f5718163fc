"""Whether the Hugging Face hub can be reached: asked once, briefly, instead of minutes of retries where it cannot."""

from __future__ import annotations

import os
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

PATIENCE = 3.0
"""Seconds."""


def hub_options() -> dict[str, Any]:
    """What ``from_pretrained`` is told of a hub id: to look in the local cache alone where there is no hub."""
    return {} if hub_answers() else {"local_files_only": True}


def hub_answers() -> bool:
    """Whether a connection to the hub can be opened; taken for granted behind a proxy."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    if getproxies():
        return True
    from huggingface_hub.constants import ENDPOINT

    place = urlsplit(ENDPOINT)
    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        socket.create_connection((place.hostname or "", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True
