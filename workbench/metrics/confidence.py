"""Confidence intervals of means over clips."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

__all__ = ["Interval", "bootstrap", "difference", "proportion"]


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
    if not 0 < level < 1 or draws < 1:
        raise ValueError(
            f"expected a level between 0 and 1 and at least one draw, got {level} and {draws}"
        )
    sums, rows_per_clip = _by_clip(values, clips)
    times_drawn = _draw(len(rows_per_clip), draws, seed)
    means = (times_drawn @ sums) / (times_drawn @ rows_per_clip)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def proportion(
    hits: np.ndarray, clips: np.ndarray | None = None, *, level: float = 0.95
) -> Interval:
    """Return the share of hits and its Wilson score interval (Wilson 1927).

    Near 0 and 1 it holds the true share about as often as it says; the bootstrap's interval is too
    narrow there, and has no width at all if every value is a hit. Several values of one clip count
    as fewer: their number is divided by the design effect (Kish 1965), the variance of the share
    over clips in units of that over independent values, which is taken as 1 at least.

    Args:
        hits: (R,) bool.
        clips: (R,) the clip of each; None: every one is a clip of its own.
        level: how often the interval should hold the true share.

    Raises:
        ValueError: fewer than two clips, values that are neither 0 nor 1, another number of clips
            than values, or a level outside 0 to 1.
    """
    values = np.asarray(hits, dtype=np.float64)
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}")
    if not np.isin(values, (0, 1)).all():
        raise ValueError("expected hits and misses, 1 and 0; got other values")
    sums, rows_per_clip = _by_clip(values, clips)
    count, number = len(values), len(rows_per_clip)
    share = float(values.mean())
    if 0 < share < 1:
        residuals = sums - share * rows_per_clip
        over_clips = float((residuals**2).sum()) / count**2
        count_alike = count / max(1.0, over_clips / (share * (1 - share) / count))
    else:  # no spread to tell how alike the values of a clip are: take them as one
        count_alike = float(number)
    z = float(norm.ppf((1 + level) / 2))
    middle = (share + z**2 / (2 * count_alike)) / (1 + z**2 / count_alike)
    spread = share * (1 - share) / count_alike + (z / (2 * count_alike)) ** 2
    half = z * float(np.sqrt(spread)) / (1 + z**2 / count_alike)
    return Interval(share, min(share, middle - half), max(share, middle + half))


def difference(first: Interval, second: Interval) -> Interval:
    """Return the first mean minus the second, of two independent samples, and its interval.

    The distances of the two intervals' ends are added in squares (Newcombe 1998 for proportions,
    Zou and Donner 2008 for means), so that the level is that of the two.
    """
    mean = first.mean - second.mean
    below = np.hypot(first.mean - first.low, second.high - second.mean)
    above = np.hypot(first.high - first.mean, second.mean - second.low)
    return Interval(mean, float(mean - below), float(mean + above))


def _by_clip(values: np.ndarray, clips: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum and the number of the values (R,) of each clip; raises ValueError."""
    clips = np.arange(len(values)) if clips is None else np.asarray(clips)
    if values.ndim != 1 or clips.shape != values.shape:
        raise ValueError(
            f"expected values (R,) and as many clips, got {values.shape} and {clips.shape}"
        )
    invalid = int((~np.isfinite(values)).sum())
    if invalid:
        raise ValueError(f"{invalid} of {len(values)} values are NaN or infinite")
    _, clip_of_row = np.unique(clips, return_inverse=True)
    rows_per_clip = np.bincount(clip_of_row)
    if len(rows_per_clip) < 2:
        raise ValueError(
            f"expected at least two clips, got {len(rows_per_clip)}: an interval needs their spread"
        )
    return np.bincount(clip_of_row, weights=values), rows_per_clip


@lru_cache(maxsize=4)
def _draw(clips: int, draws: int, seed: int) -> np.ndarray:
    """Return (draws, clips) float64: how often each clip is drawn. Shared: do not write to it."""
    drawn = np.random.default_rng(seed).integers(clips, size=(draws, clips))
    # One bincount for all draws: each draw counts in a range of its own.
    bins = drawn + clips * np.arange(draws)[:, None]
    times = np.bincount(bins.ravel(), minlength=draws * clips)
    return times.reshape(draws, clips).astype(np.float64)
