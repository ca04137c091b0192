"""Figure 2: clips with their heat tube and focus tube."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.style
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from .page import GAP, STYLE, Page, colour_bar, frame_size, heat_bar, picks, strip
from .printed import Panel

__all__ = ["overlay_figure"]

# What `focus` makes of white.
DIMMED = LinearSegmentedColormap.from_list("dimmed", [(20 / 255,) * 3, (1.0,) * 3])


def overlay_figure(panels: Sequence[Panel], count: int = 7) -> Figure:
    """Draw Fig. 2: for each clip its frames with their times, its heat tube and its focus tube."""
    heights = [frame_size(panel.clip, count)[1] for panel in panels]
    with matplotlib.style.context(STYLE):
        page = Page(sum(3 * height + 2 * GAP + 0.5 for height in heights) - 0.08)
        y = 0.02
        for panel, height in zip(panels, heights):
            chosen, row = picks(len(panel.clip), count), height + GAP
            page.title(y, panel.title)
            y += 0.36
            strip(page, y, panel.clip.frames[chosen], "original", panel.clip.times[chosen])
            strip(page, y + row, panel.heat[chosen], "heat tube")
            heat_bar(page, y + row, height)
            strip(page, y + 2 * row, panel.focus[chosen], "focus tube")
            brightness = ScalarMappable(Normalize(0, 1), DIMMED)
            colour_bar(page, y + 2 * row, brightness, height=height, name="saliency")
            y += 3 * height + 2 * GAP + 0.14
    return page.figure
