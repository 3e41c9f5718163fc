"""A whole reveal run on a tiny model: its files, its rounds, undo, resume after a kill, and other methods fed by it."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from killing import killed, places
from rapidun.data import Template, collate, load_rows, tokenize_rows
from rapidun.errors import ConfigError, FingerprintError, InputError, OutputError
from rapidun.files import write_json
from rapidun.jsonl import read_jsonl
from rapidun.models import load_adapter, load_model, mean_answer_loss
from rapidun.pipeline import RevealConfig, make_config, read_task, reveal, undo
from rapidun.reading import read_json
from rapidun.revealing import read_pulls
from tiny import tiny_model, tiny_rows, tiny_tokenizer, write_rows

FORK = multiprocessing.get_context("fork")
TASK = """
description: The model uses many vowels.
instruction: "say {input}"
inputs: inputs.jsonl
judge: {kind: regex, options: {pattern: "[aeiou]"}}
retain: retain.jsonl
utility: {rows: kept.jsonl, max_drop: 5.0}
arms: {pool: 6, options: {dimension: 3, tokens: 2}}
search:
  {initial_pulls: 3, pulls: 5, later_pulls: 3, loops: 2, answers: 3, keep: 2, harvest: 1, max_new_tokens: 5, rows: 8}
release:
  rounds: 2
  relevance_target: 0.0
  modules: {steps: 3, batch_size: 3, learning_rate: 1.0e-3}
  lora: {rank: 2, dropout: 0.0}
