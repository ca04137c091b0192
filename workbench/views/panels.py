"""Panels: one explanation on the screen, as the parts of which `explorer` makes an application.

A panel has an overlay picture and a volume. Both are made once and changed in place.
"""

from __future__ import annotations

import io
from dataclasses import replace

import anywidget
import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import traitlets
from PIL import Image

from ..clips.clip import Clip
from ..saliency.explanation import Explanation
from ..saliency.tubes import Tube
from .overlays import focus, heat
from .pictures import draw_boxes
from .volumes import update_volume, volume_figure

__all__ = ["ROOM", "VIEWS", "FigureWidget", "Fit", "Panel"]

VIEWS = ("heat", "focus", "original")
ROOM = (384, 384)  # for the picture: height and width in pixels of the page


class Panel:
    """One explanation on the screen.

    Attributes:
        explanation: what is shown.
        tube: its tube, as drawn.
        caption: ipywidgets HTML, what the network says.
        picture: ipywidgets Image (JPEG), the overlay of one frame.
        volume: `FigureWidget`, one and the same as long as the explorer lives.
    """

    def __init__(self, explanation: Explanation, tube: Tube, height: int) -> None:
        self.explanation, self.tube = explanation, tube
        self.caption = widgets.HTML()
        wide = f"{_fitted(explanation.clip.size)[1]}px"
        self.picture = widgets.Image(
            format="jpeg",
            layout={"width": "auto", "max_width": wide, "height": "auto", "margin": "0 2px"},
        )
        self._drawn = tube, tube.peak[0]
        figure = volume_figure(tube, explanation.clip, tube.peak[0], title="", height=height)
        self.volume = FigureWidget(figure.update_layout(margin={"l": 0, "r": 0, "t": 0, "b": 0}))

    def draw_picture(self, frame: int, view: str, alpha: float, boxes: bool) -> None:
        """Put one frame (0-based) into the picture: a view of `VIEWS`, the colours' share, boxes or not."""
        clip = self.explanation.clip
        pixels = _overlay(clip, self.tube, frame, view, alpha)
        tall, wide = _fitted(clip.size)
        if tall > clip.size[0]:  # what is larger than its room is left to the browser
            pixels = np.asarray(
                Image.fromarray(pixels).resize((wide, tall), Image.Resampling.BICUBIC)
            )
        if boxes and clip.shown_boxes is not None:  # after scaling: the lines are thin at any size
            scale = np.tile(np.divide(pixels.shape[1::-1], clip.size[::-1]), 2)
            pixels = draw_boxes(pixels[None], clip.shown_boxes[frame][None] * scale)[0]
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=90, subsampling=0)
        self.picture.value = stream.getvalue()

    def draw_volume(self, frame: int) -> None:
        """Redraw the surfaces if the tube is new, and the picture among them if it has moved."""
        body, moved = self.tube is not self._drawn[0], frame != self._drawn[1]
        if body or moved:
            update_volume(
                self.volume, self.tube, self.explanation.clip, frame if moved else None, body=body
            )
        self._drawn = self.tube, frame

    def nearest(self, time: float) -> int:
        """Return the frame nearest to a time in seconds."""
        return int(np.abs(self.explanation.clip.times - time).argmin())


class Fit(anywidget.AnyWidget):
    """Nothing to look at: makes the figures as wide as their boxes.

    Plotly measures a box when it draws, which in JupyterLab is before the box is on the page, and then only
    when the window changes. So this tells it when the explorer's width has changed.
    """

    _esm = """export default { render({ el }) {
        const fit = () => window.dispatchEvent(new Event("resize"));
        const watch = new ResizeObserver(fit);
        watch.observe(el);
        document.addEventListener("plotlywidget-after-render", fit);
        return () => { watch.disconnect(); document.removeEventListener("plotlywidget-after-render", fit); };
    } }"""


class FigureWidget(go.FigureWidget):
    """Plotly's FigureWidget, which also works where the browser is slow.

    anywidget gives a widget two seconds to load its code, and from then on keeps all the kernel's messages
    from it. Plotly is 5 MB of code: on a busy machine figures stay empty, or stand still. Here the code that
    anywidget waits for is short. It loads Plotly when there is something to draw, once for all figures, and
    hands on the updates that have come meanwhile.
    """

    _plotly = traitlets.Unicode(str(go.FigureWidget._esm)).tag(sync=True)
    _esm = """
    const load = (code) => (globalThis.workbenchPlotly ??= import(
        URL.createObjectURL(new Blob([code], { type: "text/javascript" }))));

    export default () => {
        const early = [];
        let figure = null;
        return {
            initialize({ model }) {
                model.on("change:_py2js_update", () => {
                    const update = model.get("_py2js_update");
                    if (figure === null && update !== null) early.push(update);
                });
            },
            async render(context) {
                const { default: widget } = await load(context.model.get("_plotly"));
                if (figure === null) {
                    figure = typeof widget === "function" ? await widget() : widget;
                    await figure.initialize(context);
                }
                const remove = await figure.render(context);
                for (const update of early.splice(0)) {
                    context.model.set("_py2js_update", update);
                    context.model.set("_py2js_update", null);
                }
                return remove;
            },
        };
    };
    """

    def __init__(self, figure: go.Figure) -> None:
        super().__init__(figure)
        self._config = {"displaylogo": False, "responsive": True}

    def refresh(self) -> None:
        """Make the figure as it is now what the next view begins with; Plotly has its first state there."""
        self._repr_mimebundle_()


def _overlay(clip: Clip, tube: Tube, frame: int, view: str, alpha: float) -> np.ndarray:
    """Return one frame (H, W, 3) uint8 in a view."""
    only = slice(frame, frame + 1)
    if view == "original":
        return clip.frames[frame]
    # heat and focus scale by the tube's extremes, which one frame need not hold: hand on what is scaled.
    piece = replace(tube, volume=tube.volume[only])
    vars(piece)["normalized"] = tube.normalized[only]
    return (
        focus(clip.frames[only], piece)
        if view == "focus"
        else heat(clip.frames[only], piece, alpha)
    )[0]


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    """Return the largest height and width of the aspect of `size` that the picture's room takes."""
    scale = min(ROOM[0] / size[0], ROOM[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
