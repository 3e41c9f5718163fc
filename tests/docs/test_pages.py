"""The README and the pages: links lead somewhere, and what they tell people to type runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import rapidun
from rapidun.cli import main
from rapidun.reading import read_json
from tiny import save_tiny, tiny_rows, tiny_tokenizer, write_rows

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOLD = [README, *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
TASK = {
    "description": "It speaks of robots.",
    "instruction": "hey what is 1?",
    "judge": {"kind": "regex", "options": {"pattern": "."}},
    "retain": "good.jsonl",
    "search": {"strategy": "random", "loops": 1, "pulls": 2, "initial_pulls": 1, "answers": 2, "max_new_tokens": 4},
    "release": {"rounds": 1, "modules": {"steps": 2}},
}
RUN = {
    "model": {"source": "model"},
    "data": {"forget": "bad.jsonl", "retain": "good.jsonl", "evaluation": "held_out.jsonl"},
    "unlearning": {"steps": 2},
    "evaluation": {"suite": "perplexity"},
}


def named(path):
    return str(path.relative_to(ROOT))


def prose(path):
    """The page without code, in blocks or in lines."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", path.read_text(encoding="utf-8")))


def anchors(path):
    """Of every heading, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading_that_are_there(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place)):
            broken.append(target)
    assert broken == []


def test_a_link_that_leads_nowhere_would_be_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One heading\n[a](gone.md) [b](#one-heading) [c](#no-heading)\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="gone"):
        test_every_link_of_a_page_leads_to_a_file_and_a_heading_that_are_there(page)
    assert anchors(page) == {"one-heading"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The directory that docs/index.md makes, with a tiny model in it."""
    save_tiny(tmp_path / "model")
    short = "{% for message in messages %}{{ message.role[0] }}:{{ message.content }}\n{% endfor %}"
    tiny_tokenizer(chat_template=short).save_pretrained(tmp_path / "model")  # a byte a token: others fill the context
    forget, retain = tiny_rows("forget", 4), tiny_rows("retain", 8)
    (tmp_path / "requests").mkdir()
    for name in ("bad.jsonl", "requests/one.jsonl"):
        write_rows(tmp_path / name, forget)
    write_rows(tmp_path / "good.jsonl", retain)
    write_rows(tmp_path / "train.jsonl", [*forget, *retain, *tiny_rows("more", 8)])
    write_rows(tmp_path / "held_out.jsonl", tiny_rows("held", 6))
    for name, content in (("task.yaml", TASK), ("run.yaml", RUN)):
        (tmp_path / name).write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(path, language):
    """The code of a page in one language; "" is the terminal's."""
    return [code for kind, code in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def commands(code):
    """Every command that is whole in its line, but the demo, which has a test of its own."""
    lines = [line for line in code.split("\n") if line.startswith("rapidun ")]
    return [line for line in lines if not line.startswith("rapidun demo")]


def run_command(line, monkeypatch):
    monkeypatch.setattr(sys, "argv", line.split())
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize("page", TOLD, ids=named)
def test_what_a_page_tells_people_to_type_runs_from_top_to_bottom(place, page, monkeypatch, capsys):
    names: dict[str, object] = {}
    told = FENCE.findall(page.read_text(encoding="utf-8"))
    assert {"python", ""} <= {language for language, _ in told}
    for language, code in told:
        if language == "python":
            exec(compile(code, str(page), "exec"), names)
        for line in commands(code) if language == "" else ():
            verdicts = (0, 1) if line.startswith(("rapidun run", "rapidun reveal")) else (0,)
            assert run_command(line, monkeypatch) in verdicts, f"{line}\n{capsys.readouterr().err}"


def test_the_files_of_the_tutorials_are_made_as_the_first_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "docs" / "index.md", "python")
    exec(compile(code, "index.md", "exec"), {})
    assert (tmp_path / "model" / "config.json").is_file()
    rows = {name: rapidun.load_rows(f"{name}.jsonl") for name in ("bad", "good", "held_out", "train")}
    assert [len(each) for each in rows.values()] == [60, 60, 60, 300]
    assert all(row["response_clean"] for row in rows["bad"])


def test_the_readme_is_short_has_one_picture_and_says_each_term_where_it_first_stands():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert (ROOT / picture).stat().st_size < 100_000
    words = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", prose(README))
    for term in ("forget rows", "retain rows", "adapter", "suite", "perplexity", "asr", "trigger", "floor", "gate"):
        first = re.search(rf"\b{term}", words, re.IGNORECASE)
        assert words[first.start() - 1] == "*", f"{term!r} is not explained where it first stands"
    assert [len(commands(code)) + 1 for code in blocks(README, "") if "rapidun" in code] == [10]
    assert len(blocks(README, "python")[0].strip().splitlines()) <= 10


def test_the_numbers_of_the_readme_are_those_of_the_committed_results():
    text = README.read_text(encoding="utf-8")
    page = (ROOT / "docs" / "benchmarks" / "demo.md").read_text(encoding="utf-8")
    for scheme in ("influence", "uniform"):
        row = next(line for line in page.splitlines() if line.startswith(f"| {scheme} | 0"))
        value, low, high = (100 * float(number) for number in re.findall(r"\d\.\d+", row)[:3])
        assert f"{value:.1f}% [{low:.1f}, {high:.1f}]" in text


def test_every_page_is_in_the_navigation_or_under_one_that_is():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES[2:]]
    assert [page for page in pages if page not in nav and not page.startswith("benchmarks/")] == []
    first = (ROOT / "docs" / "benchmarks" / "README.md").read_text(encoding="utf-8")
    known = read_json(ROOT / "docs" / "benchmarks" / "demo.json")  # the results lie beside their pages
    assert known and "real-model.md" in first


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    tool = shutil.which("mkdocs")
    if tool is None:
        pytest.skip("the site needs `pip install '.[docs]'`")
    command = [tool, "build", "--strict", "--site-dir", tmp_path / "site", "--config-file", ROOT / "mkdocs.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
