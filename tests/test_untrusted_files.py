"""Files that came from elsewhere: limits that hold, paths that stay inside, and messages that name file and fix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from command_line import rapidun
from rapidun.attribution.store.manifest import FileEntry
from rapidun.data import Template
from rapidun.errors import InputError, ModelError, RapidunError, TrainingError
from rapidun.models.adapters import combine_adapters
from rapidun.models.lora import attach_lora, load_adapter, save_adapter
from rapidun.models.sources import is_local
from rapidun.reading import inside, path_fault, read_json, read_text
from rapidun.tensor_files import load_arrays, load_tensors
from rapidun.yaml_files import MOST_VALUES, parse_yaml
from tiny import tiny_model, tiny_tokenizer

CHATML = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"


# paths ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "C:\\x", "..\\x", "", "a\0b", "x" * 300, "a/" * 3000]
)
def test_a_path_in_a_file_stays_inside_its_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ledger\.json: the path .* restore the file"):
        inside(tmp_path, name, tmp_path / "ledger.json")
    with pytest.raises(ValueError, match="the path"):
        FileEntry(name=name, bytes=1, sha256="0")


def test_a_path_below_is_taken_as_it_is(tmp_path: Path) -> None:
    assert inside(tmp_path, "requests/001-a..b", "x") == tmp_path / "requests" / "001-a..b"


def test_an_undone_request_is_not_looked_for_outside_of_its_ledger(tmp_path: Path) -> None:
    from rapidun.pipeline.ledger import undo

    outside = save_adapter(attach_lora(tiny_model(), rank=2, targets=["q_proj"]), tmp_path / "elsewhere" / "adapter")
    entry = {"number": 1, "name": "a", "rows": 1, "fingerprint": "0", "directory": "../elsewhere", "forget_before": 1.0,
             "forget_after": 2.0, "utility": 1.0, "stopped": None, "seconds": 1.0, "active": False}  # fmt: skip
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "ledger.json").write_text(json.dumps({"requests": [entry]}))
    with pytest.raises(InputError, match=r"'\.\./elsewhere' in it leads out of its directory"):
        undo(tmp_path / "ledger", 1, again=True)
    assert outside.is_dir()


def test_a_path_too_long_for_any_system_is_one_message() -> None:
    assert path_fault("a/b.jsonl") is None
    with pytest.raises(ModelError, match="too long"):
        is_local("x" * 5000)


# text and JSON --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content,said",
    [
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "too many digits"),
        (b'{"a": 1', r"a\.json:1: not JSON"),
        (b"", r"a\.json:1: not JSON"),
    ],
)
def test_a_json_file_that_is_none_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_json(tmp_path / "a.json")
    assert "a.json" in str(caught.value)


def test_a_directory_a_missing_and_an_impossible_file_are_named(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "is a directory"), (tmp_path / "a", "no such file"), (tmp_path / "\0", "cannot be")):
        with pytest.raises(InputError, match=said):
            read_text(path)


# YAML -----------------------------------------------------------------------------------------------------------------


def bomb(levels: int) -> str:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]", *lines])


def test_a_document_that_aliases_blow_up_is_refused_before_it_is_made() -> None:
    for text in (bomb(9), bomb(7).replace("[", "{<<: [", 3).replace("]", "]}", 3), "a: &a\n  <<: [*a, *a]\nb: *a"):
        with pytest.raises(InputError, match=r"settings\.yaml.*not YAML"):
            parse_yaml(text, "settings.yaml")


def test_an_alias_within_reason_is_what_it_stands_for() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}", "x") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }
    assert len(parse_yaml("[" + "1, " * 1000 + "1]", "x")) <= MOST_VALUES


@pytest.mark.parametrize(
    "text", ["&a [*a]", "[" * 60 + "]" * 60, "[" * 5000, "2020-13-45", "1" * 5000, "!!int x", "- ["]
)
def test_yaml_that_cannot_be_used_is_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "settings.yaml")
    assert "settings.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_settings_file_names_the_line(tmp_path: Path) -> None:
    from rapidun.settings.run import load_config

    (tmp_path / "run.yaml").write_text("model:\n  source: m\ndata: *nothing\n")
    with pytest.raises(InputError, match=r"run\.yaml:3: not YAML \(found undefined alias"):
        load_config(tmp_path / "run.yaml")


# templates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source,said",
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", "does not end"),
        ("{{ 9 ** 9 ** 9 }}", r"uses \*\*"),
        ("{% set n = 9 %}{{ n **n }}", r"uses \*\*"),
        ("{{ 'x' * 9999999999 }}", "without measure"),
        ("{{ '%9999999999d' % 1 }}", "without measure"),
        ("{{ 'x' * 9999999 }}", r"writes \d+ characters"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 'a'.__class__.__mro__ }}", "SecurityError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ " + "(" * 400 + "1" + ")" * 400 + " }}", "RecursionError"),
    ],
)
@pytest.mark.parametrize("kind", ["chat", "file"])
def test_a_template_that_never_ends_or_never_stops_writing_is_refused(
    kind: str, source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapidun.data.rendering.SECONDS", 0.5)
    (tmp_path / "t.jinja").write_text(source + "{{ prompt }}")
    with pytest.raises(RapidunError, match=said):
        if kind == "chat":
            Template.resolve("chat", tiny_tokenizer(chat_template=source + CHATML))
        else:
            found = Template.resolve(str(tmp_path / "t.jinja"), tiny_tokenizer())
            found.full_text({"id": "a", "prompt": "b", "response": "c"})


def test_stars_that_are_no_power_are_left_alone() -> None:
    from rapidun.data.rendering import raises_to_a_power

    assert not raises_to_a_power("**bold** {{ f(**names) }} {{ f(1, ** names) }} {{ '**' }} {# 2**3 #}")
    assert raises_to_a_power("{{ n ** 2 }}")


def test_the_memory_limit_is_taken_back() -> None:
    import resource

    from rapidun.data.rendering import template_limits

    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), template_limits():
        bytearray(2**40)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


# safetensors and adapters ---------------------------------------------------------------------------------------------


def test_tensors_cut_off_or_of_another_kind_are_named_with_the_advice(tmp_path: Path) -> None:
    whole = safetensors.torch.save({"a": torch.zeros(4, dtype=torch.bfloat16)})
    for content in (whole[:-1], whole[:5], b"", b"{}", b"\xff" * 40):
        (tmp_path / "x.safetensors").write_bytes(content)
        for load in (load_tensors, load_arrays):
            with pytest.raises(InputError, match=r"x\.safetensors: not a whole safetensors file .*Fit it again\."):
                load(tmp_path / "x.safetensors", "Fit it again.")
    (tmp_path / "x.safetensors").write_bytes(whole)
    assert load_tensors(tmp_path / "x.safetensors")["a"].shape == (4,)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(attach_lora(tiny_model(), rank=4), tmp_path_factory.mktemp("adapter") / "adapter")


@pytest.mark.parametrize(
    "settings,said",
    [
        ({"r": 999_999}, "r is 999999: Input should be less than"),
        ({"r": "4"}, "r is '4': Input should be a valid integer"),
        ({"r": 8}, r"is \[4, .*\] in the adapter and \[8, .*another rank"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan: Input should be less than"),
        ({"target_modules": [{}]}, "target_modules.*valid string"),
        ({"target_modules": "(a"}, "does not fit this model"),
        ({"rank_pattern": {"a": "b"}}, "rank_pattern.a is 'b': Input should be a valid number"),
        ({"peft_type": "LOHA"}, "Input should be 'LORA'"),
        ({"task_type": 5}, "does not fit this model"),
    ],
)
def test_an_odd_adapter_is_refused_in_a_sentence_with_a_fix(
    adapter: Path, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "a"))
    raw = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(raw | settings))
    with pytest.raises(ModelError, match=said) as caught:
        load_adapter(tiny_model(), folder)
    assert str(caught.value).startswith(str(folder))
    assert str(caught.value).endswith(".")


def test_adapters_of_different_models_are_not_added(adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "a"))
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if ".lora_A." in name)
    safetensors.torch.save_file(tensors | {name: torch.zeros(4, 3)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"is \[4, 3\], and .* they are of different models"):
        combine_adapters([adapter, folder], tmp_path / "sum")


# checkpoints of the Trainer -------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_named_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rapidun.unlearning import UnlearnSettings, unlearn
    from unlearning.cases import LORA, make_loaded, make_rows

    rows = make_rows()

    def train(resume: bool) -> None:
        unlearn(
            make_loaded(), rows, lora=LORA, held=rows.retain, checkpoints=tmp_path, resume=resume,
            settings=UnlearnSettings(
                method="graddiff", steps=6 if resume else 4, checkpoint_every=2, learning_rate=1e-4, retain_budget=9.0
            ),
        )  # fmt: skip

    train(resume=False)
    (last,) = tmp_path.glob("checkpoint-*")
    kept = {path: path.read_bytes() for path in last.iterdir() if path.is_file()}
    damage = {
        "optimizer.pt": b"damaged", "scheduler.pt": b"", "rng_state.pth": b"PK", "trainer_state.json": b"{",
        "unlearning_state.json": b"[]", "adapter_model.safetensors": b"short",
    }  # fmt: skip
    for name, content in damage.items():
        (last / name).write_bytes(content)
        with pytest.raises(TrainingError, match=rf"{last.name}.*Remove this checkpoint's folder"):
            train(resume=True)
        (last / name).write_bytes(kept[last / name])
    state = json.loads(kept[last / "trainer_state.json"])
    (last / "trainer_state.json").write_text(json.dumps({**state, "global_step": 900}))
    with pytest.raises(TrainingError, match="is of step 900"):
        train(resume=True)


# the last net ---------------------------------------------------------------------------------------------------------


def test_what_only_the_system_refuses_is_a_message_too(tmp_path: Path) -> None:
    long = "x" * 300
    done = rapidun("report", long, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error:" in done.stderr and long in done.stderr
