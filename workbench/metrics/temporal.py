"""Whether a tube knows when: its frames against an annotated interval."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from .arrays import TubeLike, as_volume, has_contrast, levels, noise

__all__ = ["temporal_auc", "temporal_iou", "temporal_variation"]


def temporal_iou(
    tube: TubeLike, interval: tuple[float, float], times: np.ndarray | None = None
) -> float:
    """Return the overlap of the interval and the frames whose saliency is over half of its maximum.

    Higher is better, 0 to 1: frames in both over frames in either, the saliency of a frame being the tube's
    profile (mean over height and width of the volume scaled to [0, 1]). The usual overlap of temporal localisation
    (Heilbron et al., ActivityNet, CVPR 2015). A constant tube gives 0. One that is flat in time only, the same
    picture in every frame, gives the interval's share of the clip, which is chance: hold `temporal_auc` beside it.

    Args:
        tube: a `Tube` or a volume (T, H, W).
        interval: start and stop in seconds, half-open.
        times: (T,) seconds, when each frame is shown; None takes the tube's own.

    Raises:
        ValueError: no times, another number of them, NaN in the tube, or an interval that holds no frame.
    """
    volume = as_volume(tube)
    true = _during(tube, len(volume), interval, times)
    if not has_contrast(volume):
        return 0.0
    # The same as Tube.profile: the mean and the scaling to [0, 1] change places.
    means, low = volume.mean(axis=(1, 2), dtype=np.float64), float(volume.min())
    profile = means - low
    said = profile > profile.max() / 2
    return float((said & true).sum() / (said | true).sum())


def temporal_auc(
    tube: TubeLike, interval: tuple[float, float], times: np.ndarray | None = None
) -> float:
    """Return how well the largest voxel of a frame tells the interval's frames from the others: area under the ROC.

    Higher is better, 0 to 1; 0.5 is chance. It is the share of pairs of a frame inside and a frame outside in
    which the one inside has the larger maximum, ties counting one half (Mann and Whitney 1947; Hanley and McNeil
    1982), so a constant tube, or one that is flat in time, gives 0.5.

    Args:
        tube: a `Tube` or a volume (T, H, W).
        interval: start and stop in seconds, half-open.
        times: (T,) seconds, when each frame is shown; None takes the tube's own.

    Raises:
        ValueError: no times, another number of them, NaN in the tube, or an interval that holds no frame or
            every frame: there is nothing to tell apart then.
    """
    volume = as_volume(tube)
    true = _during(tube, len(volume), interval, times)
    hits, misses = int(true.sum()), int((~true).sum())
    if not misses:
        raise ValueError(
            f"interval {interval} holds all {hits} frames: there is no other to tell it from"
        )
    ranks = rankdata(levels(volume.max(axis=(1, 2)), noise(volume)))
    return float((ranks[true].sum() - hits * (hits + 1) / 2) / (hits * misses))


def temporal_variation(tube: TubeLike) -> float:
    """Return how far, on average, a frame's maximum falls short of the clip's: 0 for a tube that is flat in time.

    Neither direction is better by itself: it says whether a tube speaks of time at all, not whether it is right.
    With m_t the maximum of frame t in the volume scaled to [0, 1], it is 1 - mean(m_t), from 0 to below 1; evidence
    in a single frame of T gives 1 - 1/T. Scaling or shifting the tube leaves it. A constant tube gives 0. This
    measure is this package's own; the mean shortfall is taken, not the deviation, because it is bounded.

    Raises ValueError for NaN in the tube.
    """
    volume = as_volume(tube)
    if not has_contrast(volume):
        return 0.0
    low, high = float(volume.min()), float(volume.max())
    return float(np.mean((high - volume.max(axis=(1, 2)).astype(np.float64)) / (high - low)))


def _during(
    tube: TubeLike, count: int, interval: tuple[float, float], times: np.ndarray | None
) -> np.ndarray:
    """Return (T,) bool: which frames lie in the interval."""
    times = getattr(tube, "times", None) if times is None else times
    if times is None:
        raise ValueError(
            "when are the frames shown? The tube does not know: give times=, seconds, e.g. clip.times"
        )
    times = np.asarray(times, dtype=np.float64)
    if times.shape != (count,):
        raise ValueError(f"times: expected one for each of the {count} frames, got {times.shape}")
    start, stop = interval
    found = (times >= start) & (times < stop)
    if not found.any():
        raise ValueError(
            f"interval: expected start < stop in seconds with a frame between, got {start} to {stop}; "
            f"the frames lie at {times[0]:.3f} to {times[-1]:.3f} s"
        )
    return found
