"""Volumes: a tube as a solid in time, width and height, a Plotly figure.

`volume_figure` nests isosurfaces of the tube and stands the current frame among them as a picture.
Its traces are the same whatever the data, so `update_volume` can change a figure, or a FigureWidget
on screen, in place without moving the camera. A trace's `meta` says what it shows: a surface's
level, "key", "picture", "rim" or "outline".

The colours of the volume are `COLORMAP`, `LEVELS` and `OPACITY` below; its light, axes and fonts
are in `plotly_template.json` beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.colors
import numpy as np
import plotly.graph_objects as go

from ..clips.clip import Clip
from ..saliency.tubes import Tube
from . import solids
from .overlays import check_match, colormap_table
from .plotly_figures import INK, SILENT, checked_frame, template, time_axis

__all__ = ["COLORMAP", "LEVELS", "update_volume", "volume_figure"]

#: Normalised saliency at which surfaces are drawn, outermost first.
LEVELS = (0.5, 0.7, 0.9)
#: Matplotlib's name of the colours of the surfaces, that of `heat`.
COLORMAP = "jet"
#: Of the outermost and the innermost surface.
OPACITY = (0.22, 0.8)

OUTLINE = {"color": "#8a9099", "width": 3}
UNLIT = {"ambient": 1, "diffuse": 0, "specular": 0, "fresnel": 0, "facenormalsepsilon": 0}


def volume_figure(
    tube: Tube,
    clip: Clip | None = None,
    frame: int | None = None,
    *,
    levels: Sequence[float] = LEVELS,
    colormap: str = COLORMAP,
    stretch: float = 1.8,
    title: str | None = None,
    height: int = 520,
) -> go.Figure:
    """Draw a tube in time, width and height, with a frame of the clip standing in it.

    Args:
        tube: what to draw.
        clip: the clip as the network saw it (`ex.clip`), of the tube's size; gives the picture.
            None: no picture.
        frame: position in the clip, 0-based, where the picture stands. None: the frame of the
            tube's peak.
        levels: normalised saliency of the nested surfaces, in (0, 1), outermost first.
        colormap: matplotlib's name; the default is that of `heat`, so a colour means the same in
            both.
        stretch: length of the time axis in units of the frame's longer side; pixels are square.
        title: above the figure. None: the tube's label.
        height: of the figure, in pixels of the page.

    Raises:
        ValueError: tube and clip differ in size, the tube has NaN, a frame or level is out of
            range, or the colormap is unknown.
    """
    levels = _check_levels(levels)
    frame = checked_frame(tube, clip, tube.peak[0] if frame is None else frame)
    times, unit = time_axis(tube, clip)
    colors = _colors(colormap, levels)
    opacities = np.linspace(*OPACITY, len(levels))
    surfaces = [
        _surface_trace(tube, times, level=level, color=color, opacity=float(opacity))
        for level, color, opacity in zip(levels, colors, opacities)
    ]
    keys = [_key_trace(level, color) for level, color in zip(levels, colors)]
    fixed = [
        _picture_trace(clip, frame, times[frame]),
        _rim_trace(tube, times[frame]),
        _outline_trace(tube, times),
    ]
    figure = go.Figure([*surfaces, *keys, *fixed], layout={"template": template()})
    figure.update_layout(
        scene=_scene(tube, times, unit=unit, stretch=stretch),
        title={"text": tube.label if title is None else title},
        height=height,
        margin={"l": 0, "r": 0, "t": 40, "b": 0},
        legend={
            "title": {"text": "saliency ≥ "},
            "orientation": "h",
            "x": 0.5,
            "xanchor": "center",
            "y": 0.0,
            "itemsizing": "constant",
            "traceorder": "normal",
        },
        uirevision="volume",
        meta=list(tube.volume.shape),  # update_volume refuses a tube of another size
    )
    return figure


def update_volume(
    figure: go.Figure,
    tube: Tube,
    clip: Clip | None = None,
    frame: int | None = None,
    *,
    body: bool = True,
) -> None:
    """Change a figure of `volume_figure` in place: another tube of the clip, another frame or both.

    Args:
        figure: the Figure, or a FigureWidget made of it, which is redrawn once.
        tube: the tube to show.
        clip: as for `volume_figure`.
        frame: where the picture stands. None: where it is.
        body: False leaves the surfaces as they are, for when only the frame has changed.

    Raises:
        ValueError: as `volume_figure`, or the figure was made for a tube of another size.
    """
    check_match(None if clip is None else clip.frames, tube)
    if list(tube.volume.shape) != list(figure.layout.meta or ()):
        raise ValueError(
            f"tube: expected {figure.layout.meta} (T, H, W), the size the figure was made for; "
            f"got {tube.volume.shape}. Make a new figure"
        )
    times, _ = time_axis(tube, clip)
    time = None if frame is None else times[checked_frame(tube, clip, frame)]
    with figure.batch_update():
        for trace in figure.data:
            if body and isinstance(trace.meta, float):
                trace.update(solids.isosurface(tube.normalized, times, trace.meta))
            elif time is not None and trace.meta == "rim":
                trace.update(solids.frame_rim(time, *tube.volume.shape[1:]))
            elif time is not None and clip is not None and trace.meta == "picture":
                trace.update(solids.picture(clip.frames[frame], time), visible=True)


def _surface_trace(
    tube: Tube, times: np.ndarray, *, level: float, color: str, opacity: float
) -> go.Mesh3d:
    where = "%{x:.2f}, column %{y:.0f}, row %{z:.0f}"
    return go.Mesh3d(
        solids.isosurface(tube.normalized, times, level),
        meta=level,
        name=f"{level:.3g}",
        legendgroup=f"{level}",
        color=color,
        opacity=opacity,
        hovertemplate=f"{where}<extra>saliency {level:.3g}</extra>",
    )


def _key_trace(level: float, color: str) -> go.Scatter3d:
    """Return a legend entry in full colour: a surface's own would be as pale as its opacity."""
    return go.Scatter3d(
        x=[None],
        y=[None],
        z=[None],
        meta="key",
        name=f"{level:.3g}",
        legendgroup=f"{level}",
        mode="markers",
        marker={"color": color, "symbol": "square", "size": 12},
        hoverinfo="skip",
        showlegend=True,
    )


