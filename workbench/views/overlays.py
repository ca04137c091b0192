"""Overlays: a tube over the frames it explains.

`heat` and `focus` are the paper's *Heat Tube* and *Focus Tube* (Stergiou et al., ICIP 2019, Fig.
2). Both take a `Clip` or its frames (T, H, W, 3) uint8 and return new frames."""

from __future__ import annotations

from typing import Literal

import matplotlib
import numpy as np

from ..clips.clip import Frames, as_frames
from ..saliency.tubes import Tube

__all__ = ["check_match", "colormap_table", "focus", "heat"]


def heat(clip: Frames, tube: Tube, alpha: float = 0.5, colormap: str = "jet") -> np.ndarray:
    """Colour the frames by the tube: (1 − alpha) · frame + alpha · colormap(tube.normalized).

    The paper's Heat Tube; the defaults are the authors' `jet / 2 + frame / 2`. Colours span the
    whole volume, so a frame without evidence stays blue throughout.

    Args:
        clip: the clip as the network saw it (`ex.clip`), or its frames (T, H, W, 3) uint8.
        tube: its tube, (T, H, W).
        alpha: share of the colours, 0 to 1.
        colormap: matplotlib's name.

    Returns:
        (T, H, W, 3) uint8.

    Raises:
        ValueError: shapes differ, the tube has NaN, alpha is outside [0, 1], or the colormap is
            unknown.
    """
    frames = as_frames(clip)
    check_match(frames, tube)
    _check_share("alpha", alpha)
    table = 255 * alpha * colormap_table(colormap)
    blended = np.empty_like(frames)
    for out, frame, saliency in zip(blended, frames, tube.normalized):
        # Look colours up as matplotlib does. Sums are floats, so nothing wraps around at 255.
        color = table[np.minimum((saliency * len(table)).astype(np.intp), len(table) - 1)]
        out[...] = np.rint(color + np.float32(1 - alpha) * frame)
    return blended


def focus(
    clip: Frames,
    tube: Tube,
    floor: float = 20 / 255,
    scale: Literal["volume", "frame"] = "volume",
) -> np.ndarray:
    """Dim the frames outside the tube: frame · (floor + (1 − floor) · saliency).

    The paper's Focus Tube.

    Args:
        clip: the clip as the network saw it (`ex.clip`), or its frames (T, H, W, 3) uint8.
        tube: its tube, (T, H, W).
        floor: brightness where there is no saliency, 0 to 1.
        scale: "volume": saliency is `tube.normalized`, so dark frames are frames without evidence.
            "frame": every frame is scaled to [0, 1] by itself, as in the authors' code; a constant
            frame is dimmed to the floor.

    Returns:
        (T, H, W, 3) uint8.

    Raises:
        ValueError: shapes differ, the tube has NaN, floor is outside [0, 1], or scale is unknown.

    Deviations:
        The authors scale each frame to 20..255 by itself (`cv2.normalize(cam[i], 20, 255,
        MINMAX)`), which hides when the evidence is strong. The default scales the whole volume, as
        their heat tube does; `scale="frame"` is theirs.
    """
    frames = as_frames(clip)
    check_match(frames, tube)
    _check_share("floor", floor)
    if scale not in ("volume", "frame"):
        raise ValueError(f"scale: expected 'volume' or 'frame', got {scale!r}")
    saliency = tube.normalized if scale == "volume" else _normalized_by_frame(tube.volume)
    dimmed = np.empty_like(frames)
    for out, frame, shown in zip(dimmed, frames, saliency):
        brightness = np.float32(floor) + np.float32(1 - floor) * shown
        out[...] = np.rint(frame * brightness[..., None])
    return dimmed


def check_match(frames: np.ndarray | None, tube: Tube) -> None:
    """Raise ValueError unless the tube is finite and of the size of the frames (T, H, W, 3)."""
    if frames is not None and frames.shape[:3] != tube.volume.shape:
        raise ValueError(
            f"the tube is {tube.volume.shape} and the clip {frames.shape[:3]} (T, H, W). "
            "Use ex.clip, the clip as the network saw it"
        )
    if not np.isfinite(tube.volume).all():
        raise ValueError(
            f"tube: expected numbers, got NaN or infinity in {tube!r}. "
            "Look for them in the clip or the network"
        )


def colormap_table(name: str) -> np.ndarray:
    """Return (N, 3) float32, the colours of a matplotlib colormap, 0 to 1.

    Raises ValueError for an unknown name.
    """
    if name not in matplotlib.colormaps:
        raise ValueError(
            f"colormap: matplotlib has no {name!r}. Good ones: 'jet', 'turbo', 'inferno', 'viridis'"
        )
    colormap = matplotlib.colormaps[name]
    return colormap(np.arange(colormap.N))[:, :3].astype(np.float32)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number between 0 and 1, got {value}")


def _normalized_by_frame(volume: np.ndarray) -> np.ndarray:
    """Return (T, H, W): each frame min-max to [0, 1] by itself, zeros if it is constant."""
    low = volume.min(axis=(1, 2), keepdims=True)
    spread = volume.max(axis=(1, 2), keepdims=True) - low
    return np.divide(volume - low, spread, out=np.zeros_like(volume), where=spread > 0)
