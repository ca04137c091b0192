"""The explorer that drew in the kernel, kept only so that `bench_explorer` can time it beside today's.

Every step of a slider went to the kernel, which sent a JPEG and two Plotly figures back.
"""

from __future__ import annotations

import functools
import html
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import anywidget
import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
import traitlets
from PIL import Image

from workbench import Clip, Explanation, Tube, draw_boxes, focus, heat, tau_for_share
from workbench.views.timelines import timeline_figure, update_timeline
from workbench.views.volumes import update_volume, volume_figure

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


_STEPS = 200  # of the τ slider
_GREY = "color:var(--jp-ui-font-color2, #666)"
_RED = "color:var(--jp-error-color1, #c62828)"
_ROW = {"width": "100%", "grid_gap": "12px", "align_items": "center", "overflow": "hidden"}
_GROW = {"flex": "1 1 0", "min_width": "0", "overflow": "hidden"}


class Explorer(widgets.VBox):
    """Class, τ and frame as controls; overlay, volume and timeline that follow them. Made by `explore`.

    Several explanations stand side by side under the same controls, classes matched by name and frames by
    time. τ is in the units of the first one's weights; the others keep the same share of their features,
    since the weights of two networks have no unit in common.

    Attributes:
        target: Select; its value is the class id (0-based, of the first explanation). Takes a class name too.
        tau: FloatSlider over the range of the class's weights; its left end keeps all features.
        frame: IntSlider, 0-based position in the first explanation's clip. Begins at the strongest frame.
        search: Text; leaves in `target` the classes whose names hold it, and the chosen one.
        view: ToggleButtons, one of "heat", "focus", "original".
        opacity: FloatSlider, the colours' share in the heat view.
        boxes: Checkbox, whether the clip's annotated boxes are drawn.
        panels: a `Panel` for each explanation.
        timeline: `FigureWidget`, one and the same as long as the explorer lives.
    """

    def __init__(self, explanations: Sequence[Explanation]) -> None:
        super().__init__(layout={"width": "100%", "overflow": "hidden"})
        self._quiet = False
        self._first = first = explanations[0]
        self._order = first.logits.argsort(descending=True).tolist()
        self._make_controls()
        self._fit_tau()
        tubes = [ex.tube(self._name) for ex in explanations]
        self.frame.value = frame = tubes[0].peak[0]
        height = 400 if len(tubes) == 1 else 340
        self.panels = [Panel(ex, tube, height) for ex, tube in zip(explanations, tubes)]
        figure = timeline_figure(
            tubes, frame, first.clip.actions or None, labels=_names(explanations)
        )
        figure.update_layout(
            height=180, margin={"l": 56, "r": 16, "t": 20, "b": 36}, xaxis_title_standoff=4
        )
        figure.update_yaxes(range=_profile_range(tubes))
        self.timeline = FigureWidget(figure)
        for trace in self.timeline.data:
            trace.on_click(self._on_click)
        self.children = self._arrange()
        self._observe()
        self._draw()

    @property
    def tube(self) -> Tube:
        """The tube on the screen; of several, the first explanation's."""
        return self.panels[0].tube

    @property
    def _name(self) -> str:
        return self._first.classes[self.target.value]

    @property
    def _threshold(self) -> float | None:
        """τ of the first explanation; None at the slider's left end, to within the slider's rounding."""
        return self.tau.value if self.tau.value > self.tau.min + 1e-3 * self.tau.step else None

    def show(
        self, target: int | str | None = None, tau: float | None = None, frame: int | None = None
    ) -> None:
        """Set several controls and draw once. What is None stays as it is.

        Args:
            target: class name or 0-based id.
            tau: beyond the range of the class's weights it becomes the nearest end: `-math.inf` keeps all.
            frame: 0-based.

        Raises:
            KeyError, IndexError: no such class.
            ValueError: no such frame, or τ is NaN.
        """
        number = self.target.value if target is None else self._first.class_id(target)
        if frame is not None and not 0 <= frame <= self.frame.max:
            raise ValueError(f"frame: expected 0 to {self.frame.max}, got {frame}")
        if tau is not None and math.isnan(tau):
            raise ValueError("tau: expected a number in the units of the class weights, got NaN")
        with self._quietly():
            if number != self.target.value:
                self.search.value = ""
                self._list_classes(number)
            self._fit_tau(tau)
            if frame is not None:
                self.frame.value = frame
        self._weigh()
        self._draw()

    def close(self) -> None:
        """Take the explorer off the screen and free its widgets."""
        parts = {id(part): part for part in _parts(self) if part is not self}
        for part in parts.values():
            part.close()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        for figure in (self.timeline, *(panel.volume for panel in self.panels)):
            figure.refresh()
        return super()._repr_mimebundle_(**kwargs)

    def __repr__(self) -> str:
        if not hasattr(self, "panels"):
            return "<Explorer>"
        models = " and ".join(_names([panel.explanation for panel in self.panels]))
        clip = "" if self._first.clip.name is None else f" on {self._first.clip.name}"
        tau = "all" if self._threshold is None else f"{self._threshold:.3g}"
        return f"<Explorer of {models}{clip}: {self._name!r}, τ = {tau}, frame {self.frame.value}>"

    # Controls

    def _make_controls(self) -> None:
        classes, times = self._first.classes, self._first.clip.times
        last, wide, narrow = (
            len(times) - 1,
            {"width": "auto", **_GROW},
            {"description_width": "44px"},
        )

        def same(number: int, wanted: int | str) -> bool:
            return number == wanted or classes[number] == wanted

        self.search = widgets.Text(
            placeholder=f"search {len(classes)} classes", layout={"width": "auto"}
        )
        self.target = widgets.Select(rows=5, equals=same, layout={"width": "auto"})
        self._list_classes(self._first.class_id())
        self.tau = widgets.FloatSlider(description="τ", layout=wide, style=narrow)
        self.frame = widgets.IntSlider(
            description="frame", min=0, max=last, layout=wide, style=narrow
        )
        pace = 1000 * float(np.ptp(times)) / max(1, last)
        self.play = widgets.Play(
            max=last, interval=round(min(max(pace, 120), 500)), repeat=True, show_repeat=False,
            layout={"flex": "0 0 116px", "width": "116px", "margin": "0"},
        )  # fmt: skip
        # In the browser and not through the kernel: playing must not wait for a round trip.
        self._link = widgets.jslink((self.play, "value"), (self.frame, "value"))
        self.view = widgets.ToggleButtons(
            options=VIEWS, style={"button_width": "74px"}, layout={"flex": "0 0 240px"}
        )
        self.opacity = widgets.FloatSlider(
            value=0.5, min=0, max=1, step=0.05, description="opacity", style={"description_width": "52px"},
            layout={"flex": "1 1 130px", "max_width": "220px", "width": "auto", "min_width": "0"}, readout=False,
        )  # fmt: skip
        self.boxes = widgets.Checkbox(
            value=True, description="boxes", indent=False, layout={"width": "auto"}
        )
        # Of fixed widths: a slider must not change its length while it is dragged.
        self.kept, self.time = (widgets.HTML(layout={"flex": f"0 0 {n}px"}) for n in (184, 56))
        self.note = widgets.HTML()

    def _arrange(self) -> list[widgets.Widget]:
        side = {
            "flex": f"0 1 {ROOM[1]}px",
            "min_width": "240px",
            "overflow": "hidden",
            "grid_gap": "8px",
        }
        main = {**_GROW, "min_width": "480px"}
        apart = {**_ROW, "grid_gap": "20px", "align_items": "flex-start"}
        boxed = any(panel.explanation.clip.boxes is not None for panel in self.panels)
        looks = [self.view, self.opacity, *([self.boxes] if boxed else [])]
        rows = [[self.tau, self.kept], [self.frame, self.time, self.play], looks, [self.note]]
        classes = [self.search, self.target]
        sliders = [widgets.HBox(row, layout=_ROW) for row in rows]
        if len(self.panels) == 1:
            (panel,) = self.panels
            left = widgets.VBox([*classes, panel.picture], layout=side)
            right = widgets.VBox([*sliders, panel.volume], layout=main)
            return [Fit(), panel.caption, widgets.HBox([left, right], layout=apart), self.timeline]
        left, right = widgets.VBox(classes, layout=side), widgets.VBox(sliders, layout=main)
        columns = [
            widgets.VBox([p.caption, p.picture, p.volume], layout=_GROW) for p in self.panels
        ]
        controls, body = (widgets.HBox(part, layout=apart) for part in ([left, right], columns))
        return [Fit(), widgets.HTML(_heading(self._first.clip)), controls, body, self.timeline]

    def _observe(self) -> None:
        handlers = {self.search: self._on_search, self.target: self._on_class, self.tau: self._on_tau,
                    self.frame: self._draw, self.view: self._on_look, self.opacity: self._on_look,
                    self.boxes: self._on_look}  # fmt: skip
        for control, handler in handlers.items():
            control.observe(guarded(self, handler), "value")

    def _list_classes(self, chosen: int) -> None:
        """Offer the classes that the search finds, most probable first, and the chosen one."""
        ex, wanted = self._first, self.search.value.strip().casefold()
        shown = [i for i in self._order if i == chosen or wanted in ex.classes[i].casefold()]
        # Aligned by spaces as wide as a digit.
        percent = [f"{p:.1%}".rjust(6, "\u2007") for p in ex.probabilities.tolist()]
        self.target.options = [(f"{percent[i]}\u2002{ex.classes[i]}", i) for i in shown]
        self.target.value = chosen

    def _fit_tau(self, tau: float | None = None) -> None:
        """Give τ the range of the class's weights and a value in it; None: what it has, or its left end.

        Raises ValueError where a weight is not finite.
        """
        weights = self._first.channel_weights(self.target.value)
        if not weights.isfinite().all():
            raise ValueError(f"the class weights of {self._name!r} hold NaN or infinite values")
        low, high = float(weights.min()), float(weights.max())
        tau = self._threshold if tau is None else tau
        span = (high - low) or 1.0  # equal weights: a slider needs some range even so
        self.tau.disabled = low == high
        self.tau.readout_format, self.tau.step = _number_format(span), span / _STEPS
        self.tau.max = max(self.tau.max, low + span)  # a slider refuses a range that is inside out
        self.tau.min = low
        self.tau.max = high if high > low else low + span
        self.tau.value = low if tau is None else min(max(tau, low), high)

    # Handlers

    def _on_search(self) -> None:
        with self._quietly():
            self._list_classes(self.target.value)

    def _on_class(self) -> None:
        if not all(
            panel.explanation.exact for panel in self.panels
        ):  # a backward pass may take its time
            self.note.value = (
                f"<span style='{_GREY}'>gradients of {html.escape(self._name)} …</span>"
            )
        with self._quietly():
            self._fit_tau()
        self._on_tau()

    def _on_tau(self) -> None:
        self._weigh()
        self._draw()

    def _on_look(self) -> None:
        self.opacity.disabled = self.view.value != "heat"
        self._draw()

    def _on_click(self, trace: Any, points: Any, _state: Any) -> None:
        if points.point_inds and trace.meta == "tube":
            self.frame.value = self.panels[0].nearest(float(trace.x[points.point_inds[0]]))

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Change controls without calling their handlers."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    # Drawing

    def _weigh(self) -> None:
        """Compute the tubes: all of them before any is shown."""
        explanations = [panel.explanation for panel in self.panels]
        weights = [ex.channel_weights(self._name) for ex in explanations]
        taus = [self._threshold] * len(weights)
        if taus[0] is not None:
            share = float((weights[0] >= taus[0]).float().mean())
            taus[1:] = [tau_for_share(others, share) for others in weights[1:]]
        tubes = [ex.tube(self._name, tau) for ex, tau in zip(explanations, taus)]
        for panel, tube in zip(self.panels, tubes):
            panel.tube = tube

    def _draw(self) -> None:
        """Draw what the controls say. Pictures first: they are quick."""
        time = float(self._first.clip.times[self.frame.value])
        frames = [self.frame.value, *(panel.nearest(time) for panel in self.panels[1:])]
        for panel, frame in zip(self.panels, frames):
            panel.draw_picture(frame, self.view.value, self.opacity.value, self.boxes.value)
        self.time.value = f"<span style='{_GREY}'>{time:.2f} s</span>"
        self.kept.value = f"<span style='{_GREY}'>{_count(self.tube)}</span>"
        for panel in self.panels:
            own = "" if panel.tube.tau is None else f" with weights ≥ {panel.tube.tau:.3g}"
            panel.caption.value = (
                f"{_heading(panel.explanation.clip)} · {_verdict(panel.explanation)}"
                if len(self.panels) == 1
                else f"{_verdict(panel.explanation)}<br>{_count(panel.tube)}{own}"
            )
        tubes = [panel.tube for panel in self.panels]
        with self.timeline.batch_update():
            update_timeline(self.timeline, tubes, self.frame.value)
            self.timeline.layout.yaxis.range = _profile_range(tubes)
        for panel, frame in zip(self.panels, frames):
            panel.draw_volume(frame)


