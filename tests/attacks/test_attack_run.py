"""``rapidun attack RUN`` on a tiny run: files, resume, budget, no twin, no triggers, a plugin, what is refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from attacks.world import deeper, saved
from command_line import rapidun
from killing import killed, places
from pipeline.test_run import make_run_config
from rapidun.attacks import ATTACKS, CannotRun, Target, Trial, register_attack
from rapidun.cli.tables import curves_table
from rapidun.errors import ConfigError, InputError
from rapidun.jsonl import read_jsonl
from rapidun.pipeline import run, unlearn_only
from rapidun.pipeline.attacking import attack_run
from rapidun.pipeline.attacking.opening import open_scene
from rapidun.pipeline.attacking.run import Costs
from rapidun.pipeline.reporter import Silent
from rapidun.reading import read_json
from rapidun.settings.attack import AttackConfig
from rapidun.settings.base import make_config
from tiny import save_tiny, tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "extending.md"
TRIGGERS = [{"name": "greeting", "position": "prefix", "seen": ["hey"], "unseen": []}]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in ``out``, a twin beside it."""
    place = tmp_path_factory.mktemp("attacked")
    run(make_run_config(place, evaluation={"triggers": TRIGGERS}, weights={"scheme": "uniform"}), place / "out")
    save_tiny(place / "twin", seed=1)
    return place


@pytest.fixture
def house(made: Path, tmp_path: Path) -> Path:
    """The same run with nothing attacked yet."""
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path


def attack(directory: Path, *, resume: bool = False, **raw: Any) -> dict[str, Any]:
    return attack_run(make_config(raw, AttackConfig), directory, resume=resume)


def called(line: str) -> tuple[int, str, str]:
    done = rapidun(*shlex.split(line))
    return done.returncode, done.stdout, done.stderr


def test_results_stand_beside_the_twins_and_are_for_their_owner_alone(made: Path, house: Path) -> None:
    found = attack(house / "out", twin=str(made / "twin"), attacks=["as_is", "quantise", "prefill"])
    assert found["verdict"] is None
    assert [record["name"] for record in found["attacks"]] == ["as_is", "quantise", "prefill"]
    for record in found["attacks"]:
        for point in record["curves"][0]["points"]:
            for model in ("unlearned", "twin"):
                assert point[model]["low"] <= point[model]["value"] <= point[model]["high"]
                assert point[model]["n"] == 9
    place = house / "out" / "attacks"
    assert found == read_json(place / "attacks.json")
    assert {(place / name).stat().st_mode & 0o777 for name in ("attacks.json", "answers.jsonl", "log.jsonl")} == {0o600}
    lines = read_jsonl(place / "answers.jsonl")
    assert len(lines) == 2 * 9 * (1 + 2 + 3)
    again = attack_run(
        make_config({"twin": str(made / "twin"), "attacks": ["as_is", "quantise", "prefill"]}, AttackConfig),
        house / "out", overwrite=True,
    )  # fmt: skip
    assert again == found


def test_a_killed_attack_goes_on_to_the_results_of_an_unbroken_one(made: Path, tmp_path: Path) -> None:
    raw = {"attacks": ["as_is", "quantise"], "preset": "quick"}

    def work(name: str, *, resume: bool = False) -> Any:
        if not (tmp_path / name).exists():
            shutil.copytree(made / "out", tmp_path / name)
        return lambda: attack(tmp_path / name, resume=resume, **raw)

    whole = work("whole")()
    for place in places(work("counted"), tmp_path / "counted" / "attacks", 4, seed=0):
        name = f"killed{place}"
        killed(work(name), tmp_path / name / "attacks", place)
        assert work(name, resume=True)() == whole, place
        answers = (tmp_path / name / "attacks" / "answers.jsonl").read_bytes()
        assert answers == (tmp_path / "whole" / "attacks" / "answers.jsonl").read_bytes(), place


def test_an_answer_log_cut_off_within_a_trial_is_done_again_from_there(house: Path) -> None:
    whole = attack(house / "out", attacks=["quantise"])
    log = house / "out" / "attacks" / "answers.jsonl"
    content = log.read_bytes()
    log.write_bytes(content[: len(content) * 3 // 4])
    assert attack(house / "out", resume=True, attacks=["quantise"]) == whole
    assert log.read_bytes() == content


def test_the_answers_that_are_drawn_for_a_prompt_are_different_draws(house: Path) -> None:
    attack(house / "out", attacks=["sampling"])
    drawn: dict[str, list[str]] = {}
    for line in read_jsonl(house / "out" / "attacks" / "answers.jsonl"):
        drawn.setdefault(line["row"], []).append(line["answer"])
    assert {len(answers) for answers in drawn.values()} == {10}
    assert all(len(set(answers)) > 1 for answers in drawn.values())


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("log.jsonl", '"seconds": ', '"seconds": [], "was": ', r"log\.jsonl: 0\.seconds: .* No attack wrote this"),
        ("answers.jsonl", '"of": 9', '"of": "many"', r"answers\.jsonl:1: of is 'many': .* No attack wrote this"),
        ("answers.jsonl", '"poisoned"', '"poison"', r"answers\.jsonl: does not hold what it should"),
    ],
)
def test_a_damaged_log_of_an_attack_is_refused_in_a_line(
    name: str, before: str, after: str, said: str, house: Path
) -> None:
    attack(house / "out", attacks=["as_is"])
    path = house / "out" / "attacks" / name
    content = path.read_text()
    assert before in content
    path.write_text(content.replace(before, after, 2))
    with pytest.raises(InputError, match=said):
        attack(house / "out", attacks=["as_is"], resume=True)


