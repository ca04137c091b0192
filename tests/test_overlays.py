"""Overlays: blends worked out by hand, boxes where they belong, files that read back."""

from __future__ import annotations

import av
import numpy as np
import pytest
from PIL import Image

from workbench.clips import writing
from workbench.clips.clip import Clip
from workbench.clips.writing import save_picture, save_video
from workbench.saliency.tubes import Tube
from workbench.views.overlays import focus, heat
from workbench.views.pictures import draw_boxes, filmstrip


def make_tube(volume, **fields) -> Tube:
    volume = np.asarray(volume, dtype=np.float32)
    return Tube(volume, 0, "waving", None, np.arange(3), 3, volume, **fields)


@pytest.fixture
def clip() -> Clip:
    frames = np.random.default_rng(0).integers(0, 256, (5, 12, 16, 3), dtype=np.uint8)
    return Clip(frames=frames, fps=10.0)


@pytest.fixture
def tube() -> Tube:
    return make_tube(np.random.default_rng(1).normal(size=(5, 12, 16)))


# Heat and focus


def test_heat_blends_as_worked_out_by_hand():
    frames = np.array([[[[200, 100, 0], [10, 20, 31]]]], dtype=np.uint8)
    tube = make_tube([[[-1.0, 3.0]]])  # normalised: 0 and 1
    # jet starts at (0, 0, 0.5) and ends at (0.5, 0, 0): 127.5 on the scale of 255.
    np.testing.assert_array_equal(heat(frames, tube)[0, 0], [[100, 50, 64], [69, 10, 16]])
    # A quarter: 0.75 * 200 = 150; 0.75 * 100 = 75; 0.25 * 127.5 = 31.875.
    np.testing.assert_array_equal(heat(frames, tube, alpha=0.25)[0, 0, 0], [150, 75, 32])


def test_heat_of_white_under_white_stays_white():
    """8-bit sums that wrap around turn 255 + 255 into something dark."""
    frames = np.full((1, 1, 2, 3), 255, dtype=np.uint8)
    for alpha in (0.0, 0.3, 0.5, 1.0):
        assert heat(frames, make_tube([[[0.0, 1.0]]]), alpha, "Greys")[0, 0, 0].tolist() == [
            255,
            255,
            255,
        ]


def test_alpha_reaches_from_the_frames_to_the_colours(clip, tube):
    np.testing.assert_array_equal(heat(clip, tube, alpha=0), clip.frames)
    colors = heat(clip, tube, alpha=1, colormap="viridis")
    import matplotlib

    expected = matplotlib.colormaps["viridis"](tube.normalized)[..., :3] * 255
    assert np.abs(colors - expected).max() <= 0.5 + 1e-3


def test_focus_dims_by_the_normalised_tube():
    frames = np.full((1, 1, 3, 3), 200, dtype=np.uint8)
    tube = make_tube([[[0.0, 1.0, 0.5]]])
    # floor 20/255: 200 * 20/255 = 15.69; 200; 200 * (20/255 + 235/255 / 2) = 107.84
    assert focus(frames, tube)[0, 0, :, 0].tolist() == [16, 200, 108]
    assert focus(frames, tube, floor=0)[0, 0, :, 0].tolist() == [0, 200, 100]
    np.testing.assert_array_equal(focus(frames, tube, floor=1), frames)


def test_scaling_is_over_the_whole_volume_not_per_frame():
    frames = np.full((2, 1, 2, 3), 255, dtype=np.uint8)
    tube = make_tube([[[0.0, 0.1]], [[0.0, 1.0]]])
    bright = focus(frames, tube, floor=0)[..., 0]
    assert bright[0].max() == 26
    assert bright[1].max() == 255


def test_focus_by_frame_is_the_authors():
    """`cv2.normalize(cam[i], 20, 255, MINMAX)` as alpha; a constant frame gets 20."""
    frames = np.full((3, 1, 3, 3), 255, dtype=np.uint8)
    tube = make_tube([[[-2.0, 0.0, 2.0]], [[0.5, 0.6, 0.7]], [[9.0, 9.0, 9.0]]])
    shown = focus(frames, tube, scale="frame")[..., 0]
    assert shown[:, 0].tolist() == [[20, 138, 255], [20, 138, 255], [20, 20, 20]]  # 137.5 is 138
    whole = focus(frames, tube)[..., 0]
    assert whole[2, 0].tolist() == [255, 255, 255]
    assert whole[1].max() < 90
    with pytest.raises(ValueError, match="scale: expected 'volume' or 'frame'"):
        focus(frames, tube, scale="clip")


