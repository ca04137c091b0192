"""Volumes: solids lie where they should, in seconds and pixels; figures change in place."""

from __future__ import annotations

import json
from dataclasses import replace

import matplotlib.colors
import numpy as np
import plotly.graph_objects as go
import pytest

from workbench.clips.clip import Action, Clip
from workbench.saliency.tubes import Tube
from workbench.views import solids, volumes
from workbench.views.plotly_figures import INK, save_html
from workbench.views.timelines import timeline_figure, update_timeline
from workbench.views.volumes import update_volume, volume_figure

TIMES = 2.0 + 0.25 * np.arange(8)


def make_tube(volume, times=TIMES, label="waving") -> Tube:
    volume = np.asarray(volume, dtype=np.float32)
    return Tube(volume, 0, label, None, np.arange(3), 3, volume, times)


@pytest.fixture
def box_tube() -> Tube:
    """Full in frames 2-4, rows 10-19 and columns 24-39 of 8 frames of 32 × 48, else empty."""
    volume = np.zeros((8, 32, 48))
    volume[2:5, 10:20, 24:40] = 1
    return make_tube(volume)


@pytest.fixture
def clip() -> Clip:
    return Clip(
        frames=np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), dtype=np.uint8),
        fps=25,
        times=TIMES,
        actions=(Action("wave", 2.4, 3.1), Action("nod", 3.2, 3.5)),
    )


def traces(figure: go.Figure, role) -> list:
    return [trace for trace in figure.data if trace.meta == role]


def points(mesh) -> np.ndarray:
    return np.stack([np.asarray(mesh[axis], dtype=float) for axis in "xyz"], axis=1)


def enclosed(mesh) -> float:
    """Volume inside a closed surface, by the divergence theorem."""
    vertices = points(mesh)
    a, b, c = (vertices[np.asarray(mesh[corner])] for corner in "ijk")
    return abs(float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum())) / 6


def edge_use(mesh) -> np.ndarray:
    """How many triangles each edge belongs to: two everywhere on a closed surface."""
    i, j, k = (np.asarray(mesh[corner]) for corner in "ijk")
    edges = np.sort(np.concatenate([np.c_[i, j], np.c_[j, k], np.c_[k, i]]), axis=1)
    return np.unique(edges, axis=0, return_counts=True)[1]


# Solids


def test_a_box_comes_out_where_it_is_in_seconds_and_pixels(box_tube):
    mesh = solids.isosurface(box_tube.normalized, TIMES, 0.5)
    # Halfway between the last full and the first empty sample: frames 1.5 to 4.5. The centres of
    # pixels are at n + 0.5.
    np.testing.assert_allclose(points(mesh).min(axis=0), [2.0 + 0.25 * 1.5, 24, 10], atol=1e-5)
    np.testing.assert_allclose(points(mesh).max(axis=0), [2.0 + 0.25 * 4.5, 40, 20], atol=1e-5)
    assert enclosed(mesh) == pytest.approx(0.75 * 16 * 10, rel=0.05)  # its corners are bevelled


@pytest.mark.parametrize("grid", [64, 20])
def test_a_ball_keeps_centre_and_radius_when_sampled_down(grid):
    t, row, column = np.meshgrid(np.arange(30), np.arange(80), np.arange(100), indexing="ij")
    distance = np.hypot(np.hypot(t - 12, row - 30), column - 60)
    mesh = solids.isosurface(
        np.clip(1 - distance / 20, 0, 1).astype(np.float32), np.arange(30.0), 0.5, grid
    )
    step = 99 / (grid - 1) if grid < 64 else 99 / 63
    radius = np.linalg.norm(points(mesh) - [12, 60.5, 30.5], axis=1)
    assert np.abs(radius - 10).max() < step / 2
    np.testing.assert_allclose(points(mesh).mean(axis=0), [12, 60.5, 30.5], atol=0.5)


