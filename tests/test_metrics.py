"""Every metric against hand-made answers, a second implementation, and false successes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import skimage.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import mannwhitneyu, spearmanr

import workbench as wb
from workbench.metrics import (
    bootstrap,
    centre_gaussian,
    deletion,
    energy_inside,
    frame_difference,
    insertion,
    pointing_game,
    random_order,
    rank_correlation,
    replacement,
    share_inside,
    structural_similarity,
    temporal_auc,
    temporal_iou,
    temporal_variation,
)


def peak_at(frame, row, column, size=(4, 20, 40)):
    volume = np.zeros(size, dtype=np.float32)
    volume[frame, row, column] = 1
    return volume


def boxes_in(frames, box, count=4):
    boxes = np.full((count, 4), np.nan)
    boxes[list(frames)] = box
    return boxes


def test_a_hit_is_in_the_box_and_in_a_frame_that_has_one():
    boxes = boxes_in([1, 2], (10, 5, 20, 15))
    assert pointing_game(peak_at(1, 5, 10), boxes)
    assert pointing_game(peak_at(2, 14, 19), boxes)
    assert not pointing_game(peak_at(1, 15, 19), boxes)  # half-open
    assert not pointing_game(peak_at(1, 14, 20), boxes)
    assert not pointing_game(peak_at(0, 10, 15), boxes)  # the right place at the wrong time
    assert not pointing_game(peak_at(3, 10, 15), boxes)
    # A pixel counts by its centre.
    assert pointing_game(peak_at(1, 5, 10), boxes_in([1], (10.4, 5.4, 20, 15)))
    assert not pointing_game(peak_at(1, 5, 10), boxes_in([1], (10.6, 5.4, 20, 15)))
    assert not pointing_game(peak_at(1, 5, 10), boxes_in([1], (10.4, 5.6, 20, 15)))


def test_tolerance_grows_the_box_by_a_share_of_the_frame_in_space_only():
    boxes = boxes_in([1], (10, 5, 20, 15))
    assert pointing_game(peak_at(1, 5, 8), boxes, tolerance=0.05)  # 2 of 40 pixels
    assert not pointing_game(peak_at(1, 5, 7), boxes, tolerance=0.05)
    assert pointing_game(peak_at(1, 15, 10), boxes, tolerance=0.05)  # 1 of 20
    assert not pointing_game(peak_at(1, 16, 10), boxes, tolerance=0.05)
    assert not pointing_game(peak_at(0, 5, 10), boxes, tolerance=0.05)


def test_any_of_several_boxes_counts():
    boxes = np.stack([boxes_in([0], (0, 0, 5, 5)), boxes_in([0, 1], (30, 10, 40, 20))], axis=1)
    assert pointing_game(peak_at(0, 2, 2), boxes)
    assert pointing_game(peak_at(1, 12, 35), boxes)
    assert not pointing_game(peak_at(1, 2, 2), boxes)


def test_the_largest_signed_value_is_the_peak():
    volume = np.full((2, 4, 4), -5.0)
    volume[1, 2, 2] = -1
    volume[0, 0, 0] = -9
    assert pointing_game(volume, boxes_in([1], (2, 2, 3, 3), count=2))


def test_a_constant_tube_is_never_a_hit_and_nonsense_is_refused():
    everywhere = boxes_in(range(4), (0, 0, 40, 20))
    assert not pointing_game(np.ones((4, 20, 40)), everywhere)
    with pytest.raises(ValueError, match="NaN"):
        pointing_game(np.full((4, 20, 40), np.nan), everywhere)
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        pointing_game(np.ones((4, 20, 40)), everywhere[:3])
    with pytest.raises(ValueError, match="no box"):
        pointing_game(peak_at(0, 0, 0), np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match=r"\(T, H, W\)"):
        pointing_game(np.ones((4, 4)), everywhere)


def test_centre_gaussian_is_largest_at_the_centre_and_symmetric():
    volume = centre_gaussian((5, 7, 9))
    assert np.unravel_index(volume.argmax(), volume.shape) == (2, 3, 4)
    np.testing.assert_allclose(volume, volume[::-1, ::-1, ::-1])
    assert volume[2, 3, 4] / volume[2, 3, 0] == pytest.approx(
        np.exp(0.5 * (4 / 9 / 0.25) ** 2), rel=1e-5
    )
    even = centre_gaussian((4, 6, 8))
    assert np.argwhere(even == even.max()).tolist() == [[1, 2, 3]]


def test_frame_difference_peaks_where_and_when_something_moves():
    frames = np.zeros((8, 40, 60, 3), dtype=np.uint8)
    frames[4:, 10:20, 30:40] = 200  # appears between the frames 3 and 4
    volume = frame_difference(wb.Clip(frames, 25.0), blur=0.0)
    assert volume[[3, 4], 15, 35].tolist() == [100, 100]  # half: still on one side
    assert volume[[0, 1, 2, 5, 6, 7]].max() == 0
    assert volume[3, 0, 0] == 0
    with pytest.raises(ValueError, match="one frame"):
        frame_difference(wb.Clip(frames[:1], 25.0))


def test_space_only_gives_the_time_away_and_time_only_the_place():
    boxes = boxes_in([1, 2], (10, 5, 20, 15))
    volume = 2 * peak_at(0, 0, 0) + peak_at(1, 7, 12)  # the largest voxel is in another frame
    assert not pointing_game(volume, boxes)
    assert pointing_game(volume, boxes, axes="space")
    assert not pointing_game(volume, boxes, axes="time")
    volume = peak_at(2, 0, 0)
    assert not pointing_game(volume, boxes, axes="space")
    assert pointing_game(volume, boxes, axes="time")
    assert pointing_game(peak_at(1, 5, 8), boxes, tolerance=0.05, axes="space")
    with pytest.raises(ValueError, match="'space'"):
        pointing_game(volume, boxes, axes="place")


def test_tied_peaks_hit_only_together_and_a_tube_flat_in_time_never_hits_in_time():
    boxes = boxes_in([0, 1], (10, 5, 20, 15))
    assert pointing_game(peak_at(0, 6, 12) + peak_at(1, 6, 12), boxes)
    assert not pointing_game(
        peak_at(0, 6, 12) + peak_at(3, 6, 12), boxes
    )  # the first of them lies inside
    flat = np.repeat(peak_at(0, 6, 12)[:1], 4, axis=0)
    flat[0] *= 1 + 3e-7  # what a float32 spline makes of it
    for axes in ("space-time", "time"):
        assert not pointing_game(flat, boxes, axes=axes)
    assert pointing_game(flat, boxes, axes="space")
    picture = peak_at(3, 0, 0)  # nothing in the frames that have a box
    assert not pointing_game(picture, boxes, axes="space")


def test_energy_is_the_positive_share_inside():
    boxes = boxes_in([1], (0, 0, 2, 3))
    volume = np.zeros((4, 20, 40))
    volume[1, 2, 1], volume[1, 3, 1], volume[2, 0, 0], volume[0, 9, 9] = (
        3,
        2,
        1,
        -50,
    )  # inside, below, later, against
    assert energy_inside(volume, boxes) == pytest.approx(3 / 6)
    assert share_inside(boxes, volume.shape) == pytest.approx(6 / (4 * 20 * 40))
    two = np.stack([boxes, boxes_in([1], (1, 0, 3, 3))], axis=1)  # overlapping boxes count once
    assert share_inside(two, volume.shape) == pytest.approx(9 / (4 * 20 * 40))


def test_energy_of_nothing_is_none():
    everywhere = boxes_in(range(4), (0, 0, 40, 20))
    assert energy_inside(np.ones((4, 20, 40)), everywhere) == 0
    assert energy_inside(np.zeros((4, 20, 40)), everywhere) == 0
    assert energy_inside(-peak_at(1, 1, 1), everywhere) == 0
    assert energy_inside(peak_at(1, 1, 1), everywhere) == 1
    with pytest.raises(ValueError, match="no box"):
        share_inside(np.full((4, 4), np.nan), (4, 20, 40))


TIMES = np.arange(8) / 4  # 8 frames over 2 seconds


def over_time(values, size=(3, 5)):
    """A volume whose centre pixel goes by `values`, zero around it."""
    volume = np.zeros((len(values), *size))
    volume[:, 1, 2] = values
    return volume


def test_temporal_iou_by_hand():
    volume = over_time([0, 0, 4, 9, 10, 6, 5, 0])  # over 5: the frames 3, 4, 5
    assert temporal_iou(volume, (1.0, 1.75), TIMES) == pytest.approx(2 / 4)  # frames 4, 5, 6
    assert temporal_iou(volume, (0.75, 1.5), TIMES) == 1
    assert temporal_iou(volume, (0.0, 0.5), TIMES) == 0
    assert temporal_iou(3 * volume - 100, (1.0, 1.75), TIMES) == pytest.approx(2 / 4)
    assert temporal_iou(np.ones((8, 3, 5)), (0.0, 2.0), TIMES) == 0


def test_temporal_iou_goes_by_the_profile_and_times_of_a_tube():
    volume = (
        np.random.default_rng(0).normal(size=(8, 6, 6)).astype(np.float32)
        + np.arange(8)[:, None, None] % 5
    )
    tube = wb.Tube(volume, 0, "a", None, np.arange(1), 1, volume, times=TIMES)
    salient, true = tube.profile > tube.profile.max() / 2, (TIMES >= 0.5) & (TIMES < 1.5)
    assert temporal_iou(tube, (0.5, 1.5)) == (salient & true).sum() / (salient | true).sum()
    assert temporal_auc(tube, (0.5, 1.5)) == temporal_auc(volume, (0.5, 1.5), TIMES)


def test_temporal_auc_by_hand():
    volume = over_time([0, 1, 5, 3, 9, 2, 0, 0])
    # The frames 2, 3, 5 with 5, 3, 2 against 0, 1, 9, 0, 0: each is over four of five.
    inside = np.array([0, 0, 1, 1, 0, 1, 0, 0])
    times = np.where(inside, 10.5, 0.0)
    assert temporal_auc(volume, (10, 11), times) == pytest.approx(12 / 15)
    tied = over_time([1, 1, 1, 2])
    assert temporal_auc(tied, (0.5, 1.0), np.arange(4) / 4) == pytest.approx(
        (0.5 + 0.5 + 1 + 1) / 4
    )


def test_temporal_auc_ranks_frames_by_their_maximum_not_their_mean():
    volume = np.full((4, 3, 5), 2.0)
    volume[1:3] = 0
    volume[1:3, 1, 2] = 5  # a larger maximum, a smaller mean
    assert temporal_auc(volume, (0.25, 0.75), np.arange(4) / 4) == 1


@given(
    arrays.arrays(np.int64, 8, elements=st.integers(-3, 3)), st.integers(0, 6), st.integers(1, 7)
)
def test_temporal_auc_is_mann_whitneys(values, first, count):
    inside = np.zeros(8, dtype=bool)
    inside[first : first + count] = True
    if inside.all():
        inside[0] = False
    volume = np.repeat(values[:, None, None], 4, axis=2).astype(np.float32)
    expected = mannwhitneyu(values[inside], values[~inside]).statistic / (
        inside.sum() * (~inside).sum()
    )
    times = np.where(inside, 1.0, 0.0)
    assert temporal_auc(volume, (1, 2), times) == pytest.approx(expected)
    assert temporal_auc(-volume, (1, 2), times) == pytest.approx(1 - expected)


def test_a_tube_that_is_flat_in_time_is_at_chance():
    rng = np.random.default_rng(1)
    flat = np.repeat(rng.random((1, 6, 6)), 8, axis=0)
    flat *= 1 + 1e-7 * np.arange(8)[:, None, None]  # rising by rounding only
    assert temporal_auc(flat, (1.0, 2.0), TIMES) == 0.5
    assert temporal_auc(np.ones((8, 6, 6)), (1.0, 2.0), TIMES) == 0.5
    assert temporal_variation(flat) == pytest.approx(0, abs=1e-6)


def test_temporal_variation_by_hand():
    assert temporal_variation(over_time([0, 0, 5, 0])) == pytest.approx(1 - 1 / 4)
    assert temporal_variation(over_time([5, 5, 5, 5])) == 0
    assert temporal_variation(over_time([4, 3, 2, 0])) == pytest.approx((0 + 1 / 4 + 2 / 4 + 1) / 4)
    assert temporal_variation(7 * over_time([4, 3, 2, 0]) - 3) == pytest.approx(7 / 16)
    assert temporal_variation(np.full((4, 3, 5), 2.0)) == 0


def test_intervals_that_cannot_be_scored_are_refused():
    volume = over_time([0, 0, 4, 9, 10, 6, 5, 0])
    for metric in (temporal_iou, temporal_auc):
        with pytest.raises(ValueError, match="times="):
            metric(volume, (0, 1))
        with pytest.raises(ValueError, match=r"8 frames.*\(7,\)"):
            metric(volume, (0, 1), TIMES[:7])
        for interval in ((2, 3), (1, 1), (1, 0.5), (0.8, 0.9), (float("nan"), 1)):
            with pytest.raises(ValueError, match="interval"):
                metric(volume, interval, TIMES)
        with pytest.raises(ValueError, match="NaN"):
            metric(volume * np.nan, (0, 1), TIMES)
    with pytest.raises(ValueError, match="all 8 frames"):
        temporal_auc(volume, (0, 2), TIMES)


@given(
    arrays.arrays(np.float32, (2, 2, 3), elements=st.integers(-4, 4).map(float)),
    st.integers(0, 2**32 - 1),
)
def test_rank_correlation_is_scipys(a, seed):
    b = np.random.default_rng(seed).integers(-4, 4, a.shape).astype(np.float32)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(rank_correlation(a, b))
    else:
        assert rank_correlation(a, b) == pytest.approx(
            spearmanr(a, b, axis=None).statistic, abs=1e-12
        )
        assert rank_correlation(a, np.exp(a)) == pytest.approx(1)
        assert rank_correlation(a, -a) == pytest.approx(-1)


def test_structural_similarity_is_that_of_the_scaled_volumes():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 8, 12, 10))
    unit = [(v - v.min()) / np.ptp(v) for v in (a, b)]
    assert structural_similarity(a, b) == pytest.approx(
        skimage.metrics.structural_similarity(*unit, data_range=1)
    )
    assert structural_similarity(a, 5 * a + 3) == pytest.approx(1)
    assert structural_similarity(a, -a) < 0
    assert np.isfinite(structural_similarity(a[:4], b[:4]))  # a window of 3
    with pytest.raises(ValueError, match="at least 3"):
        structural_similarity(a[:2], b[:2])


def test_a_constant_tube_is_like_nothing():
    flat, other = np.ones((8, 12, 10)), np.random.default_rng(3).random((8, 12, 10))
    for metric in (rank_correlation, structural_similarity):
        assert np.isnan(metric(flat, other))
        assert np.isnan(metric(flat, flat))
        with pytest.raises(ValueError, match="one shape"):
            metric(other, other[:, :5])


def brightness(box):
    """A score that knows the answer: the mean brightness within (frames, rows, columns)."""
    return lambda frames: frames[(slice(None), *box)].reshape(len(frames), -1).mean(1) / 255


BOX = (slice(2, 6), slice(4, 12), slice(8, 16))


@pytest.fixture
def scene():
    """A white box in black, (8, 16, 24), and a perfect tube of it."""
    frames, perfect = np.zeros((8, 16, 24, 3), dtype=np.uint8), np.zeros((8, 16, 24))
    frames[BOX], perfect[BOX] = 255, 1
    return wb.Clip(frames, 25.0), perfect


GRID = (4, 4, 6)
BLACK = np.zeros((8, 16, 24, 3), dtype=np.uint8)


def test_deletion_and_insertion_by_hand(scene):
    clip, perfect = scene
    share = BOX[0].stop - BOX[0].start, 8, 8
    filled = np.prod(share) / perfect.size  # a twelfth: 8 of 96 blocks
    steps = np.arange(97) / 96
    removed = deletion(brightness(BOX), clip, perfect, steps=steps, baseline=BLACK, grid=GRID)
    np.testing.assert_allclose(removed.share, steps)
    np.testing.assert_allclose(removed.score, np.maximum(0, 1 - steps / filled), atol=1e-12)
    assert removed.auc == pytest.approx(filled / 2)
    shown = insertion(brightness(BOX), clip, perfect, steps=steps, baseline=BLACK, grid=GRID)
    np.testing.assert_allclose(shown.score, np.minimum(1, steps / filled), atol=1e-12)
    assert shown.auc == pytest.approx(1 - filled / 2)
    assert "deletion" in repr(removed)
    assert "0.042" in repr(removed)


def test_the_perfect_tube_is_best_and_the_inverted_one_worst(scene):
    clip, perfect = scene
    score = brightness(BOX)
    volumes = [
        perfect + 0.01 * random_order(perfect.shape, 1, GRID),
        random_order(perfect.shape, 2, GRID),
        -perfect,
    ]
    removed = [deletion(score, clip, volume, baseline=BLACK, grid=GRID).auc for volume in volumes]
    shown = [insertion(score, clip, volume, baseline=BLACK, grid=GRID).auc for volume in volumes]
    assert removed == sorted(removed)
    assert removed[0] < 0.1 < removed[1] < 0.9 < removed[2]
    assert shown == sorted(shown, reverse=True)
    assert shown[2] < 0.1 < shown[1] < 0.9 < shown[0]


def naive(kind, score, clip, volume, other, counts, grid):
    """Deletion and insertion once more, block by block."""
    edges = [
        [range(n)[k * n // g : (k + 1) * n // g] for k in range(g)]
        for n, g in zip(volume.shape, grid)
    ]
    blocks = [np.ix_(*block) for block in itertools.product(*edges)]
    blocks.sort(key=lambda block: -volume[block].mean())
    scores = []
    for count in counts:
        frames = (clip.frames if kind == "deletion" else other).copy()
        for block in blocks[:count]:
            frames[block] = (other if kind == "deletion" else clip.frames)[block]
        scores.append(float(score(frames[None])[0]))
    return scores


@pytest.mark.parametrize("way", [deletion, insertion])
@pytest.mark.parametrize("baseline", ["blur", "mean"])
def test_curves_are_those_of_a_plain_loop(way, baseline):
    rng = np.random.default_rng(4)
    clip = wb.Clip(rng.integers(0, 256, (6, 12, 16, 3), dtype=np.uint8), 25.0)
    volume = rng.normal(size=(6, 12, 16))
    weights = rng.normal(size=clip.frames.shape)

    def score(frames):
        assert frames.dtype == np.uint8
        assert len(frames) <= 3
        return np.tanh((frames * weights).mean((1, 2, 3, 4)))

    grid = (3, 4, 2)  # 24 equal blocks
    curve = way(score, clip, volume, steps=4, baseline=baseline, grid=grid, batch=3)
    counts = [0, 2, 6, 14, 24]  # 24 (k / 4)², rounded to even
    np.testing.assert_allclose(curve.share, np.array(counts) / 24)
    other = replacement(clip, baseline)
    np.testing.assert_allclose(
        curve.score, naive(way.__name__, score, clip, volume, other, counts, grid)
    )
    steps = np.diff(curve.share)
    assert curve.auc == pytest.approx(((curve.score[1:] + curve.score[:-1]) / 2 * steps).sum())


def test_blocks_that_do_not_fit_evenly_count_by_their_voxels():
    clip = wb.Clip(np.full((5, 7, 9, 3), 255, dtype=np.uint8), 25.0)
    volume = np.random.default_rng(5).random((5, 7, 9))
    whole = (slice(None),) * 3
    other = np.zeros_like(clip.frames)
    curve = deletion(
        brightness(whole), clip, volume, steps=np.linspace(0, 1, 9), baseline=other, grid=(2, 3, 4)
    )
    np.testing.assert_allclose(curve.score, 1 - curve.share)  # the score is the share that is left
    fine = deletion(
        brightness(whole), clip, volume, baseline=other, grid=(99, 99, 99)
    )  # at most one a voxel
    np.testing.assert_allclose(fine.score, 1 - fine.share)


def test_a_constant_tube_is_the_random_order(scene):
    clip, perfect = scene
    score, many = brightness(BOX), range(40)
    flat = np.full(perfect.shape, 0.1)
    aucs = [deletion(score, clip, flat, baseline=BLACK, grid=GRID, seed=seed).auc for seed in many]
    chance = [
        deletion(score, clip, random_order(flat.shape, seed, GRID), baseline=BLACK, grid=GRID).auc
        for seed in many
    ]
    assert np.std(aucs) > 0.01
    assert abs(np.mean(aucs) - np.mean(chance)) < 3 * np.hypot(
        np.std(aucs), np.std(chance)
    ) / np.sqrt(40)
    again = deletion(score, clip, flat, baseline=BLACK, grid=GRID, seed=7)
    assert again.auc == aucs[7]


def test_random_order_has_one_peak_and_ranks_blocks_only():
    volume = random_order((8, 16, 24), 3, GRID)
    assert (volume == volume.max()).sum() == 1
    assert 0 <= volume.min() < volume.max() < 1
    blocks = volume.reshape(4, 2, 4, 4, 6, 4).transpose(0, 2, 4, 1, 3, 5).reshape(96, -1)
    blocks = blocks[blocks.min(1).argsort()]
    assert (blocks[:-1].max(1) < blocks[1:].min(1)).all()
    assert (volume == random_order((8, 16, 24), 3, GRID)).all()
    assert (volume != random_order((8, 16, 24), 4, GRID)).any()


def test_replacements():
    frames = np.zeros((3, 112, 120, 3), dtype=np.uint8)
    frames[1, :, 60:] = [200, 100, 0]
    clip = wb.Clip(frames, 25.0)
    mean = replacement(clip, "mean")
    assert (mean == [33, 17, 0]).all()  # a sixth of it
    blurred = replacement(clip, "blur")
    assert blurred[[0, 2]].max() == 0  # every frame by itself
    assert (blurred[..., 2] == 0).all()  # every colour by itself
    # An edge under a Gaussian of σ = 10 pixels: half of it at the edge, Φ(-1) one σ before. The
    # edge is 10.5 pixels away.
    assert blurred[1, 56, 49, 0] == pytest.approx(200 * 0.147, abs=2)
    with pytest.raises(ValueError, match="'blur', 'mean'"):
        replacement(clip, "grey")


def test_what_makes_no_curve_is_refused(scene):
    clip, perfect = scene
    score = brightness(BOX)
    with pytest.raises(ValueError, match=r"ex\.clip"):
        deletion(score, clip, perfect[:4])
    with pytest.raises(ValueError, match="NaN"):
        insertion(score, clip, perfect * np.nan)
    with pytest.raises(ValueError, match="baseline"):
        deletion(score, clip, perfect, baseline=BLACK[:4])
    with pytest.raises(ValueError, match=r"score: expected \(8,\)"):
        deletion(lambda frames: np.zeros((len(frames), 2)), clip, perfect)
    with pytest.raises(ValueError, match="NaN"):
        deletion(lambda frames: np.full(len(frames), np.nan), clip, perfect)
    for steps in (0, [0.0, 0.5], [0.5, 1.0], [0, 0.6, 0.4, 1]):
        with pytest.raises(ValueError, match="steps"):
            deletion(score, clip, perfect, steps=steps)
    with pytest.raises(ValueError, match="grid"):
        deletion(score, clip, perfect, grid=(0, 4, 4))
    with pytest.raises(ValueError, match="batch"):
        deletion(score, clip, perfect, batch=0)


def test_bootstrap_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(6)
    found = [bootstrap(rng.normal(3, 2, 60), seed=k, draws=400) for k in range(200)]
    held = np.mean([low <= 3 <= high for _, low, high in found])
    assert 0.89 <= held <= 0.99
    half = np.mean([high - low for _, low, high in found]) / 2
    assert half == pytest.approx(1.96 * 2 / np.sqrt(60), rel=0.05)  # the normal interval


def test_bootstrap_draws_clips_with_all_their_rows():
    rng = np.random.default_rng(7)
    values = rng.normal(size=50)
    once = bootstrap(values)
    # The same four times over says no more.
    assert bootstrap(np.repeat(values, 4), np.repeat(np.arange(50), 4)) == pytest.approx(once)
    rows = bootstrap(np.repeat(values, 4))
    assert rows.mean == pytest.approx(once.mean)
    assert rows.high - rows.low < 0.7 * (once.high - once.low)
    uneven = bootstrap([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert uneven == (0.75, 0.0, 1.0)  # the mean over rows


def test_bootstrap_refuses_what_has_no_interval():
    with pytest.raises(ValueError, match="two clips"):
        bootstrap([1.0])
    with pytest.raises(ValueError, match="two clips"):
        bootstrap([1.0, 2.0], ["a", "a"])
    with pytest.raises(ValueError, match="1 of 2 values"):
        bootstrap([1.0, np.nan])
    with pytest.raises(ValueError, match="as many clips"):
        bootstrap([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="level"):
        bootstrap([1.0, 2.0], level=95)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 20), st.floats(-5, 5))
def test_only_the_order_and_the_place_count(seed, scale, shift):
    """What scaling and shifting a tube may not change."""
    volume = np.random.default_rng(seed).normal(size=(8, 6, 6))
    boxes, other = boxes_in([2, 3], (1, 1, 4, 4), count=8), scale * volume + shift
    assert pointing_game(volume, boxes) == pointing_game(other, boxes)
    assert temporal_auc(volume, (0.5, 1), TIMES) == temporal_auc(other, (0.5, 1), TIMES)
    assert temporal_variation(volume) == pytest.approx(temporal_variation(other))
    assert rank_correlation(volume, other) == pytest.approx(1)
    assert energy_inside(volume, boxes) == pytest.approx(energy_inside(scale * volume, boxes))


def test_the_highest_peaks_are_local_maxima_in_order():
    volume = np.zeros((16, 40, 40), np.float32)
    volume[2, 10, 10], volume[3, 11, 10] = 3, 2.9  # one hill
    volume[12, 30, 30] = 2
    volume[8, 5, 35] = 1
    assert wb.metrics.highest_peaks(volume, 2).tolist() == [[2, 10, 10], [12, 30, 30]]
    assert wb.metrics.highest_peaks(volume, 3).tolist()[2] == [8, 5, 35]
    near = wb.metrics.highest_peaks(volume, 2, apart=0.02)
    assert near.tolist() == [[2, 10, 10], [12, 30, 30]]  # a neighbour in space and time is no peak
    assert len(wb.metrics.highest_peaks(np.ones((4, 8, 8)), 2)) == 0
    plateau = np.zeros((8, 16, 16))
    plateau[2:4, 3:6, 3:6] = 1
    assert wb.metrics.highest_peaks(plateau, 2)[0].tolist() == [2, 3, 3]
    assert (wb.metrics.highest_peaks(plateau, 2)[1:] != [3, 5, 5]).any(1).all()
    with pytest.raises(ValueError, match="at least one peak"):
        wb.metrics.highest_peaks(volume, 0)


def test_wilsons_interval_is_that_of_scipy_and_has_a_width_at_one():
    from scipy.stats import binomtest

    for hits, number in ((98, 100), (3, 40), (100, 100), (0, 25)):
        values = np.arange(number) < hits
        ours = wb.metrics.proportion(values)
        theirs = binomtest(hits, number).proportion_ci(method="wilson")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
        assert ours.mean == hits / number
    # Two values of each clip that always agree count as one.
    twice = wb.metrics.proportion(np.repeat(np.arange(100) < 90, 2), np.repeat(np.arange(100), 2))
    once = wb.metrics.proportion(np.arange(100) < 90)
    assert twice.low == pytest.approx(once.low, abs=2e-3)
    assert twice.high == pytest.approx(once.high, abs=2e-3)
    with pytest.raises(ValueError, match="hits and misses"):
        wb.metrics.proportion(np.array([0.5, 1.0]))


def test_intervals_hold_what_they_say_near_one():
    """The bootstrap's interval of a share near 1 is too narrow; Wilson's holds it as often as said."""
    rng = np.random.default_rng(0)
    held = {"bootstrap": 0, "proportion": 0, "difference": 0}
    truth = 0.995
    for _ in range(300):
        one, other = rng.random(200) < truth, rng.random(100) < truth
        simple = wb.metrics.bootstrap(one.astype(float), draws=200)
        wilson = wb.metrics.proportion(one)
        gap = wb.metrics.difference(wilson, wb.metrics.proportion(other))
        held["bootstrap"] += simple.low <= truth <= simple.high
        held["proportion"] += wilson.low <= truth <= wilson.high
        held["difference"] += gap.low <= 0 <= gap.high
    assert held["bootstrap"] < 0.8 * 300
    assert held["proportion"] > 0.9 * 300
    assert held["difference"] > 0.93 * 300


def test_the_interval_of_a_difference_adds_distances_in_squares():
    one, other = wb.metrics.Interval(0.9, 0.8, 0.94), wb.metrics.Interval(0.5, 0.42, 0.6)
    gap = wb.metrics.difference(one, other)
    assert gap.mean == pytest.approx(0.4)
    assert gap.low == pytest.approx(0.4 - np.hypot(0.1, 0.1))
    assert gap.high == pytest.approx(0.4 + np.hypot(0.04, 0.08))
