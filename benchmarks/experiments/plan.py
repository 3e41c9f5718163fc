"""Which cells a table has: arms (method and weights), scenarios, seeds; and the configuration of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.cells import VERSION, Cell
from experiments.scenarios import SCENARIOS, get_scenario
from experiments.world import TUNING_SEED, World
from rapidun.errors import ConfigError
from rapidun.files import file_sha256, sha256_of
from rapidun.pipeline import RunConfig, make_config
from rapidun.settings.base import set_dotted
from rapidun.unlearning import get_method, method_names
from rapidun.weighting import SCHEMES, get_scheme
from rapidun.yaml_files import parse_yaml

SEEDS, QUICK_SEEDS = (0, 1, 2, 3, 4), (0, 1)
PROMPTS, QUICK_PROMPTS = 320, 160
OURS = "rapidun"
SETTLED = f"{OURS}/consistency_hidden weights.negative=drop"
"""The weighting that we settled on, on tuning rows (``benchmarks/unlearning/choose.py``): what is tested."""
CONTROLS = ("uniform", "random", "shuffled")
WEIGHTINGS = ("influence", "representation", *CONTROLS)
"""What goes into every scenario beside `SETTLED`."""
OF_LABELS = ("consistency_hidden", "trusted_influence")
"""Weightings made to find mislabelled rows: into the scenarios that have some."""
LEADING = ("dpo", "npo", "idk", "loreun", "satimp", "wga")
"""The baselines that go into every scenario: the best on tuning rows."""
CHANGEABLE = ("influence", "weights", "lora", "unlearning")
"""Sections that an arm may change: what is opened or measured once for all arms is not among them."""
QUICK = ("npo/uniform", "dpo/uniform", f"{OURS}/influence", SETTLED, *(f"{OURS}/{name}" for name in CONTROLS))


@dataclass(frozen=True)
class Arm:
    """One row of the table: a method with its weights, or a reference model as it is.

    Args:
        method: Name of a method; of a reference, ``poisoned`` or ``retrain``; of a mitigation, its own.
        weights: Name of a weighting scheme; "" for a reference.
        changes: Settings of its own, ``(section.key, YAML value)`` each, for example ``("lora.rank", "4")``.
    """

    method: str
    weights: str = ""
    changes: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """``method/weights`` and the changes, ``key=value`` each."""
        plain = f"{self.method}/{self.weights}" if self.weights else self.method
        return " ".join([plain, *(f"{key}={value}" for key, value in self.changes)])

    @classmethod
    def of(cls, name: str) -> Arm:
        """The arm of a name such as ``rapidun/consistency_hidden weights.negative=drop``.

        Raises:
            ConfigError: If method or scheme is unknown, or a change is not ``key=value``.
        """
        plain, *changed = name.split()
        for change in changed:
            if "=" not in change or change.partition(".")[0] not in CHANGEABLE:
                raise ConfigError(f"{name}: {change!r} is no section.key=value of {', '.join(CHANGEABLE)}.")
        changes = tuple((key, value) for key, _, value in (change.partition("=") for change in changed))
        method, _, weights = plain.partition("/")
        if not weights and method in (*REFERENCES, *MITIGATIONS):
            if changes:
                raise ConfigError(f"{name}: a reference is measured as it is; leave the changes out.")
            return cls(method)
        if get_method(method).name == "retrain":
            raise ConfigError("retrain is a reference row, given without weights: retrain.")
        get_scheme(weights or "uniform")
        return cls(method, weights or "uniform", changes)


BEFORE = "poisoned"  # the model that all trainings start from
REFERENCES = (BEFORE, "retrain")
MITIGATIONS = ("cleangen",)
"""The model as it is, decoded beside the world's base model: arms that are asked for by name, and pass nothing."""


def find_arms(names: Iterable[str]) -> list[Arm]:
    """Arms by name, the two references first."""
    return list(dict.fromkeys([*map(Arm, REFERENCES), *map(Arm.of, names)]))


def full_plan(world: World, *, seeds: Sequence[int] = SEEDS, prompts: int = PROMPTS) -> list[Cell]:
    """Every method (uniform weights) and every scheme (on `OURS`) in the main scenario; the leading ones elsewhere.

    Scenarios with mislabelled rows have the weightings made for them as well.
    """
    baselines = [f"{name}/uniform" for name in method_names() if name not in (OURS, "retrain")]
    schemes = [SETTLED, *(f"{OURS}/{name}" for name in SCHEMES)]
    leading = [*(f"{name}/uniform" for name in LEADING), SETTLED, *(f"{OURS}/{name}" for name in WEIGHTINGS)]
    of_labels = [f"{OURS}/{name}" for name in OF_LABELS]
    cells = make_cells(world, find_arms([*baselines, *schemes]), ["main"], seeds, prompts)
    for name in SCENARIOS:
        if name != "main":
            arms = leading + (of_labels if name.startswith("contaminated") else [])
            cells += make_cells(world, find_arms(arms), [name], seeds, prompts)
    return cells