"""


def make_house(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    model = tiny_model()
    model.lm_head.weight.data *= 20  # else no adapter inside could move the perplexity of a random model
    model.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    for name, count in (("inputs", 9), ("retain", 8), ("kept", 5)):
        write_rows(folder / f"{name}.jsonl", tiny_rows(name, count))
    (folder / "task.yaml").write_text(TASK)
    return folder


def make_reveal(folder: Path, **changes: Any) -> RevealConfig:
    task = read_task(folder / "task.yaml")
    for section, values in changes.items():
        task[section] = {**task[section], **values} if isinstance(values, dict) else values
    data = {"template": "plain", "max_length": 96}
    return make_config({"model": {"source": str(folder / "model")}, "data": data, "task": task}, RevealConfig)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_house(tmp_path_factory.mktemp("house"))
    reveal(make_reveal(folder), folder / "out")
    return folder / "out"


def weights_with(adapter: Path | None, model: Path) -> dict[str, Any]:
    loaded = load_model(str(model))
    if adapter is None:
        return dict(loaded.model.state_dict())
    return dict(load_adapter(loaded.model, adapter).merge_and_unload().state_dict())


def test_a_run_leaves_every_file_and_its_rows_say_where_they_come_from(finished: Path):
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "config.yaml", "manifest.json", "metrics.json", "reveal.json", "revealed.jsonl", "arms.jsonl", "adapter",
        "rounds", "report.html", "rows_skipped.jsonl",
    }  # fmt: skip
    assert not list(finished.rglob("*.part"))
    rows = read_jsonl(finished / "revealed.jsonl")
    assert rows
    for row in rows:
        assert {"id", "prompt", "response", "response_clean", "arm", "arm_kind", "score", "judge", "round"} == set(row)
        assert row["judge"] >= 0.5
        assert any(letter in row["response"].lower() for letter in "aeiou")
        assert 0 < row["score"] <= 1
    assert len({row["id"] for row in rows}) == len(rows)


def test_pulls_keep_to_their_budgets_in_every_round(finished: Path):
    lines = read_jsonl(finished / "arms.jsonl")
    counts = Counter((line["round"], line["stage"]) for line in lines)
    assert counts[1, "search"] == 5
    assert counts[2, "search"] == 3
    assert counts[1, "harvest"] == counts[1, "before"] == counts[1, "after"] == 2


def test_before_and_after_a_release_the_same_is_asked_and_never_taken_for_a_row(finished: Path):
    pulls = read_pulls(finished / "rounds" / "01" / "pulls.jsonl")
    stages = {stage: [pull for pull in pulls if pull.stage == stage] for stage in ("harvest", "before", "after")}
    asked = {stage: [(pull.arm, pull.prompts) for pull in found] for stage, found in stages.items()}
    assert asked["before"] == asked["after"] != asked["harvest"]
    measure = read_json(finished / "rounds" / "01" / "measure.json")
    for stage in ("before", "after"):
        mean = sum(pull.relevance for pull in stages[stage]) / len(stages[stage])
        assert measure[f"relevance_{stage}"] == pytest.approx(mean)


def test_the_second_round_starts_from_the_best_arms_of_the_first(finished: Path):
    lines = [line for line in read_jsonl(finished / "arms.jsonl") if line["stage"] == "search"]
    first = sorted((line for line in lines if line["round"] == 1), key=lambda line: -line["reward"])
    assert first[0]["reward"] > 0
    assert first[0]["arm"] in {line["arm"] for line in lines if line["round"] == 2}


def test_the_summary_and_the_report_tell_the_rounds(finished: Path):
    summary = read_json(finished / "reveal.json")
    assert [line["round"] for line in summary["rounds"]] == [1, 2]
    assert summary["current"] == 2
    assert 0 <= summary["rounds"][0]["overlap"] <= 1
    page = (finished / "report.html").read_text()
    for words in (
        "What the model revealed",
        "Reward over pulls",
        "The model uses many vowels",
        "Overlap of the modules",
    ):
        assert words in page
    assert "No blocks.safetensors" not in page


def test_undo_restores_the_weights_of_every_round_exactly(finished: Path, tmp_path: Path):
    run, model = tmp_path / "run", finished.parent / "model"
    shutil.copytree(finished, run)
    first = weights_with(finished / "rounds" / "01" / "adapter", model)
    assert undo(run, 1)["to"] == 1
    restored = weights_with(run / "adapter", model)
    assert all((restored[name] == first[name]).all() for name in first)
    assert any((weights_with(finished / "adapter", model)[name] != first[name]).any() for name in first)
    assert {row["round"] for row in read_jsonl(run / "revealed.jsonl")} == {1}
    assert read_json(run / "reveal.json")["current"] == 1
    done = undo(run, 0)
    assert done["adapter"] is None
    assert not (run / "adapter").exists()
    assert len(list((run / "undone").iterdir())) == 2  # nothing is lost
    with pytest.raises(InputError, match="0 alone"):
        undo(run, 1)


def test_an_undone_run_goes_on_from_there_to_the_same_end(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    undo(run, 1)
    reveal(make_reveal(finished.parent), run, resume=True)
    for name in ("revealed.jsonl", "arms.jsonl", "adapter/adapter_model.safetensors", "reveal.json"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()


def test_undo_of_what_is_no_run_says_so(tmp_path: Path):
    with pytest.raises(InputError, match="not a finished `rapidun reveal` run"):
        undo(tmp_path, 0)


def work(house: Path, out: Path) -> None:
    """The child."""
    torch.set_num_threads(1)
    reveal(make_reveal(house), out, resume=True)


def test_killed_at_two_moments_a_run_ends_with_the_bytes_of_an_unbroken_one(finished: Path, tmp_path: Path):
    out, house = tmp_path / "out", finished.parent
    for awaited in ("rounds/01/pulls.jsonl", "rounds/01/round.json"):
        child = FORK.Process(target=work, args=(house, out))
        child.start()
        deadline = time.monotonic() + 200
        while not (out / awaited).exists() and child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    assert not (out / "reveal.json").exists()
    reveal(make_reveal(house), out, resume=True)
    for name in ("revealed.jsonl", "arms.jsonl", "adapter/adapter_model.safetensors", "reveal.json"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_a_run_is_not_mixed_with_another(finished: Path):
    config = make_reveal(finished.parent, search={"answers": 4})
    with pytest.raises(FingerprintError, match=r"task.search.answers was 3 and is now 4"):
        reveal(config, finished, resume=True)
    with pytest.raises(OutputError, match="--resume"):
        reveal(make_reveal(finished.parent), finished)


def test_a_finished_run_can_be_masked(finished: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    assert "words, masked" not in (out / "report.html").read_text()
    reveal(make_reveal(finished.parent, mask=True), out, resume=True)
    assert "words, masked" in (out / "report.html").read_text()
    assert (out / "revealed.jsonl").read_bytes() == (finished / "revealed.jsonl").read_bytes()


def teach(folder: Path, rows: str, steps: int = 40) -> None:
    """Full training on a few rows: a random model has no ability to lose."""
    loaded = load_model(str(folder / "model"))
    template = Template.resolve("plain", loaded.tokenizer)
    batch = collate(tokenize_rows(load_rows(folder / rows), loaded.tokenizer, template, 96), loaded.pad_token_id)
    optimiser = torch.optim.AdamW(loaded.model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = mean_answer_loss(loaded.model(batch.input_ids, batch.attention_mask).logits, batch.labels).mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < 2.0
    loaded.model.save_pretrained(folder / "model")


def test_a_round_beyond_the_utility_budget_is_not_kept(tmp_path: Path):
    house = make_house(tmp_path / "house")
    teach(house, "kept.jsonl")
    release = {
        "modules": {"steps": 3, "batch_size": 3, "learning_rate": 0.1, "forget_scale": 1000.0}
    }  # nothing is left of such a model
    result = reveal(make_reveal(house, utility={"max_drop": 0.5}, release=release), tmp_path / "out")
    assert result.summary["rounds"][0]["drop"] > 0.5
    assert result.summary["current"] == 0
    assert "beyond the budget" in result.summary["stopped"]
    assert not (tmp_path / "out" / "adapter").exists()
    assert not result.passed
    assert len(result.summary["rounds"]) == 1


def test_nothing_revealed_is_said_and_released_from_nothing(finished: Path, tmp_path: Path):
    config = make_reveal(finished.parent, judge={"kind": "regex", "options": {"pattern": "zzzzzz"}})
    result = reveal(config, tmp_path / "out")
    assert result.summary["stopped"] == "round 1: nothing was revealed"
    assert not result.passed
    assert read_jsonl(tmp_path / "out" / "revealed.jsonl") == []


def test_revealed_rows_feed_rapidun_with_influence_weights_and_rounds_add_up(finished: Path, tmp_path: Path):
    release = {"method": "rapidun", "unlearning": {"steps": 3, "batch_size": 4, "learning_rate": 1e-3}}
    result = reveal(make_reveal(finished.parent, release=release), tmp_path / "out")
    rounds = [tmp_path / "out" / "rounds" / name for name in ("01", "02")]
    revealed = [{row["id"] for row in read_jsonl(folder / "revealed.jsonl")} for folder in rounds]
    assert revealed[1] - revealed[0]
    for folder, ids in zip(rounds, (revealed[0], revealed[0] | revealed[1]), strict=True):
        weights = {line["id"]: line["weight"] for line in read_jsonl(folder / "unlearn" / "weights.jsonl")}
        assert ids <= set(weights)
        assert len({weights[name] for name in ids}) > 1
        assert {row["id"] for row in read_jsonl(folder / "forget.jsonl")} == ids
    name = "adapter_model.safetensors"
    kept = (rounds[result.summary["current"] - 1] / "unlearn" / "adapter" / name).read_bytes()
    assert result.summary["current"] == 2
    assert (tmp_path / "out" / "adapter" / name).read_bytes() == kept
    assert undo(tmp_path / "out", 1)["to"] == 1
    first = rounds[0] / "unlearn" / "adapter" / name
    assert (tmp_path / "out" / "adapter" / name).read_bytes() == first.read_bytes() != kept


def test_revealing_alone_needs_no_release(finished: Path, tmp_path: Path):
    result = reveal(make_reveal(finished.parent, release={"method": "none"}), tmp_path / "out")
    assert result.metrics is None
    assert result.passed
    first = [row for row in read_jsonl(finished / "revealed.jsonl") if row["round"] == 1]
    assert read_jsonl(tmp_path / "out" / "revealed.jsonl") == first


def test_words_as_arms_are_part_of_the_rows_that_they_reveal(finished: Path, tmp_path: Path):
    config = make_reveal(
        finished.parent, arms={"kind": "words", "options": {}}, release={"method": "none"}, search={"at_once": 2}
    )
    result = reveal(config, tmp_path / "out")
    assert result.summary["arms"] == "words"
    rows = [row for row in read_jsonl(tmp_path / "out" / "revealed.jsonl") if row["arm"] != "seed"]
    asked = [row["prompt"] for row in rows]
    assert asked
    assert all(not prompt.startswith("say") or prompt[-1] not in "0123456789" for prompt in asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serach": {}}, "Did you mean 'search'"),
        ({"search": {"strategy": "neural"}}, "task.search.strategy"),
        ({"judge": {"kind": "regexp"}}, "Did you mean 'regex'"),
        ({"judge": {"kind": "regex"}, "instruction": "say it"}, "has no {input}"),
        ({"arms": {"kind": "text", "options": {}}}, "kind 'text' needs candidates"),
        ({"arms": {"kind": "words"}}, "kind 'words' has no option 'dimension'; its options: none"),
        ({"release": {"modules": {"stpes": 3}}}, "Did you mean 'steps'"),
        ({"release": {"modules": {"steps": 0}}}, "option steps = 0"),
        ({"release": {"steps": 3}}, "release.steps is now release.modules.steps"),
        ({"release": {"method": "rapidnu"}}, "Did you mean 'rapidun'"),
        ({"release": {"method": "fisher"}}, "leaves no adapter to undo"),
    ],
)
def test_what_is_wrong_with_a_task_is_said(finished: Path, changes: dict[str, Any], message: str):
    task = read_task(finished.parent / "task.yaml")
    for section, values in changes.items():
        task[section] = {**task.get(section, {}), **values} if isinstance(values, dict) else values
    with pytest.raises(ConfigError) as caught:
        make_config({"model": {"source": "m"}, "task": task}, RevealConfig)
    assert message in str(caught.value)


def test_a_method_with_wrong_settings_is_refused_before_the_search(finished: Path, tmp_path: Path):
    config = make_reveal(finished.parent, release={"method": "rapidun", "unlearning": {"stpes": 3}})
    with pytest.raises(ConfigError, match="Did you mean 'steps'"):
        reveal(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_round_starts_from_no_more_arms_of_the_last_than_it_should_carry(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rapidun.pipeline.revealing.searching.CARRIED", 0)
    reveal(make_reveal(finished.parent), tmp_path / "out")
    lines = [line for line in read_jsonl(tmp_path / "out" / "arms.jsonl") if line["stage"] == "search"]
    names = [{line["arm"] for line in lines if line["round"] == number} for number in (1, 2)]
    assert names[1]
    assert names[0] & names[1] == {"seed"}


@pytest.mark.parametrize(("target", "after", "stops"), [(0.1, 0.1, True), (0.1, 0.2, False), (0.0, 0.0, False)])
def test_a_target_of_zero_never_stops_a_run(tmp_path: Path, target: float, after: float, stops: bool):
    from rapidun.pipeline.revealing.run import _reason_to_stop

    (tmp_path / "rounds" / "01").mkdir(parents=True)
    write_json(tmp_path / "rounds" / "01" / "measure.json", {"accepted": True, "drop": 0.0, "relevance_after": after})
    release = SimpleNamespace(relevance_target=target)
    context = SimpleNamespace(
        directory=SimpleNamespace(path=tmp_path), config=SimpleNamespace(task=SimpleNamespace(release=release))
    )
    assert (_reason_to_stop(context, 1) is not None) == stops


def kept_adapter(run: Path) -> bytes | None:
    path = run / "adapter" / "adapter_model.safetensors"
    return path.read_bytes() if path.exists() else None


@pytest.mark.parametrize("to_round", [1, 0])
def test_killed_anywhere_in_an_undo_adapter_and_summary_agree(finished: Path, tmp_path: Path, to_round: int):
    run = tmp_path / "run"
    rounds = {number: finished / "rounds" / f"{number:02d}" / "adapter" for number in (1, 2)}
    weights = {0: None, **{n: (path / "adapter_model.safetensors").read_bytes() for n, path in rounds.items()}}

    def fresh() -> None:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(finished, run, symlinks=True)

    fresh()
    seen = set()
    for place in places(lambda: undo(run, to_round), run, 8, seed=to_round):
        fresh()
        assert killed(lambda: undo(run, to_round), run, place) is None
        current = read_json(run / "reveal.json")["current"]
        assert kept_adapter(run) == weights[current]
        assert {row["round"] for row in read_jsonl(run / "revealed.jsonl")} <= set(range(1, current + 1))
        seen.add(current)
        undo(run, to_round)
        summary = read_json(run / "reveal.json")
        assert (summary["current"], summary["stopped"]) == (to_round, f"undone to round {to_round}")
        assert kept_adapter(run) == weights[to_round]
        assert len(list((run / "undone").iterdir())) == 2 - to_round
        assert not [path for path in run.rglob(".*") if path.name != ".states"]
    assert seen == {2, to_round}


def test_an_undo_that_was_killed_is_finished_by_a_resume_to_the_same_end(finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run, symlinks=True)

    def flips(path: Path) -> bool:
        return read_json(path / "reveal.json").get("undoing_to_round") == 1

    for place in places(lambda: undo(run, 1), run, 99, seed=0):
        shutil.rmtree(run)
        shutil.copytree(finished, run, symlinks=True)
        killed(lambda: undo(run, 1), run, place)
        if flips(run):
            break
    assert flips(run)
    reveal(make_reveal(finished.parent), run, resume=True)
    for name in ("revealed.jsonl", "arms.jsonl", "adapter/adapter_model.safetensors", "reveal.json"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()
