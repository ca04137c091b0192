"""Packets: what a video file lists without decoding, and the times of its frames.

The header gives size, codec and nominal rate (`video_info`). The packets give every frame's number
and time (`frame_table`), which the header cannot: rates vary, edit lists hide frames, and files
are cut off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ClipError

__all__ = ["FrameTable", "VideoInfo", "check_file", "frame_table", "opened", "video_info"]

_REMEDY = "Check that it is a complete video file; ffprobe tells more."
_PLAYLISTS = (b"#EXTM3U", b"ffconcat")  # FFmpeg would follow them to other files, without end
_AVI_CHUNK_HEADER = 8  # bytes between the position in an AVI's index and that of the packet


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video file declares; its frames are not read.

    `frames` is None if the header declares none (Matroska); `fps` is the mean frame rate,
    `duration` in seconds, `width` and `height` in pixels of the stored picture before any rotation,
    `codec` FFmpeg's name.
    """

    path: Path
    frames: int | None
    fps: float
    duration: float
    width: int
    height: int
    codec: str


@dataclass(frozen=True, eq=False)
class FrameTable:
    """The frames of a video in the order of presentation, as its packets list them.

    Attributes:
        ticks: (N,) int64, presentation times in the container's unit.
        times: (N,) float64, the same in seconds from the start of the file.
        stop: end of the last frame in seconds.
        fps: mean frame rate.
        size: height and width in the header.
        keys: (K,) numbers of the frames that decoding can start from.
        counted: no presentation times are stored, so only counting from the first frame is exact.
        trusted: how many frames are certain to be at their listed times; fewer than N in an AVI
            file whose chunks and index disagree.
        cut: what is missing if the file was cut off, else an empty text.
        packets: (P, 2) int64, position in bytes and tick of each packet in the order of decoding;
            None unless an index that may contradict the packets (AVI) leads to them.
    """

    ticks: np.ndarray
    times: np.ndarray
    stop: float
    fps: float
    size: tuple[int, int]
    keys: np.ndarray
    counted: bool
    trusted: int
    cut: str
    packets: np.ndarray | None

    @property
    def count(self) -> int:
        """Number of frames, N."""
        return len(self.times)

    def first_from(self, seconds: float) -> int:
        """Return the number of the first frame at or after a time."""
        return int(np.searchsorted(self.times, seconds))

    def first(self, count: int) -> FrameTable:
        """Return the table of the first `count` frames."""
        stop = float(self.times[count]) if count < self.count else self.stop
        return replace(self, ticks=self.ticks[:count], times=self.times[:count], stop=stop)

    def number(self, tick: int | None, before: int) -> int:
        """Return the number of the frame shown at a tick, or -1; `before` is the frame before it."""
        if tick is None:
            return -1
        # Two consecutive frames can have the same time.
        repeated = 0 <= before < self.count - 1 and self.ticks[before] == self.ticks[before + 1]
        if repeated and self.ticks[before] == tick:
            return before + 1
        place = int(np.searchsorted(self.ticks, tick))
        return place if place < self.count and self.ticks[place] == tick else -1

    def damage(self, path: Path, index: int) -> ClipError:
        """Return the error of a frame that cannot be decoded."""
        later = self.keys[self.keys > index]
        until = f"up to {self.times[later[0]]:.2f} s" if len(later) else "to the end of the file"
        return ClipError(
            f"{path} is damaged: frame {index} of {self.count} (at {self.times[index]:.2f} s) "
            f"cannot be decoded, nor perhaps what follows {until}. Read another segment with start "
            f"and stop, or re-encode what is left of it: ffmpeg -i {path.name} repaired.mp4"
        )


def video_info(path: str | Path) -> VideoInfo:
    """Return what the header of a video file declares, without reading its frames.

    Raises:
        FileNotFoundError: there is no such file.
        ClipError: the file is not a readable video, or has no pictures.
    """
    path = Path(path)
    check_file(path)
    with opened(path) as (container, stream):
        duration = (container.duration or 0) / 1e6
        if stream.duration is not None:
            duration = stream.duration * stream.time_base
        rate = stream.average_rate or stream.guessed_rate or 0
        codec = stream.codec_context
        return VideoInfo(
            path=path,
            frames=stream.frames or None,
            fps=float(rate),
            duration=float(duration),
            width=codec.width,
            height=codec.height,
            codec=codec.name,
        )