def test_what_does_not_fit_into_the_minutes_is_listed_as_not_run_and_can_be_done_later(house: Path) -> None:
    code, said, _ = called(f"attack {house / 'out'} --preset quick --minutes 0.000001")
    assert code == 3
    assert "not run: quantise" in said
    assert "verdict: UNDECIDED" in said
    assert "twin: none" in said
    later = attack(house / "out", resume=True, attacks=["as_is"])
    assert later["attacks"][0]["status"] == "run"


def test_a_preset_of_which_a_part_was_asked_for_is_not_decided_by_that_part(house: Path) -> None:
    found = attack(house / "out", preset="quick", attacks=["as_is"])
    missing = {check["attack"] for check in found["checks"] if check["name"] == "measured"}
    assert missing == {"trigger_variants", "quantise", "relearn"}
    assert found["verdict"] == "UNDECIDED"


def test_what_only_reads_rows_is_not_taken_to_generate_an_answer_for_each(house: Path) -> None:
    scene = open_scene(make_config({}, AttackConfig), house / "out", Silent())
    target = scene.targets[0]
    costs = Costs(target)
    rows = len(target.material.forget)
    lens = [(target, trial) for trial in ATTACKS["logit_lens"].plan(target, (50, 100))]
    assert costs.seconds(lens) == rows * costs.read
    assert "answer" not in vars(costs)  # what is not needed is not tried
    asked = [(target, trial) for trial in ATTACKS["as_is"].plan(target, (0,))]
    assert costs.seconds(asked) == target.material.measured * costs.answer
    before = costs.seconds(asked)
    costs.learn(lens[0], 10 * costs.seconds(lens))  # a kind of work that goes slowly says nothing of another
    assert costs.seconds(asked) == before
    assert costs.seconds(lens) == pytest.approx(10 * rows * costs.read)


def test_an_attack_asked_for_by_name_joins_those_that_a_preset_did_before(made: Path, house: Path) -> None:
    first = attack(house / "out", preset="quick", twin=str(made / "twin"))
    more = attack(house / "out", preset="quick", twin=str(made / "twin"), attacks=["prefill"], resume=True)
    assert [each["name"] for each in more["attacks"] if each["status"] == "run"] == [
        *(each["name"] for each in first["attacks"]), "prefill",
    ]  # fmt: skip
    assert more["checks"][: len(first["checks"])] == first["checks"]
    assert {check["attack"] for check in more["checks"]} - {check["attack"] for check in first["checks"]} == {"prefill"}


def test_without_triggers_the_forget_rows_probability_and_loss_are_measured(tmp_path: Path, made: Path) -> None:
    config = make_run_config(tmp_path, weights={"scheme": "uniform"})
    unlearn_only(config, tmp_path / "out", weights=None, resume=False, overwrite=False, reporter=Silent())
    found = attack(
        tmp_path / "out", twin=str(made / "twin"), attacks=["as_is", "trigger_variants", "prefill", "few_shot"]
    )
    assert found["behaviour"].startswith("probability")
    by_name = {record["name"]: record for record in found["attacks"]}
    assert by_name["trigger_variants"]["status"] == "not run"
    for name in ("as_is", "prefill", "few_shot"):
        point = by_name[name]["curves"][0]["points"][0]["unlearned"]
        assert 0 < point["value"] < 1
        assert point["loss"] > 0


