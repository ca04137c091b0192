"""Does a tube lie on the annotated boxes? The pointing game and the energy inside the boxes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.ndimage

from .arrays import TubeLike, as_region, as_volume, has_contrast, noise

__all__ = ["Axes", "energy_inside", "highest_peaks", "pointing_game", "share_inside"]

Axes = Literal["space-time", "space", "time"]


def pointing_game(
    tube: TubeLike, boxes: np.ndarray, tolerance: float = 0.0, axes: Axes = "space-time"
) -> bool:
    """Tell whether the largest voxel lies in a box of its frame: the space-time pointing game.

    Higher is better: report the share of hits over many clips, 0 to 1. After Zhang et al.,
    "Top-down Neural Attention by Excitation Backprop" (ECCV 2016), who play it on pictures with a
    tolerance of 15 pixels. A tube without contrast along the axes asked for is a miss. If several
    voxels share the maximum, all of them have to lie inside.

    Args:
        tube: a `Tube` or a volume (T, H, W).
        boxes: (T, 4) or (T, K, 4) in pixels of the volume, NaN in frames without a box: a maximum
            in such a frame is a miss. `clip.action_boxes()` has the boxes of an action in its
            interval. Or masks (T, H, W) bool, `clip.action_masks()`; an empty one is no box.
        tolerance: by what share of the frame's width and height boxes grow on every side.
        axes: "space-time"; "space" looks for the largest voxel only in frames that have a box;
            "time" asks only whether the frame of the largest voxel has a box.

    Raises:
        ValueError: tube and boxes differ in frames, NaN in the tube, no box at all, or unknown
            axes.
    """
    volume = as_volume(tube)
    region, has_box = as_region(boxes, volume.shape, tolerance)
    if axes == "time":
        values, correct = volume.max(axis=(1, 2)), has_box
    elif axes == "space":
        values, correct = volume[has_box], region[has_box]
    elif axes == "space-time":
        values, correct = volume, region
    else:
        raise ValueError(f"axes: expected 'space-time', 'space' or 'time', got {axes!r}")
    slack = noise(volume)
    peak = values.max()
    return bool(peak - values.min() > slack and correct[values >= peak - slack].all())


def highest_peaks(tube: TubeLike, count: int, apart: float = 0.125) -> np.ndarray:
    """Return the places (K, 3) of the highest local maxima, highest first; K is at most `count`.

    A voxel is a local maximum if none is higher within `apart` of every axis: 2 of 16 frames, 14 of
    112 pixels. Where voxels tie, the first counts. A tube without contrast has no peak.

    Args:
        tube: a `Tube` or a volume (T, H, W).
        count: how many to return.
        apart: half the width of a neighbourhood, as a share of each axis.

    Raises:
        ValueError: NaN in the tube, or fewer than one peak asked for.
    """
    volume = as_volume(tube)
    if count < 1:
        raise ValueError(f"count: expected at least one peak, got {count}")
    if not has_contrast(volume):
        return np.empty((0, 3), dtype=np.int64)
    reach = [max(1, round(apart * length)) for length in volume.shape]
    around = scipy.ndimage.maximum_filter(volume, [2 * steps + 1 for steps in reach])
    places = np.argwhere(volume == around)
    places = places[np.argsort(-volume[tuple(places.T)], kind="stable")]
    kept: list[np.ndarray] = []
    for place in places:  # of voxels that tie within a neighbourhood, the first
        if all((np.abs(place - other) > reach).any() for other in kept):
            kept.append(place)
        if len(kept) == count:
            break
    return np.array(kept, dtype=np.int64).reshape(-1, 3)


def energy_inside(tube: TubeLike, boxes: np.ndarray) -> float:
    """Return the share of positive energy inside the boxes: the energy-based pointing game.

    Higher is better, 0 to 1. Chance is the boxes' share of the volume: report `share_inside` beside
    it. After Wang et al., "Score-CAM" (CVPR workshops 2020), extended over time. A constant tube,
    and one without a positive value, gives 0.

    Args:
        tube: a `Tube` or a volume (T, H, W); negative voxels, evidence against the class, count as
            0.
        boxes: (T, 4) or (T, K, 4) in pixels of the volume, NaN in frames without a box, or
            masks (T, H, W) bool.

    Raises:
        ValueError: tube and boxes differ in frames, NaN in the tube, or no box at all.
    """
    volume = as_volume(tube)
    region, _ = as_region(boxes, volume.shape)
    energy = np.maximum(volume, 0).astype(np.float64)
    total = float(energy.sum())
    if total <= 0 or not has_contrast(volume):
        return 0.0
    return float(energy[region].sum()) / total


def share_inside(boxes: np.ndarray, size: tuple[int, int, int]) -> float:
    """Return the share of a volume (T, H, W) that lies in the boxes: `energy_inside` by chance.

    Takes boxes or masks (T, H, W) bool. Raises ValueError for another number of frames, or no box.
    """
    return float(as_region(boxes, size)[0].mean())