def test_surfaces_are_closed_at_the_edge_of_the_volume():
    volume = np.zeros((8, 32, 48), dtype=np.float32)
    volume[5:, :10, 30:] = 1
    mesh = solids.isosurface(volume, TIMES, 0.5)
    assert set(edge_use(mesh)) == {2}
    assert points(mesh)[:, 0].max() <= TIMES[-1] + 0.125  # where the last frame ends
    assert points(mesh)[:, 1].max() <= 48
    assert points(mesh)[:, 2].min() >= 0
    np.testing.assert_allclose(points(mesh).max(axis=0), [TIMES[-1] + 0.125, 48, 10], atol=0.5)


def test_uneven_times_put_a_frame_where_it_is_shown():
    times = np.array([0.0, 1.0, 5.0, 6.0])
    volume = np.zeros((4, 8, 8), dtype=np.float32)
    volume[2] = 1
    mesh = solids.isosurface(volume, times, 0.5)
    assert (mesh["x"].min(), mesh["x"].max()) == (3.0, 5.5)


@pytest.mark.parametrize(
    "volume", [np.zeros((8, 32, 48)), np.full((8, 32, 48), 0.3), np.full((1, 2, 1), 0.5)]
)
def test_nothing_above_the_level_is_an_empty_surface(volume):
    mesh = solids.isosurface(volume.astype(np.float32), np.arange(float(len(volume))), 0.5)
    assert enclosed(mesh) == 0
    assert np.ptp(points(mesh), axis=0).tolist() == [0, 0, 0]


def test_one_frame_is_a_slab():
    mesh = solids.isosurface(np.ones((1, 4, 6), dtype=np.float32), np.array([3.0]), 0.5)
    assert (points(mesh).min(axis=0) >= [2.5, 0, 0]).all()
    assert (points(mesh).max(axis=0) <= [3.5, 6, 4]).all()
    assert enclosed(mesh) > 0.3 * 24


def test_a_picture_has_the_frames_colours_in_their_places():
    frame = np.zeros((32, 48, 3), dtype=np.uint8)
    frame[4, 7] = [255, 0, 10]  # row 4, column 7
    frame[-1, -1] = [1, 2, 3]
    mesh = solids.picture(frame, 2.5)
    place = {
        (round(float(y), 3), round(float(z), 3)): n
        for n, (y, z) in enumerate(zip(mesh["y"], mesh["z"]))
    }
    assert mesh["vertexcolor"][place[7.5, 4.5]] == "#ff000a"
    assert mesh["vertexcolor"][place[4.5, 7.5]] == "#000000"
    assert mesh["vertexcolor"][place[47.5, 31.5]] == "#010203"
    assert mesh["vertexcolor"][place[48.0, 32.0]] == "#010203"  # the rim
    assert set(mesh["x"].tolist()) == {2.5}
    corners = points({**mesh, "x": np.zeros(len(mesh["x"]))})
    area = (
        np.linalg.norm(
            np.cross(
                corners[mesh["j"]] - corners[mesh["i"]], corners[mesh["k"]] - corners[mesh["i"]]
            ),
            axis=1,
        ).sum()
        / 2
    )
    assert area == pytest.approx(32 * 48, rel=1e-5)  # every triangle once, no hole


def test_large_pictures_are_averaged_down_and_still_fill_the_frame():
    frame = np.zeros((200, 400, 3), dtype=np.uint8)
    frame[:, 200:] = [0, 255, 0]
    mesh = solids.picture(frame, 0.0, size=100)
    assert len(mesh["x"]) == (50 + 2) * (100 + 2)
    green = mesh["vertexcolor"] == "#00ff00"
    np.testing.assert_array_equal(green, mesh["y"] > 200)
    assert (mesh["y"].max(), mesh["z"].max()) == (400, 200)


def test_arrays_are_of_types_that_travel_as_bytes(box_tube):
    volume = box_tube.normalized
    parts = [
        solids.isosurface(volume, TIMES, 0.5),
        solids.isosurface(volume * 0, TIMES, 0.5),
        solids.picture(np.zeros((9, 9, 3), np.uint8), 1.0),
        solids.frame_rim(1.0, 3, 4),
        solids.box_edges(TIMES, 3, 4),
    ]
    for part in parts:
        for name, array in part.items():
            if name != "vertexcolor":
                assert array.dtype == (np.int32 if name in "ijk" else np.float32), name


