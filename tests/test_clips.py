"""Clips: the frames asked for are the frames given, in any container; damage is reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from videos import read_numbers, textured, write_video

from workbench.clips import decoding, packets
from workbench.clips.clip import Action, Clip
from workbench.clips.errors import ClipError
from workbench.clips.packets import video_info
from workbench.clips.reading import read_clip
from workbench.clips.sampling import frame_indices

FRAMES = 90
CLOSED = {"x264-params": "open-gop=0"}
OPEN = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"}
IRREGULAR = np.cumsum(np.random.default_rng(0).integers(10, 90, FRAMES)) / 1000
KINDS = {  # name: suffix, how it is written
    "mp4": (".mp4", {"options": CLOSED}),
    "mp4, variable rate": (".mp4", {"times": IRREGULAR - IRREGULAR[0]}),
    "mp4, open groups": (".mp4", {"options": OPEN, "b_frames": 3}),
    "mkv": (".mkv", {}),
    "mkv, variable rate": (".mkv", {"times": IRREGULAR - IRREGULAR[0]}),
    "avi": (".avi", {"codec": "mpeg4", "b_frames": 0}),
    "avi, B frames": (".avi", {"codec": "mpeg4", "b_frames": 2}),
    "avi, one key frame": (".avi", {"codec": "mpeg4", "b_frames": 2, "gop": 250}),
    "avi, h264": (".avi", {}),
    "ts": (".ts", {"codec": "mpeg2video"}),
}
DECORD_EXACT = ["mp4", "mp4, variable rate", "mkv", "mkv, variable rate", "avi"]

needs_decord = pytest.mark.skipif(
    decoding._import_decord() is None, reason="decord has no wheel here"
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Return a function from a kind of video to the path of one."""
    folder, made = tmp_path_factory.mktemp("videos"), {}

    def make(kind: str) -> Path:
        if kind not in made:
            suffix, how = KINDS[kind]
            made[kind] = write_video(folder / f"video{len(made)}{suffix}", FRAMES, **how)
        return made[kind]

    return make


@pytest.fixture(scope="module")
def video(videos) -> Path:
    """Return a plain MP4: 90 frames at 25 fps, 3.6 s."""
    return videos("mp4")


# What is read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [None, "pyav"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_frames_asked_for_are_the_frames_read(videos, kind, backend):
    path = videos(kind)
    times = IRREGULAR - IRREGULAR[0] if "variable" in kind else np.arange(FRAMES) / 25
    for request in (
        {"frames": None},
        {},
        {"frames": 8, "stride": 2, "start": 1.0, "stop": 2.5},
        {"frames": None, "start": 1.5, "stop": 1.9},
        {"frames": 5, "start": 3.0},
        {"frames": 3, "stride": 1, "start": 0.5, "stop": 0.51},
    ):
        clip = read_clip(path, backend=backend, **request)
        np.testing.assert_array_equal(read_numbers(clip.frames), clip.indices)
        np.testing.assert_allclose(clip.times, times[clip.indices], atol=1e-9)


@needs_decord
@pytest.mark.parametrize("kind", DECORD_EXACT)
def test_both_decoders_give_the_same(videos, kind):
    path = videos(kind)
    for request in (
        {},
        {"frames": 7, "stride": 3, "start": 1.2, "stop": 2.2},
        {"frames": 4, "start": 3.3},
    ):
        one, other = (read_clip(path, backend=backend, **request) for backend in ("decord", "pyav"))
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.times, other.times)
        assert np.abs(one.frames.astype(int) - other.frames).max() <= 2


@needs_decord
@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(DECORD_EXACT)))
def test_decord_is_exact_or_refuses(videos, kind):
    refused = 0
    for start in np.arange(0, 3, 0.2):
        try:
            clip = read_clip(videos(kind), 5, 1, start, start + 0.2, backend="decord")
        except ClipError as error:
            if "decord" not in str(error):
                raise
            refused += 1
        else:
            np.testing.assert_array_equal(read_numbers(clip.frames), clip.indices)
    if kind != "avi, one key frame":  # decord seeks nowhere in it
        assert refused, "decord is wrong somewhere in each of the others"


