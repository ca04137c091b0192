"""The figures of the paper: what is drawn, what is written, and the command that rebuilds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.text
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import workbench as wb
from workbench.studies import figures

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def clip() -> wb.Clip:
    return wb.samples.make_clip("lift", seed=1, split="edge").sample(16)


@pytest.fixture(scope="module")
def ex(clip: wb.Clip) -> wb.Explanation:
    return wb.explain(wb.load_model("samples/mfnet", device="cpu"), clip)


def panel(clip: wb.Clip, ex: wb.Explanation, title: str = "MFNet\n(3-D)") -> figures.Panel:
    return figures.Panel(title, clip, ex.tube("lift"))


def words(figure: Figure) -> list[str]:
    return [
        text.get_text()
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_text() and text.get_visible()
    ]


def drawn(kind: str, clip: wb.Clip, ex: wb.Explanation) -> Figure:
    if kind == "method":
        return figures.method_figure(
            ex, ex.tube("lift", float(ex.class_weights("lift").quantile(0.75))), clip
        )
    if kind == "overlay":
        return figures.overlay_figure([panel(clip, ex, "(a)  One"), panel(clip, ex, "(b)  Other")])
    names = ("MFNet\n(3-D)", "Other", "MFNet, iid\n(3-D)")
    panels = [panel(clip, ex, name) for name in names[: 2 if kind == "comparison" else 3]]
    return figures.comparison_figure(clip, panels, "A title")


KINDS = ("method", "overlay", "comparison", "three networks")


@pytest.mark.parametrize("kind", KINDS)
def test_fonts_are_legible_and_nothing_is_cut_off(
    kind: str, clip: wb.Clip, ex: wb.Explanation
) -> None:
    figure = drawn(kind, clip, ex)
    FigureCanvasAgg(figure).draw()
    assert figure.get_figwidth() == pytest.approx(7)
    assert figure.get_figheight() < 9.5  # a page's
    page, shown = figure.bbox, 0
    for text in figure.findobj(matplotlib.text.Text):
        if not text.get_text().strip() or not text.get_visible():
            continue
        box = text.get_window_extent()
        if text.axes is not None and not text.axes.get_visible():
            continue
        shown += 1
        assert text.get_fontsize() >= 7, text
        assert box.x0 >= page.x0 - 1, text
        assert box.x1 <= page.x1 + 1, text
        assert box.y0 >= page.y0 - 1, text
        assert box.y1 <= page.y1 + 1, text
    assert shown > 10


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_texts_overlap(kind: str, clip: wb.Clip, ex: wb.Explanation) -> None:
    figure = drawn(kind, clip, ex)
    FigureCanvasAgg(figure).draw()
    boxes = [
        (t.get_text(), t.get_window_extent())
        for t in figure.findobj(matplotlib.text.Text)
        if t.get_text().strip() and t.get_visible()
    ]
    met = [
        (first, second)
        for n, (first, one) in enumerate(boxes)
        for second, other in boxes[n + 1 :]
        if one.shrunk(0.9, 0.8).overlaps(other.shrunk(0.9, 0.8))
        and one.get_points().tolist() != other.get_points().tolist()
    ]
    assert met == []


def test_method_figure_says_the_shapes_and_the_features(clip: wb.Clip, ex: wb.Explanation) -> None:
    tau = float(ex.class_weights("lift").quantile(0.75))
    written = " ".join(words(figures.method_figure(ex, ex.tube("lift", tau), clip)))
    assert "16×112×112" in written
    assert "128×8×7×7" in written
    assert "32 kept" in written
    assert f"τ = {tau:.2g}" in written
    table = ex.channels("lift", top=None)
    for channel in table[table["weight"] >= tau]["channel"].head(3):
        assert f"$j$ = {channel}" in written


@pytest.mark.parametrize("kept", [0, 1])
def test_method_figure_of_few_features_keeps_its_colour_bars_on_the_page(
    kept: int, clip: wb.Clip, ex: wb.Explanation
) -> None:
    weights = ex.class_weights("lift").sort(descending=True).values
    tau = float(weights[0]) + (0.01 if kept == 0 else -1e-6)
    figure = figures.method_figure(ex, ex.tube("lift", tau), clip)
    assert f"{kept} kept" in words(figure)
    for axes in figure.axes:
        place = axes.get_position()
        assert 0 <= place.y0 < place.y1 <= 1, axes


def test_method_figure_without_a_threshold_leaves_nothing_out(
    clip: wb.Clip, ex: wb.Explanation
) -> None:
    written = " ".join(words(figures.method_figure(ex, ex.tube("lift"), clip)))
    assert "128 kept" in written
    assert "left" not in written


def test_comparison_shows_the_auc_of_each_tube(clip: wb.Clip, ex: wb.Explanation) -> None:
    tube = ex.tube("lift")
    written = words(drawn("comparison", clip, ex))
    auc = wb.metrics.temporal_auc(tube, clip.action)
    assert f"MFNet (3-D): temporal AUC {auc:.2f}" in written
    assert "annotated: lift" in written
    assert "time (s)" in written


def test_comparison_takes_a_tube_of_fewer_frames(clip: wb.Clip, ex: wb.Explanation) -> None:
    """A TSN of 8 segments beside a network of 16 frames, and of a square cut-out of the picture."""
    tube = ex.tube("lift")
    half = replace(tube, volume=tube.volume[::2], times=tube.times[::2])
    square = figures.Panel("TSN", clip.select(range(0, 16, 2)).crop(0, 40, 240, 240), half)
    figure = figures.comparison_figure(clip, [square, panel(clip, ex)])
    pictures = [axes.images for axes in figure.axes if len(axes.images) > 1]
    boxes = [images[0].get_window_extent() for images in pictures]
    assert [box.width / box.height for box in boxes] == pytest.approx([4 / 3, 1, 4 / 3], rel=0.01)
    assert len({round(box.height) for box in boxes}) == 1


def test_comparison_draws_the_boxes_over_the_tubes_too() -> None:
    """Also over a cut-out, whose box starts elsewhere."""
    frames = np.zeros((8, 40, 80, 3), np.uint8)
    box = np.tile(np.float32([40, 10, 50, 30]), (8, 1))
    clip = wb.Clip(frames, 10.0, actions=(wb.Action("lift", 0.0, 0.65, box),))
    cut = clip.crop(0, 20, 40, 40)  # the middle: the box now starts at half of its width
    volume = np.arange(8.0, dtype=np.float32)[:, None, None].repeat(4, 1).repeat(4, 2)
    tube = wb.Tube(volume, 0, "lift", None, np.array([0]), 1, volume, times=clip.times)
    panels = [figures.Panel("all", clip, tube), figures.Panel("cut", cut, tube)]
    figure = figures.comparison_figure(clip, panels, count=8)
    rows = [axes for axes in figure.axes if len(axes.images) > 1]
    assert [len(axes.patches) for axes in rows] == [14, 14, 14]  # black and white, seven frames
    for axes, share in zip(rows, (0.5, 0.5, 0.5)):
        left, right = axes.images[0].get_extent()[:2]
        outline = axes.patches[0]
        assert outline.get_x() == pytest.approx(left + share * (right - left), abs=0.01)
        assert (outline.get_y(), outline.get_height()) == pytest.approx((0.25, 0.5))
    widths = [axes.patches[0].get_width() / np.diff(axes.get_xlim())[0] for axes in rows]
    assert widths[2] == pytest.approx(widths[0], rel=0.02)  # the same scale in all rows


def test_segments_of_a_class_and_a_word() -> None:
    data = figures.labelled("epic")
    assert figures.segments(data, "open") == ["0", "8"]
    assert figures.segments(data, "open", "HEXAGON") == ["8"]
    assert figures.segments(data, "open", most=1) == ["0"]
    with pytest.raises(ValueError, match=r"no segment of 'mix'.*there are open, stir"):
        figures.segments(data, "mix")


def strips(figure: Figure) -> list[list[np.ndarray]]:
    """The frames of each strip, from the top down."""
    found = [axes for axes in figure.axes if len(axes.images) > 1]
    found.sort(key=lambda axes: -axes.get_position().y0)
    return [[np.asarray(image.get_array()) for image in axes.images] for axes in found]


def test_comparison_shows_the_frame_of_a_tube_that_is_nearest_in_time() -> None:
    frames = np.zeros((8, 12, 16, 3), np.uint8)
    clip = wb.Clip(frames, 10.0, actions=(wb.Action("lift", 0.2, 0.5),))
    volume = np.zeros((3, 3, 4), np.float32)
    volume[1], volume[2] = 1, 2
    times = np.array([0.1, 0.35, 0.6])
    tube = wb.Tube(volume, 0, "lift", None, np.array([0]), 1, volume, times=times)
    segments = figures.Panel("TSN", wb.Clip(frames[:3], 10.0, times=times), tube)
    _, shown = strips(figures.comparison_figure(clip, [segments], count=8))
    nearest = [0, 0, 0, 1, 1, 2, 2, 2]  # of 0.0, 0.1, ..., 0.7 s
    assert [np.array_equal(one, segments.heat[n]) for one, n in zip(shown, nearest)] == [True] * 8


def test_comparison_needs_an_action(clip: wb.Clip, ex: wb.Explanation) -> None:
    with pytest.raises(ValueError, match="annotated action"):
        figures.comparison_figure(replace(clip, actions=()), [panel(clip, ex)])
    timeless = figures.Panel("x", clip, replace(ex.tube("lift"), times=None))
    with pytest.raises(ValueError, match="times"):
        figures.comparison_figure(clip, [timeless])


def test_heat_is_scaled_over_the_whole_tube_also_where_few_frames_are_drawn(
    clip: wb.Clip, ex: wb.Explanation
) -> None:
    one = panel(clip, ex)
    assert np.array_equal(one.heat, wb.heat(clip, figures.enlarged(one.tube, clip)))
    frame = one.tube.peak[0]
    red = one.heat.astype(int)[..., 0] - one.heat[..., 2]
    assert red[frame].max() > red[(frame + 8) % 16].max() + 30


def test_enlarged_keeps_frames_and_values() -> None:
    volume = np.zeros((2, 2, 2), np.float32)
    volume[1] = 4
    tube = wb.Tube(volume, 0, "a", None, np.array([0]), 1, volume)
    large = figures.enlarged(tube, wb.Clip(frames=np.zeros((2, 6, 8, 3), np.uint8), fps=1))
    assert large.volume.shape == (2, 6, 8)
    assert (large.volume[0] == 0).all()
    assert (large.volume[1] == 4).all()
    assert tube.volume.shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (wb.InputSpec(frames=4, resize=(112, 112)), (240, 320)),  # squashed: all of the picture
        (wb.InputSpec(frames=4, resize=(256, 256), crop=224), (210, 280)),  # 7 / 8 of each side
        (wb.InputSpec(frames=4, resize=256, crop=224), (210, 210)),  # a square from the middle
    ],
)
def test_print_view_cuts_what_the_network_sees(spec: wb.InputSpec, size: tuple[int, int]) -> None:
    clip = wb.Clip(frames=np.zeros((9, 240, 320, 3), np.uint8), fps=10)
    view = figures.print_view(clip, spec)
    assert view.size == size
    assert (view.times == spec.view(clip).times).all()


def test_print_view_cuts_out_the_middle() -> None:
    rows, columns = np.indices((240, 320), dtype=np.int64)
    frame = np.stack([rows, columns % 256, columns // 256], axis=-1).astype(np.uint8)
    clip = wb.Clip(frames=np.repeat(frame[None], 4, axis=0), fps=10)
    square = figures.print_view(clip, wb.InputSpec(frames=4, resize=256, crop=224))
    assert (square.frames == frame[15:225, 55:265]).all()  # 210 × 210 of 240 × 320
    squashed = figures.print_view(clip, wb.InputSpec(frames=4, resize=(256, 256), crop=224))
    assert (squashed.frames == frame[15:225, 20:300]).all()


def test_surrounded_reads_more_and_marks_the_segment() -> None:
    data = figures.labelled("epic")
    name = data.index.index[0]
    row = data.index.loc[name]
    clip = figures.surrounded(data, name, 0.3, frames=16)
    assert clip.action == pytest.approx((row["start"], row["stop"]))
    assert clip.times[0] < row["start"]
    assert clip.times[-1] > row["stop"]
    assert np.isfinite(clip.action_boxes()).any()
    assert (
        figures.surrounded(data, data.index.index[2], 60, frames=16).times[-1] < 60
    )  # the video ends before that
    whole = figures.labelled("ucf101")
    with pytest.raises(ValueError, match="whole video"):
        figures.surrounded(whole, whole.index.index[0], 1, frames=16)
    sample = wb.samples.dataset("edge", 1)
    assert figures.surrounded(sample, sample.index.index[0], 0.3, frames=8).action is not None


def test_networks_speak_the_classes_of_the_data() -> None:
    for source in ("samples", "ucf101", "epic"):
        data = figures.labelled(source)
        assert set(data.index["class"]) <= set(figures.network("samples/mfnet", data).classes or [])
    with pytest.raises(KeyError, match="samples, kitchen, ucf101 and epic"):
        figures.labelled("kinetics")


def test_network_takes_a_checkpoint_and_an_output(tmp_path: Path) -> None:
    data = figures.labelled("epic")
    made = wb.load_model("tsn/resnet18", weights=None, heads={"verb": 8, "noun": 5}, device="cpu")
    torch.save(made.module.state_dict(), tmp_path / "tsn.pth")
    model = figures.network("tsn/resnet18", data, tmp_path / "tsn.pth", "verb")
    assert model.output == "verb"
    assert model.classes == data.classes


def test_film_names_its_rows_and_keeps_the_time(clip: wb.Clip) -> None:
    rows = {
        "clip": clip.frames,
        "square": clip.crop(0, 0, 240, 240).frames,
        "few": clip.frames[::2],
    }
    shown = figures.film(rows, clip.times, height=60)
    assert len(shown) == len(clip)
    assert shown.shape[1] > 60
    assert shown.shape[2] >= 640
    assert shown.dtype == np.uint8
    assert not np.array_equal(shown[0], shown[8])


@pytest.mark.slow
def test_save_writes_png_pdf_and_films(tmp_path: Path, clip: wb.Clip, ex: wb.Explanation) -> None:
    figure = drawn("comparison", clip, ex)
    film = figures.film({"clip": clip.frames}, clip.times, height=48)
    paths = figures.save(figure, tmp_path / "new", "fig", {"": film, "own": film})
    assert [path.name for path in paths] == ["fig.png", "fig.pdf", "fig.mp4", "fig_own.mp4"]
    with Image.open(paths[0]) as picture:
        assert picture.size[0] == 2100  # 7 in of 300 dpi
        assert picture.info["dpi"][0] == pytest.approx(300, abs=0.1)
    written = paths[1].read_bytes()
    assert b"/FontFile2" in written  # TrueType, embedded
    assert b"/Type3" not in written
    assert len(wb.read_clip(paths[2], frames=None)) == 16
    figures.save(figure, tmp_path / "again", "fig")
    assert (tmp_path / "again" / "fig.pdf").read_bytes() == written


def test_a_figure_that_fails_leaves_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fig.png").write_bytes(b"the former one")

    def fill_the_disk(self: Figure, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        figures.save(Figure(), tmp_path, "fig")
    assert [path.name for path in tmp_path.iterdir()] == ["fig.png"]
    assert (tmp_path / "fig.png").read_bytes() == b"the former one"


def test_preview_is_small(clip: wb.Clip, ex: wb.Explanation) -> None:
    picture = figures.preview(drawn("method", clip, ex))
    assert picture[:2] == b"\xff\xd8"
    assert len(picture) < 250_000
