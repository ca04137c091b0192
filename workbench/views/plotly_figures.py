"""Shared by volumes and timelines: look, time axis, the check of a frame, and the saved page.

Lines, fonts, axes and light are set in `plotly_template.json` beside this file.
"""

from __future__ import annotations

import json
import operator
from functools import lru_cache
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from ..clips.clip import Clip
from ..clips.files import whole_file
from ..saliency.tubes import Tube
from .overlays import check_match

__all__ = ["INK", "SILENT", "checked_frame", "save_html", "template", "time_axis"]

INK = "#2b2f36"  # the frame's rim and the timeline's mark
SILENT = {"hoverinfo": "skip", "showlegend": False}


@lru_cache(maxsize=1)
def template() -> go.layout.Template:
    """Return the Plotly template of all figures, from `plotly_template.json`."""
    text = Path(__file__).with_name("plotly_template.json").read_text(encoding="utf-8")
    return go.layout.Template(json.loads(text))


def time_axis(tube: Tube, clip: Clip | None = None) -> tuple[np.ndarray, str]:
    """Return (T,) float64 when each frame of the tube is shown, and the axis title with the unit.

    Seconds from the tube, else from the clip, else frame numbers.

    Raises:
        ValueError: there is not one time a frame.
    """
    count = len(tube.volume)
    times = tube.times if tube.times is not None or clip is None else clip.times
    if times is None:
        return np.arange(count, dtype=np.float64), "frame"
    times = np.asarray(times, dtype=np.float64)
    if times.shape != (count,):
        raise ValueError(
            f"times: expected one for each of the tube's {count} frames, got {times.shape}"
        )
    return times, "time (s)"


def checked_frame(tube: Tube, clip: Clip | None, frame: int) -> int:
    """Return the frame as an int.

    Raises ValueError unless it is a position in the tube, and the tube is finite and of the clip's
    size.
    """
    check_match(None if clip is None else clip.frames, tube)
    if not 0 <= operator.index(frame) < len(tube.volume):
        raise ValueError(f"frame: expected 0 to {len(tube.volume) - 1}, got {frame}")
    return operator.index(frame)


def save_html(figure: go.Figure, path: str | Path) -> Path:
    """Write a figure as one interactive page that works offline (with plotly.js, about 5 MB).

    Missing folders are made. The page appears whole or not at all.

    Raises:
        ValueError: the suffix is not .html.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            f"{path}: expected a name ending in .html, got {path.suffix or 'no suffix'!r}"
        )
    text = figure.to_html(include_plotlyjs=True, config={"displaylogo": False, "responsive": True})
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
    return path