def test_without_decord_pyav_reads(video, monkeypatch):
    monkeypatch.setattr(decoding, "_import_decord", lambda: None)
    assert read_numbers(read_clip(video).frames).tolist() == read_clip(video).indices.tolist()


@pytest.mark.parametrize("backend", [None, "pyav"])
def test_the_picture_keeps_its_size_and_is_turned_upright(tmp_path, backend):
    plain = write_video(tmp_path / "plain.mp4", 20)
    turned = tmp_path / "turned.mp4"
    with av.open(str(plain)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a display matrix")
        stream.set_display_rotation(90)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    clip = read_clip(turned, frames=5, backend=backend)
    np.testing.assert_array_equal(
        clip.frames, np.rot90(read_clip(plain, frames=5).frames, axes=(1, 2))
    )


def test_what_a_clip_says_of_its_source(video):
    clip = read_clip(str(video), label="counting", name="mine")
    assert clip.path == video
    assert (clip.label, clip.name, clip.fps) == ("counting", "mine", 25.0)
    assert read_clip(video).name == video.stem
    assert clip.frames.shape == (16, 32, 128, 3)
    assert (clip.frames.dtype, clip.times.dtype, clip.indices.dtype) == (
        np.uint8,
        np.float64,
        np.int64,
    )
    assert clip.frames.flags.writeable


def test_time_begins_with_the_file(tmp_path):
    late = write_video(tmp_path / "late.mkv", 20, times=5 + np.arange(20) / 25)
    assert read_clip(late).times[0] == 0


# Which frames are taken -------------------------------------------------------------------------


def test_spread_evenly_as_the_authors_do(video):
    np.testing.assert_array_equal(
        read_clip(video).indices, np.linspace(0, FRAMES - 1, 16).astype(int)
    )


def test_strides_are_centred(video):
    assert read_clip(video, frames=4, stride=2).indices.tolist() == [
        41,
        43,
        45,
        47,
    ]  # 41 before, 42 after
    assert read_clip(video, frames=None, stride=30).indices.tolist() == [0, 30, 60]


def test_the_segment_is_half_open(video):
    clip = read_clip(video, frames=None, start=0.4, stop=0.8)
    assert clip.indices.tolist() == list(range(10, 20))


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [(2.0, 2.04, range(46, 54)), (0.0, 0.04, range(8)), (3.56, 3.6, range(82, 90))],
    ids=["around its centre", "at the start", "at the end"],
)
def test_a_short_segment_is_widened_within_the_video(video, start, stop, expected):
    clip = read_clip(video, frames=8, stride=1, start=start, stop=stop)
    assert clip.indices.tolist() == list(expected)


def test_a_segment_between_two_frames_is_widened(video):
    assert read_clip(video, frames=None, start=1.01, stop=1.02).indices.tolist() in ([25], [26])


def test_times_that_were_rounded_still_mean_their_frame(tmp_path):
    path = write_video(tmp_path / "ntsc.mp4", 60, fps=30)
    for number in range(1, 57):
        start, stop = (round(frame / 30, 7) for frame in (number, number + 3))
        assert read_clip(path, frames=1, start=start, stop=stop).indices == number
        read = read_clip(path, frames=None, start=start, stop=stop).indices
        assert read.tolist() == [number, number + 1, number + 2]


def test_frame_indices_by_hand():
    assert frame_indices(10, 20, 4, None).tolist() == [10, 13, 16, 19]
    assert frame_indices(10, 20, 4, 2).tolist() == [11, 13, 15, 17]
    assert frame_indices(0, 7, 4, 2).tolist() == [0, 2, 4, 6]


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        {"frames": 0},
        {"frames": -3},
        {"frames": 2.5},
        {"stride": 0},
        {"stride": -1},
        {"start": -0.1},
        {"start": float("nan")},
        {"stop": float("inf")},
        {"start": 2.0, "stop": 2.0},
        {"start": 2.0, "stop": 1.0},
        {"stop": 0.0},
        {"start": 3.6},
        {"start": 1.0, "stop": 4.0},
    ],
    ids=str,
)
def test_requests_without_sense(video, request_):
    with pytest.raises(ValueError, match="expected") as caught:
        read_clip(video, **request_)
    assert str(video) in str(caught.value)


