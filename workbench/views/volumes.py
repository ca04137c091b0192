"""Volumes: a tube as a solid in time, width and height, and as a line over time. Plotly figures.

`volume_figure` nests isosurfaces of the tube and stands the current frame among them as a picture;
`timeline_figure` draws how much of each frame is salient. Both have a fixed set of traces whatever the
data, so that `update_volume` and `update_timeline` change a figure, or a FigureWidget on screen, in place:
a new tube, another frame, and the camera stays where it is. A trace's `meta` says what it shows: a surface's
level, "soft", "picture", "rim", "tube" or "mark".
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import matplotlib
import matplotlib.colors
import numpy as np
import plotly.graph_objects as go

from ..clips.clip import Action, Clip
from ..saliency.tubes import Tube
from . import solids

__all__ = [
    "LEVELS",
    "save_html",
    "time_axis",
    "timeline_figure",
    "update_timeline",
    "update_volume",
    "volume_figure",
]

#: Normalised saliency at which surfaces are drawn, outermost first.
LEVELS = (0.5, 0.7, 0.9)

Actions: TypeAlias = "Action | tuple[float, float] | Sequence[Action]"

_SOFT = (16, 28, 28)  # what go.Volume redraws in about a third of a second
_INK, _GREY, _PALE, _FAINT = "#2b2f36", "#8a9099", "#e4e7eb", "#f1f3f5"
_LINES = ("#d1495b", "#00798c", "#edae49", "#5c4d9e", "#66a182", "#2b2f36")
_FONT = {"family": "Inter, 'Helvetica Neue', Arial, sans-serif", "size": 12, "color": _INK}
_SILENT = {"hoverinfo": "skip", "showlegend": False}
_UNLIT = {"ambient": 1, "diffuse": 0, "specular": 0, "fresnel": 0, "facenormalsepsilon": 0}
_LIGHT = {
    "ambient": 0.72, "diffuse": 0.5, "specular": 0.25, "roughness": 0.4, "fresnel": 0.15,
    "facenormalsepsilon": 0, "vertexnormalsepsilon": 0,
}  # fmt: skip


def time_axis(tube: Tube, clip: Clip | None = None) -> tuple[np.ndarray, str]:
    """Return (T,) float64 when each frame of the tube is shown, and the axis title that names the unit.

    Seconds from the tube, else from the clip, else frame numbers.

    Raises:
        ValueError: the times are not one a frame.
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


# ---------------------------------------------------------------------------------------------------------
# The volume


def volume_figure(
    tube: Tube,
    clip: Clip | None = None,
    frame: int | None = None,
    *,
    levels: Sequence[float] = LEVELS,
    style: Literal["surfaces", "soft"] = "surfaces",
    colormap: str = "jet",
    stretch: float = 1.8,
    title: str | None = None,
    height: int = 520,
) -> go.Figure:
    """Draw a tube in time, width and height, with a frame of the clip standing in it.

    Args:
        tube: what to draw.
        clip: the clip as the network saw it (`ex.clip`), same (T, H, W); gives the picture. None: no picture.
        frame: position in the clip, 0-based, where the picture stands. None: the frame of the tube's peak.
        levels: normalised saliency of the nested surfaces, in (0, 1), outermost first.
        style: "surfaces", or "soft" for a cloud (`go.Volume`, at most 16×28×28 samples, slower to turn).
        colormap: matplotlib's name; the default is that of `heat`, so that a colour means the same in both.
        stretch: length of the time axis in units of the frame's longer side; pixels are square.
        title: above the figure. None: the tube's label.
        height: of the figure, in pixels of the page.

    Raises:
        ValueError: tube and clip do not match, the tube has NaN, the frame or a level is out of range, or
            the colormap or style is not known.
    """
    if style not in ("surfaces", "soft"):
        raise ValueError(f"style: expected 'surfaces' or 'soft', got {style!r}")
    levels = _check_levels(levels)
    _check(tube, clip)
    frame = _check(tube, clip, tube.peak[0] if frame is None else frame)
    times, unit = time_axis(tube, clip)
    if style == "soft":
        body = [_soft_trace(tube, times, levels[0] / 2, colormap)]
    else:
        colors = _colors(colormap, levels)
        thickness = np.linspace(0.22, 0.8, len(levels))
        body = [_surface_trace(tube, times, *each) for each in zip(levels, colors, thickness)]
        body += [_key_trace(level, color) for level, color in zip(levels, colors)]
    figure = go.Figure(
        [*body, *_frame_traces(tube, clip, frame, times[frame]), _outline_trace(tube, times)]
    )
    figure.update_layout(
        scene=_scene(tube, times, unit, stretch), uirevision="volume", meta=list(tube.volume.shape),
        title={"text": tube.label if title is None else title, "x": 0.5, "y": 0.97, "font": {"size": 16}},
        font=_FONT, paper_bgcolor="white", margin={"l": 0, "r": 0, "t": 40, "b": 0}, height=height,
        legend={
            "title": {"text": "saliency ≥ "}, "orientation": "h", "x": 0.5, "xanchor": "center", "y": 0.0,
            "itemsizing": "constant", "traceorder": "normal",
        },
    )  # fmt: skip
    return figure


