"""The explorer: an explanation under three controls, in JupyterLab.

`explore` shows class, τ and frame as controls, and below them the overlay, the volume and the timeline, which
change together. Everything is drawn from the explanation: no control runs the network.

- A control's handler draws before it returns, so a notebook cell that sets `app.tau.value` reads the new
  `app.tube` in its next line. Dragging piles up no work: ipywidgets holds back a slider's next value until
  the kernel is done with the last one.
- Figures are made once and changed in place. Nothing here writes a camera.
- A handler that fails shows its error in the explorer and raises it: in the cell that set the control, or in
  JupyterLab's log where it was moved by hand. The controls keep working.
"""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets
import numpy as np

from ..clips.clip import Clip
from ..saliency.explanations import Explanation
from ..saliency.tubes import Tube, tau_for_share
from .panels import ROOM, VIEWS, FigureWidget, Fit, Panel
from .volumes import timeline_figure, update_timeline

__all__ = ["Explorer", "explore"]

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


def explore(explanation: Explanation | Sequence[Explanation]) -> Explorer:
    """Show an explanation in JupyterLab, or several side by side under the same controls.

    Args:
        explanation: from `wb.explain`; several must name the same classes.

    Returns:
        An `Explorer`, an ipywidgets box: the last line of a cell shows it.

    Raises:
        ValueError: no explanation, or several that name different classes.
    """
    explanations = [explanation] if isinstance(explanation, Explanation) else list(explanation)
    if not explanations or not all(isinstance(ex, Explanation) for ex in explanations):
        got = ", ".join(type(ex).__name__ for ex in explanations) or "none"
        raise ValueError(f"expected an Explanation or several, from wb.explain; got {got}")
    for other in explanations[1:]:
        odd = set(explanations[0].classes) ^ set(other.classes)
        if odd:
            raise ValueError(
                f"expected explanations of the same classes; {len(odd)} are not in both, as {min(odd)!r}. "
                "Give the models the same classes="
            )
    return Explorer(explanations)


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
