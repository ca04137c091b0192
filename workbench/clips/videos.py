"""Videos: the files, frame by frame. What is asked of them is decided in `clips`.

How a file is read: PyAV lists the packets, undecoded, which tells every frame's number and time. It decodes
the stretches asked for without making pictures, which finds damage. decord makes the pictures. Where decord
would give other frames than asked for (see `_seeks_exactly`), or is not installed, PyAV makes them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: F401 - before decord: the other order can hang or crash (decord #251, #263, #293)

__all__ = [
    "ClipError",
    "FewerFrames",
    "FrameTable",
    "VideoInfo",
    "frame_table",
    "read_frames",
    "video_info",
]


class ClipError(ValueError):
    """A video that cannot be read, or not as asked; the message names the file and what to do."""


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video file says; its frames are not read.

    `frames` is None where the header declares none (Matroska); `fps` is the mean frame rate, `duration` in
    seconds, `width` and `height` in pixels of the stored picture before any rotation, `codec` FFmpeg's name.
    """

    path: Path
    frames: int | None
    fps: float
    duration: float
    width: int
    height: int
    codec: str


def video_info(path: str | Path) -> VideoInfo:
    """Return what the header of a video file says, without reading its frames.

    Raises:
        FileNotFoundError: there is no such file.
        ClipError: the file is not a readable video, or holds no pictures.
    """
    path = Path(path)
    with _opened(path) as (container, stream):
        duration = (
            (container.duration or 0) / 1e6
            if stream.duration is None
            else stream.duration * stream.time_base
        )
        rate = stream.average_rate or stream.guessed_rate or 0
        codec = stream.codec_context
        frames = stream.frames or None
        return VideoInfo(
            path, frames, float(rate), float(duration), codec.width, codec.height, codec.name
        )


def read_frames(
    path: Path, table: FrameTable, indices: np.ndarray, backend: str | None
) -> np.ndarray:
    """Return the frames of these numbers, (T, H, W, 3) uint8, from decord where it is exact and there.

    Raises `ClipError` where they cannot be decoded, `FewerFrames` where the video ends before the last of them.
    """
    decord = _import_decord() if table.decord and backend != "pyav" else None
    if decord is not None:
        for _ in _decoded(path, table, indices):
            pass  # raises on damage, which decord would hide, or wait for without end
        pictures = _read_decord(decord, path, table, indices)
        if pictures is not None:
            return pictures
    if backend == "decord":
        raise ClipError(
            f"{path}: decord is not installed or cannot give the right frames here. Leave backend at None."
        )
    return np.stack([_upright(frame) for frame in _decoded(path, table, indices)])


def _import_decord() -> Any:
    """Return the module, or None where it is not installed (few platforms have it)."""
    os.environ.setdefault(
        "DECORD_EOF_RETRY_MAX", "512"
    )  # read at import; its own 10240 can take minutes
    try:
        import decord
    except (ImportError, OSError):
        return None
    return decord


def _read_decord(
    decord: Any, path: Path, table: FrameTable, indices: np.ndarray
) -> np.ndarray | None:
    """Return the frames as decord decodes them, or None where it does not."""
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        if len(reader) != len(table.times):
            return None
        batch = reader.get_batch(indices.tolist())
        reader.seek(
            0
        )  # else it goes on decoding in the background, into memory (decord #197, #208)
    except (decord.DECORDError, RuntimeError):
        return None
    # The user may have set a bridge, so that decord gives tensors.
    return batch.asnumpy() if hasattr(batch, "asnumpy") else batch.cpu().numpy()


class FewerFrames(Exception):
    """Decoding came to the end of the file before a frame that its index lists."""

    def __init__(self, count: int) -> None:
        self.count = count


@dataclass(frozen=True, eq=False)
class FrameTable:
    """The frames of a video in the order of presentation, as its container lists them.

    ticks: (N,) int64, presentation times in the container's unit; times: (N,) the same in seconds from the
    start of the file; stop: the end of the last frame in seconds; keys: (K,) numbers of the frames that
    decoding can start from; promised: how many frames the header declares where the file holds far fewer,
    else 0; counted: no presentation times are stored, so that only counting from the first frame is exact;
    decord: it finds the right frames here.
    """

    ticks: np.ndarray
    times: np.ndarray
    stop: float
    fps: float
    keys: np.ndarray
    promised: int
    counted: bool
    decord: bool

    def first(self, count: int) -> FrameTable:
        """Return the table of the first `count` frames."""
        stop = float(self.times[count]) if count < len(self.times) else self.stop
        return replace(self, ticks=self.ticks[:count], times=self.times[:count], stop=stop)

    def damage(self, path: Path, index: int) -> ClipError:
        """Return the error that tells of a frame that cannot be decoded."""
        later = self.keys[self.keys > index]
        until = f"up to {self.times[later[0]]:.2f} s" if len(later) else "to the end of the file"
        return ClipError(
            f"{path} is damaged: frame {index} of {len(self.times)} (at {self.times[index]:.2f} s) cannot be "
            f"decoded, nor perhaps what follows {until}. Read another segment with start and stop, or "
            f"re-encode what is left of it: ffmpeg -i {path.name} repaired.mp4"
        )


