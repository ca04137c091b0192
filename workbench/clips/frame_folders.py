"""Videos as numbered pictures: folders of `frame_0000000001.jpg`, and tars of them, which stay packed.

Pictures are numbered from 1 at a constant rate: number n shows what the video shows at (n - 1) / rate seconds.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from .clip import Clip
from .files import listed
from .sampling import check_request, choose_frames
from .videos import ClipError, FrameTable

__all__ = ["FrameIndex", "frame_index", "read_frames_clip"]

_NAME = re.compile(r"(?:^|/)frame_(\d{10})\.jpg$")
_BLOCK = 512  # bytes; headers and contents of a tar begin at multiples


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The numbered pictures of a video.

    numbers: (N,) int64, ascending, from 1; offsets, sizes: (N,) where each picture lies in a tar, in bytes (None for a
    folder); whole: False for a tar that ends before its end.
    """

    path: Path
    numbers: np.ndarray
    offsets: np.ndarray | None = None
    sizes: np.ndarray | None = None
    whole: bool = True

    @property
    def count(self) -> int:
        """The highest number: how many pictures there are where none is missing."""
        return int(self.numbers[-1])

    @property
    def missing(self) -> np.ndarray:
        """The numbers from 1 to the highest of which there is no picture."""
        return np.setdiff1d(np.arange(1, self.count + 1), self.numbers, assume_unique=True)

    def pictures(self, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield pictures by number, (H, W, 3) uint8. Raises `ClipError` where one is missing or cannot be read."""
        if self.offsets is None or self.sizes is None:
            for number in numbers:
                self._place(number)
                yield _decode(
                    self.path / f"frame_{number:010d}.jpg", f"{self.path}, frame {number}"
                )
            return
        with self.path.open("rb") as file:
            for number in numbers:
                place = self._place(number)
                file.seek(int(self.offsets[place]))
                yield _decode(
                    io.BytesIO(file.read(int(self.sizes[place]))), f"{self.path}, frame {number}"
                )

    def _place(self, number: int) -> int:
        place = int(np.searchsorted(self.numbers, number))
        if place == len(self.numbers) or self.numbers[place] != number:
            raise ClipError(
                f"{self.path}: frame_{number:010d}.jpg is missing ({len(self.numbers)} of {self.count} are there). "
                "Unpack or get the frames of this video again."
            )
        return place


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
    """Read a segment of a video that is stored as numbered JPEG files, in a folder or a tar, as `read_clip` does.

    Args:
        path: the folder, or the tar (uncompressed), which is listed once and then read at the places needed.
        rate: pictures per second.
        frames, stride, start, stop, label, name: as in `read_clip`, in pictures and in seconds of the video.

    Returns:
        A clip whose `times` are seconds of the video and whose `indices` are 0-based: the files' numbers less one.

    Raises:
        FileNotFoundError: there is no such folder or tar.
        ClipError: there are no such pictures, one that is needed is missing, or the tar is cut off before the stop.
        ValueError: frames, stride, start or stop make no sense, or lie beyond the end.
    """
    path = Path(path)
    check_request(path, frames, stride, start, stop, None)
    index = frame_index(path)
    end = index.count / rate
    if not index.whole and (stop is None or stop > end):
        raise ClipError(
            f"{path} is cut off: it ends in the middle, after frame {index.count} ({end:.2f} s). Get the file again, "
            "or read a segment before that."
        )
    ticks = np.arange(index.count)
    table = FrameTable(
        ticks, ticks / rate, end, rate, keys=ticks, promised=0, counted=False, decord=False
    )
    indices = choose_frames(path, table, frames, stride, start, stop)
    pictures = np.stack(list(index.pictures((indices + 1).tolist())))
    return Clip(pictures, rate, table.times[indices], indices, path, label, name=name)


def frame_index(path: Path) -> FrameIndex:
    """Return the pictures that a folder or a tar holds; remembered as long as it is not changed.

    Raises:
        FileNotFoundError: there is no such folder or tar.
        ClipError: it holds no `frame_0000000001.jpg` and so on, or is no uncompressed tar.
    """
    if not path.exists():
        raise FileNotFoundError(f"no folder or tar of frames at {path}")
    status = path.stat()
    index = _list_frames(path.absolute(), status.st_size, status.st_mtime_ns)
    if not len(index.numbers):
        raise ClipError(
            f"{path} holds no frame_0000000001.jpg and so on. Get it again, or leave it out."
        )
    return index


@lru_cache(maxsize=32)  # an hour takes 5 MB
def _list_frames(path: Path, size: int, modified: int) -> FrameIndex:
    """List a folder or a tar; size and time of modification tell a changed one."""
    if path.is_dir():
        found = [int(match[1]) for match in map(_NAME.search, listed(path)) if match]
        return FrameIndex(path, np.sort(np.array(found, dtype=np.int64)))
    rows, whole = [], False
    for name, offset, length in _tar_members(path, size):
        if not name:
            whole = True
        elif (match := _NAME.search(name)) is not None:
            rows.append((int(match[1]), offset, length))
    numbers, offsets, sizes = np.array(sorted(rows), dtype=np.int64).reshape(-1, 3).T
    return FrameIndex(path, numbers, offsets, sizes, whole)


def _tar_members(path: Path, size: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size in bytes of the files that are there as a whole; at a proper end an empty name.

    tarfile does the same, takes 27 times as long, and is silent where a tar is cut off between two members.
    """
    with path.open("rb") as file:
        offset = 0
        while offset + _BLOCK <= size:
            file.seek(offset)
            header = file.read(_BLOCK)
            if not any(header[:1]):
                yield "", offset, 0
                return
            if header[257:262] != b"ustar":
                kind = (
                    "It is compressed: unpack it with gunzip. " if header[:2] == b"\x1f\x8b" else ""
                )
                raise ClipError(
                    f"{path} is no tar, or is damaged at byte {offset}. {kind}Else get the file again."
                )
            length = tarfile.nti(header[124:136])  # type: ignore[attr-defined]  # octal or, if large, binary
            start = offset + _BLOCK
            if start + length > size:
                return
            if header[156:157] in (
                b"0",
                b"\0",
            ):  # a file; others are folders, links and notes on the next member
                yield header[:100].rstrip(b"\0").decode("utf-8", "replace"), start, length
            offset = start + -(-length // _BLOCK) * _BLOCK


def _decode(source: Path | io.BytesIO, what: str) -> np.ndarray:
    try:
        with Image.open(source) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError as error:  # PIL's UnidentifiedImageError is one
        raise ClipError(
            f"{what} cannot be read as a picture: {error}. Get the frames of this video again."
        ) from error
