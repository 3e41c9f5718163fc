"""``rapidun index`` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapidun.cli import app
from rapidun.errors import FingerprintError, InputError, OutputError, RapidunError
from tiny import save_tiny, tiny_rows, write_rows

Verb = Callable[..., str]


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str]) -> Verb:
    """``rapidun index ...`` in this process, where importing torch once is enough; gives standard output."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        assert app(["index", *map(str, arguments)], standalone_mode=False) == 0
        return capsys.readouterr().out

    return call


def build_options(house: Path, *more: object) -> list[object]:
    options = ["--template", "plain", "--max-length", 96, "--k", 128, "--shard-rows", 5]
    files = ["--model", house / "model", "--data", house / "retain.jsonl", "--out", house / "index"]
    return ["build", *files, *options, *more]


def test_an_index_is_built_appended_to_verified_and_exported(verb: Verb, house: Path) -> None:
    found = json.loads(verb(*build_options(house, "--json")))
    assert (found["rows"], found["shards"]) == (12, 3)
    assert list(found["views"]) == ["gradient", "hidden", "lexical"]
    with pytest.raises(OutputError, match=r"--resume.*--overwrite"):
        verb(*build_options(house))

    write_rows(house / "more.jsonl", tiny_rows("more", 4))
    assert "16 in 4 shards" in verb("append", house / "index", "--data", house / "more.jsonl")
    other = ("--model", house / "model", "--template", "alpaca")
    with pytest.raises(FingerprintError, match=r"built with plain, and --template says alpaca. Leave --template out"):
        verb("append", house / "index", *other, "--data", house / "more.jsonl")

    verb("export", house / "index", "--out", house / "out")
    assert np.load(house / "out" / "vectors.npy").shape == (16, 128)
    query = ("--query", house / "forget.jsonl", "--keep", 3)
    said = verb("export", house / "index", "--out", house / "out", "--format", "rapidin", *query, "--json")
    (path,) = json.loads(said)["files"]
    assert len(json.loads(Path(path).read_text())["7"]["harmful"]) == 3


def test_queries_are_preconditioned_as_the_rows_were(verb: Verb, house: Path) -> None:
    more = ("--precondition", "kfac", "--damping", 0.05, "--precondition-rows", 7, "--views", "gradient")
    said = verb(*build_options(house, *more))
    assert "kfac" in said
    assert "damping 0.05, side both, sampled Fisher of 7 rows" in " ".join(said.split())
    model = ("--model", house / "model", "--template", "plain")
    query = ("--query", house / "retain.jsonl", "--keep", 2)  # the rows themselves: each is most like itself
    verb("export", house / "index", "--out", house / "out", "--format", "rapidin", *model, *query)
    (path,) = (house / "out").glob("influence_results_*.json")
    found = json.loads(path.read_text())
    for number in range(12):
        assert found[str(number)]["helpful"][0] == number
        assert found[str(number)]["helpful_infl"][0] == pytest.approx(1, abs=1e-3)


def test_verify_says_which_file_is_damaged(verb: Verb, house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb(*build_options(house, "--views", "lexical"))
    assert "every file is as it was written" in verb("verify", house / "index")
    shard = house / "index" / "shards" / "00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"shards/00002\.safetensors: bytes were changed"):
        verb("verify", house / "index", "--json")
    assert json.loads(capsys.readouterr().out)["whole"] is False


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--views", "smell"), r"features 'smell' are unknown\. Known: change, gradient, hidden, lexical"),
        (("--store-dtype", "float8"), r"index\.dtype = 'float8'"),
        (("--targets", "q_pruj"), r"q_pruj.*q_proj"),
        (("--sketch", "napkin"), r"sketch kind 'napkin': use one of"),
        (("--set", "index.k=0"), r"index\.k = 0"),
        (("--precondition", "adamw"), r"preconditioner 'adamw': use one of none, adam, kfac, ekfac"),
        (("--precondition", "kfac", "--views", "hidden"), r"no gradient to precondition"),
        (("--damping", "0"), r"index\.damping = 0"),
    ],
)
def test_bad_settings_are_named_and_leave_nothing(verb: Verb, house: Path, more: tuple[str, ...], message: str) -> None:
    with pytest.raises(RapidunError, match=message):
        verb(*build_options(house, *more))
    assert not (house / "index").exists()


