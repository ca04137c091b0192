"""How well a tube points at what is known to be there, and the baselines to hold beside it.

Metrics take volumes (T, H, W) and boxes; no network. A tube without contrast (constant) never counts as a success.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from .clips import Clip
from .tubes import Tube

__all__ = ["centre_gaussian", "frame_difference", "pointing_game"]


def pointing_game(tube: Tube | np.ndarray, boxes: np.ndarray, tolerance: float = 0.0) -> bool:
    """Tell whether the largest voxel lies in a box of its own frame: the pointing game in space and time.

    Higher is better. After Zhang et al., "Top-down Neural Attention by Excitation Backprop" (ECCV 2016), who play
    it on pictures with a tolerance of 15 pixels.

    Args:
        tube: a `Tube` or a volume (T, H, W).
        boxes: (T, 4) or (T, K, 4) in pixels of the volume, NaN where there is none: a maximum in such a frame is
            a miss. `clip.action_boxes()` gives those of an action in its interval.
        tolerance: by what share of the frame's width and height boxes are grown on every side.

    Raises:
        ValueError: another number of frames in tube and boxes, NaN in the tube, or no box at all.
    """
    volume, boxes = _volume(tube), _per_frame(boxes, len(_volume(tube)))
    if not volume.max() > volume.min():
        return False
    frame, row, column = np.unravel_index(int(volume.argmax()), volume.shape)
    _, height, width = volume.shape
    margin = np.array([width, height]) * tolerance
    x, y = column + 0.5, row + 0.5  # the voxel's centre, where boxes are measured from the pixels' edges
    low, high = boxes[frame, :, :2] - margin, boxes[frame, :, 2:] + margin
    return bool(((x >= low[:, 0]) & (y >= low[:, 1]) & (x < high[:, 0]) & (y < high[:, 1])).any())


def centre_gaussian(size: tuple[int, int, int], width: float = 0.25) -> np.ndarray:
    """Return (T, H, W) float32: a Gaussian about the clip's centre in time and space, a baseline.

    `width` is its standard deviation as a share of each axis.
    """
    axes = [np.exp(-0.5 * ((np.arange(n) + 0.5) / n - 0.5) ** 2 / width**2) for n in size]
    return np.einsum("t,h,w->thw", *axes).astype(np.float32)


def frame_difference(clip: Clip, blur: float = 0.02) -> np.ndarray:
    """Return (T, H, W) float32: how much each frame differs from its neighbours, a baseline that sees motion.

    The mean absolute difference over colours to the frame before and the frame after, blurred by a Gaussian of
    `blur` times the frame's height.

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


def _volume(tube: Tube | np.ndarray) -> np.ndarray:
    volume = tube.volume if isinstance(tube, Tube) else np.asarray(tube)
    if volume.ndim != 3:
        raise ValueError(f"expected a volume (T, H, W), got {volume.shape}")
    if np.isnan(volume).any():
        raise ValueError("the tube holds NaN")
    return volume


def _per_frame(boxes: np.ndarray, count: int) -> np.ndarray:
    """Return boxes as (T, K, 4)."""
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4 or len(boxes) != count:
        raise ValueError(f"boxes: expected ({count}, 4) or ({count}, K, 4), got {boxes.shape}")
    if not np.isfinite(boxes).any():
        raise ValueError("there is no box in any frame to point at")
    return boxes[:, None] if boxes.ndim == 2 else boxes