def test_a_video_shorter_than_the_window(video):
    with pytest.raises(
        ClipError, match=r"has 90 frames; 16 frames at stride 8 takes 121.*smaller stride"
    ):
        read_clip(video, stride=8)


def test_an_unknown_backend(video):
    with pytest.raises(ValueError, match="'decord', 'pyav' or None"):
        read_clip(video, backend="opencv")


def test_a_missing_file(tmp_path):
    for read in (read_clip, video_info):
        with pytest.raises(FileNotFoundError, match=r"nothing\.mp4"):
            read(tmp_path / "nothing.mp4")


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((2, 1024), np.float32), format="fltp", layout="stereo"
        )
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("content", ["nothing", "text", "noise", "sound", "folder"])
@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_files_that_are_no_videos(tmp_path, content, suffix):
    path = tmp_path / f"{content}{suffix}"
    if content == "sound":
        path = path.with_suffix(".mp4")
        write_sound(path)
    elif content == "folder":
        path.mkdir()
    else:
        noise = np.random.default_rng(0).bytes(10_000)
        path.write_bytes({"nothing": b"", "text": b"not a video\n" * 50, "noise": noise}[content])
    for read in (read_clip, video_info):
        with pytest.raises(ClipError, match=str(path)):
            read(path)


# Damage -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[".mp4", ".mkv", ".avi"])
def intact(request, tmp_path_factory) -> Path:
    how = {"codec": "mpeg4"} if request.param == ".avi" else {}
    return write_video(
        tmp_path_factory.mktemp("intact") / f"intact{request.param}", textured(60), **how
    )


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["cut off", "zeros", "noise", "a few bytes"])
def test_damage_is_told_or_does_not_matter(intact, tmp_path, kind, at):
    data = bytearray(intact.read_bytes())
    rng, begin = np.random.default_rng(0), int(at * len(data))
    if kind == "cut off":
        data = data[:begin]
    elif kind == "a few bytes":
        for place in rng.integers(begin, begin + len(data) // 20, 5):
            data[place] ^= 0xFF
    else:
        end = begin + len(data) // 30
        data[begin:end] = bytes(end - begin) if kind == "zeros" else rng.bytes(end - begin)
    path = tmp_path / f"damaged{intact.suffix}"
    path.write_bytes(data)
    for request in ({}, {"stop": 0.6}, {"start": 1.2, "stop": 2.2}):
        try:
            clip = read_clip(path, **request)
        except (
            ValueError
        ) as error:  # ClipError; or the segment lies beyond what is left of the file
            if str(path) not in str(error):
                raise
            continue
        true = np.round(clip.times * 25).astype(
            int
        )  # frames can be lost from the middle of a file: go by time
        np.testing.assert_array_equal(read_numbers(clip.frames), true)
        whole = read_clip(intact, frames=None).frames[true]
        assert np.abs(clip.frames.astype(int) - whole).mean(axis=(1, 2, 3)).max() < 1


def test_what_precedes_damage_can_be_read(tmp_path):
    path = write_video(tmp_path / "damaged.mkv", textured(60), gop=60)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    place, size = packets[40].pos, packets[40].size
    data = bytearray(path.read_bytes())
    data[place + 20 : place + size] = bytes(size - 20)
    path.write_bytes(data)
    with pytest.raises(
        ClipError, match=r"damaged: frame \d+ of 60 .* start and stop, .* ffmpeg -i"
    ):
        read_clip(path)
    assert (
        read_numbers(read_clip(path, stop=1.2).frames).tolist()
        == read_clip(path, stop=1.2).indices.tolist()
    )


def test_a_file_that_was_cut_off_says_so(tmp_path):
    path = write_video(tmp_path / "whole.avi", textured(60), codec="mpeg4", b_frames=0)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(path.read_bytes()[: int(0.9 * path.stat().st_size)])
    with pytest.raises(ClipError, match=r"promises 60 frames, the file holds \d+"):
        read_clip(cut)
    assert len(read_clip(cut, frames=None, stop=0.5)) == 13


def test_a_changed_file_is_read_anew(tmp_path):
    path = write_video(tmp_path / "video.mp4", 20)
    assert read_clip(path, frames=None).indices[-1] == 19
    write_video(path, 30)
    assert read_clip(path, frames=None).indices[-1] == 29


@pytest.mark.parametrize("backend", [None, "pyav"])
def test_the_damaged_real_video(clips_folder, backend):
    path = clips_folder / "corrupted.mp4"
    with pytest.raises(ClipError, match=r"corrupted\.mp4 is damaged: frame 29 of 50"):
        read_clip(path, backend=backend)
    assert read_clip(path, stop=2.0, backend=backend).times[-1] == pytest.approx(1.9)


# Real videos ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "frames", "fps"),
    [("apply_eye_makeup.avi", 164, 25.0), ("arm_wrestling.mp4", 280, 28.0)],
)
def test_real_videos(clips_folder, name, frames, fps):
    path = clips_folder / name
    clip = read_clip(path)
    np.testing.assert_array_equal(clip.indices, np.linspace(0, frames - 1, 16).astype(int))
    np.testing.assert_allclose(clip.times, clip.indices / fps)
    with av.open(str(path)) as container:  # the plain truth: every frame, in order
        truth = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.abs(clip.frames.astype(int) - np.stack(truth)[clip.indices]).max() <= 2
    assert video_info(path).frames == frames


