"""The printed page: a figure laid out in inches, strips of frames, and colour bars.

The style is `print.mplstyle` in the folder above.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from ...clips.clip import Clip

__all__ = [
    "BAR",
    "COLORS",
    "GAP",
    "LABEL",
    "STYLE",
    "WIDTH",
    "Page",
    "colour_bar",
    "extent",
    "flat_colour_bar",
    "frame_size",
    "heat_bar",
    "picks",
    "row_title",
    "strip",
]

STYLE = Path(__file__).parent.with_name("print.mplstyle")
COLORS = ("#d1495b", "#00798c", "#66a182", "#2e4057")

# Inches.
WIDTH = 7.0  # both columns of a page
LABEL = 0.86  # for row titles, at the left
BAR = 0.56  # for colour bars, at the right
GAP = 0.03  # between frames
SMALL = 7  # points, the smallest print


class Page:
    """A figure whose parts are placed in inches from the upper left corner."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH, height))

    def axes(self, x: float, y: float, *, width: float, height: float) -> Axes:
        """Return axes whose upper left corner is at (x, y)."""
        place = (x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height)
        return self.figure.add_axes(place)

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        """Write words at (x, y)."""
        self.figure.text(x / WIDTH, 1 - y / self.height, words, **style)

    def title(self, y: float, words: str) -> None:
        """Write the bold line above a part of the figure; its top is at y."""
        self.text(0.04, y, words, va="top", weight="bold", size=8)

    def arrow(self, x: float, y: float, words: str, *, left: bool = False) -> None:
        """Draw an arrow down from (x, y), with the step it stands for beside it."""
        length = 0.2
        ends = [(x / WIDTH, 1 - end / self.height) for end in (y, y + length)]
        style = "simple,head_length=4,head_width=6,tail_width=2"
        arrow = FancyArrowPatch(*ends, arrowstyle=style, color="0.35", lw=0, shrinkA=0, shrinkB=0)
        self.figure.add_artist(arrow)
        side, align = (-0.09, "right") if left else (0.09, "left")
        self.text(x + side, y + length / 2, words, va="center", ha=align, color="0.25")


def picks(frames: int, count: int) -> np.ndarray:
    """Return `count` evenly spaced positions about the middle of `frames`."""
    count = min(count, frames)
    step = (frames - 1) // max(count - 1, 1)
    first = (frames - 1 - step * (count - 1)) // 2
    return first + step * np.arange(count)


def frame_size(clip: Clip, count: int) -> tuple[float, float]:
    """Return width and height in inches of one of `count` frames across the page."""
    count = min(count, len(clip))
    width = (WIDTH - LABEL - BAR - (count - 1) * GAP) / count
    return width, width * clip.size[0] / clip.size[1]


def extent(number: int, count: int, size: tuple[int, int], height: float) -> tuple[float, float]:
    """Return where a frame of `size` (H, W) begins and ends along x in a strip of `count`.

    A frame that is narrower than its share of the strip is centred in it.
    """
    cell = (WIDTH - LABEL - BAR - (count - 1) * GAP) / count
    width = min(cell, height * size[1] / size[0])
    left = number + (cell - width) / 2 / (cell + GAP)
    return left, left + width / (cell + GAP)


def strip(
    page: Page,
    y: float,
    frames: np.ndarray,
    name: str,
    times: np.ndarray | None = None,
    *,
    height: float | None = None,
) -> Axes:
    """Draw frames (K, H, W, 3) side by side over the page's width, and return the axes.

    Frame k covers k to k + 1, less the gap, along x, and 0 to 1 down. `height` in inches is that of
    another strip whose frames are wider; None: as high as the frames are.
    """
    full = WIDTH - LABEL - BAR
    cell = (full - (len(frames) - 1) * GAP) / len(frames)
    size = (frames.shape[1], frames.shape[2])
    if height is None:
        height = cell * size[0] / size[1]
    axes = page.axes(LABEL, y, width=full, height=height)
    for number, frame in enumerate(frames):
        place = extent(number, len(frames), size, height)
        axes.imshow(frame, extent=(*place, 1, 0), interpolation="lanczos", aspect="auto")
    share = cell / (cell + GAP)
    axes.set(xlim=(0, len(frames) - 1 + share), ylim=(1, 0), yticks=[], xticks=[])
    axes.spines[:].set_visible(False)
    if times is not None:
        axes.set_xticks(np.arange(len(frames)) + share / 2, [f"{time:.2f} s" for time in times])
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0, pad=2)
    row_title(axes, name)
    return axes


def row_title(axes: Axes, name: str, pad: float = 5) -> None:
    """Write the name of a row at its left."""
    axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=pad, linespacing=1.25)


def heat_bar(page: Page, y: float, height: float) -> None:
    """Draw the colour bar of heat tubes at the right of the strips from y down."""
    colour_bar(page, y, ScalarMappable(Normalize(0, 1), "jet"), height=height, name="saliency")


def colour_bar(
    page: Page,
    y: float,
    colors: ScalarMappable,
    *,
    height: float,
    name: str,
    ticks: Sequence[float] = (0, 1),
) -> None:
    """Draw a colour bar at the right of the strips from y down."""
    inset = 0.05  # half a tick label sticks out at either end
    axes = page.axes(WIDTH - BAR + 0.06, y + inset, width=0.08, height=height - 2 * inset)
    bar = page.figure.colorbar(colors, cax=axes, ticks=ticks)
    _finish(bar, ticks)
    axes.tick_params(pad=1.5)
    axes.set_ylabel(name, labelpad=1, size=SMALL)  # as long as a row of wide frames is high


def flat_colour_bar(
    page: Page, x: float, y: float, colors: ScalarMappable, *, name: str, ticks: Sequence[float]
) -> None:
    """Draw a horizontal colour bar whose upper left corner is at (x, y)."""
    axes = page.axes(x, y, width=0.98, height=0.06)
    bar = page.figure.colorbar(colors, cax=axes, orientation="horizontal", ticks=ticks)
    _finish(bar, ticks)
    axes.tick_params(pad=1)
    axes.set_xlabel(name, labelpad=0)


def _finish(bar: Colorbar, ticks: Sequence[float]) -> None:
    """Thin the outline, and label the ticks with two digits, for which there is room."""
    bar.outline.set_linewidth(0.4)
    bar.set_ticklabels([f"{tick:.0f}" if abs(tick) >= 10 else f"{tick:.2g}" for tick in ticks])
