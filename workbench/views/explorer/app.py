"""The explorer: an explanation under class, τ and frame, drawn in the browser.

The controls are ipywidgets, linked to the view in the browser, so that no slider waits for the
kernel; the view draws controls of its own, so that a saved page has the same ones. `Explorer.tube`
is computed from the controls when it is asked for: a cell that sets `app.tau.value` reads the new
tube in its next line.
"""

from __future__ import annotations

import base64
import functools
import io
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets
from PIL import Image

from ...clips.clip import Clip
from ...clips.writing import save_video
from ...saliency.explanation import Explanation
from ...saliency.tubes import Tube, tau_for_share
from ..overlays import heat
from ..pictures import filmstrip
from .packing import COLORMAPS, color_tables, payload, row
from .page import page_bytes
from .widget import TubeView, plotly_code

__all__ = ["MODES", "Explorer"]

MODES = ("heat", "focus", "contour", "original")

_STEPS = 200  # of the τ slider; tube_view.js has the same number
_STILL = 6  # frames of the picture that stands for the explorer where there is no kernel


class Explorer(widgets.VBox):
    """Class, τ and frame as controls, and the views that follow them. Made by `explore`.

    Several explanations share the controls: classes are matched by name, frames by time, and each
    keeps the same share of its features, since the weights of two networks have no common unit.

    Attributes:
        explanations: what is shown.
        screen: `TubeView`, which draws.
        target: Select; its value is the class id of the first explanation. Takes a class name too.
        tau: FloatSlider over the range of the class's weights; its left end keeps all features.
        frame: IntSlider, 0-based position in the first explanation's clip. Starts at the strongest
            frame.
        search: Text that filters the list of classes.
        view: ToggleButtons, one of "heat", "focus", "contour", "original".
        opacity: FloatSlider, the colours' share in the heat view.
        colormap: Dropdown of the colour scales.
        boxes: Checkbox, whether the clip's annotated boxes are drawn.
        unit: ToggleButtons, whether the τ slider moves in units of the "weight" or in the "share"
            kept.
    """

    def __init__(self, explanations: Sequence[Explanation]) -> None:
        super().__init__(layout={"width": "100%"})
        self.explanations = list(explanations)
        self._first = first = self.explanations[0]
        self._quiet = False
        self._share = 1.0
        self._cached: tuple[Any, list[Tube]] = (None, [])
        payloads = [payload(ex) for ex in self.explanations]
        self._order: list[int] = payloads[0]["order"]
        self._make_controls()
        self._fit_tau()
        self.frame.value = first.tube(self.target.value).peak[0]
        self.screen = TubeView(
            plotly=plotly_code(),
            explanations=payloads,
            colormaps=color_tables(),
            tau=self.tau.value,
            frame=self.frame.value,
            linked=[*self._pairs],
        )
        self._link()
        self.screen.on_msg(self._answer)
        self.children = [self.screen]

    @property
    def tube(self) -> Tube:
        """The tube on the screen; of several, the first explanation's."""
        return self.tubes[0]

    @property
    def tubes(self) -> list[Tube]:
        """The tubes on the screen, one for each explanation."""
        feature, tau, name = self.screen.feature, self._threshold, self._name
        key = (feature, tau, name)
        if key != self._cached[0]:
            self._cached = (key, self._compute(name, tau, feature))
        return list(self._cached[1])

    @property
    def note(self) -> str:
        """The error on the screen, or an empty string."""
        return str(self.screen.note)

    def show(
        self, target: int | str | None = None, tau: float | None = None, frame: int | None = None
    ) -> None:
        """Set several controls. What is None stays as it is.

        Args:
            target: class name or 0-based id.
            tau: clipped to the range of the class's weights: `-math.inf` keeps all.
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
        self.target.value = number
        if tau is not None:
            self._fit_tau(tau)
        if frame is not None:
            self.frame.value = frame

    def show_feature(self, channel: int | None) -> None:
        """Show the tube of a single feature (Fig. 1b), or None: that of the class.

        Raises:
            IndexError: the layer has no such feature.
        """
        if channel is not None:
            self._first.feature_tube(channel)
        self.screen.feature = channel

    def code(self) -> str:
        """Return the lines that recreate this view, given `ex`, or `ex_1`, `ex_2` and so on."""
        count = len(self.explanations)
        names = ["ex"] if count == 1 else [f"ex_{n}" for n in range(1, count + 1)]
        comments = [f"# {name}: {ex!r}" for name, ex in zip(names, self.explanations)]
        given = names[0] if count == 1 else f"[{', '.join(names)}]"
        tau = "-math.inf" if self._threshold is None else repr(self.tau.value)
        lines = [
            "import math",
            "import workbench as wb",
            *comments,
            f"app = wb.explore({given})",
            f"app.unit.value = {self.unit.value!r}",
            f"app.show(target={self._name!r}, tau={tau}, frame={self.frame.value})",
            f"app.view.value = {self.view.value!r}",
            f"app.colormap.value = {self.colormap.value!r}",
            f"app.opacity.value = {self.opacity.value!r}",
            f"app.boxes.value = {self.boxes.value!r}",
            f"app.screen.low, app.screen.high = {self.screen.low!r}, {self.screen.high!r}",
        ]
        if self.screen.compare != "side":
            lines.append(f"app.screen.compare = {self.screen.compare!r}")
        if self.screen.feature is not None:
            lines.append(f"app.show_feature({self.screen.feature})")
        return "\n".join(lines)

    def close(self) -> None:
        """Take the explorer off the screen and free its widgets."""
        for part in [*self._links, self.screen, *self._controls]:
            for name in ("style", "layout"):
                if isinstance(getattr(part, name, None), widgets.Widget):
                    getattr(part, name).close()
            part.close()
        self.layout.close()
        super().close()

    def page(self) -> bytes:
        """Return the view as one HTML file, as `wb.save_page` writes it."""
        self._sync()
        return page_bytes(self.screen)

    def still(self) -> Image.Image:
        """Return a picture of the view: the clip, and the tubes over it, as a filmstrip."""
        rows: list[Any] = [
            self._first.clip,
            *(heat(ex.clip, tube) for ex, tube in self._matching()),
        ]
        many = len(rows) > 2
        labels = ["clip", *(f"tube {n}" if many else "tube" for n in range(1, len(rows)))]
        return Image.fromarray(filmstrip(rows, _STILL, labels=labels, height=120))

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        self._sync()
        bundle = super()._repr_mimebundle_(**kwargs)
        stream = io.BytesIO()
        self.still().save(stream, "PNG", optimize=True)
        picture = base64.b64encode(stream.getvalue()).decode()
        # Without a kernel (GitHub, nbviewer, nbconvert) the picture stands in for the widget.
        return {**bundle, "image/png": picture}

    def __repr__(self) -> str:
        if not hasattr(self, "screen"):
            return "<Explorer>"
        models = " and ".join(_names(self.explanations))
        clip = "" if self._first.clip.name is None else f" on {self._first.clip.name}"
        tau = "all" if self._threshold is None else f"{self._threshold:.3g}"
        return f"<Explorer of {models}{clip}: {self._name!r}, τ = {tau}, frame {self.frame.value}>"

    # Controls

    @property
    def _name(self) -> str:
        return self._first.classes[self.target.value]

    @property
    def _threshold(self) -> float | None:
        """τ of the first explanation; None at the slider's left end, to within its rounding."""
        return self.tau.value if self.tau.value > self.tau.min + 1e-3 * self.tau.step else None

    def _make_controls(self) -> None:
        classes = self._first.classes

        def same(number: int, wanted: int | str) -> bool:
            return number == wanted or classes[number] == wanted

        percent = self._first.probabilities.tolist()
        options = [(f"{percent[i]:.1%} {classes[i]}", i) for i in self._order]
        self.target = widgets.Select(options=options, value=self._order[0], equals=same)
        self.tau = widgets.FloatSlider(description="τ")
        last = len(self._first.clip) - 1
        self.frame = widgets.IntSlider(description="frame", min=0, max=last)
        self.search = widgets.Text(placeholder=f"search {len(classes)} classes")
        self.view = widgets.ToggleButtons(options=MODES)
        self.opacity = widgets.FloatSlider(
            value=0.5, min=0, max=1, step=0.05, description="opacity"
        )
        self.colormap = widgets.Dropdown(options=COLORMAPS, description="colours")
        self.boxes = widgets.Checkbox(value=True, description="boxes", indent=False)
        self.unit = widgets.ToggleButtons(options=("weight", "share"))
        self._controls = [
            self.target, self.tau, self.frame, self.search, self.view, self.opacity, self.colormap,
            self.boxes, self.unit,
        ]  # fmt: skip
        self._pairs = {  # the view's traits, and what they follow
            "tau": (self.tau, "value"),
            "frame": (self.frame, "value"),
            "search": (self.search, "value"),
            "opacity": (self.opacity, "value"),
            "boxes": (self.boxes, "value"),
        }

    def _link(self) -> None:
        """Tie the controls to the view: in the browser, so that no slider waits for the kernel."""
        # Tied in the kernel as well, late messages of the browser would turn its view back.
        self._links = [
            widgets.jslink((control, name), (self.screen, trait))
            for trait, (control, name) in self._pairs.items()
        ]
        # A choice among strings travels to the browser as a number: these are tied in the kernel.
        for trait, control in {
            "mode": self.view,
            "colormap": self.colormap,
            "unit": self.unit,
        }.items():
            traitlets.link((control, "value"), (self.screen, trait))
        # The class arrives with its τ in one message: the kernel may take several in any order.
        self.screen.observe(guarded(self, self._on_choice), "choice")
        self.target.observe(guarded(self, self._on_target), "value")
        self.tau.observe(guarded(self, self._on_tau), "value")

    def _sync(self) -> None:
        """Bring the view up to the controls, for when no browser has done so."""
        for trait, (control, name) in self._pairs.items():
            setattr(self.screen, trait, getattr(control, name))

    def _on_choice(self) -> None:
        self.target.index = self.screen.choice

    def _on_target(self) -> None:
        # A class that the browser has chosen is the view's already, and τ is fitted to it.
        chosen_there = self.screen.choice == self.target.index
        self.screen.feature = None
        self.screen.choice = self.target.index
        self._fit_tau(self.screen.tau if chosen_there else None)

    def _on_tau(self) -> None:
        weights = self._first.channel_weights(self.target.value)
        tau = self._threshold
        self._share = 1.0 if tau is None else float((weights >= tau).float().mean())

    def _fit_tau(self, tau: float | None = None) -> None:
        """Give τ the range of the class's weights, and a value in it.

        If no value is given, the left end stays the left end; else the share stays, or τ.

        Raises:
            ValueError: a weight is not finite.
        """
        weights = self._first.channel_weights(self.target.value)
        if not weights.isfinite().all():
            raise ValueError(f"the class weights of {self._name!r} hold NaN or infinite values")
        low, high = float(weights.min()), float(weights.max())
        if tau is None and self._share < 1:
            by_share = self.unit.value == "share"
            tau = tau_for_share(weights, self._share) if by_share else self.tau.value
        span = (high - low) or 1.0  # equal weights: a slider needs some range even so
        with quietly(self):
            self.tau.disabled = low == high
            self.tau.readout_format, self.tau.step = _number_format(span), span / _STEPS
            self.tau.max = max(self.tau.max, low + span)  # a slider refuses an inverted range
            self.tau.min = low
            self.tau.max = high if high > low else low + span
            self.tau.value = low if tau is None else min(max(tau, low), high)
        self._on_tau()

    def _compute(self, name: str, tau: float | None, feature: int | None) -> list[Tube]:
        weights = [ex.channel_weights(name) for ex in self.explanations]
        taus = [tau] * len(weights)
        if tau is not None:
            share = float((weights[0] >= tau).float().mean())
            taus[1:] = [tau_for_share(others, share) for others in weights[1:]]
        tubes = [ex.tube(name, own) for ex, own in zip(self.explanations, taus)]
        if feature is not None:
            tubes[0] = self._first.feature_tube(feature)
        return tubes

    def _matching(self) -> list[tuple[Explanation, Tube]]:
        """Return the explanations whose frames have the shape of the first one's."""
        shape = self._first.clip.frames.shape
        pairs = zip(self.explanations, self.tubes)
        return [(ex, tube) for ex, tube in pairs if ex.clip.frames.shape == shape]

    # Questions of the browser

    def _answer(self, _view: Any, question: dict[str, Any], buffers: list[memoryview]) -> None:
        """Answer a message of `tube_view.js`: weights of a class, a video, or the saved page."""
        answers: dict[str, Callable[..., tuple[dict[str, Any], list[bytes]]]] = {
            "weights": self._weights,
            "video": self._video,
            "page": self._page,
        }
        name = {"id": question.get("id")}
        try:
            content, sent = answers[question["kind"]](question, buffers)
        except Exception as error:
            self.screen.send({**name, "error": f"{type(error).__name__}: {error}"})
            raise
        self.screen.send({**name, **content}, sent)

    def _weights(self, question: dict[str, Any], _: Any) -> tuple[dict[str, Any], list[bytes]]:
        sent = row(self.explanations[question["number"]], question["target"])
        elements = sent.get("elements", [])
        return {"scale": sent.get("scale"), "elements": len(elements)}, [sent["weights"], *elements]

    def _video(
        self, question: dict[str, Any], buffers: list[memoryview]
    ) -> tuple[dict[str, Any], list[bytes]]:
        frames = np.stack([np.asarray(Image.open(io.BytesIO(each))) for each in buffers])
        clip = Clip(frames, fps=self._first.clip.fps, times=self._first.clip.times)
        with tempfile.TemporaryDirectory() as folder:
            path = save_video(Path(folder) / f"clip{question['suffix']}", clip)
            return {}, [path.read_bytes()]

    def _page(self, _question: Any, _: Any) -> tuple[dict[str, Any], list[bytes]]:
        return {}, [self.page()]


