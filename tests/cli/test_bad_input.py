"""Bad input: one clear message on standard error, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tiny import tiny_model, tiny_rows, tiny_tokenizer, write_rows

FAST = ("--set", "influence.sketch_size=256", "--steps", 2, "--max-length", 96, "--template", "plain")


def unlearn(house: Path, *more: object, **paths: object) -> list[object]:
    given = {"model": house / "model", "forget": house / "forget.jsonl", "retain": house / "retain.jsonl"} | paths
    options = [part for name, value in given.items() for part in (f"--{name}", value)]
    return ["unlearn", *options, "--out", house / "out", *FAST, *more]


def refused(done: Any, *parts: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    message = " ".join(done.stderr[done.stderr.rindex("error:") :].split())
    for part in parts:
        assert part in message, message


def test_a_missing_file_is_named(rapidun_process: Any, house: Path) -> None:
    refused(rapidun_process(*unlearn(house, forget=house / "none.jsonl")), "none.jsonl")
    assert not (house / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_named(rapidun: Any, house: Path) -> None:
    (house / "forget.jsonl").chmod(0)
    refused(rapidun(*unlearn(house)), "forget.jsonl")


def test_invalid_json_is_named_with_its_line(rapidun: Any, house: Path) -> None:
    with (house / "forget.jsonl").open("a") as file:
        file.write("{not json\n")
    refused(rapidun(*unlearn(house)), "forget.jsonl:9", "JSON")
    assert not (house / "out").exists()


def test_a_missing_column_is_named(rapidun: Any, house: Path) -> None:
    write_rows(house / "forget.jsonl", [{"prompt": "a", "reply": "b"}])
    refused(rapidun(*unlearn(house)), "forget.jsonl", "reply")


def test_an_empty_answer_is_named_with_its_line_and_can_be_skipped(rapidun: Any, house: Path) -> None:
    rows = tiny_rows("forget", 8)
    rows[2]["response"] = "  "
    write_rows(house / "forget.jsonl", rows)
    refused(rapidun(*unlearn(house)), "forget.jsonl:3", "empty")
    done = rapidun(*unlearn(house, "--on-bad-row", "skip"))
    assert done.returncode == 0, done.stderr
    (skipped,) = [json.loads(line) for line in (house / "out" / "rows_skipped.jsonl").read_text().splitlines()]
    assert skipped["line"] == 3


def test_a_variable_that_the_template_does_not_have_is_named(rapidun: Any, house: Path) -> None:
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ 'loud' if loud else '' }}"
    tiny_tokenizer(chat_template=template).save_pretrained(house / "model")
    given = unlearn(house, "--template", "chat", "--template-option")
    refused(rapidun(*given, "lout=true"), "--template-option lout", "no variable 'lout'", "Did you mean 'loud'")
    refused(rapidun(*given, "loud"), "--template-option loud: write it as name=value")
    done = rapidun(*given, "loud=true", "--set", "unlearning.method=ga", "--weights", "uniform")
    assert done.returncode == 0, done.stderr
    assert "  template_options:\n    loud: true\n" in (house / "out" / "config.yaml").read_text()


def test_forget_and_retain_that_share_rows_are_refused(rapidun: Any, house: Path) -> None:
    write_rows(house / "retain.jsonl", [*tiny_rows("retain", 4), tiny_rows("forget", 3)[2]])
    refused(rapidun(*unlearn(house)), "forget.jsonl:3", "retain.jsonl:5")


def test_long_prompts_are_cut_from_the_left_and_counted(rapidun: Any, house: Path) -> None:
    rows = tiny_rows("forget", 8)
    rows[0]["prompt"] = "word " * 300
    write_rows(house / "forget.jsonl", rows)
    done = rapidun(*unlearn(house))
    assert done.returncode == 0, done.stderr
    assert "forget: 1 of 8 prompts were cut from the left" in " ".join(done.stderr.split())


def test_a_tokenizer_without_eos_is_refused(rapidun: Any, house: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(house / "model")
    refused(rapidun(*unlearn(house)), "eos")


def test_a_model_directory_without_weights_is_refused(rapidun: Any, house: Path) -> None:
    (house / "model" / "model.safetensors").unlink()
    refused(rapidun(*unlearn(house)), "weights")


def test_a_model_that_is_not_there_is_refused(rapidun: Any, house: Path) -> None:
    refused(rapidun(*unlearn(house, model=house / "nothing")), "nothing")


def test_trap_35_pickled_weights_need_the_frightening_flag(rapidun: Any, house: Path) -> None:
    import torch

    weights = house / "model" / "model.safetensors"
    torch.save(load_file(weights), house / "model" / "pytorch_model.bin")
    weights.unlink()
    refused(rapidun(*unlearn(house)), "--dangerously-allow-pickle")
    done = rapidun(*unlearn(house, "--dangerously-allow-pickle"))
    assert done.returncode == 0, done.stderr


def test_lora_targets_that_match_nothing_list_what_there_is(rapidun: Any, house: Path) -> None:
    refused(rapidun(*unlearn(house, "--lora-target", "q_porj")), "q_porj", "q_proj")
    assert not (house / "out" / "adapter").exists()


def test_an_output_directory_that_exists_is_kept(rapidun: Any, house: Path) -> None:
    (house / "out").mkdir()
    (house / "out" / "thesis.txt").write_text("mine")
    refused(rapidun(*unlearn(house)), "--overwrite", "--resume")
    refused(rapidun(*unlearn(house, "--overwrite")), "not a directory that rapidun made")
    assert (house / "out" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments,parts",
    [
        (("--method", "rapidnu"), ("rapidnu", "Did you mean 'rapidun'")),
        (("--set", "unlearning.stpes=3"), ("unlearning.stpes", "Did you mean 'steps'")),
        (("--set", "nonsense"), ("section.key=value",)),
        (("--map", "prompt"), ("ours=theirs",)),
        (("--load-in-4bit", "--load-in-8bit"), ("choose one",)),
        (("--steps", "0"), ("unlearning.steps",)),
        (("--template", "none.jinja"), ("none.jinja",)),
    ],
)
def test_a_wrong_setting_is_named(
    rapidun: Any, house: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    refused(rapidun(*unlearn(house, *arguments)), *parts)
    assert not (house / "out" / "adapter").exists()


def test_an_unknown_option_gets_exit_code_2(rapidun: Any) -> None:
    done = rapidun("unlearn", "--nonsense")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_quantisation_without_its_library_names_the_extra(rapidun: Any, house: Path) -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        refused(rapidun(*unlearn(house, "--load-in-4bit")), "rapidun[quant]")
    else:
        pytest.skip("bitsandbytes is here")


def test_a_full_disk_is_said_and_nothing_half_written_stays(house: Path, rapidun: Any) -> None:
    """A file-size limit makes every write beyond it fail, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        done = rapidun(*unlearn(house))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    refused(done, str(house / "out"))
    assert not list((house / "out").rglob("*.part"))
    assert not (house / "out" / "weights.jsonl").exists()