def test_video_info(videos, video):
    info = video_info(str(video))
    assert (info.path, info.frames, info.fps, info.codec) == (video, 90, 25.0, "h264")
    assert (info.width, info.height) == (128, 32)
    assert info.duration == pytest.approx(3.6)
    assert video_info(videos("mkv")).frames is None
    assert video_info(videos("mkv")).duration == pytest.approx(3.6)


# Cost -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [None, "pyav"])
def test_no_reader_is_left_open(video, tmp_path, backend):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to count open files")
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(video.read_bytes()[:-500])

    def reads():
        for _ in range(5):
            read_clip(video, backend=backend)
            with pytest.raises(ValueError, match="video"):
                read_clip(video, start=100, backend=backend)
            with pytest.raises(ClipError):
                read_clip(bad, backend=backend)

    reads()
    before = len(os.listdir("/proc/self/fd"))
    reads()
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("backend", [None, "pyav"])
def test_the_end_of_a_video_is_not_reached_by_decoding_all_of_it(tmp_path, backend, monkeypatch):
    path = write_video(tmp_path / "long.mp4", 1000, gop=25)
    decoded = []
    plain = packets.FrameTable.number

    def counting(table, tick, before):
        decoded.append(plain(table, tick, before))
        return decoded[-1]

    monkeypatch.setattr(packets.FrameTable, "number", counting)
    read_clip(path, start=39.0, backend=backend)
    assert min(decoded) >= 950


@pytest.mark.slow
@pytest.mark.parametrize("backend", [None, "pyav"])
def test_memory_does_not_grow_over_500_reads(tmp_path, backend):
    path = write_video(tmp_path / "video.mp4", textured(120))
    script = (
        "import sys\n"
        "from workbench.clips.reading import read_clip\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20\n"
        f"read = lambda: read_clip({str(path)!r}, backend={backend!r})\n"
        "for _ in range(20): read()\n"
        "before = resident()\n"
        "for _ in range(500): read()\n"
        "sys.exit(0 if resident() - before < 50 else f'grew by {resident() - before:.0f} MB')\n"
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to measure memory")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr


# Clips in memory --------------------------------------------------------------------------------


def made(**fields) -> Clip:
    frames = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3), dtype=np.uint8)
    boxes = np.tile(np.float32([3, 4, 15, 12]), (6, 1))
    boxes[5] = np.nan
    action = Action("wave", 0.1, 0.3, boxes)
    return Clip(**{"frames": frames, "fps": 10.0, "actions": (action,), **fields})


