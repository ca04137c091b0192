"""The study of faithfulness: covers every clip, resumes after an interruption, is charted."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
from workbench.studies import charts, evaluation, study
from workbench.studies.replication import replicated, replication_text

matplotlib.use("agg")


def test_parts_cover_every_clip_of_every_split_once():
    parts = study.parts(50)
    assert len({part.name for part in parts}) == len(parts)
    for what, splits, size in (
        ("methods", 4, 50),
        ("centred", 4, 50),
        ("randomisation", 4, 50),
        ("shares", 2, 25),
        ("movement", 4, 25),
        ("controls", 4, 6),
        ("steps", 4, 6),
        ("hard", 4, 25),
    ):
        mine = [part for part in parts if part.what == what]
        clips = [name for part in mine for name in part.data.index.index]
        assert len(clips) == len(set(clips)) == splits * size


def test_the_share_of_all_features_is_the_tube_as_it_is():
    model = wb.load_model("samples/mfnet", device="cpu")
    clip = model.input.view(wb.samples.make_clip("stir", seed=5))
    tubes = {name: method(clip, "stir") for name, method in study.shares(model).items()}
    np.testing.assert_allclose(
        tubes["1"].volume, wb.explain(model, clip).tube("stir").volume, atol=1e-4
    )
    assert [tubes[name].kept for name in ("0.5", "0.25", "0.02")] == [64, 32, 3]


def test_tau_0_keeps_the_features_with_positive_weights():
    mfnet, tsn = (wb.load_model(f"samples/{name}", device="cpu") for name in ("mfnet", "tsn"))
    clip = mfnet.input.view(wb.samples.make_clip("lift", seed=7))
    tube = study.methods(mfnet, tsn)["MFNet, τ = 0"](clip, "lift")
    ex = wb.explain(mfnet, clip)
    positive = ex.class_weights("lift").clamp(min=0)
    assert tube.kept == int((positive > 0).sum()) < ex.activations.shape[0]
    expected = torch.einsum("c,cthw->thw", positive, ex.activations).numpy()
    np.testing.assert_allclose(tube.map, expected, atol=1e-4 * np.abs(expected).max())


def test_gradient_weights_are_the_class_weights_on_the_shipped_network():
    mfnet, tsn = (wb.load_model(f"samples/{name}", device="cpu") for name in ("mfnet", "tsn"))
    compared = study.methods(mfnet, tsn)
    clip = mfnet.input.view(wb.samples.make_clip("open", seed=6))
    tube, gradient = (
        compared[name](clip, "open").volume for name in ("MFNet tube", "MFNet, gradient weights")
    )
    np.testing.assert_allclose(tube, gradient, atol=1e-3 * np.abs(tube).max())
    assert not np.allclose(
        tube, compared["TSN tube"](clip, "open").volume, atol=0.1 * np.abs(tube).max()
    )


def test_controls_know_no_class_or_another():
    mfnet = wb.load_model("samples/mfnet", device="cpu")
    clip = mfnet.input.view(next(iter(wb.samples.dataset("pair", 1, seed=4))))
    first, second = (action.label for action in clip.actions)
    controls = study.controls(mfnet)
    assert (controls["class-blind"](clip, first) == controls["class-blind"](clip, second)).all()
    assert controls["other action"](clip, first).label == second
    assert controls["absent class"](clip, first).label not in (first, second)
    ex = wb.explain(mfnet, clip)
    mean = ex.activations.mean(0).numpy()
    corners = np.ix_([0, -1], [0, -1], [0, -1])  # a spline passes through the ends
    blind = controls["class-blind"](clip, first)
    np.testing.assert_allclose(blind[corners], mean[corners], atol=1e-4)
    top = int(ex.channels(first, top=1)["channel"].iloc[0])
    assert controls["one feature"](clip, first).label == f"feature {top}"


def test_untrained_networks_differ_from_the_trained_one_and_from_each_other():
    mfnet = wb.load_model("samples/mfnet", device="cpu")
    clip = mfnet.input.view(wb.samples.make_clip("stir", seed=5))
    volumes = [method(clip, "stir").volume for method in study.untrained(mfnet).values()]
    volumes.append(wb.explain(mfnet, clip).tube("stir").volume)
    assert len(volumes) == study.FRESH + 1
    likeness = np.corrcoef([volume.ravel() for volume in volumes])
    assert np.abs(likeness[np.triu_indices(len(volumes), 1)]).max() < 0.9


@pytest.mark.parametrize(("direction", "expected"), [(1, 1.0), (-1, -1.0)])
def test_heights_of_tube_and_object(direction, expected):
    """The object goes down a row a frame; the tube does so as well, or the other way round."""
    rows = np.arange(6)
    box = np.stack([np.full(6, 2), rows, np.full(6, 4), rows + 2], axis=1).astype(np.float32)
    frames = np.zeros((6, 8, 8, 3), np.uint8)
    clip = wb.Clip(frames, 10.0, actions=(wb.Action("lower", 0.0, 1.0, box),))
    volume = np.zeros((6, 8, 8), np.float32)
    for frame in range(6):
        volume[frame, 1 + frame if direction > 0 else 6 - frame, 3] = 1
    tube = wb.Tube(volume, 0, "lower", None, np.array([0]), 1, volume)
    assert study.follows_height(tube, clip) == pytest.approx(expected)
    still = wb.Tube(np.ones_like(volume), 0, "lower", None, np.array([0]), 1, volume)
    assert np.isnan(study.follows_height(still, clip))


@pytest.mark.slow
def test_what_is_measured_already_is_not_measured_again(tmp_path, monkeypatch):
    done, missing = study.Part("methods", "edge", 0, 2), study.Part("methods", "pair", 0, 2)
    others = [study.Part(what, "edge", 0, 2) for what in study.TABLES[1:]]
    monkeypatch.setattr(study, "parts", lambda clips, **_: [done, missing, *others])
    kept = pd.DataFrame(
        {"data": ["samples, edge"], "clip": ["kept"], "method": ["kept"], "deletion": [0.5]}
    )
    for part in (done, *others):
        kept.to_csv(tmp_path / part.name, index=False)
    tables = study.run(tmp_path, clips=2, workers=1)
    assert tables["methods"]["clip"].iloc[0] == "kept"
    fresh = tables["methods"].iloc[1:]
    assert set(fresh["data"]) == {"samples, pair"}
    assert len(fresh) == 2 * 2 * fresh["method"].nunique()  # two clips of two actions
    assert not list(tmp_path.glob("*.part"))
    assert (tmp_path / "methods.csv.gz").is_file()


def test_no_such_table():
    with pytest.raises(KeyError, match="methods, centred, shares"):
        study.recorded("nothing")


@pytest.fixture
def means() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "data": np.repeat(["samples, iid", "samples, pair"], 40),
            "clip": [f"c{n}" for n in range(40)] * 2,
            "method": ["tube", "chance"] * 40,
            "deletion": rng.random(80),
            "share": [0.1, 0.5] * 40,
        }
    )
    return evaluation.compare(rows)


def test_dots_have_a_panel_a_data_set_and_a_row_a_method(means):
    figure = charts.dots(
        means, "deletion", highlight=["tube"], marks={"chance": 0.5}, title="Deletion"
    )
    assert [ax.get_title() for ax in figure.axes] == ["iid", "pair"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["chance", "tube"]
    row = means[(means["metric"] == "deletion") & (means["method"] == "tube")].iloc[0]
    ends = [tuple(line.get_xdata()) for line in figure.axes[0].lines]
    assert (row["low"], row["high"]) in ends


def test_dots_leave_a_row_empty_where_a_method_was_not_measured(means):
    some = means[(means["method"] != "chance") | (means["data"] == "samples, pair")]
    axes = charts.dots(some, "deletion").axes
    assert [len(ax.lines) for ax in axes] == [2, 4]  # an interval and a mean for each method


def test_curves_have_a_panel_a_metric_and_a_band_a_data_set(means):
    figure = charts.curves(means.assign(x=1.0), "x", ["deletion", "share"], label="x", log=True)
    assert [ax.get_title() for ax in figure.axes] == ["deletion", "share"]
    assert len(figure.axes[0].collections) == 2
    assert figure.axes[0].get_xscale() == "log"


def measured(seed: int, shift: float = 0.0) -> pd.DataFrame:
    """Return a table of two methods on 60 clips, as `faithfulness` does."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"data": "samples, pair", "clip": [f"c{n}" for n in range(60)]})
    tables = []
    for method, share in (("MFNet tube", 0.95), ("random order", 0.1), ("MFNet, LayerCAM", 0.9)):
        values = {
            "points": rng.random(60) < share,
            "energy inside": rng.normal(share + shift, 0.1, 60),
            "box share": rng.random(60),
        }
        tables.append(rows.assign(action=0, method=method, **{"class": "lift"}, **values))
    return pd.concat(tables, ignore_index=True)


