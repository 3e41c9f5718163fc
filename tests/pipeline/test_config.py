"""The configuration: complete, replayable, and strict about what it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rapidun.errors import ConfigError, InputError
from rapidun.pipeline import RunConfig, load_config, make_config
from rapidun.settings.printing import annotated_defaults

MINIMAL = {"model": {"source": "m"}, "data": {"forget": "f.jsonl", "retain": "r.jsonl"}}


def test_what_is_written_replays() -> None:
    config = make_config(MINIMAL, RunConfig)
    assert make_config(yaml.safe_load(config.to_yaml()), RunConfig) == config


@pytest.mark.parametrize(
    "raw,message",
    [
        ({**MINIMAL, "unlearnign": {}}, "unknown key 'unlearnign'. Did you mean 'unlearning'?"),
        ({**MINIMAL, "weights": {"temprature": 1}}, "unknown key 'weights.temprature'"),
        ({**MINIMAL, "unlearning": {"stpes": 1}}, "Did you mean 'steps'?"),
        ({**MINIMAL, "unlearning": {"steps": "many"}}, "unlearning.steps = 'many'"),
        ({**MINIMAL, "unlearning": {"method": "rapidnu"}}, "Did you mean 'rapidun'?"),
        ({"model": {"source": "m"}}, "data is missing"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_the_nearest_valid_one(raw: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(raw, RunConfig)
    assert message in str(caught.value)


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    assert load_config(path).data.forget == tmp_path / "f.jsonl"


def test_overrides_win(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    assert load_config(path, {"unlearning.steps": 7}).unlearning.steps == 7


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,")
    with pytest.raises(InputError, match="not YAML"):
        load_config(broken)


def test_print_config_loads_back_to_the_defaults_and_explains_every_setting() -> None:
    text = annotated_defaults()
    raw = yaml.safe_load(text.replace("source: REQUIRED", "source: m").replace(": REQUIRED", ": x.jsonl"))
    defaults = make_config({"model": {"source": "m"}, "data": {"forget": "x.jsonl", "retain": "x.jsonl"}}, RunConfig)
    assert make_config(raw, RunConfig) == defaults
    assert "None" not in text