def quick_plan(world: World, *, seeds: Sequence[int] = QUICK_SEEDS, prompts: int = QUICK_PROMPTS) -> list[Cell]:
    """The main scenario with the controls and two baselines: minutes."""
    return make_cells(world, find_arms(QUICK), ["main"], seeds, prompts)


def make_cells(
    world: World, arms: Sequence[Arm], scenarios: Sequence[str], seeds: Sequence[int], prompts: int
) -> list[Cell]:
    """Cells of the product, seeds outermost, so that a table fills seed by seed.

    Raises:
        ConfigError: If a scenario is unknown, or a seed belongs to tuning.
    """
    for seed in seeds:
        if not 0 <= seed < TUNING_SEED:
            raise ConfigError(
                f"seed {seed}: reports take seeds from 0 to {TUNING_SEED - 1}; those above are for tuning."
            )
    for scenario in scenarios:
        get_scenario(scenario)
    arms = [arm for arm in arms if arm.method != "retrain" or world.reference]
    return [
        Cell(arm.name, scenario, seed, cell_config(world, arm, seed, prompts))
        for seed in seeds
        for scenario in scenarios
        for arm in arms
    ]


def cell_config(world: World, arm: Arm, seed: int, prompts: int) -> dict[str, Any]:
    """What a cell is keyed by besides its names: no paths, but the fingerprints of what they hold."""
    config = run_config(world, arm, seed, prompts, {name: name for name in ("forget", "retain")})
    settings = config.model_dump(
        mode="json", exclude={"model": {"source"}, "data": {"forget", "retain"}, "plugins": True}
    )
    if not settings["data"]["template_options"]:  # a setting that is not set gives a cell no new key
        del settings["data"]["template_options"]
    if settings["influence"]["targets"] == "auto":  # which is this for a model without an adapter, as it was called
        settings["influence"]["targets"] = "linear"
    if not arm.weights:
        settings = {name: settings[name] for name in ("model", "data", "evaluation")}
    return {
        "version": VERSION,
        "world": world.name,
        "rows": world.rows_fingerprint,
        "models": model_files(world),
        "tuned": is_tuned(world, arm),
        "settings": settings,
    }


def run_config(world: World, arm: Arm, seed: int, prompts: int, paths: Mapping[str, str]) -> RunConfig:
    """The pipeline's configuration of a cell.

    Args:
        world: The world.
        arm: Method and weights; for a reference only what is measured matters.
        seed: Of the cell.
        prompts: Measured rows.
        paths: Row files: ``forget``, ``retain`` and the others of the configuration's ``data``.
    """
    base = {name: section for name, section in world.settings.items() if name not in ("weights", "unlearning")}
    raw: dict[str, Any] = {
        **base,
        "model": {**base.get("model", {}), "source": world.model},
        "data": {**base.get("data", {}), **paths},
        "evaluation": {**base.get("evaluation", {}), "prompts": prompts},
        "seed": seed,
    }
    if arm.weights:
        raw["weights"] = weight_settings(world, arm)
        raw["unlearning"] = unlearning_settings(world, arm)
    for key, value in arm.changes:
        set_dotted(raw, key, parse_yaml(value, key))
    return make_config(raw, RunConfig, f"{world.name} {arm.name}")


def weight_settings(world: World, arm: Arm) -> dict[str, Any]:
    """The arm's scheme, with those of the world's options that it takes."""
    common = dict(world.settings.get("weights", {}))
    known = get_scheme(arm.weights).options.model_fields
    options = {name: value for name, value in common.get("options", {}).items() if name in known}
    return {**common, "scheme": arm.weights, "options": options}


def unlearning_settings(world: World, arm: Arm) -> dict[str, Any]:
    """Steps, batch and rate as every method's; options the method's own defaults; tuned values on top.

    The world's options are those of its own method, and go to that one alone.
    """
    common = dict(world.settings.get("unlearning", {}))
    owner = common.get("method", OURS)
    options = dict(common.pop("options", {})) if arm.method == owner else {}
    common.pop("options", None)
    tuned = dict(world.tuned.get(arm.method, {}))
    rate = {"learning_rate": tuned.pop("learning_rate")} if "learning_rate" in tuned else {}
    return {**common, **rate, "method": arm.method, "options": {**options, **tuned}}


def is_tuned(world: World, arm: Arm) -> bool:
    """Whether tuning gave this arm's method values."""
    return arm.method in world.tuned


_FINGERPRINTS: dict[tuple[str, str, str], dict[str, str]] = {}


def model_files(world: World) -> dict[str, str]:
    """SHA-256 of the weights of the world's models as they lie on the disk; read once a process."""
    places = (world.model, world.reference, world.base)
    if places not in _FINGERPRINTS:
        _FINGERPRINTS[places] = {
            name: weights_fingerprint(place) if place else ""
            for name, place in zip(("model", "reference", "base"), places, strict=True)
        }
    return _FINGERPRINTS[places]


def weights_fingerprint(directory: str) -> str:
    """SHA-256 of the files of a model directory that decide what it computes."""
    names = sorted(
        path for path in Path(directory).iterdir() if path.suffix in (".safetensors", ".json", ".jinja")
    )  # fmt: skip
    return sha256_of(f"{path.name} {file_sha256(path)}".encode() for path in names)
