"""The widget that draws an explanation in the browser, and the copy of plotly.js that it draws
with.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import plotly.offline
import traitlets

__all__ = ["CSS", "SCRIPT", "PlotlyCode", "TubeView", "packed_plotly", "plotly_code"]

SCRIPT = Path(__file__).with_name("tube_view.js")
CSS = Path(__file__).with_name("tube_view.css")


def packed_plotly() -> bytes:
    """Return plotly.js of the installed plotly package, gzipped: 1.5 MB."""
    return gzip.compress(plotly.offline.get_plotlyjs().encode(), compresslevel=6, mtime=0)


class PlotlyCode(widgets.Widget):
    """plotly.js, sent to the page once however many explorers it shows."""

    code = traitlets.Bytes().tag(sync=True)


_shared: PlotlyCode | None = None


def plotly_code() -> PlotlyCode:
    """Return this kernel's `PlotlyCode`, which lives as long as the kernel."""
    global _shared
    if _shared is None or _shared.comm is None:
        _shared = PlotlyCode(code=packed_plotly())
    return _shared


class TubeView(anywidget.AnyWidget):
    """Overlay, volume, timeline and their controls, drawn by `tube_view.js`.

    Attributes:
        explanations: what `payload` returns for each explanation.
        colormaps: 256 RGB colours a name, as bytes.
        choice: position of the class among the first explanation's, most probable first.
        tau: in units of the class weights; the smallest weight keeps all features.
        frame: 0-based position in the first explanation's clip.
        feature: the single feature whose tube is shown, or None.
        mode: "heat", "focus", "contour" or "original".
        opacity: the colours' share in heat mode.
        colormap: a name in `colormaps`.
        low, high: the displayed range, as shares of the tube's range.
        boxes: whether annotated boxes are drawn.
        search: what the class list is filtered by.
        unit: whether the τ slider moves in units of the "weight", or in the "share" of features
            kept.
        compare: "side", or "difference" of two explanations of one clip.
        note: an error to show, or "".
        linked: names of traits that the browser ties to controls. What a drag leaves behind reaches
            the kernel through the control alone, so in the kernel these may be out of date.
    """

    _esm = SCRIPT
    _css = CSS

    plotly = traitlets.Instance(PlotlyCode).tag(sync=True, **widgets.widget_serialization)
    explanations: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    colormaps = traitlets.Dict().tag(sync=True)
    choice = traitlets.Int(0).tag(sync=True)
    tau = traitlets.Float(0.0).tag(sync=True)
    frame = traitlets.Int(0).tag(sync=True)
    feature = traitlets.Int(None, allow_none=True).tag(sync=True)
    mode = traitlets.Unicode("heat").tag(sync=True)
    opacity = traitlets.Float(0.5).tag(sync=True)
    colormap = traitlets.Unicode("jet").tag(sync=True)
    low = traitlets.Float(0.0).tag(sync=True)
    high = traitlets.Float(1.0).tag(sync=True)
    boxes = traitlets.Bool(True).tag(sync=True)
    search = traitlets.Unicode("").tag(sync=True)
    unit = traitlets.Unicode("weight").tag(sync=True)
    compare = traitlets.Unicode("side").tag(sync=True)
    note = traitlets.Unicode("").tag(sync=True)
    linked: traitlets.List[str] = traitlets.List().tag(sync=True)