@contextmanager
def quietly(app: Any) -> Iterator[None]:
    """Change an app's controls without calling their handlers."""
    before, app._quiet = app._quiet, True
    try:
        yield
    finally:
        app._quiet = before


def guarded(
    app: Any, handler: Callable[[], None], subject: Callable[[], str] = lambda: ""
) -> Callable[[Any], None]:
    """Return an observer that shows on an app's screen what goes wrong in a handler, and raises it.

    `subject` names what the handler works on, for the message. Nothing is called while the app is
    `_quiet`.
    """

    @functools.wraps(handler)
    def observer(_change: Any) -> None:
        if app._quiet:
            return
        try:
            handler()
        except Exception as error:
            app.screen.note = f"{subject()}{type(error).__name__}: {error}"
            raise
        app.screen.note = ""

    return observer


def _names(explanations: Sequence[Explanation]) -> list[str]:
    """Return a name for each explanation, all different."""
    names = [ex.model or "network" for ex in explanations]
    return [f"{name} ({n})" if names.count(name) > 1 else name for n, name in enumerate(names, 1)]


def _number_format(span: float) -> str:
    """Return the format that tells hundredths of a span apart."""
    digits = max(0, 2 - math.floor(math.log10(span)))
    return f".{digits}f" if digits <= 5 else ".2e"
