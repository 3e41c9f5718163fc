"""A page of numbers names the commit it was written at, and that commit is in the history that is shipped."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "benchmarks").glob("*.md"))


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def history() -> set[str]:
    if not (ROOT / ".git").exists() or git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no whole history here")
    return set(git("rev-list", "HEAD").stdout.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_commit_on_a_page_is_in_the_history(page: Path, history: set[str]) -> None:
    named = re.findall(r"\bcommits? ([0-9a-f]{7,40})\b", page.read_text(encoding="utf-8"))
    lost = [commit for commit in named if not any(known.startswith(commit) for known in history)]
    assert not lost, f"{page.name} names commits that are in no history: {lost}. Write the page again after a rebase."


def test_a_page_says_when_code_was_changed_and_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sys.modules.pop("provenance", None)
    import provenance

    for command in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "n"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("1")
    subprocess.run(["git", "-C", str(tmp_path), "add", "-A"], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "commit", "-qm", "one"], check=True)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    clean = provenance.current_commit()
    assert re.fullmatch(r"[0-9a-f]{7,}", clean)
    (tmp_path / "results.json").write_text("{}")
    assert provenance.current_commit() == clean
    (tmp_path / "src" / "a.py").write_text("2")
    assert provenance.current_commit() == f"{clean} with changes that are not committed"