def test_help_names_the_verbs_and_a_missing_index_is_said_so_with_exit_code_2(rapidun: Any, house: Path) -> None:
    done = rapidun("index", "--help")
    for name in ("build", "append", "info", "verify", "export"):
        assert name in done.stdout
    done = rapidun("index", "info", house)
    assert done.returncode == 2
    assert "no index here" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_index_knows_its_precision_template_and_length_and_trace_takes_them_from_it(
    verb: Verb, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (house / "mine.jinja").write_text("Q, {{ tone }}: {{ prompt }}\nA:")
    template = ["--template", house / "mine.jinja", "--template-option", "tone=kind"]
    own = ["--dtype", "bfloat16", *template, "--max-length", 64, "--k", 128]
    files = ["--model", house / "model", "--data", house / "retain.jsonl", "--out", house / "index"]
    found = json.loads(verb("build", *files, *own, "--json"))
    assert (found["dtype"], found["max_length"]) == ("bfloat16", 64)
    assert "bfloat16" in verb("info", house / "index")

    def trace(*more: object) -> list[dict[str, Any]]:
        asked = ["trace", "--index", house / "index", "--query", house / "forget.jsonl", "--json", *more]
        assert app([str(part) for part in asked], standalone_mode=False) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert trace() == trace("--dtype", "bfloat16", "--max-length", 64, *template)
    for given, message in (
        (("--dtype", "float32"), "built with bfloat16, and --dtype says float32. Leave --dtype out"),
        (("--max-length", 96), "built with 64, and --max-length says 96"),
        (("--template", "plain"), "and --template says plain. Leave --template out"),
        (("--template-option", "tone=rude"), "'kind'}, and --template-option says {'tone': 'rude'}. Leave"),
        (("--load-in-4bit",), "built with no quantisation, and --load-in-4bit, --load-in-8bit says 4bit"),
    ):
        with pytest.raises(FingerprintError, match=message):
            trace(*given)
    write_rows(house / "more.jsonl", tiny_rows("more", 4))
    assert "16 in" in verb("append", house / "index", "--data", house / "more.jsonl")
    with pytest.raises(FingerprintError, match="built with bfloat16, and --dtype says float16"):
        verb("append", house / "index", "--data", house / "more.jsonl", "--dtype", "float16")


def test_an_index_that_was_built_before_precision_was_kept_is_read_with_what_is_given(verb: Verb, house: Path) -> None:
    verb(*build_options(house, "--dtype", "bfloat16"))
    path = house / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("dtype", "quantize", "repeats", "sha256"):
        del manifest[name]
    manifest["version"] = 1
    path.write_text(json.dumps(manifest))
    write_rows(house / "more.jsonl", tiny_rows("more", 4))
    assert "not recorded" in verb("info", house / "index")
    with pytest.raises(
        FingerprintError, match=rf"model \w+ \({house / 'model'}\), and model \w+ \({house / 'model'}\)"
    ):
        verb("append", house / "index", "--data", house / "more.jsonl")
    assert "16 in" in verb("append", house / "index", "--data", house / "more.jsonl", "--dtype", "bfloat16")


@pytest.mark.parametrize(("architecture", "enough"), [("mixtral", True), ("llama4_text", False)])
def test_what_is_tracked_is_said_before_the_build_and_by_info(
    verb: Verb, house: Path, capsys: pytest.CaptureFixture[str], architecture: str, enough: bool
) -> None:
    save_tiny(house / architecture, architecture)
    options = build_options(house, "--views", "gradient", "--json")
    options[options.index("--model") + 1] = house / architecture
    assert app(["index", *map(str, options)], standalone_mode=False) == 0
    said = capsys.readouterr()
    assert ("gradients: only" in said.err) is not enough
    coverage = json.loads(said.out)["views"]["gradient"]["coverage"]
    assert (coverage["share"] >= 0.9) is enough
    assert "experts" in coverage["tracked" if enough else "untracked"]
    assert "experts" in verb("info", house / "index")
