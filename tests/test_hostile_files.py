"""Files that are damaged, huge, or no videos: the answer is right, or an error names the file."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_epic_kitchens import annotate, jpegs, segment, write_folder
from test_ucf101 import make_ucf
from videos import picture, read_numbers, textured, write_video

import workbench as wb
from workbench.clips import decoding, packets
from workbench.clips.frame_folders import read_frames_clip
from workbench.clips.packets import frame_table
from workbench.datasets import checks

needs_decord = pytest.mark.skipif(decoding._import_decord() is None, reason="no decord here")
needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX file names and pipes")


# AVI files with damaged indices ----------------------------------------------------------------


def write_avi(path: Path) -> Path:
    return write_video(path, textured(60), codec="mpeg4", b_frames=0)


def index_entries(data: bytes) -> range:
    """Where each entry of an AVI's index lies: name, flags, position and size, 4 bytes each."""
    begin = data.rindex(b"idx1") + 8
    return range(begin, len(data) - 15, 16)


@pytest.mark.parametrize("damage", ["positions", "key flags", "zeros", "shuffled"])
def test_an_avi_with_a_damaged_index_gives_the_right_frames(tmp_path, damage):
    data = bytearray(write_avi(tmp_path / "sound.avi").read_bytes())
    entries = index_entries(data)
    for place in entries[5:]:
        if damage == "positions":
            later = entries[min(len(entries) - 1, (place - entries[0]) // 16 + 3)]
            data[place + 8 : place + 12] = data[later + 8 : later + 12]
        elif damage == "key flags":
            data[place + 4] ^= 0x10
        elif damage == "zeros":
            data[place : place + 16] = bytes(16)
    if damage == "shuffled":
        first, second = entries[10], entries[30]
        data[first : first + 16], data[second : second + 16] = (
            data[second : second + 16],
            data[first : first + 16],
        )
    path = tmp_path / "damaged.avi"
    path.write_bytes(data)
    for request in ({}, {"start": 1.0, "stop": 1.6}, {"start": 2.0}):
        try:
            clip = wb.read_clip(path, **request)
        except wb.ClipError:
            continue
        expected = np.rint(clip.times * 25).astype(int)
        np.testing.assert_array_equal(read_numbers(clip.frames), expected)


def test_frames_after_a_lost_chunk_of_an_avi_are_refused_and_those_before_are_right(tmp_path):
    data = bytearray(write_avi(tmp_path / "sound.avi").read_bytes())
    with av.open(str(tmp_path / "sound.avi")) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][30]
    data[packet.pos - 8 : packet.pos - 4] = b"JUNK"  # the demuxer skips it
    path = tmp_path / "lost.avi"
    path.write_bytes(data)
    clip = wb.read_clip(path, frames=None, stop=1.0)
    np.testing.assert_array_equal(read_numbers(clip.frames), np.arange(25))
    with pytest.raises(wb.ClipError, match=r"lost\.avi is damaged: frame 3\d of 59"):
        wb.read_clip(path, start=1.4, stop=2.0)


# One decode, and the choice of the decoder -----------------------------------------------------


def test_every_frame_of_a_sound_file_is_decoded_once(tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.mp4", 60)
    numbers = []
    plain = type(frame_table(path)).number

    def counted(table, tick, before):
        numbers.append(plain(table, tick, before))
        return numbers[-1]

    monkeypatch.setattr(type(frame_table(path)), "number", counted)
    monkeypatch.setattr(decoding, "_import_decord", lambda: pytest.fail("decord was not asked for"))
    wb.read_clip(path, frames=None)
    assert sorted(numbers) == list(range(60))


def test_sound_files_need_no_second_look(tmp_path, monkeypatch):
    def second_look(*_):
        pytest.fail("a sound file was taken for a damaged one")

    monkeypatch.setattr(decoding, "_decode_carefully", second_look)
    for path in sorted(wb.samples.FOLDER.rglob("*.avi")) + sorted(wb.samples.FOLDER.rglob("*.MP4")):
        table = frame_table(path)
        assert not table.suspect.any()
        assert not table.cut
        wb.read_clip(path)
        wb.read_clip(path, start=table.stop / 2)


@pytest.fixture
def decoders(monkeypatch) -> list[str]:
    """The backends that files are read with from here on."""
    used = []
    plain = decoding.read_frames

    def recording(path, table, indices, backend):
        used.append(backend)
        return plain(path, table, indices, backend)

    monkeypatch.setattr("workbench.clips.reading.read_frames", recording)
    return used


def test_the_decoder_can_be_chosen_for_every_data_set(tmp_path, decoders):
    make_ucf(tmp_path / "ucf")
    wb.ucf101(tmp_path / "ucf", backend="pyav")[0]
    folder = tmp_path / "epic" / "EPIC-KITCHENS" / "P01" / "videos"
    folder.mkdir(parents=True)
    write_video(folder / "P01_01.MP4", 60)
    annotate(tmp_path / "epic", [segment(0, 0.5, 1.5)])
    wb.epic_kitchens(tmp_path / "epic", backend="pyav")[0]
    wb.samples.shipped(backend="pyav")[0]
    assert decoders == ["pyav"] * 3


@needs_decord
def test_decord_refuses_a_file_of_which_it_gives_other_pictures(tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.mp4", 60)
    clip = wb.read_clip(path, backend="decord")
    np.testing.assert_array_equal(read_numbers(clip.frames), clip.indices)
    decord = decoding._import_decord()
    plain = decord.VideoReader.get_batch
    monkeypatch.setattr(
        decord.VideoReader, "get_batch", lambda self, rows: plain(self, [r - 1 for r in rows])
    )
    with pytest.raises(wb.ClipError, match=r"video\.mp4: decord gives another picture .* frame 20"):
        wb.read_clip(path, 4, 1, start=0.8, stop=0.96, backend="decord")


# Damage that only FFmpeg's messages tell of ----------------------------------------------------


def test_damage_that_ffmpeg_logs_is_reported(tmp_path):
    """Skipped bytes between two Matroska blocks: what is left decodes without an error."""
    path = write_video(tmp_path / "video.mkv", textured(60))
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    start = packets[20].pos
    data[start : start + 12] = b"\xff" * 12
    path.write_bytes(data)
    suspect = frame_table(path).suspect
    assert suspect.any()
    with pytest.raises(wb.ClipError, match="is damaged"):
        wb.read_clip(path, frames=None)
    before = wb.read_clip(path, frames=None, stop=0.4)
    np.testing.assert_array_equal(read_numbers(before.frames), np.arange(10))


# Sizes -----------------------------------------------------------------------------------------


def test_a_clip_may_not_take_more_memory_than_the_limit(tmp_path, monkeypatch):
    huge = tmp_path / "huge.gif"
    frames = [Image.new("P", (12_000, 12_000), colour) for colour in (1, 2)]
    frames[0].save(huge, save_all=True, append_images=frames[1:])
    tracemalloc.start()
    monkeypatch.setenv("WORKBENCH_CLIP_GB", "0.4")
    with pytest.raises(wb.ClipError, match=r"huge\.gif: 1 frames .*take 0\.432 GB.*WORKBENCH_CLIP"):
        wb.read_clip(huge, frames=1)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    video = write_video(tmp_path / "video.mp4", 60)
    monkeypatch.setenv("WORKBENCH_CLIP_GB", "0.0001")  # 8 frames of 12 kB
    assert len(wb.read_clip(video, frames=8)) == 8
    with pytest.raises(wb.ClipError, match=r"9 frames of 128×32.*limit is 0\.0001 GB"):
        wb.read_clip(video, frames=9)
    monkeypatch.setenv("WORKBENCH_CLIP_GB", "much")
    with pytest.raises(ValueError, match="WORKBENCH_CLIP_GB: expected a number"):
        wb.read_clip(video)


def test_frames_are_read_into_one_array(tmp_path):
    path = write_video(tmp_path / "video.mp4", (picture(n, 320, 640) for n in range(40)))
    wb.read_clip(path, frames=2)
    tracemalloc.start()
    clip = wb.read_clip(path, frames=None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * clip.frames.nbytes


@pytest.mark.parametrize("frames", [16, None])
def test_one_picture_with_a_huge_number_takes_no_memory(tmp_path, frames):
    (content,) = jpegs(np.array([0.0]), 60, 1 / 60)
    folder = write_folder(tmp_path / "P01_01", [content])
    (folder / "frame_9999999999.jpg").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(wb.ClipError, match="P01_01"):
        read_frames_clip(folder, 60, frames)
    assert checks._inspect(str(folder), True).wrong.startswith("9999999997 of 9999999999 frames")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


# The index of an MP4 file -----------------------------------------------------------------------


@pytest.mark.parametrize("b_frames", [0, 2])
def test_an_mp4_is_listed_by_its_index_without_reading_its_packets(tmp_path, monkeypatch, b_frames):
    path = write_video(tmp_path / "long.mp4", 600, b_frames=b_frames)
    read = []
    plain = packets.indexed_packets

    def counted(path, container, stream):
        class Counting:
            seek = container.seek

            def demux(self, stream):
                for packet in container.demux(stream):
                    read.append(packet.size)
                    yield packet

        return plain(path, Counting(), stream)

    monkeypatch.setattr(packets, "indexed_packets", counted)
    by_index = frame_table(path)
    by_packets = frame_table(path, trust_index=False)
    assert by_index.by_index
    assert not by_packets.by_index
    assert 12 < len(read) < 60
    for name in ("ticks", "times", "keys", "suspect", "empty", "fps", "stop", "size"):
        np.testing.assert_array_equal(getattr(by_index, name), getattr(by_packets, name))


def test_an_mp4_whose_index_contradicts_its_packets_is_listed_by_them(tmp_path):
    path = write_video(tmp_path / "intact.mp4", 60)
    data = path.read_bytes()
    # The first run of offsets, after version and number of runs, gets one packet more.
    run = data.index(b"ctts") + 12
    longer = int.from_bytes(data[run : run + 4], "big") + 1
    other = tmp_path / "other.mp4"
    other.write_bytes(data[:run] + longer.to_bytes(4, "big") + data[run + 4 :])
    assert frame_table(path).by_index
    assert not frame_table(other).by_index
    # The index of a file that was cut off lists more than there is.
    cut = write_video(tmp_path / "cut.mp4", textured(60), container={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[:-3000])
    assert not frame_table(cut).by_index


def test_an_index_that_promises_other_times_is_not_believed_twice(tmp_path, monkeypatch):
    path = write_video(tmp_path / "video.mp4", 60)
    plain = packets.indexed_packets

    def wrong(*arguments):
        listed = plain(*arguments)
        listed["pts"][20:40] += 1
        return listed

    monkeypatch.setattr(packets, "indexed_packets", wrong)
    clip = wb.read_clip(path, None)
    assert read_numbers(clip.frames).tolist() == list(range(60))
    np.testing.assert_allclose(clip.times, np.arange(60) / 25)


def test_damage_between_an_mp4_s_first_and_last_packets_is_found_on_reading(tmp_path):
    path = write_video(tmp_path / "damaged.mp4", textured(60))
    table = frame_table(path)
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat")
    data[begin + 20_000 : begin + 24_000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(wb.ClipError, match="frame"):
        wb.read_clip(path, None)
    assert read_numbers(wb.read_clip(path, 4, start=2.0).frames).tolist() == [50, 53, 56, 59]
    assert table.by_index


def test_a_frame_that_vanishes_is_damage_to_those_after_it(tmp_path):
    path = write_video(tmp_path / "one.avi", textured(60), codec="mpeg4", b_frames=0, gop=60)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][20]
    data = bytearray(path.read_bytes())
    data[packet.pos + 20 : packet.pos + packet.size] = bytes(packet.size - 20)
    path.write_bytes(data)
    assert len(wb.read_clip(path, frames=None, stop=0.8)) == 20
    with pytest.raises(wb.ClipError, match="damaged: frame 35 of 60"):
        wb.read_clip(path, frames=1, start=1.4, stop=1.44)


# What is no video ------------------------------------------------------------------------------


@needs_posix
def test_a_pipe_is_not_waited_for(tmp_path):
    pipe = tmp_path / "video.mp4"
    os.mkfifo(pipe)
    script = f"import workbench as wb; wb.read_clip({str(pipe)!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120)
    assert b"ClipError" in done.stderr
    assert b"expected a video file" in done.stderr


def test_a_playlist_is_refused(tmp_path):
    lists = {
        "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{name}\n",
        "concat": "ffconcat version 1.0\nfile '{name}'\n",
    }
    paths = [tmp_path / f"{kind}{suffix}" for kind in lists for suffix in (".m3u8", ".mp4")]
    for path in paths:
        path.write_text(lists[path.stem].format(name=path.name))
    script = f"""
import workbench as wb
for path in {list(map(str, paths))}:
    try:
        wb.read_clip(path)
    except wb.ClipError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120)
    lines = done.stdout.decode().splitlines()
    assert [line.split(", ")[0] for line in lines] == [f"{path} is a playlist" for path in paths]


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    folder = tmp_path / "P01_01"
    folder.mkdir()
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    (folder / "frame_0000000001.jpg").write_bytes(eps)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started a program"))
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("started one"))
    with pytest.raises(wb.ClipError, match="frame 1 cannot be read as a picture"):
        read_frames_clip(folder, 60, 1)


def test_a_tar_member_of_negative_size_is_damage(tmp_path):
    (content,) = jpegs(np.array([0.0]), 60, 1 / 60)
    path = tmp_path / "P01_01.tar"
    with tarfile.open(path, "w") as tar:
        for number in (1, 2):
            member = tarfile.TarInfo(f"./frame_{number:010d}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = bytearray(path.read_bytes())
    data[124:136] = tarfile.itn(-512, 12, tarfile.GNU_FORMAT)
    path.write_bytes(data)
    script = (
        "from workbench.clips.frame_folders import read_frames_clip\n"
        f"read_frames_clip({str(path)!r}, 60, 1)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120)
    assert b"is damaged at byte 0" in done.stderr


# Odd but honest files --------------------------------------------------------------------------


def test_an_edit_list_that_hides_everything(tmp_path):
    path = write_video(tmp_path / "hidden.mp4", 30)
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    data[place : place + 8] = (1).to_bytes(4, "big") + (10**7).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(wb.ClipError, match=r"hidden\.mp4"):
        wb.read_clip(path)


@needs_posix
def test_a_name_that_is_no_text_can_be_read(tmp_path):
    path = tmp_path / "video\udcff.mp4"
    write_video(tmp_path / "video.mp4", 30).rename(path)
    assert wb.read_clip(path, frames=None).indices[-1] == 29


@needs_posix
def test_a_relative_name_with_colons_is_no_protocol(tmp_path, monkeypatch):
    write_video(tmp_path / "video.mp4", 30).rename(tmp_path / "12:30:15.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(wb.read_clip("12:30:15.mp4")) == 16
    assert wb.video_info("12:30:15.mp4").frames == 30


def test_a_change_of_resolution_is_named_with_the_file(tmp_path):
    small = write_video(tmp_path / "small.h264", 20)
    large = write_video(tmp_path / "large.h264", (picture(n, 64, 256) for n in range(20)))
    path = tmp_path / "both.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(wb.ClipError, match=r"both\.h264.*128×32 to 256×64"):
        wb.read_clip(path, frames=None)


# Tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0.4", "90", "1:30", "00:00:61", "-00:00:01.0", "", "nan"])
def test_a_timestamp_that_is_no_clock_time_is_named_by_file_row_and_column(tmp_path, value):
    annotate(tmp_path, [segment(0, 1, 2), segment(1, 2, 3)])
    path = tmp_path / "EPIC_100_validation.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[1, "start_timestamp"] = value
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"EPIC_100_validation\.csv, row 3: start_timestamp: exp"):
        wb.epic_kitchens(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [("verb_class", "1.5"), ("noun_class", "-1"), ("start_frame", "many"), ("verb_class", "1e99")],
)
def test_a_number_that_is_not_whole_is_named_by_file_row_and_column(tmp_path, column, value):
    annotate(tmp_path, [segment(0, 1, 2), segment(1, 2, 3)])
    path = tmp_path / "EPIC_100_validation.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[1, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match=rf"EPIC_100_validation\.csv, row 3: {column}: expected"):
        wb.epic_kitchens(tmp_path)


@pytest.mark.parametrize("column", ["participant_id", "video_id"])
@pytest.mark.parametrize("value", ["/etc", "../P02", "..", "a/b", ""])
def test_an_id_may_not_lead_out_of_the_data_set(tmp_path, column, value):
    annotate(tmp_path, [segment(0, 1, 2, **{column: value})])
    with pytest.raises(ValueError, match=rf"EPIC_100_validation\.csv, row 2: {column}"):
        wb.epic_kitchens(tmp_path)


def test_rows_longer_than_the_header_are_refused_with_the_file(tmp_path):
    annotate(tmp_path, [segment(0, 1, 2)])
    path = tmp_path / "EPIC_100_validation.csv"
    header, row = path.read_text().splitlines()
    path.write_text(f"{header}\nextra,{row}\n")
    with pytest.raises(ValueError, match=r"EPIC_100_validation\.csv cannot be read as CSV: rows"):
        wb.epic_kitchens(tmp_path)


def test_a_table_without_rows_is_a_data_set_without_segments(tmp_path):
    annotate(tmp_path, [segment(0, 1, 2)])
    path = tmp_path / "EPIC_100_validation.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert len(wb.epic_kitchens(tmp_path)) == 0


def test_a_byte_order_mark_is_no_part_of_a_list(tmp_path):
    root = make_ucf(tmp_path, videos=False)
    for path in (root / "ucfTrainTestlist").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert wb.ucf101(root).classes[0] == "Archery"


class Unprintable:
    def __fspath__(self):
        raise TypeError("no path")


@pytest.mark.parametrize(
    "root", [Unprintable(), 3, "a\0b", "x" * 5000], ids=["no path", "number", "zero", "long"]
)
def test_check_data_raises_nothing(root):
    report = checks.check_data(root, progress=False)
    assert not report.ok
    assert report.text()


@pytest.mark.parametrize("cell", ["1e400", "soon", "-5", ""])
def test_check_data_reports_malformed_cells(tmp_path, cell):
    home = tmp_path / "EPIC-KITCHENS" / "P01" / "videos"
    home.mkdir(parents=True)
    write_video(home / "P01_01.MP4", 50)
    annotate(tmp_path, [segment(0, 0.5, 1.5)])
    info = f"video_id,duration,fps,resolution\nP01_01,{cell},{cell},1x1\n"
    (tmp_path / "EPIC_100_video_info.csv").write_text(info)
    report = checks.check_data(tmp_path, progress=False)
    assert "EPIC_100_video_info.csv, row 2: duration: expected a number" in report.text()


# Clips in memory -------------------------------------------------------------------------------


def clip_of(count: int = 6) -> wb.Clip:
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(10, 2)
    return wb.Clip(frames.repeat(3, 3), 10.0)


def test_select_takes_a_mask():
    clip = clip_of()
    chosen = clip.select(clip.during((0.2, 0.5)))
    assert chosen.indices.tolist() == [2, 3, 4]
    assert chosen.frames[:, 0, 0, 0].tolist() == [2, 3, 4]
    assert clip.select([True, False, True, False, False, False]).indices.tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"expected a mask of \(6,\)"):
        clip.select([True, False])
    with pytest.raises(ValueError, match="whole numbers or a bool mask"):
        clip.select([0.5, 1.5])


@pytest.mark.parametrize("cut", [(0, 0, -5, 5), (0, 0, 5, 0), (9, 0, -2, 3), (-1, 0, 2, 2)])
def test_a_cut_out_has_at_least_one_pixel(cut):
    with pytest.raises(ValueError, match="crop: expected at least one pixel"):
        clip_of().crop(*cut)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-3, 4)])
def test_a_picture_has_at_least_one_pixel(size):
    with pytest.raises(ValueError, match="resize: expected a height and width"):
        clip_of().resize(*size)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".gif"])
def test_a_picture_that_a_format_cannot_hold_is_refused(tmp_path, suffix):
    path = tmp_path / f"wide{suffix}"
    with pytest.raises(ValueError, match=r"wide.*at most 16384 pixels a side, got 20000×2"):
        wb.save_video(path, np.zeros((2, 2, 20_000, 3), np.uint8), 25)
    assert not path.exists()
