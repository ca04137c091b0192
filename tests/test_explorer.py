"""The explorer from the kernel's side: what each control changes, and what stays as it is."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ipywidgets.widgets.widget import _instances
from PIL import Image

import workbench as wb
from workbench.models.networks.mfnet import MFNet3d
from workbench.saliency.class_weights import GradientWeights, HeadWeights, RecordedGraph
from workbench.saliency.explanation import Explanation
from workbench.saliency.layouts import Layout


@pytest.fixture(scope="module")
def ex() -> Explanation:
    """A small network of random weights on a clip with boxes."""
    torch.manual_seed(0)
    network = MFNet3d(8, widths=(8, 24, 48, 96, 128), units=(1, 1, 1, 1), groups=4, last_stride=1)
    spec = wb.InputSpec(frames=16, resize=(64, 64))
    model = wb.wrap_model(network, spec, wb.samples.CLASSES, name="small")
    return wb.explain(model, wb.samples.make_clip("stir", size=(60, 80)))


@pytest.fixture
def app(ex: Explanation) -> Iterator[wb.Explorer]:
    app = wb.explore(ex)
    yield app
    app.close()


def made_up(classes: int = 8, channels: int = 12, seed: int = 0, **changes: Any) -> Explanation:
    """An explanation of 8 frames of 24×32, its maps and weights drawn at random."""
    rng = np.random.default_rng(seed)
    maps = torch.tensor(rng.random((channels, 4, 3, 4)), dtype=torch.float32)
    weights = torch.tensor(rng.normal(size=(classes, channels)), dtype=torch.float32)
    clip = wb.Clip(frames=rng.integers(0, 255, (8, 24, 32, 3), dtype=np.uint8), fps=4.0)
    names = [f"class {number:03d}" for number in range(classes)]
    logits = weights @ maps.mean((1, 2, 3))
    made = Explanation(logits, (maps,), head(weights), "layer", clip, names)
    return replace(made, **changes)


def head(weights: torch.Tensor) -> HeadWeights:
    """A head of these class weights (N, C) without a bias."""
    return HeadWeights(weights, torch.zeros(len(weights)), 0.0, (weights.shape[1],))


def shown(app: wb.Explorer) -> dict[str, Any]:
    """What is on the screen."""
    (panel,) = app.panels
    return {
        "picture": panel.picture.value,
        "volume": numbers(panel.volume),
        "timeline": numbers(app.timeline),
    }


def numbers(figure: Any) -> list[bytes]:
    return [
        np.asarray(trace[axis], dtype=np.float32).tobytes()
        for trace in figure.data
        for axis in "xyz"
        if axis in trace
    ]


def decoded(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)), dtype=np.float32)


def set_tau(app: wb.Explorer) -> None:
    app.tau.value = (app.tau.min + app.tau.max) / 2


def set_target(app: wb.Explorer) -> None:
    app.target.value = app.target.options[-1][1]


def set_frame(app: wb.Explorer) -> None:
    app.frame.value = (app.frame.value + 7) % (app.frame.max + 1)


@pytest.mark.parametrize("control", [set_tau, set_target, set_frame])
def test_each_control_changes_everything_in_place(app: wb.Explorer, control: Any) -> None:
    before, figures = shown(app), (app.panels[0].volume, app.timeline)
    sent = []
    for figure in figures:
        figure.observe(
            lambda change: sent.append(change.new),
            ["_py2js_update", "_py2js_relayout", "_py2js_restyle"],
        )
    control(app)
    after = shown(app)
    for part, content in before.items():
        assert after[part] != content, part
    assert (app.panels[0].volume, app.timeline) == figures
    assert len([message for message in sent if message]) == 2  # one a figure: one redraw
    assert not any(
        "camera" in str(message) or "scene" in str(message.get("layout_data"))
        for message in sent
        if message
    )


def test_controls_agree_with_the_explanation(app: wb.Explorer, ex: Explanation) -> None:
    weights = ex.class_weights()
    assert (app.tau.min, app.tau.max) == (float(weights.min()), float(weights.max()))
    assert app.target.value == ex.class_id()
    assert app.frame.value == app.tube.peak[0]
    assert app.tube.tau is None
    assert "all 128" in app.kept.value
    app.tau.value = tau = float(weights.median())
    assert app.tube.kept == int((weights >= tau).sum()) < 128
    assert f"{app.tube.kept} of 128" in app.kept.value
    assert np.array_equal(app.tube.volume, ex.tube(tau=tau).volume)
    app.tau.value = app.tau.max
    assert app.tube.kept == 1
    app.tau.value = app.tau.min
    assert app.tube.tau is None


def test_another_class_keeps_tau_within_its_range(app: wb.Explorer, ex: Explanation) -> None:
    app.target.value = "open"  # by name
    assert app.target.value == ex.class_id("open")
    assert app.tube.label == "open"
    assert app.tube.tau is None  # the left end stays the left end
    assert app.tau.value == app.tau.min == float(ex.class_weights("open").min())
    app.tau.value = app.tau.max
    app.target.value = ex.class_id("stir")
    weights = ex.class_weights("stir")
    assert weights.min() <= app.tau.value <= weights.max()
    assert app.tube.kept == int((weights >= app.tau.value).sum()) >= 1


def test_classes_come_by_probability(app: wb.Explorer, ex: Explanation) -> None:
    labels, numbers = zip(*app.target.options)
    order = ex.probabilities.argsort(descending=True).tolist()
    assert list(numbers) == order
    for label, number in zip(labels, order):
        assert label.strip().split("\u2002") == [
            f"{ex.probabilities[number]:.1%}",
            ex.classes[number],
        ]


def test_400_classes_are_searched() -> None:
    ex = made_up(classes=400)
    app = wb.explore(ex)
    chosen, tube = app.target.value, app.tube
    assert len(app.target.options) == 400
    app.search.value = "  CLASS 01"
    found = {number for _, number in app.target.options}
    assert found == {*range(10, 20), chosen}
    assert app.target.value == chosen
    assert app.tube is tube  # a search draws nothing
    app.target.value = 17
    assert app.tube.label == "class 017"
    app.search.value = "no such"
    assert [number for _, number in app.target.options] == [17]
    app.search.value = ""
    assert len(app.target.options) == 400
    assert app.target.value == 17


@pytest.mark.parametrize("view", ["heat", "focus", "original"])
def test_pictures_are_the_overlays(app: wb.Explorer, ex: Explanation, view: str) -> None:
    app.boxes.value = False
    app.view.value = view
    app.opacity.value = 0.3
    app.frame.value = 5
    whole = {
        "heat": wb.heat(ex.clip, app.tube, 0.3),
        "focus": wb.focus(ex.clip, app.tube),
        "original": ex.clip.frames,
    }
    picture = decoded(app.panels[0].picture.value)
    expected = Image.fromarray(whole[view][5]).resize(
        picture.shape[1::-1], Image.Resampling.BICUBIC
    )
    assert picture.shape == (384, 384, 3)
    assert np.abs(picture - np.asarray(expected, dtype=np.float32)).mean() < 3  # JPEG
    assert app.opacity.disabled == (view != "heat")


def test_boxes_are_drawn_at_their_place(app: wb.Explorer, ex: Explanation) -> None:
    app.view.value = "original"
    app.frame.value = int(np.isfinite(ex.clip.shown_boxes).all(-1).argmax())
    with_box = decoded(app.panels[0].picture.value)
    app.boxes.value = False
    changed = np.abs(decoded(app.panels[0].picture.value) - with_box).max(-1) > 60
    rows, columns = np.nonzero(changed)
    box = ex.clip.shown_boxes[app.frame.value] * 384 / 64
    assert (
        np.abs(np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) - box).max()
        < 5
    )


def test_the_users_camera_stays(app: wb.Explorer) -> None:
    volume = app.panels[0].volume
    camera = {"eye": {"x": 0.1, "y": -2.5, "z": 0.3}}
    volume._js2py_relayout = {
        "relayout_data": {"scene.camera": camera},
        "source_view_id": "view",
    }  # as the browser
    for control in (set_tau, set_target, set_frame):
        control(app)
    assert volume.layout.scene.camera.eye.to_plotly_json() == camera["eye"]


def test_a_click_in_the_timeline_goes_to_the_frame(app: wb.Explorer) -> None:
    points = {"trace_indexes": [0], "point_indexes": [3], "xs": [0.0], "ys": [0.0]}
    app.timeline._js2py_pointsCallback = {
        "event_type": "plotly_click", "points": points, "device_state": None, "selector": None,
    }  # fmt: skip
    assert app.frame.value == 3


def test_show_sets_all_at_once(app: wb.Explorer, ex: Explanation) -> None:
    app.search.value = "stir"
    app.show(target="open", tau=0.0, frame=3)
    assert (app.tube.label, app.tube.tau, app.frame.value) == ("open", 0.0, 3)
    assert app.search.value == ""
    app.show(tau=-math.inf)
    assert (app.tube.label, app.tube.tau, app.frame.value) == ("open", None, 3)
    assert repr(app) == f"<Explorer of small on {ex.clip.name}: 'open', τ = all, frame 3>"
    before = shown(app)
    for wrong, error in (({"target": "fly"}, KeyError), ({"target": 8}, IndexError), ({"frame": 16}, ValueError),
                         ({"tau": math.nan}, ValueError)):  # fmt: skip
        with pytest.raises(error):
            app.show(**wrong)
    assert shown(app) == before


def test_errors_are_shown_and_raised(app: wb.Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no <memory>")

    tube = app.tube
    with monkeypatch.context() as broken:
        broken.setattr(Explanation, "tube", fail)
        with pytest.raises(RuntimeError, match="no <memory>"):
            set_tau(app)
    assert "RuntimeError: no &lt;memory&gt;" in app.note.value
    assert app.tube is tube
    app.tau.value = app.tau.max
    assert app.note.value == ""
    assert app.tube.kept == 1


def test_what_cannot_be_drawn_is_refused() -> None:
    weights = made_up().weights
    assert weights is not None
    broken = weights.clone()
    broken[2, 3] = math.nan
    app = wb.explore(made_up(weighting=head(broken)))
    with pytest.raises(ValueError, match="class 002"):
        app.target.value = 2
    assert "NaN" in app.note.value
    app.target.value = 1
    assert (app.note.value, app.tube.label) == ("", "class 001")
    with pytest.raises(ValueError, match="NaN"):
        wb.explore(made_up(weighting=head(weights * math.nan)))


def test_equal_weights_leave_nothing_to_choose() -> None:
    app = wb.explore(made_up(weighting=head(torch.ones(8, 12))))
    assert app.tau.disabled
    assert app.tube.kept == 12
    app.target.value = 3
    assert app.tube.tau is None


@pytest.mark.parametrize(
    ("span", "expected"), [(1e-7, ".2e"), (0.05, ".4f"), (1, ".2f"), (700, ".0f")]
)
def test_tau_is_printed_to_a_hundredth_of_its_range(span: float, expected: str) -> None:
    weights = span * torch.linspace(0, 1, 12).repeat(8, 1)
    assert wb.explore(made_up(weighting=head(weights))).tau.readout_format == expected


def test_weights_from_gradients() -> None:
    maps = torch.rand(1, 6, 4, 3, 4, requires_grad=True)
    logits = (maps**2).mean((2, 3, 4))
    graph = RecordedGraph(logits, ([maps],), (Layout("n c t h w", (4, 3, 4)),))
    own = (maps.detach()[0],)
    weighting = GradientWeights("gradient", graph, 0, own)
    ex = made_up(classes=6, channels=6, logits=logits.detach()[0], maps=own, weighting=weighting)
    app = wb.explore(ex)
    said = []
    app.note.observe(lambda change: said.append(change.new), "value")
    app.target.value = 4
    assert "gradients of class 004" in said[0]
    assert app.note.value == ""
    assert app.tau.max == float(ex.class_weights(4).max())
    assert "gradient weights" in app.panels[0].caption.value


def test_two_explanations_side_by_side() -> None:
    first = made_up(model="3-D")
    other = made_up(channels=24, seed=1, model="2-D")
    assert other.weights is not None
    turned = replace(  # the same classes in another order, and every second frame
        other,
        classes=other.classes[::-1],
        clip=first.clip.select(range(0, 8, 2)),
        weighting=head(other.weights.flip(0)),
    )
    app = wb.explore([first, turned])
    app.target.value = "class 005"
    assert [panel.tube.label for panel in app.panels] == ["class 005"] * 2
    app.tau.value = float(first.class_weights("class 005").sort().values[-3])  # a quarter of 12
    assert [panel.tube.kept for panel in app.panels] == [3, 6]
    app.frame.value = 6
    rims = [trace for panel in app.panels for trace in panel.volume.data if trace.meta == "rim"]
    assert [float(rim.x[0]) for rim in rims] == [1.5, 1.5]
    assert [trace.name for trace in app.timeline.data if trace.meta == "tube"] == ["3-D", "2-D"]
    assert repr(app).startswith("<Explorer of 3-D and 2-D: 'class 005', τ = ")


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="same classes; 1 are not in both, as 'class 008'"):
        wb.explore([made_up(), made_up(classes=9)])
    with pytest.raises(ValueError, match="got none"):
        wb.explore([])
    with pytest.raises(ValueError, match="got str"):
        wb.explore(["ex"])  # type: ignore[list-item]


def test_hostile_names_are_text(app: wb.Explorer) -> None:
    ex = made_up()
    ex.classes[ex.class_id()] = "<img src=x onerror=alert(1)>"
    caption = (
        wb.explore(replace(ex, model="<b>", clip=replace(ex.clip, name="<i>", label="<u>")))
        .panels[0]
        .caption
    )
    assert not any(tag in caption.value for tag in ("<img", "<i>", "<u>"))


def test_nothing_given_is_changed(ex: Explanation) -> None:
    before = ex.activations.clone(), ex.clip.frames.copy(), ex.logits.clone()
    app = wb.explore(ex)
    for control in (set_tau, set_target, set_frame):
        control(app)
    app.close()
    after = ex.activations, ex.clip.frames, ex.logits
    assert all(np.array_equal(a, b) for a, b in zip(before, after))


def test_close_frees_the_widgets() -> None:
    before = set(_instances)
    app = wb.explore(made_up())
    assert set(_instances) > before
    app.close()
    assert set(_instances) <= before


def test_another_view_begins_with_what_is_there(app: wb.Explorer) -> None:
    set_tau(app)
    app._repr_mimebundle_()  # what Jupyter asks for when the explorer is shown in another cell
    assert np.array_equal(app.timeline._widget_data[0]["y"], app.tube.profile)


@pytest.mark.parametrize("kind", ["gradient", "gradient++", "layer"])
def test_every_kind_of_weights_can_be_explored(kind: str) -> None:
    model = wb.load_model("samples/mfnet", device="cpu")
    ex = wb.explain(model, wb.samples.make_clip("stir", seed=4), weights=kind)
    app = wb.explore(ex)
    app.tau.value = float(ex.channel_weights(app.target.value).quantile(0.75))
    assert app.tube.kept == 32
    assert f"{kind} weights" in app.panels[0].caption.value
    app.close()
