"""Sampling: which frames of a video make a clip."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import ClipError

__all__ = [
    "Timeline",
    "check_counts",
    "check_request",
    "check_size",
    "choose_frames",
    "frame_indices",
    "too_short",
    "window_length",
]

_LIMIT = "WORKBENCH_CLIP_GB"
_DEFAULT_LIMIT = 4.0
_ROUNDING = 1e-6  # seconds: i / 29.97 means frame i, whichever way it was rounded


class Timeline(Protocol):
    """The frames of a video in time: their number, the end in seconds, and the mean rate."""

    @property
    def count(self) -> int:
        """Number of frames."""
        ...

    @property
    def stop(self) -> float:
        """End of the last frame in seconds."""
        ...

    @property
    def fps(self) -> float:
        """Mean frame rate."""
        ...

    def first_from(self, seconds: float) -> int:
        """Return the number of the first frame at or after a time."""
        ...


def frame_indices(first: int, last: int, frames: int, stride: int | None) -> np.ndarray:
    """Choose `frames` frame numbers from first..last-1, a range that holds the window.

    `stride=None` spreads them evenly, `linspace(first, last - 1, frames)` rounded down, as the
    authors of Saliency Tubes do; a number takes every stride-th frame, centred in the range.
    """
    if stride is None:
        return np.linspace(first, last - 1, frames).astype(np.int64)
    spare = last - first - window_length(frames, stride)
    return first + spare // 2 + stride * np.arange(frames, dtype=np.int64)


def window_length(frames: int, stride: int | None) -> int:
    """Return how many source frames a sampling spans."""
    return frames if stride is None else (frames - 1) * stride + 1


def too_short(count: int, frames: int, stride: int | None) -> str:
    """Say in words that `count` frames do not hold a window, for error messages."""
    found = "1 frame" if count == 1 else f"{count} frames"
    if stride is None:
        return f"has {found}; {frames} are asked for"
    return f"has {found}; {frames} frames at stride {stride} takes {window_length(frames, stride)}"


def check_request(
    path: Path,
    *,
    frames: Any,
    stride: Any,
    start: float | None,
    stop: float | None,
    backend: str | None = None,
) -> None:
    """Raise ValueError if a request makes no sense for any video."""
    check_counts(str(path), frames, stride)
    for name, seconds in (("start", start), ("stop", stop)):
        if seconds is not None and not (np.isfinite(seconds) and seconds >= 0):
            raise ValueError(
                f"{path}: {name}: expected seconds from the start of the file, 0 or more; "
                f"got {seconds}"
            )
    if stop is not None and stop <= (start or 0):
        raise ValueError(
            f"{path}: expected start < stop in seconds, got start={start or 0}, stop={stop}"
        )
    if backend not in (None, "decord", "pyav"):
        raise ValueError(f"backend: expected 'decord', 'pyav' or None, got {backend!r}")


def check_counts(where: str, frames: Any, stride: Any) -> None:
    """Raise ValueError unless `frames` and `stride` are None or whole numbers from 1 up."""
    for name, count in (("frames", frames), ("stride", stride)):
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if count is not None and (not whole or count < 1):
            raise ValueError(f"{where}: {name}: expected a whole number from 1 up, got {count!r}")


def check_size(path: Path, frames: int, height: int, width: int) -> None:
    """Raise `ClipError` if a clip would take more memory than the limit, 4 GB unless set.

    The environment variable WORKBENCH_CLIP_GB sets the limit, in units of 10⁹ bytes.
    """
    text = os.environ.get(_LIMIT, "") or str(_DEFAULT_LIMIT)
    try:
        limit = float(text)
    except ValueError:
        raise ValueError(f"{_LIMIT}: expected a number of gigabytes, got {text!r}") from None
    needed = frames * height * width * 3 / 1e9
    if not needed <= limit:
        raise ClipError(
            f"{path}: {frames} frames of {width}×{height} take {needed:.3g} GB; the limit is "
            f"{limit:.3g} GB. Ask for fewer frames or a shorter segment, or raise the limit with "
            f"the environment variable {_LIMIT}."
        )


def choose_frames(
    path: Path,
    timeline: Timeline,
    size: tuple[int, int],
    *,
    frames: int | None,
    stride: int | None,
    start: float | None,
    stop: float | None,
) -> np.ndarray:
    """Return the frame numbers to read, ascending, as `read_clip` chooses them.

    Raises `ClipError` if the video is shorter than the window, or if frames of this `size` (height,
    width) exceed the memory limit; ValueError beyond the video's end.
    """
    count = timeline.count
    # Annotations and headers round the end: one frame's length is forgiven.
    end = timeline.stop + 1 / timeline.fps
    if (start or 0) >= timeline.stop or (stop or 0) > end:
        raise ValueError(
            f"{path}: expected a segment within the video, 0 to {timeline.stop:.3f} s; "
            f"got start={start}, stop={stop}"
        )
    first = 0 if start is None else timeline.first_from(start - _ROUNDING)
    last = count if stop is None else timeline.first_from(stop - _ROUNDING)
    window = 1 if frames is None else window_length(frames, stride)
    if count < window:
        raise ClipError(
            f"{path} {too_short(count, frames or 1, stride)}. Ask for fewer frames or a smaller "
            "stride, or leave this video out."
        )
    # A segment shorter than the window is widened around its centre.
    if last - first < window:
        first = min(max(0, (first + last - window) // 2), count - window)
        last = first + window
    chosen = len(range(first, last, stride or 1)) if frames is None else frames
    check_size(path, chosen, *size)
    if frames is None:
        return np.arange(first, last, stride or 1)
    return frame_indices(first, last, frames, stride)
