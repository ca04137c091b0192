"""Diagnosis: the recommended method is the one that the deletion test favours."""

from __future__ import annotations

import pytest

import workbench as wb


@pytest.fixture(scope="module")
def table():
    model = wb.load_model("samples/mfnet", device="cpu")
    clip = wb.samples.make_clip("lift", seed=3)
    return wb.diagnose(model, clip, "lift", layers=1, steps=4, progress=False)


def test_every_method_is_compared_and_one_is_recommended(table):
    assert table["recommended"].sum() == 1
    assert {"default", "gradient", "layer", "relevance"} <= set(table["weights"])
    assert table["layer"].nunique() == 2
    assert table["gain"].is_monotonic_decreasing


def test_the_exact_tube_of_the_trained_network_beats_a_random_order(table):
    default = table[table["weights"] == "default"].iloc[0]
    assert default["exact"]
    assert default["place"] > 0.85
    assert default["gain"] > 0.2
    assert default["insertion"] > default["deletion"]


def test_a_clearly_better_method_is_recommended(table):
    from workbench.studies.diagnosis import DEFAULT_GAIN, _recommended

    worse = table.copy()
    number = worse.index[worse["weights"] == "default"][0]
    worse.loc[number, "gain"] = worse["gain"].max() - 2 * DEFAULT_GAIN
    worse = worse.sort_values("gain", ascending=False, ignore_index=True)
    assert worse.loc[_recommended(worse), "weights"] != "default"
