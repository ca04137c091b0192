"""Methods compared on clips whose answer is known, methods included whose marks are known too."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
from workbench.metrics.confidence import bootstrap
from workbench.metrics.perturbation import deletion, insertion, random_order, replacement
from workbench.saliency.tubes import keep_features, tau_for_share
from workbench.studies.evaluation import WIDE, baselines, compare, faithfulness, summary

SPEC = wb.InputSpec(frames=16, resize=(48, 48))
HITS = ["points", "points in space", "points in time"]


def marked(clip, label):
    """The answer itself: 1 in the action's box while it goes on."""
    number = [action.label for action in clip.actions].index(label)
    boxes, volume = clip.action_boxes(number), np.zeros(clip.frames.shape[:3], dtype=np.float32)
    y, x = np.ogrid[: volume.shape[1], : volume.shape[2]]
    for frame, (x0, y0, x1, y1) in enumerate(boxes):
        volume[frame] = (x + 0.5 >= x0) & (x + 0.5 < x1) & (y + 0.5 >= y0) & (y + 0.5 < y1)
    return volume


METHODS = {
    "truth": marked,
    "contrary": lambda clip, label: -marked(clip, label),
    "constant": lambda clip, label: np.ones(clip.frames.shape[:3]),
}


@pytest.fixture(scope="module")
def data():
    return wb.samples.dataset("pair", 3, seed=5)


def test_the_truth_wins_and_a_constant_never_does(data):
    rows = faithfulness(METHODS, data, SPEC, progress=False)
    assert len(rows) == 3 * 2 * 3
    assert rows[["clip", "action", "method"]].duplicated().sum() == 0
    by = rows.set_index("method")
    every = [f"{hit}{suffix}" for hit in HITS for suffix in ("", WIDE)]
    assert by.loc["truth", every].all(axis=None)
    assert not by.loc["constant", every].any(axis=None)
    assert not by.loc["contrary", ["points", "points in space"]].any(axis=None)
    assert (by.loc["truth", ["energy inside", "temporal AUC"]] == 1).all(axis=None)
    assert (
        by.loc["truth", "temporal IoU"] > 0.8
    ).all()  # not 1: where the box is small so is the profile
    assert (by.loc["constant", ["energy inside", "temporal IoU", "temporal variation"]] == 0).all(
        axis=None
    )
    assert (by.loc["constant", "temporal AUC"] == 0.5).all()
    assert (by.loc["contrary", "energy inside"] == 0).all()
    assert by["box share"].between(0.001, 0.2).all()


