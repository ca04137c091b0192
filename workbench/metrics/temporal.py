"""Does a tube know when? Its frames against an annotated interval."""

from __future__ import annotations

import numpy as np
import scipy.stats

from .arrays import TubeLike, as_volume, has_contrast, levels, noise

__all__ = ["temporal_auc", "temporal_iou", "temporal_variation"]


def temporal_iou(
    tube: TubeLike, interval: tuple[float, float], times: np.ndarray | None = None
) -> float:
    """Return the overlap of the interval and the frames over half of the maximal saliency.

    Higher is better, 0 to 1: frames in both over frames in either. The saliency of a frame is the
    tube's profile, the mean over height and width of the volume scaled to [0, 1]. The usual overlap
    of temporal localisation (Heilbron et al., ActivityNet, CVPR 2015). A constant tube gives 0. A
    tube with the same picture in every frame gives the interval's share of the clip, which is
    chance: report `temporal_auc` beside it.

    Args:
        tube: a `Tube` or a volume (T, H, W).
        interval: start and stop in seconds, half-open.
        times: (T,) seconds, when each frame is shown. None: the tube's own.

    Raises:
        ValueError: no times, another number of them, NaN in the tube, or no frame in the interval.
    """
    volume = as_volume(tube)
    true = _frames_during(tube, len(volume), interval=interval, times=times)
    if not has_contrast(volume):
        return 0.0
    # Proportional to Tube.profile: taking the mean and scaling to [0, 1] commute.
    profile = volume.mean(axis=(1, 2), dtype=np.float64) - float(volume.min())
    salient = profile > profile.max() / 2
    return float((salient & true).sum() / (salient | true).sum())


def temporal_auc(
    tube: TubeLike, interval: tuple[float, float], times: np.ndarray | None = None
) -> float:
    """Return how well a frame's largest voxel separates the interval's frames: area under the ROC.

    Higher is better, 0 to 1; 0.5 is chance. It is the share of pairs of a frame inside and a frame
    outside in which the one inside has the larger maximum; ties count one half (Mann and Whitney
    1947; Hanley and McNeil 1982). A constant tube, and one that is flat in time, gives 0.5.

    Args:
        tube: a `Tube` or a volume (T, H, W).
        interval: start and stop in seconds, half-open.
        times: (T,) seconds, when each frame is shown. None: the tube's own.

    Raises:
        ValueError: no times, another number of them, NaN in the tube, or an interval with no frame
            or with every frame.
    """
    volume = as_volume(tube)
    true = _frames_during(tube, len(volume), interval=interval, times=times)
    if true.all():
        raise ValueError(
            f"interval {interval} holds all {len(true)} frames: there is no other to tell it from"
        )
    maxima = levels(volume.max(axis=(1, 2)), noise(volume))
    test = scipy.stats.mannwhitneyu(maxima[true], maxima[~true], method="asymptotic")
    return float(test.statistic / (true.sum() * (~true).sum()))


def temporal_variation(tube: TubeLike) -> float:
    """Return how far, on average, a frame's maximum falls short of the clip's.

    With m_t the maximum of frame t in the volume scaled to [0, 1], it is 1 - mean(m_t): 0 for a
    tube that is flat in time, 1 - 1/T for evidence in a single frame of T, always below 1. Neither
    direction is better: it says whether a tube varies over time, not whether it is right. Scaling
    or shifting the tube does not change it. A constant tube gives 0. The measure is this package's
    own; the mean shortfall, unlike the deviation, is bounded.

    Raises ValueError for NaN in the tube.
    """
    volume = as_volume(tube)
    if not has_contrast(volume):
        return 0.0
    low, high = float(volume.min()), float(volume.max())
    return float(np.mean((high - volume.max(axis=(1, 2)).astype(np.float64)) / (high - low)))


def _frames_during(
    tube: TubeLike, count: int, *, interval: tuple[float, float], times: np.ndarray | None
) -> np.ndarray:
    """Return (T,) bool: which frames lie in the interval."""
    times = getattr(tube, "times", None) if times is None else times
    if times is None:
        raise ValueError("the tube has no times: give times= in seconds, for example clip.times")
    times = np.asarray(times, dtype=np.float64)
    if times.shape != (count,):
        raise ValueError(f"times: expected one for each of the {count} frames, got {times.shape}")
    start, stop = interval
    during = (times >= start) & (times < stop)
    if not during.any():
        raise ValueError(
            f"interval: expected start < stop in seconds and a frame in it, got {start} to {stop}; "
            f"the frames lie at {times[0]:.3f} to {times[-1]:.3f} s"
        )
    return during