def update_volume(
    figure: go.Figure,
    tube: Tube,
    clip: Clip | None = None,
    frame: int | None = None,
    *,
    body: bool = True,
) -> None:
    """Change a figure of `volume_figure` in place: another tube of the same clip, another frame, or both.

    Args:
        figure: the Figure, or a FigureWidget made of it, which is redrawn once.
        tube: the tube to show.
        clip: as for `volume_figure`.
        frame: where the picture stands; None leaves it where it is.
        body: False leaves the surfaces as they are, for when only the frame has changed.

    Raises:
        ValueError: as `volume_figure`; or the tube is not of the size that the figure was made for.
    """
    _check(tube, clip)
    if list(tube.volume.shape) != list(figure.layout.meta or ()):
        raise ValueError(f"tube: expected {figure.layout.meta}, for which the figure was made (T, H, W); "
                         f"got {tube.volume.shape}. Make a new figure")  # fmt: skip
    times, _ = time_axis(tube, clip)
    time = None if frame is None else times[_check(tube, clip, frame)]
    with figure.batch_update():
        for trace in figure.data:
            if body and isinstance(trace.meta, float):
                trace.update(solids.isosurface(tube.normalized, times, trace.meta))
            elif body and trace.meta == "soft":
                trace.update(solids.cloud(tube.normalized, times, _SOFT))
            elif time is not None and trace.meta == "rim":
                trace.update(solids.frame_rim(time, *tube.volume.shape[1:]))
            elif time is not None and clip is not None and trace.meta == "picture":
                trace.update(solids.picture(clip.frames[frame], time), visible=True)


def _surface_trace(
    tube: Tube, times: np.ndarray, level: float, color: str, opacity: float
) -> go.Mesh3d:
    return go.Mesh3d(
        solids.isosurface(tube.normalized, times, level), meta=level, name=f"{level:.3g}", color=color,
        opacity=float(opacity), legendgroup=f"{level}", flatshading=False, lighting=_LIGHT,
        lightposition={"x": -4000, "y": -6000, "z": 9000},
        hovertemplate=f"%{{x:.2f}}, column %{{y:.0f}}, row %{{z:.0f}}<extra>saliency {level:.3g}</extra>",
    )  # fmt: skip


def _key_trace(level: float, color: str) -> go.Scatter3d:
    """Return a legend entry in a surface's full colour: its own would be as pale as the surface is thin."""
    return go.Scatter3d(
        x=[None], y=[None], z=[None], meta="key", name=f"{level:.3g}", legendgroup=f"{level}", mode="markers",
        marker={"color": color, "symbol": "square", "size": 12}, hoverinfo="skip", showlegend=True,
    )  # fmt: skip


def _soft_trace(tube: Tube, times: np.ndarray, low: float, colormap: str) -> go.Volume:
    stops = np.linspace(0, 1, 11)
    return go.Volume(
        solids.cloud(tube.normalized, times, _SOFT), meta="soft", name="saliency", hoverinfo="skip",
        isomin=low, isomax=1.0, cmin=0.0, cmax=1.0, surface={"count": 10}, opacity=0.3,
        opacityscale=[[0, 0.15], [0.5, 0.5], [1, 1]],
        colorscale=[[float(s), c] for s, c in zip(stops, _colors(colormap, stops))],
        colorbar={"title": {"text": "saliency"}, "thickness": 12, "len": 0.5, "outlinewidth": 0},
    )  # fmt: skip


def _frame_traces(tube: Tube, clip: Clip | None, frame: int, time: float) -> list[Any]:
    """Return the picture (with nothing in it where there is no clip) and the rim around it."""
    mesh = {} if clip is None else solids.picture(clip.frames[frame], time)
    rim = solids.frame_rim(time, *tube.volume.shape[1:])
    ink = {"color": _INK, "width": 4}
    return [
        go.Mesh3d(
            mesh, meta="picture", name="frame", lighting=_UNLIT, visible=clip is not None, **_SILENT
        ),
        go.Scatter3d(rim, meta="rim", name="rim", mode="lines", line=ink, **_SILENT),
    ]


