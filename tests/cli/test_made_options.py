"""Options made from settings: one for each flag, with what the settings say of it; a verb gets what was given."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from rapidun.cli import VERBS, app
from rapidun.cli.made import Raw, Shows, made
from rapidun.errors import ConfigError
from rapidun.settings.attribution import IndexConfig
from rapidun.settings.run import RunConfig

REQUIRED = ("--model", "m", "--forget", "f.jsonl", "--retain", "r.jsonl")
GIVEN = {"model": {"source": "m"}, "data": {"forget": "f.jsonl", "retain": "r.jsonl"}}


def call(shows: Shows, *words: str) -> Any:
    """What a verb that offers these settings is given, or the error."""
    got: list[Raw] = []

    def verb(given: Raw) -> int:
        got.append(given)
        return 0

    verb.__annotations__["given"] = Annotated[Raw, shows]  # in the file it would be a text, and `shows` out of sight
    own = typer.Typer()
    own.command()(made(verb))
    done = CliRunner().invoke(own, list(words), env={"COLUMNS": "200"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return got[0] if got else done.output


def plain(raw: Any) -> Any:
    """With paths as texts."""
    return {key: plain(value) for key, value in raw.items()} if isinstance(raw, dict) else (
        [str(each) for each in raw] if isinstance(raw, list) else raw if isinstance(raw, int | float) else str(raw)
    )  # fmt: skip


RUN = Shows(RunConfig, "model", "data", "unlearning", "weights.scheme", "lora.targets", "seed")


def test_only_what_is_given_reaches_the_verb() -> None:
    assert plain(call(RUN, *REQUIRED)) == GIVEN


def test_a_value_that_is_the_default_counts_as_given() -> None:
    assert call(RUN, *REQUIRED, "--max-length", "512")["data"]["max_length"] == 512
    assert call(RUN, *REQUIRED, "--dtype", "auto")["model"]["dtype"] == "auto"


@pytest.mark.parametrize(
    ("words", "path", "value"),
    [
        (("--steps", "7"), "unlearning.steps", 7),
        (("--learning-rate", "1e-4"), "unlearning.learning_rate", "1e-4"),
        (("--option", "beta=0.3", "--option", "bounded=false"), "unlearning.options", {"beta": 0.3, "bounded": False}),
        (("--map", "prompt=a b", "--map", "id=1"), "data.columns", {"prompt": "a b", "id": "1"}),
        (("--weights", "uniform"), "weights.scheme", "uniform"),
        (("--scheme", "uniform"), "weights.scheme", "uniform"),
        (("--lora-target", "q_proj", "--lora-target", "v_proj"), "lora.targets", ["q_proj", "v_proj"]),
        (("--load-in-8bit",), "model.quantize", "8bit"),
        (("--dangerously-allow-pickle",), "model.dangerously_allow_pickle", True),
        (("--seed", "3"), "seed", 3),
    ],
)
def test_an_option_goes_where_its_setting_is(words: tuple[str, ...], path: str, value: Any) -> None:
    found = call(RUN, *REQUIRED, *words)
    for name in path.split("."):
        found = found[name]
    assert found == value


@pytest.mark.parametrize(
    ("text", "targets"), [("auto", "auto"), ("lora", "lora"), ("q_proj", ["q_proj"]), ("a, b", ["a", "b"])]
)
def test_a_list_with_commas_is_a_list_and_a_word_that_the_setting_knows_is_that_word(text: str, targets: Any) -> None:
    shows = Shows(IndexConfig, "index", "model")
    assert call(shows, "--model", "m", "--targets", text)["index"]["targets"] == targets


def test_two_options_of_one_setting_are_refused() -> None:
    with pytest.raises(ConfigError, match="--load-in-4bit and --load-in-8bit: choose one"):
        call(RUN, *REQUIRED, "--load-in-4bit", "--load-in-8bit")


def test_a_pair_without_an_equals_sign_is_refused_with_how_to_write_it() -> None:
    with pytest.raises(ConfigError, match="--map prompt: write it as ours=theirs"):
        call(RUN, *REQUIRED, "--map", "prompt")


def test_help_says_default_limits_and_what_is_required() -> None:
    page = call(RUN, "--help")
    steps = next(line for line in page.splitlines() if "--steps" in line)
    assert "Optimiser steps. From 1." in steps
    assert "[default: 64]" in steps
    assert "[required]" in page[page.index("--forget") :].split("--retain")[0]


def test_what_is_left_out_or_optional_is_so() -> None:
    page = call(Shows(RunConfig, "data", but=("data.validation",), optional=("data.forget", "data.retain")), "--help")
    assert "--validation" not in page
    assert "[required]" not in page


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_of_verbs_says_what_each_page_begins_with(verb: str) -> None:
    page: Any = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    assert (page.help or "").split("\n\n")[0] == VERBS[verb]
