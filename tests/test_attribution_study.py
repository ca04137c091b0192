"""The study of methods of attribution: its controls know the class, and its record is whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import workbench as wb
from workbench.studies import attribution_study as study
from workbench.studies.scoring import BASELINES

RECORDED = {*study.COMPARED, *BASELINES}


@pytest.fixture(scope="module")
def model() -> wb.VideoModel:
    return wb.load_model("samples/mfnet", device="cpu")


def test_controls_are_of_other_classes(model: wb.VideoModel) -> None:
    data = study.pair_clips(3)
    methods = study.attribution_methods(model, data)
    for name in data.index.index:
        clip = model.input.view(data.read(name, frames=16))
        assert len(clip.actions) == 1
        other = methods["tube of the other action"](clip, clip.label)
        absent = methods["tube of an absent class"](clip, clip.label)
        assert other.label == data.index.loc[name, "class_2"]
        assert absent.label not in (clip.label, other.label)
        mean = methods["mean activation"](clip, clip.label)
        expected = np.mean([wb.explain(model, clip).feature_tube(n).volume for n in range(128)], 0)
        np.testing.assert_allclose(mean, expected, atol=1e-4)


def test_a_stage_earlier_has_its_own_layer(model: wb.VideoModel) -> None:
    data = study.pair_clips(1)
    clip = model.input.view(data.read(0, frames=16))
    methods = study.attribution_methods(model, data)
    earlier = methods["layercam, a stage earlier"](clip, clip.label)
    tube = wb.attribute(model, clip, clip.label, "layercam")
    assert earlier.features != tube.features
    assert not np.allclose(earlier.volume, tube.volume)


def test_a_part_is_measured_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "COMPARED", ("tube", "mean activation"))
    monkeypatch.setattr(study, "PART", 2)
    rows = study._measure(tmp_path, 100, 2)
    each = 2 + len(BASELINES)
    assert rows["clip"].tolist() == np.repeat(study.pair_clips().index.index[2:4], each).tolist()
    assert {"insertion", "points ±15 px", "forward passes"} <= set(rows.columns)
    again = study._measure(tmp_path, 100, 2)
    assert again.equals(rows)


def test_costs_are_of_every_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "COMPARED", ("tube", "smoothgrad"))
    costs = study.measure_costs(1)
    assert costs.index.tolist() == ["tube", "smoothgrad", *BASELINES]
    assert costs.loc[["tube", "smoothgrad", "frame centre"], "forward passes"].tolist() == [
        1,
        21,
        0,
    ]
    assert costs.loc["smoothgrad", "seconds"] > costs.loc["tube", "seconds"]
    assert set(study.recorded_costs().index) == RECORDED


def test_points_with_a_wider_interval(model: wb.VideoModel) -> None:
    """The largest voxel is put around the end of the action and the edge of its box."""
    clip = model.input.view(study.pair_clips(1).read(0, frames=16))
    action, step = clip.actions[0], float(np.diff(clip.times).mean())
    widened = study.WIDER * 16 * step
    last = np.flatnonzero(clip.times < action.stop + widened)[-1]
    assert clip.times[last] >= action.stop  # one more frame is in
    x1, y1 = action.boxes[last, 2:]
    margin = 15 / 224 * 112
    peaks = [
        (clip.times[last], x1 + margin - 0.1, y1), (clip.times[last], x1 + margin + 0.1, y1),
        (clip.times[last + 1], x1, y1), (np.nan, np.nan, np.nan),
    ]  # fmt: skip
    rows = pd.DataFrame(peaks, columns=["peak time", "peak x", "peak y"]).assign(clip=clip.name)
    assert study.widened_points(rows).tolist()[:3] == [True, False, False]
    assert study.widened_points(rows).isna().tolist() == [False] * 3 + [True]


def test_the_record_holds_every_method_on_a_hundred_clips() -> None:
    record = study.recorded_attributions()
    clips = record.groupby("method")["clip"].nunique()
    assert set(clips.index) == RECORDED
    assert (clips >= 100).all()
    assert set(record["clip"]) <= set(study.pair_clips().index.index)
    assert {"weights", "torch", "date"} <= set(record.attrs)