def test_the_tolerance_forgives_a_frame_that_is_just_out_of_the_interval(data):
    def early(clip, label):
        number = [action.label for action in clip.actions].index(label)
        near, strict = clip.action_boxes(number, grow=0.09), clip.action_boxes(number)
        volume = np.zeros(clip.frames.shape[:3])
        for frame in np.flatnonzero(np.isfinite(near[:, 0]) & np.isnan(strict[:, 0]))[:1]:
            x0, y0, x1, y1 = near[frame]
            volume[frame, int(y0 + y1) // 2, int(x0 + x1) // 2] = 1
        return volume

    rows = faithfulness({"early": early}, data, SPEC, progress=False)
    there = rows["temporal variation"] > 0  # some actions have no frame so near
    assert there.any()
    assert rows.loc[there, ["points in time ±5%", "points ±5%"]].all(axis=None)
    assert not rows[["points in time", "points"]].any(axis=None)


def test_the_tolerance_in_time_is_the_same_on_both_sides():
    """Twenty frames 0.1 s apart: 5 % of the clip are 0.1 s, one frame before and one behind."""
    boxes = np.tile(np.float32([8, 8, 24, 24]), (20, 1))
    frames = np.zeros((20, 48, 48, 3), dtype=np.uint8)
    action = wb.Action("lift", 0.75, 1.15, boxes)  # the frames 8 to 11
    clip = wb.Clip(frames, 10.0, name="lift", actions=(action,))
    grown = np.isfinite(clip.action_boxes(0, grow=0.1)).all(1)
    assert np.flatnonzero(grown).tolist() == [7, 8, 9, 10, 11, 12]

    def peak_in(frame):
        volume = np.zeros((20, 48, 48))
        volume[frame, 16, 16] = 1
        return lambda clip, label: volume

    index = pd.DataFrame({"class": ["lift"]}, index=["lift"])
    data = wb.Dataset(index, ["lift"], lambda *_, **__: clip)
    spec = wb.InputSpec(frames=20, resize=(48, 48))
    rows = faithfulness({n: peak_in(n) for n in range(20)}, data, spec, progress=False)
    points = rows.set_index("method")
    assert points.index[points["points"]].tolist() == [8, 9, 10, 11]
    assert points.index[points["points ±5%"]].tolist() == [7, 8, 9, 10, 11, 12]


def test_curves_are_those_of_the_metrics_and_their_ends_are_asked_for_once(data):
    asked = []

    def score_of(label):
        def score(frames):
            asked.append(len(frames))
            return frames.mean((1, 2, 3, 4)) / 255

        return score

    untied = {
        seed: lambda clip, label, seed=seed: random_order(clip.frames.shape[:3], seed)
        for seed in (1, 2, 3)
    }
    rows = faithfulness(
        untied, data.subset(data.index.index[:1]), SPEC, score=score_of, steps=3, progress=False
    )
    # Two actions. The two ends are scored once; each of three methods has two curves with two
    # points between the ends.
    assert sum(asked) == 2 * (2 + 3 * 2 * 2)
    clip = SPEC.view(data.read(0, frames=16))
    first = rows[(rows["method"] == 2) & (rows["action"] == 0)].iloc[0]
    assert first["probability"] == pytest.approx(clip.frames.mean() / 255)
    for way in (deletion, insertion):
        curve = way(
            score_of(""),
            clip,
            random_order(clip.frames.shape[:3], 2),
            steps=3,
            baseline=replacement(clip),
        )
        assert first[way.__name__] == pytest.approx(curve.auc)


def test_halves_of_the_data_give_the_rows_of_the_whole(data):
    model = wb.load_model("samples/mfnet", device="cpu")
    methods = {
        **baselines(model, seed=1),
        "tube": lambda clip, label: wb.explain(model, clip).tube(label),
    }
    run = partial(faithfulness, methods, input=model.input, progress=False)
    whole = run(data=data)
    halves = [run(data=data.subset(part)) for part in (data.index.index[:1], data.index.index[1:])]
    pd.testing.assert_frame_equal(whole, pd.concat(halves, ignore_index=True))
    assert list(whole["method"].unique()) == [
        "random weights",
        "centre Gaussian",
        "frame difference",
        "random order",
        "tube",
    ]
    chance = whole[whole["method"] == "random order"]
    assert chance["temporal AUC"].nunique() == len(chance)  # another order for each clip and action


def test_what_cannot_be_measured_is_named(data):
    name = data.index.index[0]
    with pytest.raises(ValueError, match=rf"{name}.*'small'.*\(16, 48, 48\)"):
        faithfulness({"small": lambda clip, label: np.ones((16, 7, 7))}, data, SPEC, progress=False)
    broken = {"broken": lambda clip, label: np.full(clip.frames.shape[:3], np.nan)}
    with pytest.raises(ValueError, match=rf"{name}.*'broken'.*NaN"):
        faithfulness(broken, data, SPEC, progress=False)
    with pytest.raises(ValueError, match=rf"{name}.*'truth'.*score: expected"):
        faithfulness(
            METHODS,
            data,
            SPEC,
            score=lambda label: lambda frames: frames[:, 0, 0, 0],
            progress=False,
        )
    with pytest.raises(ValueError, match="at least one"):
        faithfulness({}, data, SPEC)
    bare = wb.Clip(np.zeros((16, 48, 48, 3), dtype=np.uint8), 25.0)
    with pytest.raises(ValueError, match="no annotated action"):
        faithfulness(
            METHODS,
            wb.Dataset(data.index, data.classes, lambda *a, **k: bare),
            SPEC,
            progress=False,
        )


def test_an_action_that_fills_its_clip_has_no_temporal_auc(data):
    def read(row, frames, stride):
        clip = data.read(str(row.name), frames=frames, stride=stride)
        boxes = np.tile(np.float32([4, 4, 20, 20]), (len(clip), 1))
        return wb.Clip(
            clip.frames, 25.0, name=clip.name, actions=(wb.Action("lift", 0.0, 9.0, boxes),)
        )

    rows = faithfulness(METHODS, wb.Dataset(data.index, data.classes, read), SPEC, progress=False)
    assert rows["temporal AUC"].isna().all()
    assert "temporal AUC" not in set(compare(rows)["metric"])


def table():
    """Two methods on four clips, the last of which has two actions; `b` is `a` and 0.1 more."""
    a = [0.0, 0.2, 0.4, 0.6, 0.8]
    clips, actions = ["p", "q", "r", "s", "s"], [0, 0, 0, 0, 1]
    part = pd.DataFrame(
        {
            "data": "d",
            "clip": clips,
            "action": actions,
            "class": "lift",
            "points": np.greater(a, 0.3),
        }
    )
    return pd.concat(
        [part.assign(method="a", energy=a), part.assign(method="b", energy=np.add(a, 0.1))][::-1]
    )


def test_a_summary_counts_accuracy_by_clip_and_hits_by_action():
    rows = pd.DataFrame(
        {
            "clip": ["a", "a", "b"],
            "class": ["stir", "lift", "stir"],
            "correct": [True, True, False],
            "probability": [0.9, 0.1, 0.2],
            "tube": [True, False, True],
        }
    )
    found = summary(rows)
    assert found["clips"] == 2
    assert found["accuracy"] == 0.5
    assert found["tube"] == pytest.approx(2 / 3)
    assert found["tube, all actions"] == 0.5  # clip b


def test_means_and_intervals_by_method():
    means = compare(table()).set_index(["data", "method", "metric"])
    row = means.loc[("d", "a", "energy")]
    expected = bootstrap([0.0, 0.2, 0.4, 0.6, 0.8], ["p", "q", "r", "s", "s"])
    assert (row["mean"], row["low"], row["high"]) == pytest.approx(expected)
    assert row["clips"] == 4
    assert means.loc[("d", "b", "points"), "mean"] == pytest.approx(0.6)
    assert set(means.index.get_level_values("metric")) == {"points", "energy"}


def test_against_a_method_differences_are_paired():
    means = compare(table(), against="a", by=["method"]).set_index(["method", "metric"])
    assert list(means.index) == [("b", "points"), ("b", "energy")]
    assert means.loc[("b", "energy"), ["mean", "low", "high"]].tolist() == pytest.approx(
        [0.1, 0.1, 0.1]
    )
    assert means.loc[("b", "points"), "high"] == 0
    with pytest.raises(KeyError, match="'c'"):
        compare(table(), against="c")
    lacking = table()[lambda rows: ~((rows["method"] == "a") & (rows["clip"] == "q"))]
    with pytest.raises(ValueError, match="every action"):
        compare(lacking, against="a")
    with pytest.raises(ValueError, match="two clips"):
        compare(table()[lambda rows: rows["clip"] == "s"])


def test_tau_keeps_the_share_asked_for():
    weights = torch.randn(96, generator=torch.Generator().manual_seed(0))
    for share, kept in ((1.0, 96), (0.5, 48), (0.25, 24), (0.001, 1)):
        found = keep_features(weights, tau_for_share(weights, share))
        assert len(found) == kept
        assert set(found.tolist()) == set(weights.topk(kept).indices.tolist())
    assert tau_for_share(np.array([1.0, 2.0, 2.0, 3.0]), 0.5) == 2.0  # both that tie are kept
    for share in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share"):
            tau_for_share(weights, share)
    with pytest.raises(ValueError, match="finite"):
        tau_for_share(torch.tensor([1.0, float("nan")]), 0.5)