def check_file(path: Path) -> None:
    """Raise FileNotFoundError if there is no file, `ClipError` if it is no regular file."""
    if not path.exists():
        raise FileNotFoundError(f"no video file at {path}")
    # A named pipe would be waited for without end.
    if not path.is_file():
        raise ClipError(f"{path}: expected a video file, found a folder or a device")


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video file with PyAV: its container and its picture stream.

    Nothing but this file is read: no playlists, no addresses of the net.
    """
    import av

    with ExitStack() as stack:
        # An absolute name cannot be taken for a protocol ("12:30:15.mp4").
        source: Any = str(path.absolute())
        try:
            file = stack.enter_context(path.open("rb"))
            playlist = file.read(8).startswith(_PLAYLISTS)
            file.seek(0)
            source.encode()
        except UnicodeEncodeError:
            source = file  # FFmpeg takes UTF-8 names only
        except OSError as error:
            raise ClipError(f"{path} cannot be read: {error.strerror or error}.") from error
        if playlist:
            raise ClipError(f"{path} is a playlist, not a video. Read the videos that it lists.")
        try:
            container = av.open(
                source, metadata_errors="ignore", options={"protocol_whitelist": "file"}
            )
        except (av.FFmpegError, OSError) as error:
            reason = error.strerror or error
            raise ClipError(f"{path} cannot be read as a video: {reason}. {_REMEDY}") from error
        stack.enter_context(container)
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            kinds = ", ".join(sorted({other.type for other in container.streams})) or "no streams"
            raise ClipError(
                f"{path}: expected a video, found {kinds} without pictures that can be decoded. "
                f"{_REMEDY}"
            )
        yield container, stream


def frame_table(path: Path) -> FrameTable:
    """Return the frames that a video lists; remembered until the file changes.

    Raises FileNotFoundError or `ClipError`.
    """
    check_file(path)
    status = path.stat()
    return _list_frames(path.absolute(), status.st_size, status.st_mtime_ns)


# Segments of one long video are often read in a row. The table of an hour takes 4 MB.
@lru_cache(maxsize=16)
def _list_frames(path: Path, _size: int, _modified: int) -> FrameTable:
    with opened(path) as (container, stream):
        avi = container.format.name == "avi"
        # The index of the file, before reading: FFmpeg adds what it meets.
        index = np.array(
            [entry.pos for entry in getattr(stream, "index_entries", ()) if avi], dtype=np.int64
        )
        packets = list(_packets(container, stream))
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        unit = stream.time_base
        origin = round(Fraction(container.start_time or 0, 1_000_000) / unit)
        declared = stream.frames
        size = (stream.codec_context.height, stream.codec_context.width)
        reorders = bool(stream.codec_context.has_b_frames)
    if not packets:
        raise ClipError(f"{path}: the file holds no frames. Get it again, or leave it out.")
    pts, dts, durations, is_key, hidden, positions = (list(column) for column in zip(*packets))

    # AVI stores no presentation times: libavformat makes up its pts.
    stored = not avi and None not in pts
    ticks = pts if stored else dts
    # A stream without a container has no times at all: count its packets.
    bare = None in ticks
    if bare:
        ticks = list(range(len(packets)))
        durations = [1] * len(packets)
        unit = 1 / rate
        origin = 0
    ticks = np.array(ticks, dtype=np.int64)

    # Frames shown before the first key frame cannot be decoded; edit lists hide others.
    key_packets = np.array(is_key)
    key_packets[0] |= not key_packets.any()
    keys = ticks[key_packets]
    shown = np.sort(ticks[~np.array(hidden) & (ticks >= keys[0])])
    if not len(shown):
        raise ClipError(
            f"{path}: its edit list hides all {len(packets)} frames. Re-encode it without: "
            f"ffmpeg -ignore_editlist 1 -i {path.name} repaired.mp4"
        )
    times = (shown - origin) * unit.numerator / unit.denominator

    # The header's rate is the rounder one, if it is right.
    span = times[-1] - times[0]
    mean = (len(times) - 1) / span if span > 0 else float(rate)
    fps = float(rate) if abs(mean / rate - 1) < 0.01 else float(mean)
    last = durations[int(ticks.argmax())] * float(unit) or 1 / mean

    counted = not stored and (bare or reorders)
    starts = np.unique(np.searchsorted(shown, keys).clip(max=len(shown) - 1))
    cut = f"{declared} frames, the file holds {len(packets)}"
    return FrameTable(
        ticks=shown,
        times=times,
        stop=float(times[-1] + last),
        fps=fps,
        size=size,
        keys=np.array([0]) if counted else starts,
        counted=counted,
        trusted=_trusted(index, positions, declared),
        cut=cut if len(packets) < 0.95 * declared else "",
        packets=np.stack([positions, ticks], axis=1) if avi else None,
    )


def _packets(
    container: Any, stream: Any
) -> Iterator[tuple[int | None, int | None, int, bool, bool, int]]:
    """Yield pts, dts, duration, whether key, whether hidden, position; in the order of decoding."""
    import av

    with suppress(av.FFmpegError):  # the file was cut off: what came before can be read
        for packet in container.demux(stream):
            if packet.size:
                position = -1 if packet.pos is None else packet.pos
                duration = packet.duration or 0
                key = packet.is_keyframe
                yield packet.pts, packet.dts, duration, key, packet.is_discard, position


def _trusted(index: np.ndarray, positions: list[int], declared: int) -> int:
    """Return how many packets of an AVI file are certain to be where they belong.

    AVI frames have no times but their count. If as many chunks are found as the header declares,
    none was lost. Otherwise chunks are trusted up to the first one that the index has elsewhere.
    """
    count = len(positions)
    if count == declared or not len(index):
        return count
    both = min(count, len(index))
    same = index[:both] + _AVI_CHUNK_HEADER == np.array(positions[:both])
    return count if same.all() else int(same.argmin())