def test_the_outline_is_twelve_edges():
    edges = solids.box_edges(np.arange(4.0), 10, 20)
    ends = np.stack([edges[axis] for axis in "xyz"], axis=1).reshape(12, 3, 3)[:, :2]
    assert (np.abs(np.diff(ends, axis=1)[:, 0]) > 0).sum(axis=1).tolist() == [1] * 12
    assert len({tuple(map(tuple, np.sort(edge, axis=0))) for edge in ends.tolist()}) == 12
    assert (edges["x"][[0, 1]].tolist(), np.nanmax(edges["y"]), np.nanmax(edges["z"])) == (
        [-0.5, 3.5],
        20,
        10,
    )


# The volume's figure


def test_a_figure_nests_its_levels_and_shows_the_frame_at_its_time(box_tube, clip):
    figure = volume_figure(box_tube, clip, frame=6)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["0.5", "0.7", "0.9"]
    sizes = [enclosed(traces(figure, level)[0]) for level in volumes.LEVELS]
    assert sizes == sorted(sizes, reverse=True)
    (picture,), (rim,) = traces(figure, "picture"), traces(figure, "rim")
    assert set(picture.x.tolist()) == {TIMES[6]} == set(rim.x.tolist())
    r, g, b = clip.frames[6, 0, 0]
    assert picture.vertexcolor[0] == f"#{r:02x}{g:02x}{b:02x}"


def test_surfaces_have_the_colours_of_heat(box_tube):
    colors = [traces(volume_figure(box_tube), level)[0].color for level in volumes.LEVELS]
    jet = [matplotlib.colormaps[volumes.COLORMAP](level) for level in volumes.LEVELS]
    assert colors == [matplotlib.colors.to_hex(color) for color in jet]
    inferno = volume_figure(box_tube, levels=[0.5], colormap="inferno")
    expected = matplotlib.colors.to_hex(matplotlib.colormaps["inferno"](0.5))
    assert [trace.color for trace in traces(inferno, 0.5)] == [expected]


def test_figures_look_as_the_template_says(box_tube):
    for figure in (volume_figure(box_tube), timeline_figure(box_tube)):
        assert figure.layout.template.layout.font.color == INK
        assert figure.layout.template.layout.scene.xaxis.showbackground is False


def test_pixels_are_square_time_is_in_seconds_and_row_0_is_on_top(box_tube, clip):
    scene = volume_figure(box_tube, clip).layout.scene
    assert scene.aspectratio.y / scene.aspectratio.z == pytest.approx(48 / 32)
    assert scene.xaxis.title.text == "time (s)"
    assert scene.xaxis.range[0] < TIMES[0] < TIMES[-1] < scene.xaxis.range[1]
    for axis, length in ((scene.yaxis, 48), (scene.zaxis, 32)):
        assert axis.range[0] == pytest.approx(length, rel=0.01)
        assert axis.range[1] == pytest.approx(0, abs=0.2)
        assert axis.range[1] < axis.range[0]
    assert scene.uirevision


def test_the_picture_stands_at_the_peak_unless_told_otherwise(box_tube, clip):
    assert box_tube.peak[0] == 2
    (picture,) = traces(volume_figure(box_tube, clip), "picture")
    assert picture.x[0] == TIMES[2]


def test_times_come_from_the_tube_else_the_clip_else_frames_are_counted(box_tube, clip):
    bare = replace(box_tube, times=None)
    assert volume_figure(bare, clip).layout.scene.xaxis.title.text == "time (s)"
    figure = volume_figure(bare)
    assert figure.layout.scene.xaxis.title.text == "frame"
    assert traces(figure, 0.5)[0].x.min() == 1.5
    with pytest.raises(ValueError, match="times: expected one for each of the tube's 8"):
        volume_figure(replace(box_tube, times=TIMES[:5]))


def test_without_a_clip_there_is_a_rim_and_no_picture(box_tube):
    figure = volume_figure(box_tube, frame=3)
    assert traces(figure, "picture")[0].visible is False
    assert traces(figure, "rim")[0].x[0] == TIMES[3]


