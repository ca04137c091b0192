"""Videos as numbered pictures: folders of `frame_0000000001.jpg`, and tars of them, kept packed.

Pictures are numbered from 1 at a constant rate: number n shows what the video shows at
(n - 1) / rate seconds.
"""

from __future__ import annotations

import io
import re
import struct
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image

from .clip import Clip
from .errors import ClipError
from .files import file_names
from .sampling import check_request, check_size, choose_frames

__all__ = ["FrameIndex", "frame_index", "read_frames_clip"]

_NAME = re.compile(r"(?:^|/)frame_(\d{10})\.jpg$")
_FORMATS = ("JPEG", "PNG")  # Pillow would run Ghostscript for an EPS file of that name
_BLOCK = 512  # bytes; headers and contents of a tar begin at multiples
_REGULAR = (b"0", b"\0")  # types of a tar's members; others are folders, links and notes


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The numbered pictures of a video.

    Attributes:
        path: the folder or tar.
        numbers: (N,) int64, ascending, from 1.
        offsets, sizes: (N,) bytes, where each picture lies in a tar; None for a folder.
        whole: False for a tar that was cut off.
    """

    path: Path
    numbers: np.ndarray
    offsets: np.ndarray | None = None
    sizes: np.ndarray | None = None
    whole: bool = True

    @property
    def count(self) -> int:
        """The highest number: how many pictures there are if none is missing."""
        return int(self.numbers[-1])

    @property
    def missing(self) -> int:
        """How many numbers from 1 to the highest have no picture."""
        return self.count - len(self.numbers)

    @property
    def first_missing(self) -> int:
        """The lowest number without a picture."""
        expected = np.arange(1, len(self.numbers) + 1)
        return int((self.numbers == expected).sum()) + 1

    def pictures(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield pictures by number, (H, W, 3) uint8.

        Raises `ClipError` if one is missing or cannot be read.
        """
        if self.offsets is None or self.sizes is None:
            for number in numbers:
                self._place(number)
                file_path = self.path / f"frame_{number:010d}.jpg"
                yield _decode(file_path, f"{self.path}, frame {number}")
            return
        with self.path.open("rb") as file:
            for number in numbers:
                place = self._place(number)
                file.seek(int(self.offsets[place]))
                content = io.BytesIO(file.read(int(self.sizes[place])))
                yield _decode(content, f"{self.path}, frame {number}")

    def _place(self, number: int) -> int:
        place = int(np.searchsorted(self.numbers, number))
        if place == len(self.numbers) or self.numbers[place] != number:
            raise ClipError(
                f"{self.path}: frame_{number:010d}.jpg is missing ({len(self.numbers)} of "
                f"{self.count} are there). Unpack or get the frames of this video again."
            )
        return place


@dataclass(frozen=True)
class _ConstantRate:
    """The times of numbered pictures: picture i, from 0, at i / fps seconds."""

    count: int
    fps: float

    @property
    def stop(self) -> float:
        return self.count / self.fps

    def first_from(self, seconds: float) -> int:
        return min(max(0, ceil(seconds * self.fps)), self.count)


def read_frames_clip(
    path: str | Path,
    rate: float,
    frames: int | None = 16,
    stride: int | None = None,
    start: float | None = None,
    stop: float | None = None,
    *,
    label: str | None = None,
    name: str | None = None,
) -> Clip:
    """Read a segment of a video that is stored as numbered JPEG files, as `read_clip` does.

    Args:
        path: the folder, or the tar (uncompressed), which is listed once and then read at the
            places needed.
        rate: pictures per second.
        frames, stride, start, stop, label, name: as in `read_clip`, in pictures and in seconds of
            the video.

    Returns:
        A clip whose `times` are seconds of the video and whose `indices` are 0-based: the files'
        numbers less one.

    Raises:
        FileNotFoundError: there is no such folder or tar.
        ClipError: there are no such pictures, one that is needed is missing, the tar is cut off
            before the stop, or they would take more memory than the limit (see `read_clip`).
        ValueError: frames, stride, start or stop make no sense, or lie beyond the end.
    """
    path = Path(path)
    check_request(path, frames=frames, stride=stride, start=start, stop=stop)
    index = frame_index(path)
    timeline = _ConstantRate(index.count, rate)
    if not index.whole and (stop is None or stop > timeline.stop):
        raise ClipError(
            f"{path} is cut off: it ends in the middle, after frame {index.count} "
            f"({timeline.stop:.2f} s). Get the file again, or read a segment before that."
        )
    indices = choose_frames(
        path, timeline, (1, 1), frames=frames, stride=stride, start=start, stop=stop
    )
    stack: np.ndarray | None = None
    for place, picture in enumerate(index.pictures((indices + 1).tolist())):
        if stack is None:
            check_size(path, len(indices), *picture.shape[:2])
            stack = np.empty((len(indices), *picture.shape), dtype=np.uint8)
        if picture.shape != stack.shape[1:]:
            (height, width, _), (_, first_height, first_width, _) = picture.shape, stack.shape
            raise ClipError(
                f"{path}, frame {indices[place] + 1}: the picture changes from {first_width}×"
                f"{first_height} to {width}×{height}. Get the frames of this video again."
            )
        stack[place] = picture
    assert stack is not None
    return Clip(stack, rate, indices / rate, indices, path, label, name=name)


