"""One place for settings: it needs no torch, knows what the registers know, and the documentation is made from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic.fields import FieldInfo

from rapidun.errors import ConfigError
from rapidun.settings import names
from rapidun.settings.base import COMMAND_LINE, Section, limits, make_config, section_of
from rapidun.settings.printing import annotated_defaults
from rapidun.settings.run import MeasureConfig, RunConfig

HEAVY = {"torch", "transformers", "peft", "datasets", "numpy", "scipy", "sklearn", "pandas"}
PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def loaded_by(code: str, *arguments: str) -> tuple[int, set[str], str]:
    """Exit code, the heavy packages that ``code`` imports in a process of its own, and its standard error."""
    last = f"\nimport sys\nsys.stdout.write('\\n' + repr(sorted({sorted(HEAVY)!r} & sys.modules.keys())))"
    last = last.replace(repr(sorted(HEAVY)), f"set({sorted(HEAVY)!r})")
    done = subprocess.run([sys.executable, "-c", code + last, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, set(json.loads(done.stdout.splitlines()[-1].replace("'", '"'))), done.stderr


def test_all_settings_are_imported_without_anything_heavy() -> None:
    modules = ("attribution", "evaluation", "model", "printing", "reveal", "run", "unlearning", "value")
    assert loaded_by("\n".join(f"import rapidun.settings.{name}" for name in modules))[1] == set()


WRONG = {
    "--steps=0": "unlearning.steps = 0 (--steps)",
    "--method=npoo": "Did you mean 'npo'?",
    "--weights=influenc": "Did you mean 'influence'?",
    "--dtype=float33": "model.dtype = 'float33' (--dtype)",
    "--set=unlearning.stpes=3": "Did you mean 'steps'?",
    "--template=chatt": "'chatt': no such name or file",
}


def test_a_wrong_number_or_name_is_refused_before_torch_is_imported() -> None:
    code = """
import sys
from rapidun.cli import main
*rows, wrongs = sys.argv[1:]
for wrong in wrongs.split():
    sys.argv = ["rapidun", *rows, wrong]
    try:
        main()
    except SystemExit as left:
        assert left.code == 2
"""
    rows = ("--model", "m", "--forget", "f.jsonl", "--retain", "r.jsonl", "--out", "o")
    code_of, heavy, err = loaded_by(code, "unlearn", *rows, " ".join(WRONG))
    assert code_of == 0, err
    said = [" ".join(message.split()) for message in err.split("error:")[1:]]
    assert len(said) == len(WRONG)
    for message, expected in zip(said, WRONG.values(), strict=True):
        assert expected in message
    assert heavy == set()


FRESH = """
import json
import runpy
import sys
from rapidun.attacks import ATTACKS
from rapidun.attribution.scorer import known_scorers, scorer_titles
from rapidun.evaluation import JUDGES
from rapidun.evaluation.mitigations import MITIGATIONS
from rapidun.gradients.curvature_kinds import KINDS
from rapidun.gradients.sketches import SKETCHES
from rapidun.pipeline.suites import SUITES
from rapidun.revealing import STRATEGIES
from rapidun.settings import names
from rapidun.unlearning import method_names
from rapidun.valuation.diversity import DIVERSITIES
from rapidun.valuation.students import known_students
from rapidun.weighting import SCHEMES