# decord reads the whole file each time it is opened; of a larger one, PyAV goes straight to the segment.
_DECORD_BYTES = 64 * 2**20


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video file with PyAV: its container and its picture stream."""
    if not path.exists():
        raise FileNotFoundError(f"no video file at {path}")
    import av

    remedy = "Check that it is a complete video file; ffprobe tells more."
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise ClipError(
            f"{path} cannot be read as a video: {error.strerror or error}. {remedy}"
        ) from error
    with container:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            kinds = ", ".join(sorted({other.type for other in container.streams})) or "no streams"
            raise ClipError(
                f"{path}: expected a video, found {kinds} without pictures that can be decoded. {remedy}"
            )
        # One thread: PyAV's slice threads, its default, swallow decoding errors.
        stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
        yield container, stream


def frame_table(path: Path) -> FrameTable:
    """Return the frames that a video lists; remembered per file. Raises FileNotFoundError or `ClipError`."""
    if not path.exists():
        raise FileNotFoundError(f"no video file at {path}")
    status = path.stat()
    return _list_frames(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(
    maxsize=16
)  # segments of one long video are often read in a row; an hour's table takes 4 MB
def _list_frames(path: Path, size: int, modified: int) -> FrameTable:
    """Read a video's packets, undecoded; size and time of modification tell a changed file."""
    with _opened(path) as (container, stream):
        packets = list(_packets(container, stream))
        rate, unit = stream.average_rate or stream.guessed_rate or Fraction(25), stream.time_base
        origin = round(Fraction(container.start_time or 0, 1_000_000) / unit)
        kind, reorders, declared = (
            container.format.name,
            stream.codec_context.has_b_frames,
            stream.frames,
        )
    if not packets:
        raise ClipError(f"{path}: the file holds no frames. Get it again, or leave it out.")
    pts, dts, spans, key, hidden = (list(column) for column in zip(*packets))
    # AVI stores no presentation times: libavformat makes up its pts.
    stored = kind != "avi" and None not in pts
    order = pts if stored else dts
    bare = None in order  # a stream without a container
    if bare:
        order, spans, unit, origin = list(range(len(packets))), [1] * len(packets), 1 / rate, 0
    ticks, is_key = np.array(order, dtype=np.int64), np.array(key)
    is_key[0] |= not is_key.any()
    keys = ticks[is_key]
    # What is shown before the first key frame cannot be decoded.
    shown = np.sort(ticks[~np.array(hidden) & (ticks >= keys[0])])
    times = (shown - origin) * unit.numerator / unit.denominator
    mean = (len(times) - 1) / (times[-1] - times[0]) if times[-1] > times[0] else float(rate)
    close = abs(mean / rate - 1) < 0.01  # the header's rate is the rounder one, where it is right
    counted = not stored and (bare or bool(reorders))
    starts = [0] if counted else np.unique(np.searchsorted(shown, keys).clip(max=len(shown) - 1))
    return FrameTable(
        ticks=shown,
        times=times,
        stop=float(times[-1] + (spans[int(ticks.argmax())] * float(unit) or 1 / mean)),
        fps=float(rate) if close else mean,
        keys=np.array(starts, dtype=np.int64),
        promised=declared if len(packets) < 0.95 * declared else 0,
        counted=counted,
        decord=size <= _DECORD_BYTES
        and not counted
        and _seeks_exactly(kind, ticks, is_key, any(hidden)),
    )


def _packets(
    container: Any, stream: Any
) -> Iterator[tuple[int | None, int | None, int, bool, bool]]:
    """Yield a video's packets in the order of decoding: pts, dts, duration, is a key frame, is hidden."""
    import av

    with suppress(av.FFmpegError):  # the file was cut short: what came until here can be read
        for packet in container.demux(stream):
            if packet.size:
                yield (
                    packet.pts,
                    packet.dts,
                    packet.duration or 0,
                    packet.is_keyframe,
                    packet.is_discard,
                )


