"""For the site: links that leave ``docs/`` go to the repository."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any

_LINK = re.compile(r"\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Rewrite every relative link to a file of the repository that is no page."""
    folder = PurePosixPath("docs", page.file.src_uri).parent

    def absolute(found: re.Match[str]) -> str:
        target = normpath(str(folder / found[1]))
        return found[0] if target.startswith("docs/") else f"]({config.repo_url}/blob/main/{target}{found[2] or ''})"

    return _LINK.sub(absolute, markdown)
