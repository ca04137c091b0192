"""The pointing game in space and time, and the baselines, against hand-made answers."""

from __future__ import annotations

import numpy as np
import pytest

import workbench as wb
from workbench.metrics import centre_gaussian, frame_difference, pointing_game


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
    assert volume[2, 3, 4] / volume[2, 3, 0] == pytest.approx(np.exp(0.5 * (4 / 9 / 0.25) ** 2), rel=1e-5)


def test_frame_difference_peaks_where_and_when_something_moves():
    frames = np.zeros((8, 40, 60, 3), dtype=np.uint8)
    frames[4:, 10:20, 30:40] = 200  # appears between the frames 3 and 4
    volume = frame_difference(wb.Clip(frames, 25.0), blur=0.0)
    assert volume[[3, 4], 15, 35].tolist() == [100, 100]  # half: still on one side
    assert volume[[0, 1, 2, 5, 6, 7]].max() == 0
    assert volume[3, 0, 0] == 0
    with pytest.raises(ValueError, match="one frame"):
        frame_difference(wb.Clip(frames[:1], 25.0))
