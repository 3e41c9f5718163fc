"""A sketch comes back from its description, and a wrong description is an error."""

from __future__ import annotations

import json

import pytest

from rapidun.errors import ConfigError
from rapidun.gradients import Exact, FactoredSketch, RapidGrad, Readout, register_sketch, sketch_from


@pytest.mark.parametrize("sketch", [RapidGrad(128, 7), FactoredSketch(8, 3), Readout(1000, 2)])
def test_a_sketch_survives_a_manifest(sketch):
    assert sketch_from(json.loads(json.dumps(sketch.describe()))) == sketch


def test_exact_survives_a_manifest():
    assert isinstance(sketch_from(Exact().describe()), Exact)


def test_settings_left_out_have_their_defaults():
    assert sketch_from({"kind": "factored"}) == FactoredSketch()


@pytest.mark.parametrize(
    ("description", "text"),
    [
        ({"kind": "sparse"}, "'sparse': use one of exact, factored, rapidgrad, readout"),
        ({}, "kind ''"),
        ({"kind": "factored", "k": 3}, "no option 'k'; its options: p, seed"),
        ({"kind": "rapidgrad", "k": 0}, "k=0"),
    ],
)
def test_what_is_not_a_sketch_is_an_error(description, text):
    with pytest.raises(ConfigError, match=text):
        sketch_from(description)


def test_another_kind_is_one_line(registers):
    register_sketch("whole", Exact)
    assert isinstance(sketch_from({"kind": "whole"}), Exact)
