"""Figures and films as files."""

from __future__ import annotations

import io
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


def film(rows: Mapping[str, np.ndarray], times: np.ndarray, height: int = 200) -> np.ndarray:
    """Stack several sets of frames, with names and times: frames (T, H, W, 3) for `wb.save_video`.

    A set (T', H, W, 3) with fewer frames than times shows the frame at the same share of the clip.
    """
    shown = []
    for number, time in enumerate(times):
        parts: list[np.ndarray] = []
        for name, frames in rows.items():
            at = round(number * (len(frames) - 1) / max(len(times) - 1, 1))
            over = None if parts else np.array([time])
            frame = frames[at : at + 1]
            parts.append(filmstrip(frame, 1, times=over, labels=[name], height=height))
        widest = max(part.shape[1] for part in parts)
        margins = [((0, 4), (0, widest - part.shape[1]), (0, 0)) for part in parts]
        padded = [np.pad(part, margin, constant_values=255) for part, margin in zip(parts, margins)]
        shown.append(np.concatenate(padded))
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