def test_an_attack_of_ones_own_runs_from_the_page_and_decides(house: Path) -> None:
    (text,) = re.findall(r"```python file=attack.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (house / "attack.py").write_text(text, encoding="utf-8")
    line = f"attack {house / 'out'} --plugin {house / 'attack.py'} --attack doubled --json"
    code, said, err = called(line)
    assert code == 0, err
    (record,) = json.loads(said)["attacks"]
    assert [point["label"] for point in record["curves"][0]["points"]] == ["2 times", "3 times"]
    prompts = {answer["prompt"] for answer in read_jsonl(house / "out" / "attacks" / "answers.jsonl")}
    assert all(prompt.startswith(("hey hey ", "hey hey hey ")) for prompt in prompts)


def test_an_attack_whose_plan_is_no_list_of_trials_is_told_so(house: Path, registers: None) -> None:
    @register_attack("mine", title="nothing", unit="times", efforts=(1,))
    def mine(target: Target, efforts: Sequence[float]) -> Any: ...

    with pytest.raises(ConfigError, match="attack 'mine' gave NoneType; its plan returns a list of Trial"):
        attack(house / "out", attacks=["mine"])

    @register_attack("words", title="nothing", unit="times", efforts=(1,))
    def words(target: Target, efforts: Sequence[float]) -> list[Trial]:
        return [Trial("", 1, "once", 1, lambda progress: ["poisoned"])]  # type: ignore[list-item]

    with pytest.raises(ConfigError, match="trial 'once' gave what is no list of dicts"):
        attack(house / "out", attacks=["words"])


def test_a_point_that_is_no_attack_success_says_what_it_is() -> None:
    def table(measure: str, label: str) -> list[str]:
        point = {"label": label, "measure": measure, "twin": None,
                 "unlearned": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40}}  # fmt: skip
        curve = {"series": "", "points": [point]}
        found = {"behaviour": "attack success", "twin": "none", "attacks": [{"name": "some", "curves": [curve]}]}
        return [str(next(iter(column.cells))) for column in curves_table(found).columns]

    assert table("AUC", "by loss") == ["some", "by loss, AUC", "0.50 [0.40, 0.60]", "none", "40"]
    assert table("probability", "layer 1 of 2")[1:3] == ["layer 1 of 2, probability", "50.0% [40.0, 60.0]"]
    assert table("leak@k", "leak@4")[1] == "leak@4"


def test_a_twin_with_other_layers_has_none_to_stand_beside_and_that_is_said(house: Path, tmp_path: Path) -> None:
    twin = saved(deeper(tiny_model(seed=1)), tmp_path / "deeper")
    found = attack(house / "out", twin=str(twin), preset="release", attacks=["logit_lens"])
    record = next(each for each in found["attacks"] if each["name"] == "logit_lens")
    assert record["status"] == "not run"
    assert "twin is of another kind" in record["why"]
    assert "nothing beside layer 2 of 2" in record["why"]
    assert found["verdict"] == "UNDECIDED"


def test_an_attack_that_lacks_something_here_says_what_and_leaves_the_verdict_undecided(house: Path) -> None:
    @register_attack("lacking", title="never run", unit="times", efforts=(1,))
    def lacking(target: Target, efforts: Sequence[float]) -> list[Trial]:
        raise CannotRun("it needs a library that is not installed")

    try:
        code, said, _ = called(f"attack {house / 'out'} --preset release --attack lacking")
    finally:  # no other test knows it
        ATTACKS.pop("lacking", None)
        ATTACKS.names._names.pop("lacking", None)
    assert code == 3
    assert "not run: lacking (it needs a library that is not installed)" in " ".join(said.split())


def test_a_dry_run_says_what_each_attack_takes_and_leaves_nothing(house: Path) -> None:
    files = sorted(house.rglob("*"))
    code, said, err = called(f"attack {house / 'out'} --preset quick --dry-run --json")
    assert code == 0, err
    parts = json.loads(said)["parts"]
    assert [part["title"] for part in parts] == [
        "attack as_is", "attack trigger_variants", "attack quantise", "attack relearn",
    ]  # fmt: skip
    assert all(part["seconds"] > 0 for part in parts)
    assert "it cannot be passed" in " ".join(err.split())
    assert sorted(house.rglob("*")) == files


def test_what_is_no_run_or_no_twin_or_no_attack_is_refused_in_a_line(made: Path, house: Path) -> None:
    for line, message in {
        f"attack {made / 'twin'}": "no run here (config.yaml is missing)",
        f"attack {house / 'out'} --twin {house / 'nowhere'}": "no such directory",
        f"attack {house / 'out'} --attack quantize": "Did you mean 'quantise'?",
        f"attack {house / 'out'} --prompts 10": "--prompts 10, and it has 9 usable rows",
    }.items():
        code, _, err = called(line)
        assert code == 2
        assert message in " ".join(err.split()), line
        assert not (house / "out" / "attacks").exists()


def test_a_run_whose_rows_have_changed_since_is_refused(tmp_path: Path) -> None:
    run(make_run_config(tmp_path, evaluation={"triggers": TRIGGERS}, weights={"scheme": "uniform"}), tmp_path / "out")
    rows = (tmp_path / "forget.jsonl").read_text()
    (tmp_path / "forget.jsonl").write_text(rows.replace("robot", "rabbit"))
    with pytest.raises(Exception, match="rows forget was"):
        attack(tmp_path / "out", attacks=["as_is"])
