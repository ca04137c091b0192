"""Overlays: a tube over the frames it explains.

`heat` and `focus` are the paper's *Heat Tube* and *Focus Tube* (Stergiou et al., ICIP 2019, Fig. 2). Every
function takes a `Clip` or its frames (T, H, W, 3) uint8 and returns new frames; none writes to its input."""

from __future__ import annotations

import matplotlib
import matplotlib.colors
import numpy as np

from ..clips.clip import Frames, as_frames
from ..saliency.tubes import Tube

__all__ = ["focus", "heat"]


def heat(clip: Frames, tube: Tube, alpha: float = 0.5, colormap: str = "jet") -> np.ndarray:
    """Colour the frames by the tube: (1 − alpha) · frame + alpha · colormap(tube.normalized).

    The paper's Heat Tube; the defaults are the authors' `jet / 2 + frame / 2`. Colours span the whole
    volume, so a frame without evidence stays blue throughout.

    Args:
        clip: the clip as the network saw it (`ex.clip`), or its frames (T, H, W, 3) uint8.
        tube: its tube, (T, H, W).
        alpha: share of the colours, 0 to 1.
        colormap: matplotlib's name.

    Returns:
        (T, H, W, 3) uint8.

    Raises:
        ValueError: shapes differ, the tube has NaN, alpha is outside [0, 1], or the colormap is unknown.
    """
    frames = _matched(clip, tube)
    _check_share("alpha", alpha)
    table = 255 * alpha * _colormap(colormap)
    blended = np.empty_like(frames)
    for out, frame, saliency in zip(blended, frames, tube.normalized):
        # As matplotlib looks colours up; the frame is a float here, so nothing wraps around at 255.
        color = table[np.minimum((saliency * len(table)).astype(np.intp), len(table) - 1)]
        np.rint(color + np.float32(1 - alpha) * frame, out=color)
        out[...] = color
    return blended


def focus(clip: Frames, tube: Tube, floor: float = 20 / 255) -> np.ndarray:
    """Dim the frames outside the tube: frame · (floor + (1 − floor) · tube.normalized).

    The paper's Focus Tube; the authors scale the map to 20..255 and use it as brightness.

    Args:
        clip: the clip as the network saw it (`ex.clip`), or its frames (T, H, W, 3) uint8.
        tube: its tube, (T, H, W).
        floor: brightness where there is no saliency, 0 to 1.

    Returns:
        (T, H, W, 3) uint8.

    Raises:
        ValueError: shapes differ, the tube has NaN, or floor is outside [0, 1].
    """
    frames = _matched(clip, tube)
    _check_share("floor", floor)
    dimmed = np.empty_like(frames)
    for out, frame, saliency in zip(dimmed, frames, tube.normalized):
        out[...] = np.rint(
            frame * (np.float32(floor) + np.float32(1 - floor) * saliency)[..., None]
        )
    return dimmed


def _matched(clip: Frames, tube: Tube) -> np.ndarray:
    """Return the frames, once clip and tube belong together and the tube has numbers."""
    frames = as_frames(clip)
    if frames.shape[:3] != tube.volume.shape:
        raise ValueError(f"the tube is {tube.volume.shape} and the clip {frames.shape[:3]} (T, H, W). "
                         "Use ex.clip, the clip as the network saw it")  # fmt: skip
    if not np.isfinite(tube.volume).all():
        raise ValueError(f"tube: expected numbers, got NaN or infinity in {tube!r}. "
                         "Look for them in the clip or the network")  # fmt: skip
    return frames


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number between 0 and 1, got {value}")


def _colormap(name: str) -> np.ndarray:
    """Return (N, 3) float32, the colours of a matplotlib colormap, 0 to 1."""
    if name not in matplotlib.colormaps:
        raise ValueError(f"colormap: matplotlib knows no {name!r}. "
                         "Good ones: 'jet', 'turbo', 'inferno', 'viridis'")  # fmt: skip
    table = matplotlib.colormaps[name]
    return table(np.arange(table.N))[:, :3].astype(np.float32)
