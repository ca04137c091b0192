"""How alike two tubes are, voxel by voxel."""

from __future__ import annotations

import numpy as np
import scipy.stats
import skimage.metrics

from .arrays import TubeLike, as_volume, has_contrast

__all__ = ["rank_correlation", "structural_similarity"]

WINDOW = 7  # voxels along each axis, skimage's default


def rank_correlation(a: TubeLike, b: TubeLike) -> float:
    """Return Spearman's rank correlation of two tubes over all voxels; ties share their mean rank.

    From -1 to 1; 1 is the same order. In the randomisation check of Adebayo et al., "Sanity Checks
    for Saliency Maps" (NeurIPS 2018), values near 0 are good. A constant tube has no order: the
    result is NaN, which passes no threshold from either side.

    Raises ValueError for volumes of different shapes, or with NaN.
    """
    first, second = _same_shape(a, b)
    if not (has_contrast(first) and has_contrast(second)):
        return float("nan")
    return float(scipy.stats.spearmanr(first, second, axis=None).statistic)


def structural_similarity(a: TubeLike, b: TubeLike) -> float:
    """Return the SSIM of two tubes, each scaled to [0, 1] over its whole volume.

    From -1 to 1; 1 is the same volume. Wang et al. (IEEE TIP 2004), by scikit-image with a cubic
    window of 7 voxels, or the largest odd number that fits a shorter axis. In the randomisation
    check of Adebayo et al. (NeurIPS 2018) low is good. A constant tube cannot be scaled: the result
    is NaN.

    Raises ValueError for volumes of different shapes, with NaN, or with fewer than 3 frames, rows
    or columns.
    """
    first, second = _same_shape(a, b)
    shortest = min(first.shape)
    if shortest < 3:
        raise ValueError(f"expected at least 3 frames, rows and columns, got {first.shape}")
    if not (has_contrast(first) and has_contrast(second)):
        return float("nan")
    largest_odd = shortest if shortest % 2 else shortest - 1
    similarity = skimage.metrics.structural_similarity(
        _scaled(first), _scaled(second), data_range=1.0, win_size=min(WINDOW, largest_odd)
    )
    return float(similarity)


def _same_shape(a: TubeLike, b: TubeLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = as_volume(a), as_volume(b)
    if first.shape != second.shape:
        raise ValueError(f"expected two volumes of one shape, got {first.shape} and {second.shape}")
    return first, second


def _scaled(volume: np.ndarray) -> np.ndarray:
    low, high = float(volume.min()), float(volume.max())
    return (volume.astype(np.float64) - low) / (high - low)
