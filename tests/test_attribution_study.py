"""The study of methods of attribution: its controls know the class, and its record is whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import workbench as wb
from workbench.studies import attribution_study as study
from workbench.studies.scoring import BASELINES


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


def test_a_part_is_measured_and_resumed(tmp_path: Path) -> None:
    part = study._Part(tmp_path, ("tube", "mean activation"), 1, 3, 100)
    rows = study._measure(part)
    assert rows["clip"].tolist() == np.repeat(study.pair_clips().index.index[1:3], 9).tolist()
    assert {"insertion", "points ±15 px", "forward passes"} <= set(rows.columns)
    again = study._measure(part)
    assert again.equals(rows)


def test_the_record_holds_every_method_on_enough_clips() -> None:
    record = study.recorded_attributions()
    clips = record.groupby("method")["clip"].nunique()
    assert set(clips.index) == {*study.CHEAP, *study.COSTLY, *BASELINES}
    assert (clips[[*study.CHEAP, *BASELINES]] >= 100).all()
    assert (clips[list(study.COSTLY)] >= 30).all()
    assert set(record["clip"]) <= set(study.pair_clips().index.index)
    assert {"weights", "torch", "date"} <= set(record.attrs)