def test_ctrl_c_leaves_a_state_that_resumes(house: Path, rapidun: Any) -> None:
    arguments = unlearn(house, "--set", "unlearning.checkpoint_every=20")
    arguments[arguments.index("--steps") + 1] = 120
    command = [sys.executable, "-m", "rapidun", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background job ignores Ctrl-C, and so would the child of a test that is run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    checkpoints = house / "out" / "checkpoints"
    for _ in range(4000):
        if checkpoints.is_dir() and any(checkpoints.glob("checkpoint-*/trainer_state.json")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    done = rapidun(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert (house / "out" / "adapter" / "adapter_model.safetensors").exists()


def test_a_resume_with_other_rows_is_refused(rapidun: Any, house: Path) -> None:
    assert rapidun(*unlearn(house)).returncode == 0
    write_rows(house / "forget.jsonl", tiny_rows("forget", 7))
    refused(rapidun(*unlearn(house, "--resume")), "rows forget", "forget.jsonl) was")


def test_weights_that_are_not_finite_are_found_before_work(rapidun: Any, house: Path) -> None:
    model = tiny_model("llama")
    state = load_file(house / "model" / "model.safetensors")
    name = next(iter(state))
    state[name][0] = float("nan")
    save_file(state, house / "model" / "model.safetensors", metadata={"format": "pt"})
    assert model is not None
    done = rapidun(*unlearn(house))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
