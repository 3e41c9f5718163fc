"""The commonest mistakes of each verb: one message that names what is wrong and what to do, and exit code 2."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from cli.conftest import Rapidun

ROWS = "--forget forget.jsonl --retain retain.jsonl"
MISTAKES = {
    f"unlearn --model nowhere {ROWS} --out o": "nowhere: no such directory",
    f"unlearn --model empty {ROWS} --out o": "empty: no config.json",
    f"unlearn --model model {ROWS} --method npo --option bta=1 --out o": "has no option 'bta'",
    f"unlearn --model model {ROWS} --method npoo --out o": "Did you mean 'npo'?",
    f"unlearn --model model {ROWS} --weights influ --out o": "'influ' is unknown",
    f"unlearn --model model {ROWS} --weights none.jsonl --out o": "none.jsonl: no such file",
    f"unlearn --model model {ROWS} --steps 0 --out o": "unlearning.steps = 0",
    "unlearn --model model --requests empty --retain retain.jsonl --out o": "empty: no forget set",
    "unlearn --out empty --undo 1": "empty: no ledger.json there",
    "run none.yaml --out o": "none.yaml: no such file",
    "run broken.yaml --out o": "broken.yaml:3: not YAML",
    "weigh --from-rapidin nowhere --out o": "nowhere: no such directory",
    "index build --model model --data none.jsonl --out o": "none.jsonl: no such file",
    "index build --model model --data retain.jsonl --adapter nowhere --out o": "nowhere: no such directory",
    "index build --model model --data retain.jsonl --adapter model --out o": "model: no adapter_config.json",
    "index build --model model --data retain.jsonl --sketch rapid --out o": "use one of exact, factored",
    "index info nowhere": "nowhere: no index here",
    "trace --index nowhere --prompt a": "nowhere: no index here",
    "trace --index i --prompt a --propose o": "--propose with --index needs --data",
    "trace --index i --data retain.jsonl --prompt a --together --tokens 2": "leave out --together, or --tokens",
    "trace --model model --data retain.jsonl --query odd.jsonl": "--map prompt=COLUMN",
    "trace --model model --data retain.jsonl --prompt a --by foo": "unknown scorer 'foo'",
    "evaluate --model model --data retain.jsonl --suite backdoor --out o": "backdoor needs --poisoned and --clean rows",
    "evaluate --model model --data retain.jsonl --poisoned forget.jsonl --out o": "suite backdoor needs --clean rows",
    "evaluate --model model --data retain.jsonl --clean forget.jsonl --out o": "suite backdoor needs --poisoned rows",
    "value --student rigde --candidates retain.jsonl --out o": "rigde: no such student",
    "value --student empty --candidates retain.jsonl --out o": "empty: no config.json there",
    "reveal --model model --task none.yaml --out o": "none.yaml: no such file",
    "reveal --model model --task judge.yaml --out o": "task.judge.kind: unknown judge 'nothing'",
    "report empty": "Give the --out of `rapidun run`, demo, reveal or value.",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_named(line: str, house: Path, rapidun: Rapidun) -> None:
    (house / "empty").mkdir()
    (house / "odd.jsonl").write_text('{"asked": "a", "reply": "b"}\n')
    (house / "broken.yaml").write_text("model:\n  source: [m\ndata: 1\n")
    (house / "judge.yaml").write_text("description: x\ninstruction: y\nretain: retain.jsonl\njudge: {kind: nothing}\n")
    done = rapidun(*shlex.split(line), cwd=house)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2, said
    assert MISTAKES[line] in said[said.rindex("error:") :], said
    assert "Value error" not in said
    assert not (house / "o").exists()
