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
from threading import Lock
from typing import Any

import numpy as np

from .errors import ClipError
from .mp4_index import PACKET, indexed_packets

__all__ = [
    "FrameTable",
    "VideoInfo",
    "check_file",
    "demuxed",
    "ffmpeg_errors",
    "frame_table",
    "opened",
    "video_info",
]

_REMEDY = "Check that it is a complete video file; ffprobe tells more."
_PLAYLISTS = (b"#EXTM3U", b"ffconcat")  # FFmpeg would follow them to other files, without end
_EMPTY = 8  # bytes of the largest packet without a picture (MPEG-4's "not coded")
_NO_TIME = -(2**63)  # stands for a time that the container does not give
_INVALID_DATA = 1094995529  # FFmpeg's AVERROR_INVALIDDATA
_LOG = Lock()  # FFmpeg has one log level for all threads


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
        suspect: (N,) bool, frames that damage of the container may have changed or moved.
        empty: (N,) bool, packets too small for a picture: the one before is shown for longer.
        cut: what is missing if the file was cut off, else an empty text.
        by_index: whether an index was believed; then not every packet was read.
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
    suspect: np.ndarray
    empty: np.ndarray
    cut: str
    by_index: bool
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
        return replace(
            self,
            ticks=self.ticks[:count],
            times=self.times[:count],
            suspect=self.suspect[:count],
            empty=self.empty[:count],
            stop=stop,
        )

    def number(self, tick: int | None, before: int) -> int:
        """Return the number of the frame shown at a tick, or -1; `before` is the one before."""
        if tick is None:
            return -1
        # Nearly always it is the next one; this also tells frames with the same time apart.
        if 0 <= before < self.count - 1 and self.ticks[before + 1] == tick:
            return before + 1
        place = int(np.searchsorted(self.ticks, tick))
        return place if place < self.count and self.ticks[place] == tick else -1

    def lost(self, before: int, number: int) -> bool:
        """Return whether decoding `number` right after `before` means that a frame was lost."""
        return before >= 0 and not self.empty[before + 1 : number].all()

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


def frame_table(path: Path, *, trust_index: bool = True) -> FrameTable:
    """Return the frames that a video lists; remembered until the file changes.

    With `trust_index`, an MP4 file's index is believed if it agrees with the first and the last
    packets; otherwise every packet is read. Raises FileNotFoundError or `ClipError`.
    """
    check_file(path)
    status = path.stat()
    return _list_frames(path.absolute(), trust_index, status.st_size, status.st_mtime_ns)


@contextmanager
def ffmpeg_errors() -> Iterator[list[tuple[int, str, str]]]:
    """Collect what FFmpeg logs as errors in this thread: (level, part of FFmpeg, text)."""
    from av import logging

    with _LOG:
        level = logging.get_level()
        skips = logging.get_skip_repeated()
        logging.set_level(logging.ERROR)
        logging.set_skip_repeated(False)
        try:
            with logging.Capture() as messages:
                yield messages
        finally:
            logging.set_level(level)
            logging.set_skip_repeated(skips)