def test_defaults_are_filled_in():
    clip = made(path="some/where.avi")
    assert (clip.name, clip.label, clip.action, clip.size, len(clip)) == (
        "where",
        "wave",
        (0.1, 0.3),
        (20, 30),
        6,
    )
    np.testing.assert_allclose(clip.times, np.arange(6) / 10)
    assert clip.during((0.1, 0.3)).tolist() == [False, True, True, False, False, False]
    np.testing.assert_array_equal(clip.boxes, clip.actions[0].boxes)


def test_a_clip_tells_itself_in_one_line():
    assert repr(made(name="x")) == "<Clip x 'wave': 6 frames of 30×20, 0.00-0.50 s, 10 fps>"


def test_an_interval_has_its_start_and_not_its_stop():
    clip = Clip(np.zeros((4, 2, 2, 3), np.uint8), fps=2)
    assert clip.during((0.5, 1.5)).tolist() == [False, True, True, False]


def test_select_carries_everything_along():
    clip = made(boxes=np.arange(24).reshape(6, 4))
    some = clip.select([4, 1])
    np.testing.assert_array_equal(some.frames, clip.frames[[4, 1]])
    np.testing.assert_allclose(some.times, [0.4, 0.1])
    assert some.indices.tolist() == [4, 1]
    np.testing.assert_array_equal(some.boxes, [[16, 17, 18, 19], [4, 5, 6, 7]])
    assert some.actions[0].boxes.shape == (2, 4)


def test_sample_chooses_as_read_clip_does(video):
    whole = read_clip(video, frames=None)
    for frames, stride in ((16, None), (8, 3)):
        np.testing.assert_array_equal(
            whole.sample(frames, stride).indices, read_clip(video, frames, stride).indices
        )
    with pytest.raises(ValueError, match=r"has 90 frames; 16 frames at stride 9 takes 136"):
        whole.sample(16, 9)
    with pytest.raises(ValueError, match="from 1 up"):
        whole.sample(4, 0)


def test_resize_moves_boxes_with_the_pixels():
    clip = made()
    large = clip.resize(40, 90)
    assert large.size == (40, 90)
    np.testing.assert_allclose(large.boxes[0], [9, 8, 45, 24])
    assert np.isnan(large.boxes[5]).all()
    flat = made(frames=np.full((2, 8, 8, 3), 77, np.uint8), actions=()).resize(5, 3)
    assert (flat.frames == 77).all()
    assert clip.resize(20, 30) is clip


def test_crop_moves_and_clips_boxes():
    clip = made()
    part = clip.crop(top=5, left=10, height=10, width=10)
    np.testing.assert_array_equal(part.frames, clip.frames[:, 5:15, 10:20])
    np.testing.assert_allclose(part.boxes[0], [0, 0, 5, 7])
    assert np.isnan(clip.crop(15, 20, 5, 5).boxes).all()  # nothing of the box is left
    with pytest.raises(ValueError, match=r"30×20"):
        clip.crop(15, 0, 10, 10)


def test_inputs_stay_as_they_were():
    clip = made()
    frames, boxes = clip.frames.copy(), clip.boxes.copy()
    clip.resize(10, 10), clip.crop(0, 0, 5, 5), clip.select([1]), clip.sample(3)
    np.testing.assert_array_equal(clip.frames, frames)
    np.testing.assert_array_equal(clip.boxes, boxes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": np.zeros((2, 4, 4), np.uint8)}, r"\(T, H, W, 3\)"),
        ({"frames": np.zeros((2, 4, 4, 3), np.float32)}, "astype"),
        ({"frames": np.zeros((0, 4, 4, 3), np.uint8)}, "at least one frame"),
        ({"fps": 0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"times": [0.0, 1.0]}, "each of the 6 frames"),
        ({"boxes": np.zeros((6, 3))}, r"\(T, 4\)"),
    ],
)
def test_clips_that_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        made(**fields)
