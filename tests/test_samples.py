"""Procedural clips: a seed is a scene, and annotations are where the action is."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

import workbench as wb
from workbench.datasets import kitchens, samples, scenes

DIGESTS = {
    "iid": "464d825896582d62",
    "decorrelated": "d49dbee76b8cdd76",
    "edge": "52a81b1fe3bdc199",
    "pair": "edb63611c6c37267",
}
EVERY = (*samples.SPLITS, *samples.HARD_SPLITS)


@pytest.mark.parametrize("split", EVERY)
def test_every_split_draws_clips_with_boxes_and_intervals(split):
    clip = wb.samples.make_clip("stir", seed=5, split=split)
    assert clip.frames.shape == (48, 240, 320, 3)
    assert clip.label == "stir"
    assert len(clip.actions) == (2 if split in ("pair", "same") else 1)
    for action in clip.actions:
        assert 0 <= action.start < action.stop <= samples.DURATION + 1e-9
        assert action.boxes.shape == (48, 4)
        x0, y0, x1, y1 = action.boxes[np.isfinite(action.boxes).all(1)].T
        assert ((x0 >= 0) & (x0 < x1) & (x1 <= 320) & (y0 >= 0) & (y0 < y1) & (y1 <= 240)).all()


@pytest.mark.parametrize("label", samples.CLASSES)
def test_what_changes_in_the_box_changes_in_the_interval(label):
    """Without camera, noise and distractors, only the boxes change, in the interval."""
    from dataclasses import replace

    moved = 0
    for seed in range(4):
        scene = samples.draw_scene(label, seed)
        scene = replace(scene, actors=scene.acting, jitter=0.0, grain=0.0, flicker=0.0)
        clip = scenes.render(scene, np.arange(48))
        change = np.abs(np.diff(clip.frames.astype(int), axis=0)).max(-1) > 12
        start, stop = clip.action
        outside = ~clip.during((start - 0.05, stop + 0.05))
        assert not change[outside[1:] & outside[:-1]].any()
        for frame, where in enumerate(change):
            rows, columns = np.nonzero(where)
            if len(rows):
                (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = clip.boxes[frame : frame + 2]
                assert columns.min() >= min(ax0, bx0) - 4
                assert columns.max() <= max(ax1, bx1) + 4
                assert rows.min() >= min(ay0, by0) - 4
                assert rows.max() <= max(ay1, by1) + 4
                moved += 1
    assert moved > 20


def test_the_same_seed_is_the_same_clip_and_another_is_another():
    a, b, c = (wb.samples.make_clip("lift", seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.frames, b.frames)
    np.testing.assert_array_equal(a.boxes, b.boxes)
    assert (a.frames != c.frames).any()


def test_resolution_and_frame_rate_show_the_same_scene():
    large = wb.samples.make_clip("rotate", seed=7)
    small = wb.samples.make_clip("rotate", seed=7, size=(120, 160), fps=50.0)
    assert small.action == large.action
    np.testing.assert_allclose(small.boxes[::2] * 2, large.boxes, atol=1e-3)
    np.testing.assert_allclose(small.times[::2], large.times)
    shrunk = large.resize(120, 160).frames.astype(float)
    assert np.abs(small.frames[::2] - shrunk).mean() < 6  # of 255


def test_a_frame_is_the_same_whichever_others_are_drawn():
    data = wb.samples.dataset("edge", 3, seed=4)
    full, part = data[2], data.read(2, frames=16)
    assert part.indices.tolist() == np.linspace(0, 47, 16).astype(int).tolist()
    np.testing.assert_array_equal(part.frames, full.frames[part.indices])
    np.testing.assert_array_equal(part.boxes, full.boxes[part.indices])


def test_lift_is_lower_backwards_and_open_is_close_backwards():
    times = np.linspace(0, 1, 11)
    facts = dict(
        shape="disc",
        colour=(1, 2, 3),
        texture="plain",
        x=0.5,
        y=0.7,
        size=0.1,
        start=0.0,
        stop=1.0,
        swing=0.3,
    )
    lift = scenes.pose(scenes.Actor(action="lift", **facts), times)
    lower = scenes.pose(scenes.Actor(action="lower", **{**facts, "y": 0.4}), times)
    np.testing.assert_allclose(lift[1], lower[1][::-1])
    opening = scenes.pose(scenes.Actor(action="open", **facts), times)
    closing = scenes.pose(scenes.Actor(action="close", **facts), times)
    np.testing.assert_allclose(opening[3], closing[3][::-1])


def test_iid_appearance_agrees_with_the_class_and_decorrelated_does_not():
    def agreement(split):
        index = wb.samples.dataset(split, 800, seed=3).index
        own = [scenes.APPEARANCES[i][0] for i in index["class_id"]]
        return (index["appearance"] == own).mean()

    # 0.8 + 0.2 / 8 and 1 / 8, with 800 draws: standard deviations of 0.014 and 0.012
    assert agreement("iid") == pytest.approx(0.825, abs=0.045)
    assert agreement("decorrelated") == pytest.approx(0.125, abs=0.04)


def test_edge_actions_are_short_and_at_an_end():
    index = wb.samples.dataset("edge", 40).index
    at_start = index["action_start"] == 0
    at_end = np.isclose(index["action_stop"], samples.DURATION)
    assert (at_start ^ at_end).all()
    assert at_start.any()
    assert at_end.any()
    assert (index["action_stop"] - index["action_start"]).max() <= 0.75


def test_pairs_are_two_classes_one_after_the_other_at_two_places():
    data = wb.samples.dataset("pair", 16)
    assert (data.index["class"] != data.index["class_2"]).all()
    assert (data.index["action_stop"] <= data.index["action_start_2"]).all()
    for name in data.index.index[:4]:
        first, second = data.read(name, frames=16).actions
        centres = [action.boxes[:, [0, 2]].mean() for action in (first, second)]
        assert abs(centres[0] - centres[1]) > 60
        assert first.label == data.index.loc[name, "class"]


def test_dataset_is_balanced_and_reads_by_name_and_row():
    data = wb.samples.dataset("decorrelated", 16, seed=1)
    assert len(data) == 16
    assert (data.index["class"].value_counts() == 2).all()
    assert list(data.classes) == list(samples.CLASSES)
    name = data.index.index[3]
    np.testing.assert_array_equal(data[name].frames, data[3].frames)
    assert data[name].name == name
    part = data.subset(data.index[data.index["class"] == "stir"])
    assert len(part) == 2


def test_datasets_of_two_seeds_share_no_clip_and_none_is_trained_on():
    a, b = (set(wb.samples.dataset("iid", 200, seed=s).index["seed"]) for s in (1, 2))
    assert not a & b
    assert max(a | b) < samples.TRAINING_SEEDS


def test_what_is_not_there_is_named():
    with pytest.raises(KeyError, match="stir, shake"):
        wb.samples.make_clip("dance")
    with pytest.raises(KeyError, match="decorrelated"):
        wb.samples.make_clip("stir", split="train")
    with pytest.raises(KeyError, match="decorrelated"):
        wb.samples.dataset("train")
    with pytest.raises(ValueError, match="at least one"):
        wb.samples.dataset("iid", 0)
    with pytest.raises(ValueError, match=r"1\.4 s"):
        wb.samples.make_clip("stir", duration=1.0)
    with pytest.raises(ValueError, match="16×16"):
        wb.samples.make_clip("stir", size=(8, 8))
    data = wb.samples.dataset("iid", 2)
    with pytest.raises(KeyError, match="no clip 'x' among the 2"):
        data["x"]
    with pytest.raises(IndexError, match="counted from 0"):
        data[2]


def test_shipped_files_are_those_recorded():
    root = samples.FOLDER
    listed = dict(
        line.split("  ", 1)[::-1] for line in (root / "SHA256SUMS").read_text().splitlines()
    )
    found = {
        str(path.relative_to(root).as_posix()) for path in root.rglob("*") if path.is_file()
    } - {
        "SHA256SUMS",
        "README.md",
    }
    assert found == set(listed)
    for name, digest in listed.items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == digest, name
    assert sum((root / name).stat().st_size for name in listed) < 3_000_000


@pytest.mark.parametrize("split", EVERY)
def test_the_shortest_clips_can_be_drawn(split):
    for seed in range(5):
        clip = wb.samples.make_clip(
            "lift", seed, split=split, size=(24, 32), duration=samples.SHORTEST
        )
        assert all(0 <= a.start < a.stop <= samples.SHORTEST for a in clip.actions)


def test_data_sets_of_samples_can_go_to_other_processes():
    for data in (wb.samples.shipped(), wb.samples.dataset("edge", 2)):
        again = pickle.loads(pickle.dumps(data))
        np.testing.assert_array_equal(again.read(0, frames=4).frames, data.read(0, frames=4).frames)


def test_shipped_clips_show_the_scenes_of_their_seeds():
    data = samples.shipped()
    assert len(data) == 24
    assert set(data.index["class"]) == set(samples.CLASSES)
    for name in data.index.index[::7]:
        clip, row = data[name], data.index.loc[name]
        drawn = samples.make_clip(row["class"], int(row["seed"]), split=row["split"])
        assert clip.frames.shape == drawn.frames.shape
        np.testing.assert_allclose(clip.boxes, drawn.boxes)
        assert clip.action == drawn.action
        assert np.abs(clip.frames.astype(float) - drawn.frames).mean() < 8  # of 255: XviD's losses


def test_boxes_are_shown_while_the_action_goes_on():
    clip = wb.samples.make_clip("lift", 1, split="pair")
    shown = np.isfinite(clip.shown_boxes).all(-1)
    for number, action in enumerate(clip.actions):
        np.testing.assert_array_equal(shown[:, number], clip.during((action.start, action.stop)))
    plain = wb.Clip(clip.frames, 25.0, boxes=clip.boxes)
    assert plain.shown_boxes.shape == (48, 1, 4)
    assert wb.Clip(clip.frames, 25.0).shown_boxes is None


def test_existing_clips_are_as_they_were_before_the_harder_splits():
    """Hashes of small clips: records of measurements hold only for the clips they were made on."""
    digests = {
        split: hashlib.sha256(
            wb.samples.make_clip("lift", 1, split=split, size=(60, 80)).frames.tobytes()
        ).hexdigest()[:16]
        for split in samples.SPLITS
    }
    assert digests == DIGESTS


def test_same_is_one_class_at_two_places_and_times():
    data = wb.samples.dataset("same", 16)
    assert (data.index["class"] == data.index["class_2"]).all()
    assert (data.index["action_stop"] <= data.index["action_start_2"]).all()
    first, second = data.read(3, frames=16).actions
    assert first.label == second.label
    assert abs(first.boxes[:, [0, 2]].mean() - second.boxes[:, [0, 2]].mean()) > 60


def test_an_object_that_leaves_is_there_while_it_acts_and_gone_at_the_end():
    for seed, label in enumerate(samples.CLASSES):
        clip = wb.samples.make_clip(label, seed, split="leave")
        there = np.isfinite(clip.boxes).all(1)
        assert there[clip.during(clip.action)].all()
        assert not there[-8:].any()
        gone = np.flatnonzero(~there)
        assert (np.diff(gone) == 1).all()  # it does not come back
        after = clip.times[gone[0]] - clip.action[1]
        assert 0 < after <= 0.55


def test_a_camera_that_pans_moves_everything():
    """The whole picture shifts by the pan, whose truth is the box of an object that lies still."""
    from dataclasses import replace

    scene = samples.draw_scene("open", 4, "pan")
    still = replace(scene, actors=(replace(scene.acting[0], start=9.0, stop=9.9),), jitter=0.0)
    clip = scenes.render(still, np.array([0, 47]))
    moved = clip.boxes[1] - clip.boxes[0]
    expected = np.array([*scene.pan, *scene.pan]) * 47 / 25 * 240
    np.testing.assert_allclose(moved, expected, atol=1)
    background = replace(still, actors=(), grain=0.0, flicker=0.0)
    first, last = scenes.render(background, np.array([0, 47])).frames.astype(float)
    right, down = (round(float(shift)) for shift in expected[:2])
    rows = slice(20, 220)
    unmoved = np.abs(first - last)[rows, 120:200].mean()
    shifted = np.roll(first, (down, right), axis=(0, 1))
    assert np.abs(shifted - last)[rows, 120:200].mean() < 0.5 * unmoved


@pytest.mark.parametrize("label", samples.CLASSES)
def test_in_the_kitchen_a_hand_comes_and_only_thing_hand_and_arm_move(label):
    from dataclasses import replace

    scene = samples.draw_scene(label, 2, "kitchen")
    scene = replace(scene, jitter=0.0, grain=0.0, flicker=0.0)
    clip = scenes.render(scene, np.arange(48), size=(120, 160))
    start, stop = clip.action
    away = ~clip.during((start - scenes.REACHING - 0.05, stop + scenes.REACHING + 0.05))
    change = np.abs(np.diff(clip.frames.astype(int), axis=0)).max(-1) > 12
    assert not change[away[1:] & away[:-1]].any()
    without = replace(scene, actors=tuple(replace(a, held=False) for a in scene.actors))
    bare = scenes.render(without, np.arange(48), size=(120, 160))
    hand = np.abs(clip.frames.astype(int) - bare.frames).max(-1) > 6
    hand = binary_dilation(hand, np.ones((1, 5, 5)))
    middle = int((start + stop) / 2 * 25)
    assert hand[middle, -1].any()  # it reaches in from the lower edge
    assert hand[middle, : int(clip.boxes[middle, 1]) - 3].sum() == 0  # and not beyond the thing
    # Whatever changes is the hand, or within the thing's boxes.
    for frame, where in enumerate(change):
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = clip.boxes[frame : frame + 2]
        rows, columns = np.nonzero(where & ~hand[frame] & ~hand[frame + 1])
        if len(rows):  # its shadow lies to the lower right
            assert min(ax0, bx0) - 4 <= columns.min() <= columns.max() <= max(ax1, bx1) + 12
            assert min(ay0, by0) - 4 <= rows.min() <= rows.max() <= max(ay1, by1) + 12


def test_things_of_the_kitchen_are_drawn_where_their_boxes_are():
    for name in kitchens.KITCHEN_THINGS:
        axis = np.linspace(-kitchens.REACH, kitchens.REACH, 65)
        alpha = kitchens.sprite_alpha(name, *np.meshgrid(axis, axis))
        assert alpha.max() > 0.9
        assert alpha[[0, -1]].max() < 0.5
        assert 0.03 < (alpha > 0.5).mean() < 0.8
    for name, grip in kitchens.GRIPS.items():  # a thing is held at its rim, or farther in
        u, v = 0.9 * np.array(grip)
        assert kitchens.sprite_alpha(name, np.array([u]), np.array([v]))[0] > 0.9, name
    assert kitchens.worktop(3).size == (1200, 900)
