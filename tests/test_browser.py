"""The browser from the kernel's side: what a pick shows, what is offered, and what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from ipywidgets.widgets.widget import _instances

import workbench as wb
from workbench.models.networks.mfnet import MFNet3d
from workbench.models.video_model import VideoModel
from workbench.saliency.explanation import Explanation


@pytest.fixture(scope="module")
def model() -> VideoModel:
    torch.manual_seed(0)
    network = MFNet3d(8, widths=(8, 24, 48, 96, 128), units=(1, 1, 1, 1), groups=4, last_stride=1)
    return wb.wrap_model(
        network, wb.InputSpec(frames=8, resize=(32, 32)), wb.samples.CLASSES, name="small"
    )


@pytest.fixture
def data() -> wb.Dataset:
    """Two stirs, a shake, a pound that cannot be read, and a lift that is not on the disk."""
    classes = ["stir", "shake", "stir", "pound", "lift"]
    index = pd.DataFrame(
        {
            "class": classes,
            "class_id": [wb.samples.CLASSES.index(each) for each in classes],
            "narration": ["stir soup", "shake pan", "stir tea", "pound dough", "lift lid"],
            "present": [True, True, True, True, False],
        },
        index=pd.Index(["a", "b", "c", "d", "e"], name="name"),
    )

    def read(row: pd.Series, frames: int | None, stride: int | None) -> wb.Clip:
        if row.name == "d":
            raise wb.ClipError("d.mp4 is <damaged>")
        clip = wb.samples.make_clip(row["class"], seed=ord(str(row.name)), size=(24, 32))
        return replace(clip.sample(frames or len(clip), stride), name=str(row.name))

    return wb.Dataset(index, list(wb.samples.CLASSES), read, "kitchen")


@pytest.fixture
def app(data: wb.Dataset, model: VideoModel) -> Iterator[wb.Browser]:
    app = wb.browse(data, model)
    yield app
    app.close()


def on_screen(app: wb.Browser) -> str | None:
    """The name of the clip that is explained on the screen."""
    if app.explorer not in app.children:
        return None
    return app.explanation.clip.name


def test_it_begins_with_the_first_clip_of_the_first_class(app: wb.Browser) -> None:
    assert on_screen(app) == app.clip.value == "a"
    assert app.category.options == (
        ("stir (2)", "stir"),
        ("shake (1)", "shake"),
        ("pound (1)", "pound"),
    )
    assert app.clip.options == (("a · stir soup", "a"), ("c · stir tea", "c"))
    assert len(app.explanation.clip) == 8


def test_a_class_offers_its_clips_and_shows_the_first(app: wb.Browser) -> None:
    app.category.value = "shake"
    assert app.clip.options == (("b · shake pan", "b"),)
    assert on_screen(app) == "b"


def test_a_clip_is_explained_once_it_is_picked(app: wb.Browser) -> None:
    before = app.explorer
    app.clip.value = "c"
    assert on_screen(app) == "c"
    assert app.explorer is not before
    assert app.note.value == ""


def test_a_clip_can_be_shown_by_name(app: wb.Browser) -> None:
    app.show("b")
    assert (app.category.value, app.clip.value, on_screen(app)) == ("shake", "b", "b")
    with pytest.raises(KeyError, match="no clip 'e' among the 4 of kitchen"):
        app.show("e")
    assert on_screen(app) == "b"


def test_each_pick_explains_once(app: wb.Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def counted(model: VideoModel, clip: wb.Clip) -> Explanation:
        seen.append(clip.name)
        return wb.explain(model, clip)

    monkeypatch.setattr("workbench.views.dataset_browser.explain", counted)
    app.category.value = "shake"
    app.show("c")
    app.clip.value = "a"
    assert seen == ["b", "c", "a"]


def test_what_cannot_be_read_is_told_and_leaves_no_other_clips_picture(app: wb.Browser) -> None:
    with pytest.raises(wb.ClipError, match="damaged"):
        app.category.value = "pound"
    assert "d: ClipError: d.mp4 is &lt;damaged&gt;" in app.note.value
    assert on_screen(app) is None
    app.category.value = "stir"
    assert app.note.value == ""
    assert on_screen(app) == "a"


def test_data_without_narrations_or_presence_will_do(model: VideoModel) -> None:
    app = wb.browse(wb.samples.dataset(size=3), model)
    assert [name for _, name in app.category.options] == ["stir", "shake", "pound"]
    assert app.clip.options == (("decorrelated_00000_stir", "decorrelated_00000_stir"),)
    assert (
        repr(app)
        == "<Browser of <Dataset samples, decorrelated: 3 segments, 8 classes>: decorrelated_00000_stir>"
    )
    app.close()


def test_nothing_to_show_is_refused(data: wb.Dataset, model: VideoModel) -> None:
    with pytest.raises(ValueError, match="kitchen: none of its 1 segments is on the disk"):
        wb.browse(data.subset(data.index["class"] == "lift"), model)
    with pytest.raises(ValueError, match="kitchen: it has no segments"):
        wb.browse(data.subset(data.index["class"] == "open"), model)


def test_close_frees_the_widgets(data: wb.Dataset, model: VideoModel) -> None:
    before = set(_instances)
    app = wb.browse(data, model)
    app.clip.value = "c"
    assert set(_instances) > before
    app.close()
    assert set(_instances) <= before


def test_nothing_given_is_changed(data: wb.Dataset, model: VideoModel) -> None:
    index, flags = data.index.copy(), [part.training for part in model.module.modules()]
    wb.browse(data, model).close()
    pd.testing.assert_frame_equal(data.index, index)
    assert [part.training for part in model.module.modules()] == flags


def test_shown_anew_it_begins_as_it_is(app: wb.Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    refreshed: list[Any] = []
    monkeypatch.setattr(
        type(app.explorer.timeline), "refresh", lambda figure: refreshed.append(figure)
    )
    app._repr_mimebundle_()
    assert app.explorer.timeline in refreshed
