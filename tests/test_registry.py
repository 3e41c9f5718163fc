"""A wrong name is answered with those there are and the nearest, in every register alike."""

from __future__ import annotations

import pytest

from rapidun.attacks import ATTACKS
from rapidun.distributed.engines import ENGINES
from rapidun.errors import ConfigError
from rapidun.evaluation import JUDGES
from rapidun.gradients.sketches import SKETCHES
from rapidun.registry import Registry, check_options
from rapidun.revealing import STRATEGIES
from rapidun.settings.names import Names
from rapidun.valuation.students import STUDENTS
from rapidun.weighting import SCHEMES


@pytest.mark.parametrize(
    ("register", "wrong", "right"),
    [
        (JUDGES, "keyword", "keywords"),
        (SKETCHES, "rapidgard", "rapidgrad"),
        (STRATEGIES, "neural_ubc", "neural_ucb"),
        (STUDENTS, "rigde", "ridge"),
        (SCHEMES, "influece", "influence"),
        (ATTACKS, "quantize", "quantise"),
    ],
)
def test_every_register_names_the_nearest(register: Registry[object], wrong: str, right: str) -> None:
    assert right in register
    with pytest.raises(ConfigError, match=rf"{wrong}.*{right}.*Did you mean '{right}'\?"):
        register[wrong]
    assert register.get(wrong) is None


def test_an_engine_that_is_not_there_leaves_the_register_as_it_was() -> None:
    before = dict(ENGINES)
    with pytest.raises(ConfigError, match="carrots"):
        ENGINES["carrots"]
    assert dict(ENGINES) == before


def test_what_is_registered_is_returned_as_it_is() -> None:
    register: Registry[object] = Registry(Names("no {name} among {known}."))
    thing = register.register("thing")(len)
    assert thing is len
    assert register["thing"] is len
    with pytest.raises(ConfigError, match=r"^no 'other' among thing\.$"):
        register["other"]


def test_options_are_the_parameters_of_what_is_called() -> None:
    def made(*, words: int, case: bool = True) -> None:
        """Nothing."""

    check_options("judge 'short'", made, {"words": 3})
    with pytest.raises(ConfigError, match=r"judge 'short' has no option 'wrods'; its options: words, case\. Did you"):
        check_options("judge 'short'", made, {"wrods": 3})
    with pytest.raises(ConfigError, match="judge 'short' needs the option 'words'"):
        check_options("judge 'short'", made, {"case": False})
