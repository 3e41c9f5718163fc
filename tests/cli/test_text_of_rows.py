"""Rows, ids, columns, sources and file names that try to write to the terminal, through every verb that prints them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.test_reveal import TASK
from command_line import rapidun
from rapidun.text import terminal_safe
from tiny import save_tiny, tiny_rows, write_rows

HOSTILE = "[/x][bold]\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b31m\u202e\u2028\u0085\x7f\ud7ff\u200b:skull:"
OURS = re.compile(r"\x1b\[[0-9;]*[mKA]|\x1b\[\?25[lh]|\r")  # what rich writes for a colour or a bar, and nothing else
FAST = ("--template", "plain", "--max-length", 96)


def hostile_rows(kind: str, count: int) -> list[dict[str, Any]]:
    rows = tiny_rows(kind, count)
    return [
        {
            "id": f"{HOSTILE}{kind}{number}",
            **{name: f"{HOSTILE} {text}" for name, text in row.items()},
            HOSTILE: HOSTILE,
            "provider": f"{HOSTILE}{number % 2}",
        }
        for number, row in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def hostile_house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("house") / "[red]\x1b[2J\u202eplace"
    place.mkdir()
    save_tiny(place / "model")
    for name, count in (("forget", 6), ("retain", 8), ("evaluation", 8), ("validation", 10), ("more", 4)):
        write_rows(place / f"{name}.jsonl", hostile_rows(name, count))
    (place / "task.yaml").write_text(TASK)
    (place / "requests").mkdir()
    write_rows(place / "requests" / "[b]\x1b[2J.jsonl", hostile_rows("forget", 6))
    data = {name: f"{name}.jsonl" for name in ("forget", "retain", "evaluation", "validation")}
    settings = {
        "model": {"source": "model"},
        "data": {**data, "pool": "more.jsonl", "template": "plain", "max_length": 96},
        "influence": {"sketch_size": 128},
        "lora": {"rank": 2},
        "unlearning": {"steps": 2, "batch_size": 4},
        "evaluation": {"suite": "perplexity", "max_new_tokens": 4},
    }
    (place / "run.yaml").write_text(yaml.safe_dump(settings))
    return place


def said(arguments: list[object], place: Path, *, colour: bool) -> tuple[int, str]:
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color"} if colour else {}
    done = rapidun(*arguments, cwd=place, environment={"COLUMNS": "200", **terminal})
    return done.returncode, done.stdout + done.stderr


MODEL = ["--model", "model"]
ROWS = ["--forget", "forget.jsonl", "--retain", "retain.jsonl"]
BUILD = ["index", "build", *MODEL, "--data", "retain.jsonl", *FAST, "--k", 128]
VERBS: dict[str, list[object]] = {
    "index build": [*BUILD, "--out", "index"],
    "index info": ["index", "info", "index"],
    "index verify": ["index", "verify", "index"],
    "index append": ["index", "append", "index", "--data", "more.jsonl"],
    "index export": ["index", "export", "index", "--view", "hidden", "--out", "vectors"],
    "trace an index": ["trace", "--index", "index", "--query", "forget.jsonl"],
    "trace rows": ["trace", *MODEL, "--data", "retain.jsonl", *FAST, "--prompt", "a", "--response", "b", "--tokens", 2],
    "trace as JSON": ["trace", *MODEL, "--data", "retain.jsonl", *FAST, "--prompt", "a", "--response", "b", "--json"],
    "trace as a page": ["trace", *MODEL, "--data", "retain.jsonl", *FAST, "--prompt", "a", "--response", "b", "--html",
                        "[b]page\x1b[2J.html"],
    "weigh": ["weigh", *MODEL, *ROWS, *FAST, "--out", "weighed"],
    "unlearn": ["unlearn", *MODEL, *ROWS, *FAST, "--steps", 2, "--weights", "uniform", "--out", "unlearned"],
    "unlearn requests": ["unlearn", *MODEL, "--requests", "requests", "--retain", "retain.jsonl", *FAST, "--steps", 2,
                         "--weights", "uniform", "--out", "ledger"],
    "evaluate": ["evaluate", *MODEL, "--data", "evaluation.jsonl", "--suite", "perplexity", *FAST, "--out", "measured"],
    "run": ["run", "run.yaml", "--out", "ran"],
    "report": ["report", "ran"],
    "attack": ["attack", "ran", "--attack", "as_is"],
    "tune": ["tune", "run.yaml", "--tuning", "more.jsonl", "--trials", 0, "--out", "tuned"],
    "value": ["value", *MODEL, "--task-data", "forget.jsonl", "--candidates", "retain.jsonl", *FAST, "--k", 128,
              "--select", "top:2", "--by", "provider", "--out", "valued"],
    "reveal": ["reveal", *MODEL, "--task", "task.yaml", *FAST, "--out", "revealed"],
}  # fmt: skip
COLOURED = ("index build", "index info", "trace an index", "trace rows", "weigh", "evaluate", "report")


@pytest.mark.parametrize("colour", [False, True], ids=["piped", "on a terminal"])
def test_what_every_verb_prints_of_rows_is_shown_and_not_obeyed(hostile_house: Path, colour: bool) -> None:
    for verb in COLOURED if colour else VERBS:
        arguments = VERBS[verb]
        again = ["--overwrite"] if colour and "--out" in arguments else []
        code, text = said([*arguments, *again], hostile_house, colour=colour)
        assert code in (0, 1), f"{verb}: {text}"
        bare = OURS.sub("", text) if colour else text
        assert bare == terminal_safe(bare), f"{verb}: {bare!r}"
        for line in text.split("\n") if verb.endswith("JSON") else ():
            assert not line.startswith("{") or json.loads(line)["id"].startswith(HOSTILE)


MISTAKES: dict[str, list[object]] = {
    "a file": ["trace", *MODEL, "--data", f"{HOSTILE}.jsonl", "--prompt", "a"],
    "a column": ["trace", *MODEL, "--data", "odd.jsonl", "--prompt", "a"],
    "an id": ["trace", *MODEL, "--data", "twice.jsonl", "--prompt", "a"],
    "an option": ["trace", *MODEL, f"--{HOSTILE}"],
    "a verb": [HOSTILE],
    "a setting": ["run", "run.yaml", "--out", "o", "--set", f"{HOSTILE}=1"],
    "a value": ["run", "run.yaml", "--out", "o", "--set", f"lora.rank='{HOSTILE}'"],
    "a number": ["unlearn", *MODEL, *ROWS, "--steps", HOSTILE, "--out", "o"],
    "an index": ["index", "info", HOSTILE],
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_a_message_repeats_is_shown_and_not_obeyed(hostile_house: Path, mistake: str) -> None:
    write_rows(hostile_house / "odd.jsonl", [{HOSTILE: "a", "b": "c"}])
    write_rows(hostile_house / "twice.jsonl", [*hostile_rows("a", 1), *hostile_rows("a", 1)])
    code, text = said(MISTAKES[mistake], hostile_house, colour=True)
    assert code == 2
    assert "error:" in text and ("[bold]" in text or mistake == "a number"), text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)  # our own colours; what is hostile has other sequences
    assert plain == terminal_safe(plain)


def test_a_text_that_the_terminal_cannot_encode_is_written_as_an_escape(house: Path) -> None:
    rows = [{"id": f"漢{n}", "prompt": "漢字", "response": "ü"} for n in range(3)]
    write_rows(house / "rows.jsonl", rows)
    given = ("trace", "--model", house / "model", "--data", house / "rows.jsonl", *FAST, "--prompt", "a", "--response")
    done = rapidun(*given, "b", environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "\\u6f22" in done.stdout
