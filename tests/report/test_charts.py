from __future__ import annotations

import json

import numpy as np
import plotly.graph_objects as go

from rapidun.report.charts import chart, script_safe
from rapidun.report.palette import light
from rapidun.report.sections.influence import pooled


def test_chart_data_cannot_end_its_script_and_stays_the_same_json():
    text = json.dumps({"label": "</script><!-- & -->"})
    safe = script_safe(text)
    assert not set("<>&") & set(safe)
    assert json.loads(safe) == json.loads(text)


def test_a_figures_own_margin_wins_over_the_shared_one():
    figure = go.Figure()
    figure.update_layout(margin={"t": 3})
    layout = json.loads(chart(figure, "id", "title", "words", 100, reading="How to read it.").json)["layout"]
    assert layout["margin"] == {"l": 12, "r": 16, "t": 3, "b": 12}
    assert layout["font"]["color"] == light("ink")


def test_pooling_keeps_small_blocks_and_averages_large_ones():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert pooled(values, 4) is values
    assert np.array_equal(pooled(values, 2), [[0.5, 2.5], [6.5, 8.5]])


def test_pooling_keeps_the_mean_of_an_even_split():
    values = np.random.default_rng(0).normal(size=(240, 480)).astype(np.float32)
    small = pooled(values, 120)
    assert small.shape == (120, 120)
    assert np.isclose(small.mean(), values.mean(), atol=1e-6)
