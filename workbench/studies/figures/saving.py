"""Figures and films as files."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from ...clips.files import whole_file
from ...clips.writing import save_video
from ...views.pictures import filmstrip
from .page import STYLE

__all__ = ["film", "preview", "save"]

NARROWEST = 640  # pixels across a film


def film(rows: Mapping[str, np.ndarray], times: np.ndarray, height: int = 200) -> np.ndarray:
    """Put sets of frames side by side, with names and times: frames (T, H, W, 3) for `save_video`.

    A set (T', H', W', 3) with fewer frames than times shows the frame at the same share of the
    clip. Pictures are `height` pixels high, or higher if the film is narrower than `NARROWEST`.
    """
    aspects = [frames.shape[2] / frames.shape[1] for frames in rows.values()]
    height = max(height, math.ceil(NARROWEST / sum(aspects)))
    shown = []
    for number, time in enumerate(times):
        parts = []
        for name, frames in rows.items():
            at = round(number * (len(frames) - 1) / max(len(times) - 1, 1))
            one = frames[at : at + 1]
            stamp = np.array([time])
            parts.append(filmstrip(one, 1, times=stamp, labels=[name], height=height))
        shown.append(np.concatenate(parts, axis=1))
    return np.stack(shown)


def save(
    figure: Figure,
    folder: str | Path,
    name: str,
    films: Mapping[str, np.ndarray] | None = None,
    fps: float = 8,
) -> list[Path]:
    """Write a figure as PNG (300 dpi) and PDF, and films as MP4; return the paths.

    `films={"egocentric": frames}` becomes `<name>_egocentric.mp4`, and `{"": frames}` becomes
    `<name>.mp4`. Missing folders are made. Files appear whole or not at all; the same figure is the
    same file.
    """
    folder = Path(folder)
    paths = [folder / f"{name}.png", folder / f"{name}.pdf"]
    for path, metadata in zip(paths, ({}, {"CreationDate": None})):
        with matplotlib.style.context(STYLE), whole_file(path) as part:
            figure.savefig(part, format=path.suffix[1:], metadata=metadata)
    for own, frames in (films or {}).items():
        path = folder / (f"{name}_{own}.mp4" if own else f"{name}.mp4")
        paths.append(save_video(path, frames, fps))
    return paths


def preview(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as a JPEG, small enough for a notebook."""
    written = io.BytesIO()
    with matplotlib.style.context(STYLE):
        figure.savefig(written, format="jpeg", dpi=dpi, pil_kwargs={"quality": 80})
    return written.getvalue()
