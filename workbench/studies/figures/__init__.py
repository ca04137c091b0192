"""The paper's figures for print: method (Fig. 1), heat and focus (2), 2-D against 3-D networks (3).

Every figure takes explanations and tubes and draws them with matplotlib, the width of a page; no
network is run here. `sources` finds and reads the clip, `printed` prepares it, `page` is the
layout."""

from .figure1 import method_figure
from .figure2 import overlay_figure
from .figure3 import comparison_figure
from .printed import Panel, boxed, enlarged, print_view
from .saving import film, preview, save
from .sources import labelled, network, segments, surrounded

__all__ = [
    "Panel",
    "boxed",
    "comparison_figure",
    "enlarged",
    "film",
    "labelled",
    "method_figure",
    "network",
    "overlay_figure",
    "preview",
    "print_view",
    "save",
    "segments",
    "surrounded",
]