def guarded(
    app: Any, handler: Callable[[], None], subject: Callable[[], str] = lambda: ""
) -> Callable[[Any], None]:
    """Return an observer that shows in an app's `note` what goes wrong in a handler, and raises it.

    `subject` says what the handler was at, for the message. Nothing is called while the app is `_quiet`.
    """

    @functools.wraps(handler)
    def observer(_change: Any) -> None:
        if app._quiet:
            return
        try:
            handler()
        except Exception as error:
            text = html.escape(f"{subject()}{type(error).__name__}: {error}")
            app.note.value = f"<b role='alert' style='{_RED}'>{text}</b>"
            raise
        app.note.value = ""

    return observer


def _parts(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    """Yield a widget and all that hang on it: what it holds, children, layouts, styles, links."""
    yield widget
    held = [*vars(widget).values(), *(getattr(widget, key) for key in widget.keys)]
    for value in held:
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, widgets.Widget):
                yield from _parts(part)


def _heading(clip: Clip) -> str:
    label = "" if clip.label is None else f", labelled {html.escape(clip.label)}"
    return f"<b>{html.escape(clip.name or 'a clip')}</b>{label}"


def _verdict(explanation: Explanation) -> str:
    """Return what a network says, and how far its weights are to be believed, as HTML."""
    best = explanation.class_id()
    said = f"<b>{html.escape(explanation.classes[best])}</b> {explanation.probabilities[best]:.1%}"
    where = (
        f"<span style='{_GREY}'>layer {html.escape(explanation.layer)}, {explanation.how}</span>"
    )
    return f"{html.escape(explanation.model or 'the network')} says {said} · {where}"


def _profile_range(tubes: Sequence[Tube]) -> list[float]:
    """Return the timeline's range: in steps, so that it seldom jumps, and with some air above."""
    return [0, math.ceil(10 * max(float(tube.profile.max()) for tube in tubes) + 0.5) / 10]


def _count(tube: Tube) -> str:
    kept = (
        f"all {tube.features}" if tube.kept == tube.features else f"{tube.kept} of {tube.features}"
    )
    return f"keeps {kept} features"


def _names(explanations: Sequence[Explanation]) -> list[str]:
    """Return a name for each explanation, all different."""
    names = [ex.model or "network" for ex in explanations]
    return [f"{name} ({n})" if names.count(name) > 1 else name for n, name in enumerate(names, 1)]


def _number_format(span: float) -> str:
    """Return the format that tells hundredths of a span apart."""
    digits = max(0, 2 - math.floor(math.log10(span)))
    return f".{digits}f" if digits <= 5 else ".2e"
