"""Shared by all metrics: checked volumes and boxes, and which values count as equal."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np

__all__ = [
    "HasVolume",
    "TubeLike",
    "as_boxes",
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
