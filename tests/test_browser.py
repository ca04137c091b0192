"""The browser from the kernel's side: what a pick shows, what is offered, and what goes wrong."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ipywidgets.widgets.widget import _instances
from PIL import Image

import workbench as wb
from workbench.models.networks.mfnet import MFNet3d
from workbench.models.video_model import VideoModel
from workbench.views.explorer.widget import plotly_code


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


def test_it_begins_with_the_first_clip(app: wb.Browser) -> None:
    assert on_screen(app) == app.clip.value == "a"
    assert app.category.options == (
        ("all classes (4)", ""),
        ("stir (2)", "stir"),
        ("shake (1)", "shake"),
        ("pound (1)", "pound"),
    )
    assert app.clip.options[0] == ("a · stir soup", "a")
    assert [name for _, name in app.clip.options] == ["a", "b", "c", "d"]
    assert app.screen.rows[1] == ["b", "shake", "shake pan"]
    assert len(app.explanation.clip) == 8


def test_explore_and_browse_are_one(data: wb.Dataset, model: VideoModel) -> None:
    app = wb.explore(data, model)
    assert isinstance(app, wb.Browser)
    app.close()
    with pytest.raises(ValueError, match="expected one that explains the clips"):
        wb.explore(data)


def test_a_class_offers_its_clips_and_shows_the_first(app: wb.Browser) -> None:
    app.category.value = "shake"
    assert app.clip.options == (("b · shake pan", "b"),)
    assert on_screen(app) == "b"


def test_a_class_keeps_the_clip_that_belongs_to_it(app: wb.Browser) -> None:
    app.clip.value = "c"
    app.category.value = "stir"
    assert app.clip.options == (("a · stir soup", "a"), ("c · stir tea", "c"))
    assert on_screen(app) == "c"


def test_the_browser_picks_too(app: wb.Browser) -> None:
    app.screen.set_state({"chosen": "c"})
    assert on_screen(app) == app.clip.value == "c"


def test_a_clip_is_explained_once_it_is_picked(app: wb.Browser) -> None:
    before = app.explorer
    app.clip.value = "c"
    assert on_screen(app) == "c"
    assert app.explorer is not before
    assert app.screen.note == ""


def test_a_clip_can_be_shown_by_name(app: wb.Browser) -> None:
    app.show("b")
    assert (app.category.value, app.clip.value, on_screen(app)) == ("", "b", "b")
    with pytest.raises(KeyError, match="no clip 'e' among the 4 of kitchen"):
        app.show("e")
    assert on_screen(app) == "b"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The clips that are explained from now on."""
    seen: list[str | None] = []

    def counted(model: VideoModel, clip: wb.Clip) -> wb.Explanation:
        seen.append(clip.name)
        return wb.explain(model, clip)

    monkeypatch.setattr("workbench.views.dataset_browser.explain", counted)
    return seen


def test_each_clip_is_explained_once(app: wb.Browser, seen: list[str | None]) -> None:
    app.category.value = "shake"
    app.show("c")
    app.category.value = ""
    app.clip.value = "a"
    app.clip.value = "b"
    assert seen == ["b", "c"]  # a was there from the start
    assert on_screen(app) == "b"


def ask(app: wb.Browser, kind: str, name: str = "") -> tuple[dict[str, Any], list[bytes]]:
    """Ask as the browser's page does, and return the answer."""
    answers: list[Any] = []
    app.screen.send = lambda content, buffers=None: answers.append((content, buffers or []))
    try:
        app.screen._handle_custom_msg({"kind": kind, "name": name, "id": "5"}, [])
    finally:
        del app.screen.send
    (answer,) = [answer for answer in answers if answer[0].get("id") == "5"]
    return answer


def test_the_next_clip_is_explained_ahead(app: wb.Browser, seen: list[str | None]) -> None:
    ask(app, "explain", "b")
    assert (seen, on_screen(app)) == (["b"], "a")
    app.clip.value = "b"
    assert (seen, on_screen(app)) == (["b"], "b")


def test_results_say_what_is_right(app: wb.Browser) -> None:
    ask(app, "explain", "b")
    content, _ = ask(app, "results")
    assert [name for name, *_ in content["results"]] == ["a", "b"]
    table = app.results
    assert list(table.columns) == ["class", "predicted", "probability", "right"]
    assert table["right"].tolist() == (table["class"] == table["predicted"]).tolist()
    best = app.explanation.probabilities.max()
    assert table.loc["a", "probability"] == pytest.approx(float(best))


