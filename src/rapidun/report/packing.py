"""Text packed into a page: gzip, then base 85, which a few lines of ``report.js`` undo.

plotly.js alone is 5 MB. Packed, a page is under 2 MB, and still complete in itself.
"""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Packed:
    """A packed text and its bytes, which padding has made a multiple of four."""

    text: str
    size: int


@lru_cache(maxsize=1)
def packed_once(text: str) -> Packed:
    """`packed`, kept for the next page."""
    return packed(text)


def packed(text: str) -> Packed:
    """``text`` as characters that can stand in a script element: none of them is a slash, so none can end it."""
    content = gzip.compress(text.encode("utf-8"), 9, mtime=0)
    return Packed(base64.b85encode(content, pad=True).decode("ascii"), len(content))


def unpacked(text: str, size: int) -> str:
    """What was packed."""
    return gzip.decompress(base64.b85decode(text)[:size]).decode("utf-8")