def test_a_figure_has_the_same_traces_whatever_the_tube(box_tube, clip):
    kinds = [
        [(trace.type, trace.meta) for trace in volume_figure(make_tube(volume), clip).data]
        for volume in (box_tube.volume, np.zeros((8, 32, 48)), np.full((8, 32, 48), -3.0))
    ]
    assert kinds[0] == kinds[1] == kinds[2]


@pytest.mark.parametrize("widget", [False, True])
def test_an_update_makes_what_a_new_figure_would_be_and_leaves_the_camera(widget, box_tube, clip):
    other = make_tube(np.roll(box_tube.volume, (2, 5, -9), axis=(0, 1, 2)))
    figure = volume_figure(box_tube, clip, 1)
    figure = go.FigureWidget(figure) if widget else figure
    figure.layout.scene.camera.eye = {"x": 9, "y": 8, "z": 7}
    update_volume(figure, other, clip, 6)
    expected = volume_figure(other, clip, 6)
    for old, new in zip(figure.data, expected.data):
        if new.type != "scatter3d" or new.meta != "outline":
            for name in ("x", "y", "z", "i", "j", "k", "vertexcolor"):
                if name in new:
                    np.testing.assert_array_equal(old[name], new[name])
    assert figure.layout.scene.camera.eye.x == 9


def test_an_update_of_the_frame_or_of_the_tube_leaves_the_other(box_tube, clip):
    other = make_tube(np.roll(box_tube.volume, 2, axis=0))
    figure = volume_figure(box_tube, clip, 1)
    surface, (picture,) = traces(figure, 0.5)[0].x.copy(), traces(figure, "picture")
    update_volume(figure, other, clip, 6, body=False)
    np.testing.assert_array_equal(traces(figure, 0.5)[0].x, surface)
    assert picture.x[0] == TIMES[6]
    update_volume(figure, other, clip)
    assert traces(figure, 0.5)[0].x.min() == pytest.approx(surface.min() + 0.5)
    assert picture.x[0] == TIMES[6]


