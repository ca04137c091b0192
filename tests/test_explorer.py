"""The explorer from the kernel's side: what each control changes, what is sent, and what goes wrong."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from ipywidgets.widgets.widget import _instances
from nbconvert import HTMLExporter
from PIL import Image

import workbench as wb
from workbench.models.networks.mfnet import MFNet3d
from workbench.saliency.tubes import tau_for_share
from workbench.views.explorer.packing import TOP, payload
from workbench.views.explorer.widget import plotly_code


@pytest.fixture(scope="module")
def ex() -> wb.Explanation:
    """A small network of random weights on a clip with boxes."""
    torch.manual_seed(0)
    network = MFNet3d(8, widths=(8, 24, 48, 96, 128), units=(1, 1, 1, 1), groups=4, last_stride=1)
    spec = wb.InputSpec(frames=16, resize=(64, 64))
    model = wb.wrap_model(network, spec, wb.samples.CLASSES, name="small")
    return wb.explain(model, wb.samples.make_clip("stir", size=(60, 80)))


@pytest.fixture
def app(ex: wb.Explanation) -> Iterator[wb.Explorer]:
    app = wb.explore(ex)
    yield app
    app.close()


class Small(torch.nn.Module):
    """A convolution, average pooling and a linear head, with random weights."""

    def __init__(self, classes: int, channels: int, patch: int = 8) -> None:
        super().__init__()
        kernel = (2, patch, patch)
        self.body = torch.nn.Conv3d(3, channels, kernel, stride=kernel)
        self.head = torch.nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu().mean((2, 3, 4)))


def made_up(
    classes: int = 8,
    channels: int = 12,
    seed: int = 0,
    name: str = "small",
    weights: torch.Tensor | None = None,
    names: list[str] | None = None,
    frames: int = 8,
    kind: str | None = None,
    **clip: Any,
) -> wb.Explanation:
    """An explanation of frames of 24×32, 4 a second, by a network of random weights."""
    torch.manual_seed(seed)
    network = Small(classes, channels)
    with torch.no_grad():
        network.head.weight.normal_() if weights is None else network.head.weight.copy_(weights)
    spec = wb.InputSpec(frames=frames, resize=(24, 32))
    names = names or [f"class {number:03d}" for number in range(classes)]
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, 24, 32, 3), dtype=np.uint8)
    made = wb.Clip(frames=pixels, fps=4.0, **clip)
    return wb.explain(wb.wrap_model(network, spec, names, name=name), made, weights=kind)


def sent(app: wb.Explorer) -> dict[str, Any]:
    """What the view in the browser is told of the controls."""
    app._repr_mimebundle_()  # what Jupyter asks for when the explorer is shown
    names = ("choice", "tau", "frame", "feature", "mode", "opacity", "boxes", "search")
    return {name: getattr(app.screen, name) for name in names}


def ask(app: wb.Explorer, question: dict[str, Any], buffers: Any = ()) -> tuple[dict, list[bytes]]:
    """Ask as the browser does, and return the answer."""
    answers: list[Any] = []
    app.screen.send = lambda content, buffers=None: answers.append((content, buffers or []))
    try:
        app.screen._handle_custom_msg({**question, "id": "7"}, list(buffers))
    finally:
        del app.screen.send
    ((content, parts),) = answers
    assert content["id"] == "7"
    return content, parts


def set_tau(app: wb.Explorer) -> None:
    app.tau.value = (app.tau.min + app.tau.max) / 2


def set_target(app: wb.Explorer) -> None:
    app.target.value = app.target.options[-1][1]


def set_frame(app: wb.Explorer) -> None:
    app.frame.value = (app.frame.value + 7) % (app.frame.max + 1)


def test_controls_agree_with_the_explanation(app: wb.Explorer, ex: wb.Explanation) -> None:
    weights = ex.class_weights()
    assert (app.tau.min, app.tau.max) == (float(weights.min()), float(weights.max()))
    assert app.target.value == ex.class_id()
    assert app.frame.value == app.tube.peak[0]
    assert app.tube.tau is None
    app.tau.value = tau = float(weights.median())
    assert app.tube.kept == int((weights >= tau).sum()) < 128
    assert np.array_equal(app.tube.volume, ex.tube(tau=tau).volume)
    app.tau.value = app.tau.max
    assert app.tube.kept == 1
    app.tau.value = app.tau.min
    assert app.tube.tau is None


def test_the_view_follows_the_controls(app: wb.Explorer, ex: wb.Explanation) -> None:
    app.target.value = "open"
    app.tau.value = 0.01
    app.frame.value = 3
    app.view.value, app.opacity.value, app.boxes.value = "contour", 0.3, False
    app.search.value = "ope"
    order = ex.logits.argsort(descending=True).tolist()
    assert sent(app) == {
        "choice": order.index(ex.class_id("open")), "tau": 0.01, "frame": 3, "feature": None,
        "mode": "contour", "opacity": 0.3, "boxes": False, "search": "ope",
    }  # fmt: skip


@pytest.mark.parametrize(("control", "name"), [("tau", "value"), ("frame", "value")])
def test_sliders_are_linked_in_the_browser(app: wb.Explorer, control: str, name: str) -> None:
    sources = [link.source for link in app._links]
    assert (getattr(app, control), name) in sources
    assert all(link.target[0] is app.screen for link in app._links)


def test_a_class_and_its_tau_arrive_together(app: wb.Explorer) -> None:
    app.unit.value = "share"
    first = app.explanations[0]
    name = first.classes[app._order[2]]
    weights = first.channel_weights(name)
    for share in (1.0, 0.5, 0.01):
        app.screen.set_state({"choice": 0, "tau": float(first.channel_weights().min())})
        tau = float(weights.min()) if share == 1 else tau_for_share(weights, share)
        # In one message of the browser, which has fitted τ to the new class
        app.screen.set_state({"tau": tau, "choice": 2})
        assert first.classes[app.target.value] == name
        assert (app.tau.min, app.tau.value) == (float(weights.min()), tau)
        assert app.tube.label == name
        assert app.tube.kept == int((weights >= tau).sum())


@pytest.mark.parametrize("control", [set_tau, set_target, set_frame])
def test_no_control_sends_maps_or_pictures_again(app: wb.Explorer, control: Any) -> None:
    changed: list[str] = []
    app.screen.observe(lambda change: changed.append(change.name))
    control(app)
    sent(app)
    assert changed
    assert not {"explanations", "colormaps", "plotly"} & set(changed)


def test_the_browser_moves_the_controls(app: wb.Explorer, ex: wb.Explanation) -> None:
    """What jslink does in the browser arrives as new values of the controls."""
    app.target.set_state({"index": 2})
    assert app.tube.label == ex.classes[ex.logits.argsort(descending=True)[2]]
    app.tau.set_state({"value": app.tau.max})
    assert app.tube.kept == 1


def test_another_class_keeps_tau_within_its_range(app: wb.Explorer, ex: wb.Explanation) -> None:
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


def test_in_share_units_another_class_keeps_the_share(app: wb.Explorer, ex: wb.Explanation) -> None:
    app.unit.value = "share"
    app.tau.value = float(ex.class_weights().sort().values[-32])
    assert app.tube.kept == 32
    app.target.value = "open"
    assert app.tube.kept == 32


def test_classes_come_by_probability(app: wb.Explorer, ex: wb.Explanation) -> None:
    labels, numbers = zip(*app.target.options)
    order = ex.probabilities.argsort(descending=True).tolist()
    assert list(numbers) == order
    for label, number in zip(labels, order):
        assert label == f"{ex.probabilities[number]:.1%} {ex.classes[number]}"


def test_a_single_feature_is_shown_alone_until_the_class_changes(
    app: wb.Explorer, ex: wb.Explanation
) -> None:
    app.show_feature(5)
    assert np.array_equal(app.tube.volume, ex.feature_tube(5).volume)
    app.target.value = "open"
    assert (app.screen.feature, app.tube.label) == (None, "open")
    with pytest.raises(IndexError, match="128 channels"):
        app.show_feature(128)


def test_show_sets_all_at_once(app: wb.Explorer, ex: wb.Explanation) -> None:
    app.show(target="open", tau=0.0, frame=3)
    assert (app.tube.label, app.tube.tau, app.frame.value) == ("open", 0.0, 3)
    app.show(tau=-math.inf)
    assert (app.tube.label, app.tube.tau, app.frame.value) == ("open", None, 3)
    assert repr(app) == f"<Explorer of small on {ex.clip.name}: 'open', τ = all, frame 3>"
    before = sent(app)
    for wrong, error in (({"target": "fly"}, KeyError), ({"target": 8}, IndexError), ({"frame": 16}, ValueError),
                         ({"tau": math.nan}, ValueError)):  # fmt: skip
        with pytest.raises(error):
            app.show(**wrong)
    assert sent(app) == before


def test_the_code_recreates_the_view(app: wb.Explorer, ex: wb.Explanation) -> None:
    app.unit.value = "share"
    app.show(target="open", tau=0.02, frame=3)
    app.view.value, app.colormap.value, app.screen.low = "focus", "viridis", 0.25
    app.show_feature(7)
    names: dict[str, Any] = {"ex": ex}
    exec(app.code(), names)
    again = names["app"]
    assert sent(again) == sent(app)
    assert (again.unit.value, again.colormap.value, again.screen.low) == ("share", "viridis", 0.25)
    assert np.array_equal(again.tube.volume, app.tube.volume)
    again.close()


def test_what_cannot_be_drawn_is_refused() -> None:
    broken = made_up()
    assert broken.weights is not None
    choices = broken.logits.argsort(descending=True).tolist()
    bad, good = choices[1:3]
    broken.weights[bad, 3] = math.nan
    app = wb.explore(broken)
    with pytest.raises(ValueError, match=broken.classes[bad]):
        app.target.value = bad
    assert "NaN" in app.note
    app.target.value = good
    assert (app.note, app.tube.label) == ("", broken.classes[good])
    broken.weights[:] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        wb.explore(broken)


def test_equal_weights_leave_nothing_to_choose() -> None:
    app = wb.explore(made_up(weights=torch.ones(8, 12)))
    assert app.tau.disabled
    assert app.tube.kept == 12
    app.target.value = 3
    assert app.tube.tau is None


@pytest.mark.parametrize(
    ("span", "expected"), [(1e-7, ".2e"), (0.05, ".4f"), (1, ".2f"), (700, ".0f")]
)
def test_tau_is_printed_to_a_hundredth_of_its_range(span: float, expected: str) -> None:
    weights = span * torch.linspace(0, 1, 12).repeat(8, 1)
    assert wb.explore(made_up(weights=weights)).tau.readout_format == expected


def test_gradients_of_ten_classes_are_sent_and_others_on_demand() -> None:
    ex = made_up(classes=20, kind="gradient")
    app = wb.explore(ex)
    (given,) = app.screen.explanations
    order = ex.logits.argsort(descending=True).tolist()
    assert given["weights"] is None
    assert [int(target) for target in given["rows"]] == order[:TOP]
    target = order[-1]
    _, (weights,) = ask(app, {"kind": "weights", "number": 0, "target": target})
    assert np.array_equal(np.frombuffer(weights, np.float32), ex.class_weights(target).numpy())
    app.target.value = target
    assert app.tau.max == float(ex.class_weights(target).max())


def test_a_question_that_fails_is_answered_with_the_error(app: wb.Explorer) -> None:
    answers: list[Any] = []
    app.screen.send = lambda content, buffers=None: answers.append(content)
    with pytest.raises(IndexError):
        app._answer(None, {"kind": "weights", "number": 0, "target": 99, "id": "3"}, [])
    assert answers[0]["id"] == "3"
    assert answers[0]["error"].startswith("IndexError: class id 99")


@pytest.mark.parametrize(("suffix", "start"), [(".mp4", b"ftyp"), (".gif", b"GIF8")])
def test_pictures_of_the_browser_become_a_video(
    app: wb.Explorer, suffix: str, start: bytes
) -> None:
    pictures = []
    for frame in app.explanations[0].clip.frames:
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "JPEG")
        pictures.append(memoryview(stream.getvalue()))
    _, (video,) = ask(app, {"kind": "video", "suffix": suffix}, pictures)
    assert start in video[:12]


def test_two_explanations_side_by_side() -> None:
    first = made_up(name="3-D")
    names = [f"class {number:03d}" for number in range(8)][::-1]
    other = made_up(channels=24, seed=1, name="2-D", names=names)
    app = wb.explore([first, other])
    app.target.value = "class 005"
    assert [tube.label for tube in app.tubes] == ["class 005"] * 2
    app.tau.value = float(first.class_weights("class 005").sort().values[-3])  # a quarter of 12
    assert [tube.kept for tube in app.tubes] == [3, 6]
    assert repr(app).startswith("<Explorer of 3-D and 2-D: 'class 005', τ = ")


def test_what_cannot_be_compared_is_refused() -> None:
    one = made_up()
    with pytest.raises(ValueError, match="same classes; 1 are not in both, as 'class 008'"):
        wb.explore([one, made_up(classes=9)])
    with pytest.raises(ValueError, match="got none"):
        wb.explore([])
    with pytest.raises(ValueError, match="got str"):
        wb.explore(["ex"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="at most 4 explanations, got 5"):
        wb.explore([one] * 5)
    with pytest.raises(ValueError, match="only with a data set"):
        wb.explore(one, wb.load_model("samples/mfnet"))


def test_nothing_given_is_changed(ex: wb.Explanation) -> None:
    before = ex.activations.clone(), ex.clip.frames.copy(), ex.logits.clone()
    app = wb.explore(ex)
    for control in (set_tau, set_target, set_frame):
        control(app)
    app.close()
    after = ex.activations, ex.clip.frames, ex.logits
    assert all(np.array_equal(a, b) for a, b in zip(before, after))


def test_close_frees_the_widgets() -> None:
    plotly_code()  # stays for the next explorer
    before = set(_instances)
    app = wb.explore(made_up())
    assert set(_instances) > before
    app.close()
    assert set(_instances) <= before


def test_plotly_is_held_once() -> None:
    apps = [wb.explore(made_up()) for _ in range(2)]
    assert apps[0].screen.plotly is apps[1].screen.plotly


def test_without_a_kernel_there_is_a_picture(app: wb.Explorer) -> None:
    bundle = app._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.width > 600
    assert np.asarray(picture).std() > 20


def test_nbconvert_shows_the_picture(app: wb.Explorer) -> None:
    output = nbformat.v4.new_output("display_data", app._repr_mimebundle_())
    cell = nbformat.v4.new_code_cell("app", outputs=[output])
    page, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert output["data"]["image/png"][:200] in page.replace("\n", "")
    assert "widget-view+json" not in page


def test_a_page_is_one_small_file_that_loads_nothing(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    ex = made_up(names=[hostile, *"abcdefg"], path=Path("<b>.mp4"))
    page = wb.save_page([ex, ex], tmp_path / "new" / "tube.html").read_text("utf-8")
    assert len(page) < 4e6
    assert page.count("</script>") == 3
    assert "<img" not in page
    assert "<b>" not in page
    assert not any(f'{attribute}="http' in page for attribute in ("src", "href"))
    with pytest.raises(ValueError, match=r"ending in \.html"):
        wb.save_page(ex, tmp_path / "tube.htlm")


def test_a_page_of_two_networks_of_mfnets_size_is_below_8_mb(tmp_path: Path) -> None:
    clip = wb.samples.make_clip("stir", size=(224, 224))
    spec = wb.InputSpec(frames=16, resize=(224, 224))
    explanations = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = Small(400, 768, patch=32)
        names = [f"class {number}" for number in range(400)]
        explanations.append(wb.explain(wb.wrap_model(network, spec, names), clip))
    assert explanations[0].activations.shape == (768, 8, 7, 7)
    assert wb.save_page(explanations, tmp_path / "tube.html").stat().st_size < 8e6


class PerFrame(torch.nn.Module):
    """An answer (classes,) for each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv3d(3, 12, (1, 8, 8), (1, 8, 8))
        self.head = torch.nn.Conv3d(12, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = torch.nn.functional.elu(self.stem(x))
        return self.head(maps.mean((3, 4), keepdim=True))[..., 0, 0]


def test_answers_over_time_are_sent(ex: wb.Explanation) -> None:
    assert payload(ex)["answers"] is None  # one answer for the clip
    torch.manual_seed(0)
    model = wb.wrap_model(PerFrame(), wb.InputSpec(frames=8, resize=(24, 32)))
    clip = made_up().clip
    per_frame = wb.explain(model, clip)
    answers = payload(per_frame)["answers"]
    assert answers["times"] == clip.times.tolist()
    values = np.frombuffer(answers["values"], np.float32).reshape(8, 4)
    assert np.array_equal(values, per_frame.answer_probabilities.numpy())


@pytest.mark.parametrize("kind", ["gradient", "gradient++", "layer"])
def test_every_kind_of_weights_can_be_explored(kind: str) -> None:
    model = wb.load_model("samples/mfnet", device="cpu")
    ex = wb.explain(model, wb.samples.make_clip("stir", seed=4), weights=kind)
    app = wb.explore(ex)
    app.tau.value = float(ex.channel_weights(app.target.value).quantile(0.75))
    assert app.tube.kept == 32
    assert f"{kind} weights" in app.screen.explanations[0]["how"]
    app.close()