def _outline_trace(tube: Tube, times: np.ndarray) -> go.Scatter3d:
    edges = solids.box_edges(times, *tube.volume.shape[1:])
    grey = {"color": _GREY, "width": 3}
    return go.Scatter3d(edges, meta="outline", name="outline", mode="lines", line=grey, **_SILENT)


def _scene(tube: Tube, times: np.ndarray, unit: str, stretch: float) -> dict[str, Any]:
    """Return the scene's layout: time to the right, pixels square, row 0 on top.

    Both picture axes are reversed: that keeps the scene right-handed, so the frame is not mirrored for a
    reader who stands before the first frame, as this camera does.
    """
    height, width = tube.volume.shape[1:]
    start, stop = solids.time_ends(times)
    hair = 0.003  # Plotly cuts off what lies on the very edge of a range
    spare = hair * (stop - start)
    axis = {
        "showbackground": False, "showspikes": False, "gridcolor": _PALE, "zeroline": False,
        "showline": False, "tickfont": {"size": 11, "color": _GREY}, "autorange": False, "nticks": 5,
    }  # fmt: skip
    across, down = ([(1 + hair) * n, -hair * n] for n in (width, height))
    return {
        "xaxis": {
            **axis,
            "title": {"text": unit},
            "range": [start - spare, stop + spare],
            "nticks": 9,
        },
        "yaxis": {**axis, "title": {"text": "width (pixels)"}, "range": across},
        "zaxis": {**axis, "title": {"text": "height (pixels)"}, "range": down},
        "aspectmode": "manual",
        "aspectratio": {
            "x": stretch,
            "y": width / max(height, width),
            "z": height / max(height, width),
        },
        "camera": {
            "eye": {"x": -1.02, "y": -1.9, "z": 0.85},
            "center": {"x": 0, "y": 0, "z": -0.13},
        },
        "dragmode": "orbit",
        "uirevision": "volume",
    }


# ---------------------------------------------------------------------------------------------------------
# The timeline