def frame_index(path: Path) -> FrameIndex:
    """Return the pictures in a folder or a tar; remembered until it changes.

    Raises:
        FileNotFoundError: there is no such folder or tar.
        ClipError: it has no `frame_0000000001.jpg` and so on, or is no uncompressed tar.
    """
    if not path.exists():
        raise FileNotFoundError(f"no folder or tar of frames at {path}")
    if not (path.is_dir() or path.is_file()):
        raise ClipError(f"{path}: expected a folder or a tar of frames, found a device")
    status = path.stat()
    index = _list_frames(path.absolute(), status.st_size, status.st_mtime_ns)
    if not len(index.numbers):
        raise ClipError(
            f"{path} holds no frame_0000000001.jpg and so on. Get it again, or leave it out."
        )
    return index


@lru_cache(maxsize=32)  # an hour takes 5 MB
def _list_frames(path: Path, size: int, _modified: int) -> FrameIndex:
    if path.is_dir():
        matches = map(_NAME.search, file_names(path))
        found = [int(match[1]) for match in matches if match and int(match[1])]
        return FrameIndex(path, np.sort(np.array(found, dtype=np.int64)))
    rows = []
    whole = False
    for name, offset, length in _tar_members(path, size):
        match = _NAME.search(name)
        if not name:
            whole = True
        elif match is not None and int(match[1]):
            rows.append((int(match[1]), offset, length))
    numbers, offsets, sizes = np.array(sorted(rows), dtype=np.int64).reshape(-1, 3).T
    # A tar may hold a file twice; the last one counts, as when it is unpacked.
    last = np.append(np.diff(numbers) > 0, True)[: len(numbers)]
    return FrameIndex(path, numbers[last], offsets[last], sizes[last], whole)


def _tar_members(path: Path, size: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size in bytes of each whole file; at a proper end an empty name.

    tarfile does the same, takes 27 times as long, and does not notice a tar that is cut off between
    two members.
    """
    with path.open("rb") as file:
        offset = 0
        while offset + _BLOCK <= size:
            file.seek(offset)
            header = file.read(_BLOCK)
            # An empty block marks the end.
            if not header[0]:
                yield "", offset, 0
                return
            length = _tar_size(header)
            if length is None:
                gzipped = header.startswith(b"\x1f\x8b")
                remedy = "unpack it with gunzip" if gzipped else "get the file again"
                raise ClipError(f"{path} is no tar, or is damaged at byte {offset}: {remedy}.")
            start = offset + _BLOCK
            if start + length > size:
                return
            if header[156:157] in _REGULAR:
                yield header[:100].rstrip(b"\0").decode("utf-8", "replace"), start, length
            offset = start + -(-length // _BLOCK) * _BLOCK


def _tar_size(header: bytes) -> int | None:
    """Return the size of a tar's member, or None if its header is damaged."""
    if header[257:262] != b"ustar":
        return None
    try:
        # Octal or, if large, binary, which can be negative.
        length = tarfile.nti(header[124:136])  # type: ignore[attr-defined]
    except tarfile.HeaderError:
        return None
    return length if length >= 0 else None


def _decode(source: Path | io.BytesIO, name: str) -> np.ndarray:
    try:
        with Image.open(source, formats=_FORMATS) as picture:
            check_size(Path(name), 1, picture.height, picture.width)
            return np.asarray(picture.convert("RGB"))
    except ClipError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise ClipError(
            f"{name} cannot be read as a picture: {error}. Get the frames of this video again."
        ) from error