def test_a_mean_replicates_if_the_interval_of_the_difference_holds_zero():
    apart = pd.concat(
        [replicated(measured(seed), measured(100 + seed))["apart"] for seed in range(40)]
    )
    assert len(apart) == 40 * 2 * 2  # LayerCAM is τ = 0 by another name
    assert 0.01 < apart.mean() < 0.1
    shifted = replicated(measured(1, shift=0.1), measured(2))
    moved = shifted[shifted["metric"] == "energy inside"]
    assert moved["apart"].all()
    assert (moved["low"] > 0).all()
    text = replication_text(shifted)
    assert "of 4 differences exclude 0" in text
    assert "energy inside" in text


def test_the_record_does_not_replicate_itself():
    table = measured(3)
    with pytest.raises(ValueError, match="another seed"):
        replicated(table.iloc[:40], table)


def test_without_steps_curves_are_left_out():
    part = study.Part("methods", "leave", 0, 1, seed=4, steps=0)
    assert part.name == "methods-leave-00000-of-1-seed-4-steps-0.csv"
    assert {p.seed for p in study.parts(8, seed=4, steps=0, tables=["methods"])} == {4}


@pytest.mark.slow
def test_hard_clips_are_measured_with_their_controls():
    table = study.measure(study.Part("hard", "same", 0, 1))
    assert set(table["method"]) == {
        "MFNet tube", "class-blind", "absent class", "frame difference", "centre Gaussian",
        "fresh weights 0",
    }  # fmt: skip
    tube = table[table["method"] == "MFNet tube"]
    assert len(tube) == 2  # two actions of one class
    assert tube["points ±5%"].sum() <= 1  # one voxel is the largest
    assert (table["found ±5%"] >= table["points ±5%"]).all()
    assert table["correct"].nunique() == 1