def test_a_constant_tube_is_no_evidence(clip):
    flat = make_tube(np.full((5, 12, 16), 7.0))
    np.testing.assert_array_equal(focus(clip, flat, floor=0), np.zeros_like(clip.frames))
    expected = np.rint(clip.frames * np.float32(0.5) + np.float32([0, 0, 63.75]))
    np.testing.assert_array_equal(heat(clip, flat), expected)


@pytest.mark.parametrize("function", [heat, focus])
def test_overlays_give_new_frames_and_change_nothing(function, clip, tube):
    before, volume = clip.frames.copy(), tube.volume.copy()
    out = function(clip, tube)
    assert out.shape == clip.frames.shape
    assert out.dtype == np.uint8
    assert not np.shares_memory(out, clip.frames)
    np.testing.assert_array_equal(clip.frames, before)
    np.testing.assert_array_equal(tube.volume, volume)
    np.testing.assert_array_equal(function(clip.frames, tube), out)


@pytest.mark.parametrize("function", [heat, focus])
def test_overlays_refuse_what_does_not_belong_together(function, clip, tube):
    with pytest.raises(ValueError, match=r"\(4, 12, 16\).*\(5, 12, 16\).*\n?.*ex\.clip"):
        function(clip, make_tube(tube.volume[:4]))
    broken = tube.volume.copy()
    broken[2, 3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        function(clip, make_tube(broken))
    with pytest.raises(ValueError, match="uint8"):
        function(clip.frames / 255.0, tube)


def test_heat_and_focus_name_bad_settings(clip, tube):
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"alpha.*between 0 and 1"):
            heat(clip, tube, alpha=alpha)
    with pytest.raises(ValueError, match="floor"):
        focus(clip, tube, floor=20)
    with pytest.raises(ValueError, match="'jett'"):
        heat(clip, tube, colormap="jett")


# Boxes


def test_a_box_is_drawn_inside_its_half_open_edges():
    black = np.zeros((1, 10, 12, 3), dtype=np.uint8)
    out = draw_boxes(black, np.array([[2, 3, 9, 8]]), color="red", width=1)[0]
    expected = np.zeros((10, 12, 3), dtype=np.uint8)
    expected[3:8, 2:9] = [255, 0, 0]
    expected[4:7, 3:8] = 0
    np.testing.assert_array_equal(out, expected)
    assert not black.any()


def test_boxes_over_the_edge_are_cut_and_boxes_outside_are_not_drawn():
    black = np.zeros((1, 10, 12, 3), dtype=np.uint8)
    out = draw_boxes(black, np.array([[-5, -5, 4, 3.2]]), width=1)[0, ..., 0] > 0
    assert out[:3, :4].sum() == 10  # a 4 × 3 rectangle's rim
    assert out.sum() == 10
    assert not draw_boxes(black, np.array([[20, 2, 30, 6]])).any()
    whole = draw_boxes(black, np.array([[-9, -9, 99, 99]]), width=2)[0, ..., 0] > 0
    assert whole.sum() == 120 - 8 * 6


def test_several_boxes_a_frame_and_frames_without_one():
    black = np.zeros((3, 10, 12, 3), dtype=np.uint8)
    none = [np.nan] * 4
    boxes = np.array([[[0, 0, 3, 3], [5, 5, 8, 8]], [none, [5, 5, 8, 8]], [none, none]])
    lit = (draw_boxes(black, boxes, width=1)[..., 0] > 0).sum(axis=(1, 2))
    assert lit.tolist() == [16, 8, 0]


def test_a_clip_brings_its_own_boxes(clip):
    boxes = np.tile([1.0, 1, 8, 8], (5, 1))
    owned = Clip(frames=clip.frames, fps=10, boxes=boxes)
    np.testing.assert_array_equal(draw_boxes(owned), draw_boxes(clip, boxes))
    with pytest.raises(ValueError, match="has none of its own"):
        draw_boxes(clip)


