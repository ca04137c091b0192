"""How sure a mean over clips is."""

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
    """Return the mean of the values and its percentile bootstrap interval (Efron and Tibshirani 1993).

    Args:
        values: (R,) one a row; bools count as 0 and 1. To compare two methods on the same clips, give the
            differences: their interval is the paired one.
        clips: (R,) what clip each row is of. Rows of one clip are not independent, so clips are drawn, each with
            all its rows. None: every row is a clip of its own.
        level: how much of the drawn means the interval holds; the rest is cut off in equal parts at both ends.
        draws: how many times the clips are drawn, with replacement.
        seed: of the draws; the same seed and number of clips give the same draws.

    Raises:
        ValueError: fewer than two clips (one says nothing of how clips differ), NaN or infinite values, another
            number of clips than values, or a level outside 0 to 1.
    """
    values = np.asarray(values, dtype=np.float64)
    clips = np.arange(len(values)) if clips is None else np.asarray(clips)
    if values.ndim != 1 or clips.shape != values.shape:
        raise ValueError(
            f"expected values (R,) and as many clips, got {values.shape} and {clips.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"{int((~np.isfinite(values)).sum())} of {len(values)} values are NaN or infinite"
        )
    if not 0 < level < 1 or draws < 1:
        raise ValueError(
            f"expected a level between 0 and 1 and at least one draw, got {level} and {draws}"
        )
    _, number = np.unique(clips, return_inverse=True)
    counts = np.bincount(number)
    if len(counts) < 2:
        raise ValueError(
            f"expected at least two clips, got {len(counts)}: an interval needs clips that differ"
        )
    sums = np.bincount(number, weights=values)
    times = _drawn(len(counts), draws, seed)
    means = (times @ sums) / (times @ counts)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


@lru_cache(maxsize=4)
def _drawn(clips: int, draws: int, seed: int) -> np.ndarray:
    """Return (draws, clips) float64: how often each clip is drawn. The matrix is shared: do not write to it."""
    drawn = np.random.default_rng(seed).integers(clips, size=(draws, clips))
    times = np.bincount(
        (drawn + clips * np.arange(draws)[:, None]).ravel(), minlength=draws * clips
    )
    return times.reshape(draws, clips).astype(np.float64)
