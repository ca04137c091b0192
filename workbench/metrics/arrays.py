"""Shared by all metrics: checked volumes and boxes, and which values count as equal."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
import scipy.ndimage

__all__ = [
    "HasVolume",
    "TubeLike",
    "as_boxes",
    "as_region",
    "as_volume",
    "has_contrast",
    "inside",
    "levels",
    "noise",
]

# Share of the largest |value| below which splines in float32 tell equal values apart.
NOISE = 1e-6


class HasVolume(Protocol):
    """What metrics need of a tube: `wb.Tube` has it, and so may a class of yours."""

    @property
    def volume(self) -> np.ndarray:
        """(T, H, W) numbers."""

    @property
    def times(self) -> np.ndarray | None:
        """(T,) seconds, or None if they are not known."""


TubeLike: TypeAlias = "HasVolume | np.ndarray"


def as_volume(tube: TubeLike) -> np.ndarray:
    """Return the volume (T, H, W) of a tube or an array.

    Raises ValueError for another number of axes, an empty volume, NaN or infinite values.
    """
    volume = np.asarray(getattr(tube, "volume", tube))
    if volume.ndim != 3 or not volume.size:
        raise ValueError(f"expected a volume (T, H, W), got {volume.shape}")
    if np.isnan(volume).any():
        raise ValueError("the tube holds NaN")
    if not np.isfinite(volume).all():
        raise ValueError("the tube holds infinite values")
    return volume


def noise(volume: np.ndarray) -> float:
    """Return the difference up to which two values of a volume count as equal."""
    return NOISE * float(np.abs(volume).max())


def has_contrast(volume: np.ndarray) -> bool:
    """Tell whether a volume is anything but constant."""
    return bool(volume.max() - volume.min() > noise(volume))


def levels(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Number values (K,) by size, 0 the lowest; neighbours within the tolerance share a number."""
    order = np.argsort(values, kind="stable")
    rises = np.diff(values[order]) > tolerance
    numbers = np.empty(len(values), dtype=np.int64)
    numbers[order] = np.concatenate([[0], np.cumsum(rises)])
    return numbers


def as_boxes(boxes: np.ndarray, count: int) -> np.ndarray:
    """Return boxes as (T, K, 4).

    Raises ValueError for another number of frames than `count`, or if no frame has a box.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4 or len(boxes) != count:
        raise ValueError(f"boxes: expected ({count}, 4) or ({count}, K, 4), got {boxes.shape}")
    if not np.isfinite(boxes).all(-1).any():
        raise ValueError("there is no box in any frame to point at")
    return boxes[:, None] if boxes.ndim == 2 else boxes


def as_region(
    truth: np.ndarray, size: tuple[int, int, int], tolerance: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels (T, H, W) bool of boxes or masks, and the frames (T,) bool that have any.

    `truth` is bool masks (T, H, W), or boxes (T, 4) or (T, K, 4). `tolerance` grows them as
    `inside` grows boxes.

    Raises:
        ValueError: another number of frames, masks of another size, or nothing to point at.
    """
    truth = np.asarray(truth)
    if truth.dtype != bool:
        boxes = as_boxes(truth, size[0])
        boxed = np.any(np.isfinite(boxes).all(-1), axis=1)
        return inside(boxes, size, tolerance), boxed
    if truth.shape != tuple(size):
        raise ValueError(f"masks: expected the tube's shape {tuple(size)}, got {truth.shape}")
    if not truth.any():
        raise ValueError("there is no mask in any frame to point at")
    return _grown(truth, tolerance), np.any(truth, axis=(1, 2))


def _grown(masks: np.ndarray, tolerance: float) -> np.ndarray:
    """Return masks grown on every side, by as many pixels as `inside` grows a box around them."""
    for axis in (1, 2):
        margin = masks.shape[axis] * tolerance
        # A pixel is inside if its centre is: half-open at the far side.
        before, after = int(np.floor(margin + 0.5)), int(np.ceil(margin - 0.5))
        size = before + after + 1
        masks = scipy.ndimage.maximum_filter1d(
            masks, size, axis, mode="constant", origin=after - size // 2
        )
    return masks


def inside(boxes: np.ndarray, size: tuple[int, int, int], tolerance: float = 0.0) -> np.ndarray:
    """Return (T, H, W) bool: the pixels whose centre lies in a box of their frame.

    Centres, because boxes are measured from the edges of pixels. Boxes (T, K, 4) grow on every side
    by `tolerance` times the frame's width or height.
    """
    _, height, width = size
    margin = np.array([width, height])[:, None] * tolerance
    low = boxes[..., :2, None] - margin  # (T, K, 2, 1)
    high = boxes[..., 2:, None] + margin
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    in_columns = (x >= low[:, :, 0]) & (x < high[:, :, 0])
    in_rows = (y >= low[:, :, 1]) & (y < high[:, :, 1])
    return np.any(in_rows[..., None] & in_columns[:, :, None], axis=1)