def _seeks_exactly(kind: str, ticks: np.ndarray, is_key: np.ndarray, hidden: bool) -> bool:
    """Return whether decord finds a frame after a seek: it counts what comes out from the key frame on.

    It finds others (measured) in MPEG-TS, which has no index; where frames shown before a key frame are
    stored after it (open groups of pictures); and in AVI with reordered frames, for want of times.
    """
    leader = ticks[is_key][np.maximum(np.cumsum(is_key) - 1, 0)]
    known = kind == "avi" or any(name in kind for name in ("mp4", "matroska"))
    return bool(
        known and not hidden and (ticks >= leader).all() and len(np.unique(ticks)) == len(ticks)
    )


def _decoded(path: Path, table: FrameTable, indices: np.ndarray) -> Iterator[Any]:
    """Yield the PyAV frames of these numbers (ascending).

    Raises ClipError at the first one that is damaged, `FewerFrames` where the file has fewer than its table.
    """
    group = np.searchsorted(table.keys, indices, side="right") - 1
    runs = np.split(
        indices, np.flatnonzero(np.diff(group) > 1) + 1
    )  # into the next group without a seek
    with _opened(path) as (container, stream):
        for run in runs:
            wanted, index, sound = deque(run.tolist()), -1, True
            for index, frame, sound in _judged(
                table, _packets_decoded(container, stream, table, run[0])
            ):
                if index > wanted[0] or (index == wanted[0] and not sound):
                    raise table.damage(path, wanted[0])
                if index == wanted[0]:
                    yield frame
                    wanted.popleft()
                if not wanted:
                    break
            if wanted and table.counted and sound and index >= 0:
                raise FewerFrames(index + 1)
            if wanted:
                raise table.damage(path, wanted[0])


def _judged(table: FrameTable, frames: Iterator[Any]) -> Iterator[tuple[int, Any, bool]]:
    """Yield each frame's number, the frame, and whether it is sound; (-1, None, False) where decoding failed.

    Damage lasts until the next key frame. Frames that lean on the one after them (B frames) are held back
    until that one is known.
    """
    import av

    bad, index, held = False, -1, []
    for frame in chain(frames, [None]):
        failed = isinstance(frame, Exception)
        if frame is not None and not failed:
            index = index + 1 if table.counted else _number(table, frame.pts, index)
            held.append((index, frame))
            if frame.pict_type == av.video.frame.PictureType.B:
                continue
        broken = any(each.is_corrupt for _, each in held)
        for number, each in held:
            bad = broken or (bad and (table.counted or not each.key_frame))
            yield number, each, not bad
        held = []
        if failed:
            bad = True
            yield -1, None, False


def _number(table: FrameTable, tick: int | None, before: int) -> int:
    """Return the number of the frame shown at a tick, or -1; `before` is the number of the one before it."""
    if tick is None:
        return -1
    if (
        0 <= before < len(table.ticks) - 1
        and table.ticks[before] == table.ticks[before + 1] == tick
    ):
        return before + 1  # two frames with one time
    at = int(np.searchsorted(table.ticks, tick))
    return at if at < len(table.ticks) and table.ticks[at] == tick else -1


def _packets_decoded(container: Any, stream: Any, table: FrameTable, index: int) -> Iterator[Any]:
    """Yield frames as they come, from the key frame before a frame number on, and errors where it fails."""
    import av

    try:
        packets = (
            container.demux(stream) if table.counted else _from_key(container, stream, table, index)
        )
        for packet in packets:
            try:
                yield from packet.decode()
            except av.FFmpegError as error:
                with suppress(
                    av.FFmpegError
                ):  # frames from before the damaged one still wait in the decoder
                    yield from stream.codec_context.decode(None)
                stream.codec_context.flush_buffers()
                yield error
    except av.FFmpegError as error:  # the file was cut short
        yield error


def _from_key(container: Any, stream: Any, table: FrameTable, index: int) -> Iterator[Any]:
    """Return the packets from a key frame at or before a frame on; none where no seek leads there."""
    group = max(0, int(np.searchsorted(table.keys, index, side="right")) - 1)
    for back in (
        0,
        1,
        4,
        group,
    ):  # a seek can land too late (MPEG-TS has no index): then to an earlier one
        to = max(0, group - back)
        container.seek(
            int(table.ticks[table.keys[to]]) if to else min(0, int(table.ticks[0])), stream=stream
        )
        packets = container.demux(stream)
        first = next((packet for packet in packets if packet.is_keyframe), None)
        if (
            first is not None
            and first.pts is not None
            and first.pts <= table.ticks[table.keys[group]]
        ):
            return chain([first], packets)
    return iter(())


def _upright(frame: Any) -> np.ndarray:
    """Return a decoded frame as (H, W, 3) uint8 RGB, turned as its display matrix says."""
    return np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