def demuxed(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream from where the container stands."""
    import av

    try:
        yield from container.demux(stream)
    except IndexError as error:
        # PyAV fails on a stream that was not there when the file was opened.
        raise av.InvalidDataError(_INVALID_DATA, "a new stream begins") from error


# Segments of one long video are often read in a row. The table of an hour takes 4 MB.
@lru_cache(maxsize=16)
def _list_frames(path: Path, trust_index: bool, _size: int, _modified: int) -> FrameTable:
    import av

    packets = None
    with opened(path) as (container, stream):
        avi = container.format.name == "avi"
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        unit = stream.time_base
        origin = round(Fraction(container.start_time or 0, 1_000_000) / unit)
        declared = stream.frames
        size = (stream.codec_context.height, stream.codec_context.width)
        reorders = bool(stream.codec_context.has_b_frames)
        chunk = f"{stream.index:02d}d".encode()
        by_index = trust_index and "mp4" in container.format.name
        if by_index:
            # An error comes again, and is judged, where all packets are read.
            with suppress(av.FFmpegError, OSError):
                packets = indexed_packets(path, container, stream)
        else:
            packets = _packets(container, stream)
    if packets is None:
        by_index = False
        with opened(path) as (container, stream):
            packets = _packets(container, stream)
    if not len(packets):
        raise ClipError(f"{path}: the file holds no frames. Get it again, or leave it out.")

    # AVI stores no presentation times: libavformat makes up its pts.
    stored = not avi and bool((packets["pts"] != _NO_TIME).all())
    ticks = packets["pts" if stored else "dts"]
    durations = packets["duration"]
    # A stream without a container has no times at all: count its packets.
    bare = bool((ticks == _NO_TIME).any())
    if bare:
        ticks = np.arange(len(packets))
        durations = np.ones(len(packets), dtype=np.int64)
        unit = 1 / rate
        origin = 0

    # Frames shown before the first key frame cannot be decoded; edit lists hide others.
    is_key = packets["key"].copy()
    is_key[0] |= not is_key.any()
    keys = ticks[is_key]
    shown = np.flatnonzero(~packets["hidden"] & (ticks >= keys[0]))
    shown = shown[np.argsort(ticks[shown], kind="stable")]
    if not len(shown):
        raise ClipError(
            f"{path}: its edit list hides all {len(packets)} frames. Re-encode it without: "
            f"ffmpeg -ignore_editlist 1 -i {path.name} repaired.mp4"
        )
    times = (ticks[shown] - origin) * unit.numerator / unit.denominator

    # The header's rate is the rounder one, if it is right.
    span = times[-1] - times[0]
    mean = (len(times) - 1) / span if span > 0 else float(rate)
    fps = float(rate) if abs(mean / rate - 1) < 0.01 else float(mean)
    last = float(durations[ticks.argmax()] * unit) or 1 / mean

    suspect = packets["suspect"].copy()
    if avi and len(packets) != declared:
        suspect[_listed_in_index(path, packets, chunk) :] = True

    counted = not stored and (bare or reorders)
    starts = np.unique(np.searchsorted(ticks[shown], keys).clip(max=len(shown) - 1))
    cut = f"{declared} frames, the file holds {len(packets)}"
    return FrameTable(
        ticks=ticks[shown],
        times=times,
        stop=float(times[-1] + last),
        fps=fps,
        size=size,
        keys=np.array([0]) if counted else starts,
        counted=counted,
        suspect=suspect[shown],
        empty=packets["size"][shown] <= _EMPTY,
        cut=cut if len(packets) < 0.95 * declared else "",
        by_index=by_index,
        packets=np.stack([packets["position"], ticks], axis=1) if avi else None,
    )


def _packets(container: Any, stream: Any) -> np.ndarray:
    """Return a video's packets (P,) of type `PACKET`, in the order of decoding.

    Damage of the container makes packets suspect up to the next key frame: FFmpeg logs an error
    when it had to skip data after a packet (Matroska), or marks a packet that lacks a part
    (MPEG-TS).
    """
    import av

    rows: list[tuple] = []
    suspect: list[bool] = []
    damaged = False
    # An error means that the file was cut off: what came before can be read.
    with ffmpeg_errors() as errors, suppress(av.FFmpegError):
        for packet in demuxed(container, stream):
            if not packet.size:
                continue
            if errors:
                damaged = True
                suspect[-1:] = [True] * len(suspect[-1:])
            errors.clear()
            damaged = packet.is_corrupt or (damaged and not packet.is_keyframe)
            suspect.append(damaged)
            rows.append(
                (
                    _NO_TIME if packet.pts is None else packet.pts,
                    _NO_TIME if packet.dts is None else packet.dts,
                    packet.duration or 0,
                    packet.is_keyframe,
                    packet.is_discard,
                    -1 if packet.pos is None else packet.pos,
                    packet.size,
                    False,
                )
            )
    packets = np.array(rows, dtype=PACKET)
    packets["suspect"] = suspect
    return packets


def _listed_in_index(path: Path, packets: np.ndarray, chunk: bytes) -> int:
    """Return how many packets of an AVI file, from the first, agree with its index.

    AVI frames have no times but their count. If their number is not what the header declares, some
    were lost or doubled, and the sizes in the index show where. `chunk` is how the names of the
    video's chunks begin. A file that was cut off has no index: then nothing before the cut is lost.
    """
    with path.open("rb") as file:
        file.seek(max(0, int(packets["position"][-1])))
        tail = file.read()
    begin = tail.find(b"idx1")
    if begin < 0:
        return len(packets)
    # The index: entries of name, flags, position and size, after its own name and size.
    entries = tail[begin + 8 :]
    table = np.frombuffer(entries[: len(entries) // 16 * 16], dtype="S4, <u4, <u4, <u4")
    sizes = table["f3"][np.char.startswith(table["f0"], chunk) & (table["f3"] > 0)]
    both = min(len(packets), len(sizes))
    same = sizes[:both] == packets["size"][:both]
    if same.all():
        return len(packets) if len(sizes) == len(packets) else both
    return int(same.argmin())
