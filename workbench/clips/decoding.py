"""Decoding: frame numbers become pictures, exact to the frame, or an error says why not.

PyAV decodes. A first pass is quick: several threads, and FFmpeg refuses whatever it finds wrong. If
anything is wrong, a second pass with one thread finds out which frames are affected. decord is
used on request: PyAV decodes the same frames, and what differs is refused, because decord hides
damage and counts frames wrongly in some containers. See docs/reliability.md.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: F401 - before decord, which can hang or crash otherwise (decord #251, #263)

from .errors import ClipError
from .packets import FrameTable, demuxed, ffmpeg_errors, opened
from .sampling import check_size

__all__ = ["FewerFramesError", "read_frames"]

_STRICT = "crccheck+bitstream+buffer+explode"  # FFmpeg's checks; explode: an error, no repair
# Messages after a seek into an open group of pictures of a sound file.
_HARMLESS = ("mmco: unref short failure", "number of reference frames")
_UNTHREADED = ("mpeg4", "mjpeg", "gif")  # decoders that threads do not speed up (measured)
_DECORD_TOLERANCE = 2  # of 255: rounding in the conversion of colours


class FewerFramesError(Exception):
    """Decoding reached the end of the file before a frame that its packets list."""

    def __init__(self, count: int) -> None:
        self.count = count


class _DoubtError(Exception):
    """Something is wrong with the file, or with the way to a frame."""


class _Pictures:
    """The pictures of some frames, in one array (T, H, W, 3) uint8, filled in any order."""

    def __init__(self, path: Path, indices: np.ndarray) -> None:
        from av.video.reformatter import VideoReformatter

        self.path = path
        self.indices = indices
        self.array: np.ndarray | None = None
        self._reformatter = VideoReformatter()  # one for all frames: its tables take time to set up

    def put(self, number: int, frame: Any) -> None:
        """Store a decoded PyAV frame as RGB, turned upright as its display matrix requires."""
        # One thread: a picture takes less time than waking up others.
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        picture = np.rot90(rgb, frame.rotation // 90)
        if self.array is None:
            height, width, _ = picture.shape
            check_size(self.path, len(self.indices), height, width)
            self.array = np.empty((len(self.indices), *picture.shape), dtype=np.uint8)
        if self.array.shape[1:] != picture.shape:
            (_, height, width, _), (new_height, new_width, _) = self.array.shape, picture.shape
            raise ClipError(
                f"{self.path}: the picture changes from {width}×{height} to {new_width}×"
                f"{new_height} before frame {number}. Read a segment of one size with start and "
                "stop, or re-encode it with a scale filter."
            )
        self.array[np.searchsorted(self.indices, number)] = picture


def read_frames(
    path: Path, table: FrameTable, indices: np.ndarray, backend: str | None
) -> np.ndarray:
    """Return the frames of these numbers (ascending), (T, H, W, 3) uint8.

    Raises `ClipError` if they cannot be decoded, `FewerFramesError` if the video ends before them.
    """
    suspect = indices[table.suspect[indices]]
    if len(suspect):
        raise table.damage(path, int(suspect[0]))
    pictures = _Pictures(path, indices)
    doubtful = False
    try:
        _decode_quickly(pictures, table)
    except _DoubtError:
        doubtful = True  # outside of `except`, which would keep the first decoder alive
    if doubtful:
        _decode_carefully(pictures, table)
    assert pictures.array is not None
    if backend != "decord":
        return pictures.array
    return _read_decord(path, indices, pictures.array)


def _decode_quickly(pictures: _Pictures, table: FrameTable) -> None:
    """Decode with threads.

    Raises `_DoubtError` at any sign of damage, `FewerFramesError` if the file has fewer frames than
    its table.
    """
    import av

    try:
        with opened(pictures.path) as (container, stream):
            codec = stream.codec_context
            codec.thread_type = "NONE" if codec.name in _UNTHREADED else "AUTO"
            codec.options = {"err_detect": _STRICT}
            try:
                for run in _runs(pictures.indices, table):
                    _take_quickly(pictures, table, run, container, stream)
            finally:
                # Wait for the decoder's threads now: if they log an error later, while Python
                # listens and waits for them, neither goes on.
                if codec.is_open:
                    codec.flush_buffers()
    except av.FFmpegError as error:
        raise _DoubtError from error


def _take_quickly(
    pictures: _Pictures, table: FrameTable, run: np.ndarray, container: Any, stream: Any
) -> None:
    """Store the frames of a run. Raises as `_decode_quickly`."""
    wanted = deque(run.tolist())
    begin = int(table.keys[_group(table, run[0])])
    before = -1
    for packet in _packets_from(container, stream, table, run[0]):
        for frame in packet.decode():
            number = before + 1 if table.counted else table.number(frame.pts, before)
            # Hidden frames, and those that need a key frame before the first one decoded.
            if number < begin:
                continue
            # Threads swallow errors: then a frame is missing.
            if frame.is_corrupt or table.lost(before, number) or number > wanted[0]:
                raise _DoubtError
            before = number
            if number == wanted[0]:
                pictures.put(wanted.popleft(), frame)
            if not wanted:
                return
    # Without threads every error shows: the listing counts packets that hold no frame.
    if table.counted and before >= 0 and stream.codec_context.name in _UNTHREADED:
        raise FewerFramesError(before + 1)
    raise _DoubtError


def _decode_carefully(pictures: _Pictures, table: FrameTable) -> None:
    """Decode with one thread, and judge every frame.

    Raises ClipError at the first wanted frame that is damaged, `FewerFramesError` if the file has
    fewer frames than its table.
    """
    path = pictures.path
    for run in _runs(pictures.indices, table):
        # A new container for each run: after damage, FFmpeg keeps wrong times.
        with opened(path) as (container, stream), ffmpeg_errors() as errors:
            stream.codec_context.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            frames = _frames(container, stream, table, run[0], errors)
            _take(pictures, table, run, _judged(table, frames))


def _runs(indices: np.ndarray, table: FrameTable) -> list[np.ndarray]:
    """Split frame numbers into runs to decode without a seek: those of adjacent key frames."""
    groups = np.searchsorted(table.keys, indices, side="right")
    return np.split(indices, np.flatnonzero(np.diff(groups) > 1) + 1)


def _group(table: FrameTable, index: int) -> int:
    """Return the place in `table.keys` of the key frame at or before a frame."""
    return max(0, int(np.searchsorted(table.keys, index, side="right")) - 1)


def _take(
    pictures: _Pictures,
    table: FrameTable,
    run: np.ndarray,
    judged: Iterator[tuple[int, Any, bool]],
) -> None:
    """Store the frames of a run. Raises as `_decode_carefully`."""
    wanted = deque(run.tolist())
    number = -1
    sound = True
    for number, frame, sound in judged:
        if number > wanted[0] or (number == wanted[0] and not sound):
            raise table.damage(pictures.path, wanted[0])
        if number == wanted[0]:
            pictures.put(wanted.popleft(), frame)
        if not wanted:
            return
    if table.counted and sound and number >= 0:
        raise FewerFramesError(number + 1)
    raise table.damage(pictures.path, wanted[0])


def _judged(table: FrameTable, frames: Iterator[Any]) -> Iterator[tuple[int, Any, bool]]:
    """Yield each frame's number, the frame, and whether it is sound.

    (-1, None, False) stands for a decoding error. Damage lasts until the next sound key frame.
    """
    from av.video.frame import PictureType

    number = -1
    last = -1  # the last frame that is shown
    damaged = False
    held: list[tuple[int, Any, bool]] = []
    for frame, complaint in chain(frames, [(None, False)]):
        failed = frame is None and complaint
        if frame is not None:
            number = number + 1 if table.counted else table.number(frame.pts, number)
            lost = table.lost(last, number) and not frame.key_frame
            last = max(last, number)
            held.append((number, frame, complaint or lost or frame.is_corrupt))
            # B frames refer to the frame after them: hold them back until that one is known.
            if frame.pict_type == PictureType.B:
                continue
        broken = any(bad for _, _, bad in held)
        for held_number, held_frame, _ in held:
            # Without times, lost frames shift the count: not even a key frame ends the damage.
            recovers = held_frame.key_frame and not table.counted
            damaged = broken or (damaged and not recovers)
            yield held_number, held_frame, not damaged
        held = []
        if failed:
            damaged = True
            yield -1, None, False


def _frames(
    container: Any, stream: Any, table: FrameTable, index: int, errors: list[Any]
) -> Iterator[tuple[Any, bool]]:
    """Yield decoded frames and whether FFmpeg logged an error about them; (None, True): none."""
    import av

    blamed: set[int | None] = set()  # times of packets with errors
    if table.packets is not None:
        packets = _renumbered(demuxed(container, stream), table.packets)
    else:
        packets = _packets_from(container, stream, table, index)
    errors.clear()
    begin = None
    try:
        for packet in packets:
            failed = False
            begin = packet.pts if begin is None else begin
            try:
                frames = packet.decode()
            except av.FFmpegError:
                failed = True
                frames = []
                # Frames from before the damaged one still wait in the decoder.
                with suppress(av.FFmpegError):
                    frames = stream.codec_context.decode(None)
                stream.codec_context.flush_buffers()
            # Frames shown before the first key frame may need frames from before it.
            leading = not table.counted and None not in (begin, packet.pts) and packet.pts < begin
            serious = [text for _, _, text in errors if not text.startswith(_HARMLESS)]
            complained = bool(serious) and not failed and not leading
            if complained:
                blamed.add(packet.pts)
            for frame in frames:
                if not table.counted and None not in (begin, frame.pts) and frame.pts < begin:
                    continue
                # Without times it is unknown which frame a complaint is about: take the next.
                unknown = complained and (table.counted or frame.pts is None)
                yield frame, unknown or frame.pts in blamed
            if failed or (complained and table.counted and not frames):
                yield None, True
            errors.clear()
    except av.FFmpegError:  # the file was cut off
        yield None, True


def _packets_from(container: Any, stream: Any, table: FrameTable, index: int) -> Iterator[Any]:
    """Return the packets from a key frame at or before a frame; all of them if no seek works."""
    if table.counted:
        return demuxed(container, stream)
    group = _group(table, index)
    # A seek can land too late (MPEG-TS has no index): then seek to an earlier key frame.
    for back in (0, 1, 4, group):
        target = max(0, group - back)
        tick = int(table.ticks[table.keys[target]]) if target else min(0, int(table.ticks[0]))
        container.seek(tick, stream=stream)
        packets = demuxed(container, stream)
        first = next((packet for packet in packets if packet.is_keyframe), None)
        if first is None:
            continue
        found = chain([first], packets)
        if table.packets is not None:
            # What an AVI's index says is believed only if the packets are the listed ones.
            start = np.flatnonzero(table.packets[:, 0] == first.pos)
            if len(start) != 1 or table.packets[start[0], 1] > table.ticks[table.keys[group]]:
                continue
            return _renumbered(found, table.packets[start[0] :])
        if first.pts is not None and first.pts <= table.ticks[table.keys[group]]:
            return found
    return iter(())


def _renumbered(packets: Iterator[Any], listed: np.ndarray) -> Iterator[Any]:
    """Yield packets with their listed times, as long as they lie where they are listed."""
    place = 0
    for packet in packets:
        if packet.size:
            if place == len(listed) or packet.pos != listed[place, 0]:
                return
            packet.pts = packet.dts = int(listed[place, 1])
            place += 1
        yield packet


def _import_decord() -> Any:
    """Return the module (of decord or decord2), or None if it is not installed."""
    # Read at import; decord's own 10240 can take minutes.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "512")
    try:
        import decord
    except (ImportError, OSError):
        return None
    return decord


def _read_decord(path: Path, indices: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the pictures as decord decodes them. Raises `ClipError` if PyAV's differ."""
    decord = _import_decord()
    if decord is None:
        raise ClipError(
            f"{path}: decord is not installed. Install decord or decord2, or leave backend at None."
        )
    try:
        reader = decord.VideoReader(str(path.absolute()), num_threads=1)
        if len(reader) <= indices[-1]:
            raise ClipError(
                f"{path}: decord finds only {len(reader)} frames. Leave backend at None."
            )
        batch = reader.get_batch(indices.tolist())
        # Otherwise it goes on decoding in the background, into memory (decord #197, #208).
        reader.seek(0)
    except (decord.DECORDError, RuntimeError, UnicodeEncodeError) as error:
        raise ClipError(f"{path}: decord cannot read it. Leave backend at None.") from error
    # The user may have set a bridge, so that decord gives tensors.
    pictures = batch.asnumpy() if hasattr(batch, "asnumpy") else batch.cpu().numpy()
    for index, picture, reference in zip(indices, pictures, expected):
        same = picture.shape == reference.shape
        if not same or np.abs(picture.astype(np.int16) - reference).max() > _DECORD_TOLERANCE:
            raise ClipError(
                f"{path}: decord gives another picture than PyAV for frame {index}. "
                "Leave backend at None."
            )
    return pictures