def timeline_figure(
    tubes: Tube | Sequence[Tube],
    frame: int | None = None,
    action: Actions | None = None,
    *,
    labels: Sequence[str] | None = None,
    height: int = 220,
) -> go.Figure:
    """Draw saliency over time: the mean of the normalised volume over each frame, a line per tube.

    Args:
        tubes: one tube, or several, each with its own times.
        frame: position in the first tube, 0-based, marked by an upright line; None: no mark.
        action: annotated intervals to shade: (start, stop) in seconds, an Action, or `clip.actions`.
        labels: a name for each line; None: the tubes' labels.
        height: of the figure, in pixels of the page.

    Raises:
        ValueError: no tube; labels that are not one a tube; a frame out of range; tubes with and without
            times mixed, or an action where the tubes have no times.
    """
    tubes = [tubes] if isinstance(tubes, Tube) else list(tubes)
    names = [tube.label for tube in tubes] if labels is None else list(labels)
    if not tubes or len(names) != len(tubes):
        raise ValueError(f"tubes, labels: expected a tube or more, and a label each; "
                         f"got {len(tubes)} tubes, {len(names)} labels")  # fmt: skip
    units = {time_axis(tube)[1] for tube in tubes}
    intervals = _intervals(action)
    if len(units) > 1 or (intervals and "frame" in units):
        raise ValueError("tubes: one or more have times=None, and the other tubes or the action are in "
                         "seconds. Explain a Clip, which has times")  # fmt: skip
    figure = go.Figure()
    for n, (tube, name) in enumerate(zip(tubes, names)):
        figure.add_scatter(
            **_line(tube), name=name, meta="tube", mode="lines+markers", showlegend=len(tubes) > 1,
            line={"color": _LINES[n % len(_LINES)], "width": 2.5}, marker={"size": 5},
            hovertemplate="%{x:.2f}: %{y:.3f}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    ink = {"color": _INK, "width": 1.5}
    figure.add_scatter(
        **_mark(tubes[0], frame), name="frame", meta="mark", mode="lines", line=ink, **_SILENT
    )
    for start, stop, what in intervals:
        figure.add_vrect(
            x0=start, x1=stop, fillcolor=_PALE, opacity=0.7, line_width=0, layer="below",
            annotation={"text": what, "font": {"size": 11, "color": _GREY}}, annotation_position="top left",
        )  # fmt: skip
    ends = np.array([solids.time_ends(time_axis(tube)[0]) for tube in tubes])
    axis = {"gridcolor": _FAINT, "zeroline": False, "linecolor": _GREY, "ticks": "outside"}
    figure.update_layout(
        xaxis={**axis, "title": {"text": units.pop()}, "range": [ends.min(), ends.max()], "showgrid": False},
        yaxis={**axis, "title": {"text": "mean saliency"}, "range": [0, 1], "nticks": 6},
        font=_FONT, plot_bgcolor="white", paper_bgcolor="white", height=height, uirevision="timeline",
        margin={"l": 60, "r": 16, "t": 28, "b": 44}, hovermode="x",
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
    )  # fmt: skip
    return figure


def update_timeline(
    figure: go.Figure, tubes: Tube | Sequence[Tube], frame: int | None = None
) -> None:
    """Change a figure of `timeline_figure` in place: as many tubes as it has lines, and the marked frame.

    Args:
        figure: the Figure, or a FigureWidget made of it, which is redrawn once.
        tubes: as for `timeline_figure`; the lines keep their names.
        frame: position in the first tube, 0-based; None takes the mark away.

    Raises:
        ValueError: the number of tubes is not that of the lines, or the frame is out of range.
    """
    tubes = [tubes] if isinstance(tubes, Tube) else list(tubes)
    lines = [trace for trace in figure.data if trace.meta == "tube"]
    if len(lines) != len(tubes):
        raise ValueError(
            f"tubes: the figure has {len(lines)} lines, got {len(tubes)} tubes. Make a new one"
        )
    mark = _mark(tubes[0], frame)
    with figure.batch_update():
        for trace, tube in zip(lines, tubes):
            trace.update(_line(tube))
        for trace in figure.select_traces({"meta": "mark"}):
            trace.update(mark)


def _line(tube: Tube) -> dict[str, np.ndarray]:
    return {"x": time_axis(tube)[0].astype(np.float32), "y": tube.profile.astype(np.float32)}


def _mark(tube: Tube, frame: int | None) -> dict[str, np.ndarray]:
    """Return the upright line at a frame; out of sight where there is none."""
    time = np.nan if frame is None else time_axis(tube)[0][_check(tube, None, frame)]
    return {"x": np.full(2, time, dtype=np.float32), "y": np.array([0, 1], dtype=np.float32)}


def _intervals(action: Actions | None) -> list[tuple[float, float, str]]:
    """Return (start, stop, label) of every annotated action."""
    if action is None:
        return []
    if isinstance(action, Action):
        return [(action.start, action.stop, action.label)]
    if len(action) == 2 and not isinstance(action[0], Action):
        return [(float(action[0]), float(action[1]), "action")]  # type: ignore[arg-type]
    return [one for each in action for one in _intervals(each)]  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------
# Files and checks


def save_html(figure: go.Figure, path: str | Path) -> Path:
    """Write a figure as one interactive page that works offline (it holds plotly.js, about 5 MB).

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
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:  # after Ctrl-C too: no half a page is left behind
        part.unlink(missing_ok=True)
    return path


def _check(tube: Tube, clip: Clip | None, frame: int = 0) -> int:
    """Return the frame as an int, once tube, clip and frame belong together and the tube has numbers."""
    if clip is not None and clip.frames.shape[:3] != tube.volume.shape:
        raise ValueError(f"the tube is {tube.volume.shape} and the clip {clip.frames.shape[:3]} (T, H, W). "
                         "Use ex.clip, the clip as the network saw it")  # fmt: skip
    if not np.isfinite(tube.volume).all():
        raise ValueError(f"tube: expected numbers, got NaN or infinity in {tube!r}. "
                         "Look for them in the clip or the network")  # fmt: skip
    if not 0 <= operator.index(frame) < len(tube.volume):
        raise ValueError(f"frame: expected 0 to {len(tube.volume) - 1}, got {frame}")
    return operator.index(frame)


def _check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    checked = tuple(float(level) for level in levels)
    if (
        not checked
        or not all(0 < level < 1 for level in checked)
        or list(checked) != sorted(set(checked))
    ):
        raise ValueError(f"levels: expected rising numbers between 0 and 1, got {levels}")
    return checked


def _colors(colormap: str, values: Sequence[float] | np.ndarray) -> list[str]:
    """Return the colours of a matplotlib colormap at values in [0, 1], as #rrggbb."""
    if colormap not in matplotlib.colormaps:
        raise ValueError(f"colormap: matplotlib knows no {colormap!r}. "
                         "Good ones: 'jet', 'turbo', 'inferno', 'viridis'")  # fmt: skip
    return [
        matplotlib.colors.to_hex(matplotlib.colormaps[colormap](float(value))) for value in values
    ]
