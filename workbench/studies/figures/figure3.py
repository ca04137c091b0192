"""Figure 3: the tubes of several networks over one clip, and when each of them responds."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...clips.clip import Clip
from ...metrics.temporal import temporal_auc
from ...saliency.tubes import Tube
from .page import COLORS, GAP, LABEL, STYLE, WIDTH, Page, extent, frame_size, heat_bar, picks, strip
from .printed import Panel

__all__ = ["comparison_figure"]

ACTION = "#edae49"
ACROSS = 3  # entries of the legend beside each other


def comparison_figure(
    clip: Clip, panels: Sequence[Panel], title: str = "", count: int = 8
) -> Figure:
    """Draw Fig. 3: a clip with its annotated action, tubes of several networks, their timelines.

    Args:
        clip: at the size to print, with an annotated action; its boxes, if it has any, are drawn in
            the frames of its interval, and over the tubes.
        panels: for each network its name, the clip as it sees it, and the tube. A tube of other
            frames than the clip's, the segments of a TSN, is shown by its frame nearest in time.
        title: over the figure.
        count: frames across, evenly spaced; the time axis below is aligned with them.

    Raises:
        ValueError: no annotated action, or a tube without times.
    """
    if clip.action is None:
        raise ValueError(
            "expected a clip with an annotated action: `surrounded` reads a data set's segment so"
        )
    _, height = frame_size(clip, count)
    row = height + GAP
    chosen = picks(len(clip), count)
    times = clip.times[chosen]
    with matplotlib.style.context(STYLE):
        more_lines = len(panels) // ACROSS  # of the legend, which has an entry for the action
        page = Page(0.36 + row * (1 + len(panels)) + 1.68 + 0.16 * more_lines)
        page.title(0.02, title)
        axes = strip(page, 0.36, clip.frames[chosen], "frames, box\nannotated", times)
        _draw_action_boxes(axes, clip, chosen, height=height)
        y = 0.36 + row
        for panel in panels:
            nearest = np.abs(_times(panel.tube)[None] - times[:, None]).argmin(1)
            # A square cut-out of a wide picture keeps the row's height, and its aspect.
            axes = strip(page, y, panel.heat[nearest], panel.title, height=height)
            _draw_action_boxes(axes, panel.clip, nearest, height=height)
            y += row
        heat_bar(page, 0.36 + row, row * len(panels) - GAP)
        _draw_timeline(page, y + 0.1, clip, panels, chosen=chosen)
    return page.figure


def _draw_action_boxes(axes: Axes, clip: Clip, chosen: np.ndarray, *, height: float) -> None:
    """Draw the boxes of the clip's first action over a strip of the frames `chosen`."""
    if not clip.actions or clip.actions[0].boxes is None:
        return
    for number, box in enumerate(clip.action_boxes()[chosen]):
        if not np.isfinite(box).all():
            continue
        left, right = extent(number, len(chosen), clip.size, height)
        rows, columns = clip.size
        x0, x1 = (left + box[[0, 2]] / columns * (right - left)).tolist()
        y0, y1 = (box[[1, 3]] / rows).tolist()
        for color, weight in (("black", 2.0), ("white", 1.0)):
            outline = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, joinstyle="miter")
            outline.set(edgecolor=color, linewidth=weight)
            axes.add_patch(outline)


def _draw_timeline(
    page: Page, y: float, clip: Clip, panels: Sequence[Panel], *, chosen: np.ndarray
) -> None:
    """Plot each frame's maximum of the tubes over time, aligned with the strip above."""
    # The middle of a frame in the strip is its time: that gives the seconds an inch.
    width, _ = frame_size(clip, len(chosen))
    begin, end = clip.times[chosen[[0, -1]]]
    pace = (end - begin) / ((len(chosen) - 1) * (width + GAP))
    first = begin - pace * width / 2
    # Later frames of a tube extend the axis, as far as there is page.
    last_of_tubes = [_times(panel.tube)[-1] + pace * 0.05 for panel in panels]
    last = max([end + pace * width / 2, *last_of_tubes])
    length = min((last - first) / pace, WIDTH - LABEL - 0.05)
    axes = page.axes(LABEL, y, width=length, height=1.02)
    action = clip.actions[0]
    interval = (action.start, action.stop)
    axes.axvspan(*interval, color=ACTION, alpha=0.35, lw=0, label=f"annotated: {action.label}")
    for color, panel in zip(COLORS, panels):
        name, auc = " ".join(panel.title.split()), temporal_auc(panel.tube, interval)
        maxima = panel.tube.normalized.max((1, 2))
        label = f"{name}: temporal AUC {auc:.2f}"
        axes.plot(_times(panel.tube), maxima, "o-", color=color, ms=2.5, lw=1.1, label=label)
    axes.set(xlim=(first, first + pace * length), ylim=(0, 1.05), yticks=(0, 0.5, 1))
    axes.set_xlabel("time (s)")
    axes.set_ylabel("maximum\nof each frame", labelpad=4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.32),  # below the axis
        ncols=min(ACROSS, 1 + len(panels)),
        frameon=False,
        handlelength=1.4,
    )


def _times(tube: Tube) -> np.ndarray:
    if tube.times is None:
        raise ValueError(f"expected a tube with times, got {tube!r}")
    return tube.times
