"""Confidence intervals of means over clips."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

__all__ = ["Interval", "bootstrap"]


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap(
    values: np.ndarray,
    clips: np.ndarray | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the mean of the values and its percentile bootstrap interval (Efron, Tibshirani 1993).

    Args:
        values: (R,); bools count as 0 and 1. To compare two methods on the same clips, give their
            differences: the interval is then the paired one.
        clips: (R,) the clip of each value. Values of one clip are not independent, so whole clips
            are drawn. None: every value is a clip of its own.
        level: how much of the drawn means the interval holds; equal parts are cut off at both ends.
        draws: how many times the clips are drawn, with replacement.
        seed: of the draws; the same seed and number of clips give the same draws.

    Raises:
        ValueError: fewer than two clips, NaN or infinite values, another number of clips than
            values, or a level outside 0 to 1.
    """
    values = np.asarray(values, dtype=np.float64)
    clips = np.arange(len(values)) if clips is None else np.asarray(clips)
    if values.ndim != 1 or clips.shape != values.shape:
        raise ValueError(
            f"expected values (R,) and as many clips, got {values.shape} and {clips.shape}"
        )
    invalid = int((~np.isfinite(values)).sum())
    if invalid:
        raise ValueError(f"{invalid} of {len(values)} values are NaN or infinite")
    if not 0 < level < 1 or draws < 1:
        raise ValueError(
            f"expected a level between 0 and 1 and at least one draw, got {level} and {draws}"
        )
    _, clip_of_row = np.unique(clips, return_inverse=True)
    rows_per_clip = np.bincount(clip_of_row)
    if len(rows_per_clip) < 2:
        raise ValueError(
            f"expected at least two clips, got {len(rows_per_clip)}: an interval needs their spread"
        )
    sums = np.bincount(clip_of_row, weights=values)
    times_drawn = _draw(len(rows_per_clip), draws, seed)
    means = (times_drawn @ sums) / (times_drawn @ rows_per_clip)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


@lru_cache(maxsize=4)
def _draw(clips: int, draws: int, seed: int) -> np.ndarray:
    """Return (draws, clips) float64: how often each clip is drawn. Shared: do not write to it."""
    drawn = np.random.default_rng(seed).integers(clips, size=(draws, clips))
    # One bincount for all draws: each draw counts in a range of its own.
    bins = drawn + clips * np.arange(draws)[:, None]
    times = np.bincount(bins.ravel(), minlength=draws * clips)
    return times.reshape(draws, clips).astype(np.float64)
