"""Timelines: how much of each frame is salient, a Plotly figure with a line per tube.

Traces are the same whatever the data, so `update_timeline` can change a figure, or a FigureWidget
on screen, in place. A trace's `meta` is "tube" for a line and "mark" for the current frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import plotly.graph_objects as go

from ..clips.clip import Action
from ..saliency.tubes import Tube
from .plotly_figures import INK, SILENT, checked_frame, template, time_axis
from .solids import time_ends

__all__ = ["timeline_figure", "update_timeline"]

Actions: TypeAlias = "Action | tuple[float, float] | Sequence[Action]"


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
        frame: position in the first tube, 0-based, marked by an upright line. None: no mark.
        action: annotated intervals to shade: (start, stop) in seconds, an Action, or
            `clip.actions`.
        labels: a name for each line. None: the tubes' labels.
        height: of the figure, in pixels of the page.

    Raises:
        ValueError: no tube, another number of labels than tubes, a frame out of range, or tubes
            without times beside tubes with times or an action.
    """
    tubes = [tubes] if isinstance(tubes, Tube) else list(tubes)
    names = [tube.label for tube in tubes] if labels is None else list(labels)
    if not tubes or len(names) != len(tubes):
        raise ValueError(
            "tubes, labels: expected a tube or more, and a label for each; "
            f"got {len(tubes)} tubes, {len(names)} labels"
        )
    units = {time_axis(tube)[1] for tube in tubes}
    intervals = _intervals(action)
    if len(units) > 1 or (intervals and "frame" in units):
        raise ValueError(
            "tubes: some have times=None, and the other tubes or the action are in seconds. "
            "Explain a Clip, which has times"
        )
    figure = go.Figure(layout={"template": template()})
    for tube, name in zip(tubes, names):
        figure.add_scatter(
            **_line(tube),
            name=name,
            meta="tube",
            mode="lines+markers",
            line={"width": 2.5},
            marker={"size": 5},
            showlegend=len(tubes) > 1,
            hovertemplate="%{x:.2f}: %{y:.3f}<extra>%{fullData.name}</extra>",
        )
    line = {"color": INK, "width": 1.5}
    figure.add_scatter(
        **_mark(tubes[0], frame), name="frame", meta="mark", mode="lines", line=line, **SILENT
    )
    for start, stop, label in intervals:
        figure.add_vrect(start, stop, annotation={"text": label}, annotation_position="top left")
    ends = np.array([time_ends(time_axis(tube)[0]) for tube in tubes])
    figure.update_layout(
        xaxis={"title": {"text": units.pop()}, "range": [ends.min(), ends.max()]},
        yaxis={"title": {"text": "mean saliency"}, "range": [0, 1]},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
        margin={"l": 60, "r": 16, "t": 28, "b": 44},
        height=height,
        hovermode="x",
        uirevision="timeline",
    )
    return figure


def update_timeline(
    figure: go.Figure, tubes: Tube | Sequence[Tube], frame: int | None = None
) -> None:
    """Change a figure of `timeline_figure` in place: its lines (names stay) and its mark.

    Args:
        figure: the Figure, or a FigureWidget made of it, which is redrawn once.
        tubes: as many as the figure has lines.
        frame: position in the first tube, 0-based. None: no mark.

    Raises:
        ValueError: another number of tubes than lines, or the frame is out of range.
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
    """Return the upright line at a frame; NaN, which is not drawn, without one."""
    time = np.nan if frame is None else time_axis(tube)[0][checked_frame(tube, None, frame)]
    return {"x": np.full(2, time, dtype=np.float32), "y": np.array([0, 1], dtype=np.float32)}


def _intervals(action: Actions | None) -> list[tuple[float, float, str]]:
    """Return (start, stop, label) of every annotated action."""
    if action is None:
        return []
    if isinstance(action, Action):
        return [(action.start, action.stop, action.label)]
    if len(action) == 2 and not isinstance(action[0], Action):
        return [(float(action[0]), float(action[1]), "action")]  # type: ignore[arg-type]
    return [interval for item in action for interval in _intervals(item)]  # type: ignore[arg-type]
