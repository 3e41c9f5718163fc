"""``--plugin``: the examples of docs/guide/extending.md run as they stand; a plugin that is wrong is named."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.conftest import Rapidun
from rapidun.errors import ConfigError
from rapidun.evaluation import make_judge
from rapidun.jsonl import read_jsonl
from rapidun.settings.base import make_config
from rapidun.settings.reveal import RevealConfig

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "extending.md"
ROWS = "--model model --forget forget.jsonl --retain retain.jsonl --template plain"


@pytest.fixture
def shop(house: Path) -> Path:
    """A tiny model, rows, and every file of the page."""
    for name, text in re.findall(r"```python file=(\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        (house / name).write_text(text, encoding="utf-8")
    return house


Said = Callable[[str], tuple[int, str]]


@pytest.fixture
def run(house: Path, rapidun: Rapidun) -> Said:
    """Exit code, and everything that was said."""

    def call(line: str) -> tuple[int, str]:
        done = rapidun(*shlex.split(line), cwd=house)
        return done.returncode, done.stdout + " ".join(done.stderr.split())

    return call


def test_a_method_of_ones_own_unlearns_and_is_part_of_what_a_run_is_of(shop: Path, run: Said) -> None:
    line = f"unlearn {ROWS} --plugin method.py --method capped --option cap=3 --weights uniform --steps 2 --out o"
    code, said = run(line)
    assert code == 0, said
    assert (shop / "o" / "adapter").is_dir()
    assert "cap: 3" in (shop / "o" / "config.yaml").read_text()
    assert run(f"{line} --resume")[0] == 0
    source = (shop / "method.py").read_text()
    (shop / "method.py").write_text(source.replace("-cross_entropy", "-2 * cross_entropy"))
    code, said = run(f"{line} --resume")
    assert code == 2
    assert "plugin 1 (method.py) was" in said


def test_an_option_that_it_lacks_is_refused(shop: Path, run: Said) -> None:
    line = f"unlearn {ROWS} --plugin method.py --method capped --option cup=3 --out o"
    code, said = run(line)
    assert code == 2
    assert "Did you mean 'cap'?" in said


def test_a_scheme_of_ones_own_weighs_from_a_configuration_too(shop: Path, run: Said) -> None:
    code, said = run(f"weigh {ROWS} --plugin scheme.py --scheme fluent --out o")
    assert code == 0, said
    weights = [line["weight"] for line in read_jsonl(shop / "o" / "weights.jsonl") if line["group"] == "forget"]
    assert sorted(weights) == pytest.approx([rank / 4.5 for rank in range(1, 9)])
    (shop / "sub").mkdir()
    (shop / "sub" / "run.yaml").write_text(
        "model: {source: ../model}\ndata: {forget: ../forget.jsonl, retain: ../retain.jsonl, template: plain}\n"
        "weights: {scheme: fluent}\nplugins: [../scheme.py]\n"
    )
    code, said = run("run sub/run.yaml --out p --dry-run")
    assert code == 0, said
    code, said = run(f"weigh {ROWS} --scheme fluent --out q")
    assert code == 2
    assert "fluent is unknown" in said.replace("'", "")  # a command without the plugin knows nothing of it


def test_a_scorer_of_ones_own_builds_an_index_and_is_asked(shop: Path, run: Said) -> None:
    build = "index build --plugin scorer.py --views size,lexical --model model --data retain.jsonl --template plain"
    code, said = run(f"{build} --out i")
    assert code == 0, said
    for where in ("--index i", "--data retain.jsonl --model model --template plain"):
        ask = f"trace --plugin scorer.py --by size {where} --query retain.jsonl --k 1 --json"
        code, said = run(ask)
        assert code == 0, said
        hits = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert len(hits) == len(list(read_jsonl(shop / "retain.jsonl")))
        assert all(len(hit["response"]) == len(hit["train_response"]) for hit in hits)
    code, said = run("index info i")
    assert code == 2
    assert "'size' are unknown" in said and "need its --plugin" in said and ".." not in said
    for verb in ("info", "verify"):
        assert run(f"index {verb} i --plugin scorer.py")[0] == 0, verb


def test_a_scorer_that_looks_on_at_the_model_finds_the_row_itself(shop: Path, run: Said) -> None:
    line = "trace --plugin embedded.py --by embedded --data retain.jsonl --model model --template plain --k 1 --json"
    code, said = run(f"{line} --query retain.jsonl")
    assert code == 0, said
    hits = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert all(hit["score"] == pytest.approx(1) and hit["response"] == hit["train_response"] for hit in hits)
    assert len(hits) == len(list(read_jsonl(shop / "retain.jsonl")))


def test_a_judge_of_ones_own_is_known_to_a_task(shop: Path, registers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop)
    task = {"description": "x", "instruction": "y", "retain": "retain.jsonl", "judge": {"kind": "shouting"}}
    raw = {"model": {"source": "m"}, "plugins": ["judge.py"], "task": task}
    config = make_config(raw, RevealConfig)
    judge = make_judge(config.task.judge.kind, {"share": 0.6})
    assert judge(["LOUD", "quiet", "LOUd"]).tolist() == [1.0, 0.0, 1.0]
    task["judge"] = {"kind": "shouting", "options": {"shore": 1}}
    with pytest.raises(ConfigError, match="Did you mean 'share'"):
        make_config(raw, RevealConfig)


def test_what_goes_wrong_in_a_plugin_while_it_works_is_told_with_its_line(shop: Path, run: Said) -> None:
    source = (shop / "scheme.py").read_text()
    (shop / "scheme.py").write_text(source.replace("evidence.forget_losses()", "evidence.losses['forget']"))
    code, said = run(f"weigh {ROWS} --plugin scheme.py --scheme fluent --out o")
    assert code == 2
    line = 1 + source[: source.index("evidence.forget_losses()")].count("\n")
    assert f"scheme.py:{line}: IndexError: only integers" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "--plugin mine.py: no such file."),
        ("import torch\n\nx = 1 / 0\n", "--plugin mine.py:3: ZeroDivisionError: division by zero."),
        ("def f(:\n    pass\n", "--plugin mine.py:1: SyntaxError: invalid syntax."),
        ("import no_such_module\n", "--plugin mine.py:1: ModuleNotFoundError: No module named 'no_such_module'."),
        ("raise SystemExit(3)\n", "--plugin mine.py:1: SystemExit: 3."),
        ("from rapidun.weighting import register_scheme\n", "'fluent' is unknown"),
    ],
)
def test_a_plugin_that_is_missing_or_wrong_is_named_with_its_line(
    text: str | None, said: str, house: Path, run: Said
) -> None:
    if text is not None:
        (house / "mine.py").write_text(text)
    code, shown = run(f"weigh {ROWS} --plugin mine.py --scheme fluent2 --out o")
    assert code == 2
    assert said.replace("'fluent'", "'fluent2'") in shown
    assert not (house / "o").exists()