def test_a_label_stands_above_the_box_or_in_it_where_there_is_no_room():
    black = np.zeros((2, 80, 120, 3), dtype=np.uint8)
    boxes = np.array([[30.0, 40, 90, 70], [30, 2, 90, 70]])
    plain = draw_boxes(black, boxes, color="yellow")
    changed = (draw_boxes(black, boxes, color="yellow", label="cup") != plain).any(axis=-1)
    rows = [np.flatnonzero(frame.any(axis=1)) for frame in changed]
    assert 10 < rows[0].min() < rows[0].max() < 40
    assert 2 <= rows[1].min() < rows[1].max() < 40
    # At the far edge the label is moved in, and one wider than the frame is cut off.
    assert (
        draw_boxes(black, boxes + np.array([85, 0, 85, 0]), label="a long name" * 20).shape
        == black.shape
    )


def test_boxes_that_are_none_are_refused(clip):
    with pytest.raises(ValueError, match=r"\(5, 4\).*got \(4, 4\)"):
        draw_boxes(clip, np.zeros((4, 4)))
    with pytest.raises(ValueError, match="inside out"):
        draw_boxes(clip, np.tile([8, 1, 2, 8], (5, 1)))
    with pytest.raises(ValueError, match="'yelow'"):
        draw_boxes(clip, np.zeros((5, 4)), color="yelow")
    with pytest.raises(ValueError, match="width"):
        draw_boxes(clip, np.zeros((5, 4)), width=0)


# Filmstrips


def numbered(count: int = 9, height: int = 20, width: int = 30) -> np.ndarray:
    frames = np.zeros((count, height, width, 3), dtype=np.uint8)
    return frames + (10 * np.arange(count, dtype=np.uint8))[:, None, None, None]


def test_a_filmstrip_spreads_its_frames_evenly_over_the_clip():
    strip = filmstrip(numbered(9), count=4, gap=2)
    assert strip.shape == (20, 4 * 30 + 3 * 2, 3)
    assert strip[10, [15, 47, 79, 111], 0].tolist() == [
        0,
        20,
        50,
        80,
    ]  # linspace(0, 8, 4) rounded down
    assert strip[10, 31].tolist() == [255, 255, 255]
    assert filmstrip(numbered(3), count=8, gap=0).shape == (20, 90, 3)


def test_rows_lie_below_each_other_and_lines_go_on_below():
    frames = numbered(6)
    strip = filmstrip([frames, frames + 100], count=6, columns=4, gap=1)
    # Two lines of two rows; 5 white pixels between lines, 1 between rows. Line two has two frames.
    assert strip.shape == (4 * 20 + 2 * 1 + 5, 4 * 31 - 1, 3)
    assert strip[[10, 31], 10, 0].tolist() == [0, 100]
    assert strip[56, [10, 41], 0].tolist() == [40, 50]
    assert (strip[56, 70:] == 255).all()


def test_times_and_row_titles_take_room_of_their_own():
    clip = Clip(frames=numbered(4, 60, 80), fps=10)
    bare = filmstrip(clip.frames, 4)
    timed = filmstrip(clip, 4)
    titled = filmstrip([clip, clip.frames], 4, labels=["clip", "heat"])
    assert timed.shape[0] > bare.shape[0]
    assert timed.shape[1] == bare.shape[1]
    np.testing.assert_array_equal(timed[-60:], bare)
    assert titled.shape[1] > bare.shape[1]
    np.testing.assert_array_equal(titled[-60:, -bare.shape[1] :], bare)
    above, left = timed[:-60], titled[-60:, : -bare.shape[1]]
    assert above.min() < 100  # ink
    assert left.min() < 100
    for n in range(4):
        assert above[:, n * 83 : n * 83 + 80].min() < 100


def test_a_filmstrip_scales_to_the_height_asked_for():
    assert filmstrip(numbered(4), 4, height=40, gap=0).shape == (40, 4 * 60, 3)