def test_figures_name_what_does_not_fit(box_tube, clip):
    nan = box_tube.volume.copy()
    nan[0, 0, 0] = np.nan
    small = make_tube(box_tube.volume[:, :16])
    figure = volume_figure(box_tube, clip)
    for bad, message in [
        (lambda: volume_figure(small, clip), r"\(8, 16, 48\).*\(8, 32, 48\).*ex\.clip"),
        (lambda: volume_figure(make_tube(nan), clip), "NaN"),
        (lambda: volume_figure(box_tube, clip, 8), "frame: expected 0 to 7, got 8"),
        (lambda: volume_figure(box_tube, clip, -1), "frame: expected 0 to 7"),
        (lambda: volume_figure(box_tube, levels=(0.5, 1.0)), "levels"),
        (lambda: volume_figure(box_tube, levels=(0.7, 0.5)), "levels: expected rising"),
        (lambda: volume_figure(box_tube, levels=()), "levels"),
        (lambda: volume_figure(box_tube, colormap="jett"), "'jett'"),
        (lambda: update_volume(figure, small), "Make a new figure"),
        (lambda: update_volume(figure, box_tube, clip, 9), "frame: expected 0 to 7"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad()


def test_figures_change_nothing_they_are_given(box_tube, clip):
    volume, frames = box_tube.volume.copy(), clip.frames.copy()
    figure = volume_figure(box_tube, clip)
    for trace in figure.data:
        trace.x = np.zeros(1, dtype=np.float32)
    np.testing.assert_array_equal(box_tube.volume, volume)
    np.testing.assert_array_equal(clip.frames, frames)


# The timeline


def test_the_timeline_is_the_profile_over_seconds(box_tube):
    figure = timeline_figure(box_tube, frame=3)
    (line,), (mark,) = traces(figure, "tube"), traces(figure, "mark")
    np.testing.assert_allclose(line.x, TIMES)
    inside = 10 * 16 / (32 * 48)
    np.testing.assert_allclose(line.y, [0, 0, inside, inside, inside, 0, 0, 0], rtol=1e-5)
    assert mark.x.tolist() == [TIMES[3]] * 2
    assert figure.layout.xaxis.title.text == "time (s)"
    assert list(figure.layout.yaxis.range) == [0, 1]


def test_several_tubes_are_several_named_lines(box_tube):
    tubes = [box_tube, make_tube(box_tube.volume[:4], TIMES[:4] + 1, "nodding")]
    figure = timeline_figure(tubes)
    assert [(line.name, len(line.x), line.showlegend) for line in traces(figure, "tube")] == [
        ("waving", 8, True),
        ("nodding", 4, True),
    ]
    assert [
        line.name for line in traces(timeline_figure(tubes, labels=["3-D", "2-D"]), "tube")
    ] == [
        "3-D",
        "2-D",
    ]
    assert np.isnan(traces(figure, "mark")[0].x).all()


@pytest.mark.parametrize(
    ("action", "spans"),
    [
        ((2.4, 3.1), [(2.4, 3.1, "action")]),
        (Action("wave", 2.4, 3.1), [(2.4, 3.1, "wave")]),
        (
            (Action("wave", 2.4, 3.1), Action("nod", 3.2, 3.5)),
            [(2.4, 3.1, "wave"), (3.2, 3.5, "nod")],
        ),
        ((), []),
        (None, []),
    ],
)
def test_annotated_actions_are_shaded(action, spans, box_tube):
    layout = timeline_figure(box_tube, action=action).layout
    found = [(s.x0, s.x1, a.text) for s, a in zip(layout.shapes, layout.annotations, strict=True)]
    assert found == spans


@pytest.mark.parametrize("widget", [False, True])
def test_a_timeline_is_updated_in_place(widget, box_tube):
    figure = timeline_figure(box_tube, frame=3)
    figure = go.FigureWidget(figure) if widget else figure
    other = make_tube(np.roll(box_tube.volume, 1, axis=0))
    update_timeline(figure, other, 5)
    assert traces(figure, "tube")[0].y.argmax() == 3
    assert traces(figure, "mark")[0].x.tolist() == [TIMES[5]] * 2
    update_timeline(figure, other)
    assert np.isnan(traces(figure, "mark")[0].x).all()


def test_timelines_name_what_does_not_fit(box_tube):
    bare = replace(box_tube, times=None)
    for bad, message in [
        (lambda: timeline_figure([]), "a tube or more"),
        (lambda: timeline_figure(box_tube, labels=["a", "b"]), "1 tubes, 2 labels"),
        (lambda: timeline_figure(box_tube, frame=8), "frame: expected 0 to 7"),
        (lambda: timeline_figure(bare, action=(1, 2)), "times=None"),
        (lambda: timeline_figure([bare, box_tube]), "times=None"),
        (lambda: update_timeline(timeline_figure(box_tube), [box_tube] * 2), "1 lines, got 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad()


# Files


def test_a_page_is_whole_and_needs_no_network(tmp_path, box_tube, clip):
    path = save_html(volume_figure(box_tube, clip), str(tmp_path / "new" / "tube.html"))
    text = path.read_text(encoding="utf-8")
    assert len(text) > 3_000_000  # plotly.js is in it
    assert "cdn.plot.ly/plotly" not in text
    assert text.rstrip().endswith("</html>")
    assert [p.name for p in path.parent.iterdir()] == ["tube.html"]


def test_a_page_that_fails_leaves_nothing(tmp_path, box_tube, monkeypatch):
    from pathlib import Path

    def full(self, *_, **__):
        self.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        save_html(timeline_figure(box_tube), tmp_path / "tube.html")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"tube\.png.*\.html"):
        save_html(timeline_figure(box_tube), tmp_path / "tube.png")


def test_a_figure_is_small_to_send(box_tube, clip):
    """Meshes go as base64, not as lists of numbers."""
    sent = json.loads(volume_figure(box_tube, clip).to_json())
    for trace in sent["data"]:
        for name in set("ijkyz") & set(trace):
            assert "bdata" in trace[name] or trace["meta"] == "key"