found = [
    (names.METHODS, method_names()), (names.SCHEMES, SCHEMES), (names.FEATURES, known_scorers()),
    (names.SCORERS, scorer_titles()), (names.SKETCHES, SKETCHES), (names.PRECONDITIONERS, ["none", *KINDS]),
    (names.JUDGES, JUDGES), (names.STRATEGIES, STRATEGIES), (names.STUDENTS, known_students()),
    (names.DIVERSITIES, DIVERSITIES), (names.ATTACKS, ATTACKS), (names.SUITES, SUITES),
    (names.MITIGATIONS, MITIGATIONS),
]
registers = [[sorted(known.built_in), sorted(known), sorted(registered)] for known, registered in found]
print(json.dumps({"registers": registers, "page": runpy.run_path(sys.argv[1])["markdown"]()}))
"""


@pytest.fixture(scope="module")
def fresh() -> dict[str, Any]:
    """The registers and the page of settings in a process in which no test has registered anything."""
    command = [sys.executable, "-c", FRESH, str(PAGE.with_name("make_settings.py"))]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def test_the_names_that_settings_know_are_those_that_are_registered(fresh: dict[str, Any]) -> None:
    for built_in, known, registered in fresh["registers"]:
        assert built_in == known == registered


def test_a_register_tells_the_settings_what_it_registers(registers: None) -> None:
    from rapidun.evaluation import register_judge

    with pytest.raises(ConfigError, match="unknown judge 'of this test'"):
        names.JUDGES.check("of this test")
    register_judge("of this test")(lambda: None)  # type: ignore[arg-type,return-value]
    assert names.JUDGES.check("of this test") == "of this test"


def every_field(kind: type[Section], where: str = "") -> dict[str, FieldInfo]:
    """All settings of a configuration by path."""
    found = {}
    for name, field in kind.model_fields.items():
        below = section_of(field.annotation)
        found |= {f"{where}{name}": field} if below is None else every_field(below, f"{where}{name}.")
    return found


def test_every_setting_is_on_the_page_with_its_help_and_the_page_is_current(fresh: dict[str, Any]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == fresh["page"], "run docs/make_settings.py"
    for path, field in every_field(RunConfig).items():
        assert field.description, path
        assert f"| `{path}` |" in page


def test_there_are_about_150_settings_and_each_is_on_the_page_once() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) == len(set(rows)) <= 164


def test_an_old_name_is_answered_with_the_new_one_which_there_is() -> None:
    from rapidun.settings import moved
    from rapidun.settings.reveal import ARMS, ModuleOptions, TaskSettings
    from rapidun.settings.value import ValueConfig
    from rapidun.weighting import SCHEMES

    known = {**every_field(RunConfig), **every_field(TaskSettings), **every_field(ValueConfig)}
    known |= {f"weights.options.{name}": None for scheme in SCHEMES.values() for name in scheme.options.model_fields}
    known |= {f"arms.options.{name}": None for kind in ARMS.values() for name in kind.model_fields}
    known |= {f"release.modules.{name}": None for name in ModuleOptions.model_fields}
    for old, said in moved._NOW.items():
        assert old not in known
        if said.startswith("is now "):
            assert said.removeprefix("is now ").partition("=")[0] in known, old


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"weights": {"beta": 0.5}}, "weights.beta is now weights.options.beta"),
        ({"weights": {"loss_tau": 0.5}}, "weights.loss_tau is now weights.options.tau"),
        ({"evaluation": {"trace_queries": 3}}, "evaluation.trace_queries is not a setting any more"),
    ],
)
def test_a_file_with_an_old_name_is_told_where_it_went(section: dict[str, Any], said: str) -> None:
    raw = {"model": {"source": "m"}, "data": {"forget": "f", "retain": "r"}, **section}
    with pytest.raises(ConfigError, match=said):
        make_config(raw, RunConfig, "run.yaml")


def test_limits_are_said_in_words() -> None:
    fields = every_field(RunConfig)
    assert limits(fields["unlearning.steps"]) == "From 1."
    assert limits(fields["unlearning.forget_share"]) == "Above 0 to 1."
    assert limits(fields["lora.dropout"]) == "From 0 below 1."
    assert limits(fields["model.source"]) == ""


def test_what_is_printed_for_a_file_is_every_setting_once() -> None:
    raw = yaml.safe_load(annotated_defaults())

    def paths(value: dict[str, Any], where: str = "") -> list[str]:
        parts = [paths(part, f"{where}{name}.") if _is_section(f"{where}{name}", part) else [f"{where}{name}"]
                 for name, part in value.items()]  # fmt: skip
        return [path for part in parts for path in part]

    def _is_section(path: str, part: object) -> bool:
        return isinstance(part, dict) and path not in every_field(RunConfig)

    assert sorted(paths(raw)) == sorted(every_field(RunConfig))


@pytest.mark.parametrize("gone", ["index.sketch_options", "index.precondition_side", "value.task_column"])
def test_a_setting_that_is_gone_is_unknown_and_what_there_is_is_named(gone: str) -> None:
    from rapidun.settings.attribution import IndexConfig
    from rapidun.settings.value import ValueConfig

    section, name = gone.split(".")
    kind = IndexConfig if section == "index" else ValueConfig
    with pytest.raises(ConfigError, match=rf"unknown key '{gone}'\. (Valid here|Did you mean)"):
        make_config({"model": {"source": "m"}, section: {name: 1}}, kind, COMMAND_LINE)


def test_a_key_that_is_no_text_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"a name = '\\ud800'"):
        make_config({"\ud800": 1}, RunConfig, COMMAND_LINE)


def test_settings_that_do_not_go_together_are_named_without_a_place_of_their_own() -> None:
    raw = {"model": {"source": "m"}, "data": {"evaluation": "e"}, "evaluation": {"suite": "qa"}}
    with pytest.raises(ConfigError, match=r"^command line: suite qa needs --forget"):
        make_config(raw, MeasureConfig, COMMAND_LINE)