def test_thumbnails_are_small_pictures(app: wb.Browser) -> None:
    for name in ("a", "b"):  # one that is explained, and one that is not
        _, (jpeg,) = ask(app, "thumb", name)
        picture = Image.open(io.BytesIO(jpeg))
        assert picture.format == "JPEG"
        assert picture.width <= 128
    content, _ = ask(app, "thumb", "d")
    assert "damaged" in content["error"]


def test_a_store_of_explanations_can_be_explored(
    data: wb.Dataset, model: VideoModel, tmp_path: Path
) -> None:
    store = wb.sweep(data.present(), model, tmp_path, progress=False)
    stored = wb.explore(store)
    assert [name for _, name in stored.clip.options] == ["a", "b", "c"]  # d could not be explained
    stored.clip.value = "c"
    assert on_screen(stored) == "c"
    assert ask(stored, "thumb", "a")[1]
    # What the network said of every clip is in the index: there is nothing to run.
    assert not stored.screen.explains
    expected = store.index.loc[["a", "b", "c"]]
    results = stored.results
    assert results["predicted"].to_dict() == expected["prediction"].to_dict()
    assert results["right"].to_dict() == expected["correct"].to_dict()
    np.testing.assert_allclose(
        results["probability"], expected["probability"].astype(float), rtol=1e-3
    )
    stored.close()


def test_a_store_of_failures_says_so(
    data: wb.Dataset, model: VideoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = wb.sweep(data.present(), model, tmp_path, progress=False)
    monkeypatch.setattr(type(store), "index", store.index.loc[["d"]])
    with pytest.raises(ValueError, match="none of its 1 clips could be explained"):
        wb.explore(store)


def test_a_clip_without_a_label_is_neither_right_nor_wrong(
    data: wb.Dataset, model: VideoModel, tmp_path: Path
) -> None:
    def read(row: pd.Series, frames: int | None, stride: int | None) -> wb.Clip:
        return data.read(str(row.name), frames=frames, stride=stride)

    index = data.index.loc[["a", "b"]].assign(**{"class": None})
    unlabelled = wb.Dataset(index, data.classes, read, "unlabelled")
    app = wb.explore(unlabelled, model)
    assert app.results["right"].tolist() == [None]
    app.close()
    stored = wb.explore(wb.sweep(unlabelled, model, tmp_path, progress=False))
    assert stored.results["right"].tolist() == [None, None]
    stored.close()


def test_the_code_recreates_the_view(app: wb.Browser, data: wb.Dataset, model: VideoModel) -> None:
    app.show("c")
    app.explorer.show(target="open", frame=2)
    names: dict[str, Any] = {"data": data, "model": model}
    exec(app.code(), names)
    again = names["app"]
    assert on_screen(again) == "c"
    assert (again.explorer.tube.label, again.explorer.frame.value) == ("open", 2)
    again.close()


def test_an_error_is_shown_and_leaves_no_other_clips_picture(app: wb.Browser) -> None:
    with pytest.raises(wb.ClipError, match="damaged"):
        app.category.value = "pound"
    assert "d: ClipError: d.mp4 is <damaged>" in app.screen.note
    assert on_screen(app) is None
    app.category.value = "stir"
    assert app.screen.note == ""
    assert on_screen(app) == "a"


def test_data_without_narrations_or_presence_will_do(model: VideoModel) -> None:
    app = wb.browse(wb.samples.dataset(size=3), model)
    assert [name for _, name in app.category.options] == ["", "stir", "shake", "pound"]
    assert app.clip.options[0] == ("decorrelated_00000_stir", "decorrelated_00000_stir")
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
    plotly_code()  # stays for the next explorer
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


def test_a_store_is_browsed_without_the_network(tmp_path: Path) -> None:
    data = wb.samples.shipped().subset(["v_Lift_g03_c01", "v_Stir_g01_c01"])
    model = wb.load_model("samples/mfnet", device="cpu")
    store = wb.sweep(data, model, tmp_path / "store")
    app = wb.explore(store)
    assert [value for _, value in app.category.options] == ["", "lift", "stir"]
    app.category.value = "stir"
    assert app.explanation.clip.name == "v_Stir_g01_c01"
    expected = wb.explain(model, data["v_Stir_g01_c01"]).tube("stir").map
    np.testing.assert_allclose(
        app.explanation.tube("stir").map, expected, atol=2e-3 * np.ptp(expected)
    )
    app.close()
