"""Baselines that know nothing of the network: what a tube has to beat."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from ..clips.clip import Clip

__all__ = ["centre_gaussian", "frame_difference"]


def centre_gaussian(size: tuple[int, int, int], width: float = 0.25) -> np.ndarray:
    """Return (T, H, W) float32: a Gaussian around the clip's centre in time and space.

    `width` is its standard deviation as a share of each axis. On an axis with two middle voxels the
    first is the centre, because a tied maximum counts as a miss in the pointing game.
    """
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) // 2) / n) ** 2 / width**2) for n in size]
    return np.einsum("t,h,w->thw", *axes).astype(np.float32)


def frame_difference(clip: Clip, blur: float = 0.02) -> np.ndarray:
    """Return (T, H, W) float32: how much each frame differs from its neighbours, a motion baseline.

    The mean absolute difference over colours to the frame before and the frame after, blurred by a
    Gaussian of `blur` times the frame's height.

    Raises ValueError for a clip of one frame.
    """
    if len(clip) < 2:
        raise ValueError("a clip of one frame has no difference between frames")
    step = np.abs(np.diff(clip.frames.astype(np.float32), axis=0)).mean(-1)
    volume = np.empty(clip.frames.shape[:3], dtype=np.float32)
    volume[1:-1] = (step[1:] + step[:-1]) / 2
    volume[0], volume[-1] = step[0], step[-1]
    sigma = blur * clip.size[0]
    return scipy.ndimage.gaussian_filter(volume, (0, sigma, sigma))