def test_filmstrips_refuse_what_does_not_fit():
    frames = numbered(4)
    for bad, message in [
        (lambda: filmstrip([]), "one shape"),
        (lambda: filmstrip([frames, frames[:3]]), "one shape"),
        (lambda: filmstrip(frames, labels=["a", "b"]), "labels: expected 1"),
        (lambda: filmstrip(frames, times=np.zeros(3)), "times: expected 4"),
        (lambda: filmstrip(frames, count=0), "count"),
        (lambda: filmstrip(frames, columns=0), "columns"),
        (lambda: filmstrip(frames, gap=-1), "gap"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad()


# Files


def moving_bar(count: int = 10, height: int = 48, width: int = 64) -> np.ndarray:
    frames = np.full((count, height, width, 3), [30, 60, 120], dtype=np.uint8)
    for n, frame in enumerate(frames):
        frame[:, 4 * n : 4 * n + 16] = [220, 120, 40]
    return frames


def read_mp4(path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate is not None
        return np.stack(
            [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        ), stream.average_rate


@pytest.mark.parametrize("fps", [25, 12.5, 29.97])
def test_mp4_reads_back(tmp_path, fps):
    frames = moving_bar()
    path = save_video(str(tmp_path / "new folder" / "bar.mp4"), frames, fps)
    back, rate = read_mp4(path)
    assert back.shape == frames.shape
    assert float(rate) == pytest.approx(fps, rel=1e-3)
    assert np.abs(back.astype(int) - frames).mean() < 3


def test_avi_is_xvid_and_quality_trades_size(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
    sizes = []
    for quality in (None, 20):
        path = save_video(tmp_path / f"{quality}.avi", frames, 25, quality=quality)
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            assert (context.name, context.codec_tag) == ("mpeg4", "XVID")
            assert sum(1 for _ in container.decode(video=0)) == 6
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]


def test_mp4_doubles_an_odd_last_row_and_column(tmp_path):
    frames = moving_bar(4, 33, 47)
    back, _ = read_mp4(save_video(tmp_path / "odd.mp4", frames, 10))
    assert back.shape == (4, 34, 48, 3)
    assert np.abs(back[:, :33, :47].astype(int) - frames).mean() < 4
    assert np.abs(back[:, -1].astype(int) - back[:, -2]).mean() < 4


def test_gif_reads_back(tmp_path):
    frames = moving_bar()
    with Image.open(save_video(tmp_path / "bar.gif", frames, 30)) as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (10, (64, 48), 0)
        total = 0
        for n in range(gif.n_frames):
            gif.seek(n)
            total += gif.info["duration"]
            back = np.asarray(gif.convert("RGB")).astype(int)
            assert np.abs(back - frames[n]).mean() < 4
        assert total == 330  # ms: ten frames at 30 a second, to a hundredth of a second


def test_a_clip_plays_at_life_speed(tmp_path):
    clip = Clip(frames=moving_bar(), fps=25, times=np.arange(10) * 0.2)
    _, rate = read_mp4(save_video(tmp_path / "bar.mp4", clip))
    assert float(rate) == 5.0


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "bar.gif"
    path.write_bytes(b"the former one")

    def fill_the_disk(part, *_):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    for failure in (OSError, KeyboardInterrupt):

        def fail(part, *_, failure=failure):
            part.write_bytes(b"half")
            raise failure

        monkeypatch.setattr(writing, "_write_gif", fail)
        with pytest.raises(failure):
            save_video(path, moving_bar(), 10)
        assert [p.name for p in tmp_path.iterdir()] == ["bar.gif"]
        assert path.read_bytes() == b"the former one"


def test_pictures_read_back(tmp_path):
    picture = moving_bar()[3]
    for name, tolerance in (("a.png", 0), ("deep/a.JPG", 6)):
        with Image.open(save_picture(tmp_path / name, picture)) as back:
            assert np.abs(np.asarray(back).astype(int) - picture).mean() <= tolerance


def test_files_name_what_they_cannot_do(tmp_path):
    frames = moving_bar(2)
    for bad, message in [
        (lambda: save_video(tmp_path / "a.wmv", frames, 10), r"a\.wmv.*\.mp4, \.gif or \.avi"),
        (lambda: save_video(tmp_path / "a", frames, 10), r"\.mp4, \.gif"),
        (lambda: save_video(tmp_path / "a.mp4", frames), "only a Clip knows"),
        (lambda: save_video(tmp_path / "a.mp4", frames, 0), "fps.*positive"),
        (lambda: save_video(tmp_path / "a.mp4", frames / 255, 10), "uint8"),
        (lambda: save_picture(tmp_path / "a.bmp", frames[0]), r"\.png or \.jpg"),
        (lambda: save_picture(tmp_path / "a.png", frames), r"\(H, W, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad()
    assert not list(tmp_path.iterdir())