def _picture_trace(clip: Clip | None, frame: int, time: float) -> go.Mesh3d:
    """Return the frame's picture; without a clip it is there, but empty and hidden."""
    mesh = {} if clip is None else solids.picture(clip.frames[frame], time)
    shown = clip is not None
    return go.Mesh3d(mesh, meta="picture", name="frame", lighting=UNLIT, visible=shown, **SILENT)


def _rim_trace(tube: Tube, time: float) -> go.Scatter3d:
    rim = solids.frame_rim(time, *tube.volume.shape[1:])
    line = {"color": INK, "width": 4}
    return go.Scatter3d(rim, meta="rim", name="rim", mode="lines", line=line, **SILENT)


def _outline_trace(tube: Tube, times: np.ndarray) -> go.Scatter3d:
    edges = solids.box_edges(times, *tube.volume.shape[1:])
    return go.Scatter3d(edges, meta="outline", name="outline", mode="lines", line=OUTLINE, **SILENT)


def _scene(tube: Tube, times: np.ndarray, *, unit: str, stretch: float) -> dict[str, Any]:
    """Return the scene's layout: time to the right, pixels square, row 0 on top.

    Both picture axes are reversed. That keeps the scene right-handed, so the frame is not mirrored
    for a reader in front of the first frame, where this camera stands."""
    height, width = tube.volume.shape[1:]
    longer = max(height, width)
    start, stop = solids.time_ends(times)
    hair = 0.003  # Plotly cuts off what lies on the very edge of a range
    spare = hair * (stop - start)
    across, down = ([(1 + hair) * n, -hair * n] for n in (width, height))
    return {
        "xaxis": {"title": {"text": unit}, "range": [start - spare, stop + spare]},
        "yaxis": {"title": {"text": "width (pixels)"}, "range": across},
        "zaxis": {"title": {"text": "height (pixels)"}, "range": down},
        "aspectmode": "manual",
        "aspectratio": {"x": stretch, "y": width / longer, "z": height / longer},
        "camera": {
            "eye": {"x": -1.02, "y": -1.9, "z": 0.85},
            "center": {"x": 0, "y": 0, "z": -0.13},
        },
        "dragmode": "orbit",
        "uirevision": "volume",
    }


def _check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    checked = tuple(float(level) for level in levels)
    in_range = all(0 < level < 1 for level in checked)
    if not checked or not in_range or list(checked) != sorted(set(checked)):
        raise ValueError(f"levels: expected rising numbers between 0 and 1, got {levels}")
    return checked


def _colors(colormap: str, values: Sequence[float]) -> list[str]:
    """Return the colours of a matplotlib colormap at values in [0, 1], as #rrggbb."""
    table = colormap_table(colormap)
    places = [min(int(value * len(table)), len(table) - 1) for value in values]
    return [matplotlib.colors.to_hex(table[place]) for place in places]
