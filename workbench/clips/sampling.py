"""Sampling: which frames of a video make a clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .videos import ClipError, FrameTable

__all__ = [
    "check_counts",
    "check_request",
    "choose_frames",
    "describe_window",
    "frame_indices",
    "window_length",
]


def frame_indices(first: int, last: int, frames: int, stride: int | None) -> np.ndarray:
    """Choose `frames` frame numbers out of first..last-1, a range that holds the window.

    `stride=None` spreads them evenly, `linspace(first, last - 1, frames)` rounded down, as the authors of
    Saliency Tubes do; a number takes every stride-th frame, centred in the range.
    """
    if stride is None:
        return np.linspace(first, last - 1, frames).astype(np.int64)
    spare = last - first - window_length(frames, stride)
    return first + spare // 2 + stride * np.arange(frames, dtype=np.int64)


def window_length(frames: int, stride: int | None) -> int:
    """Return how many source frames a sampling spans."""
    return frames if stride is None else (frames - 1) * stride + 1


def describe_window(frames: int, stride: int | None) -> str:
    """Say in words how a clip is sampled, for error messages."""
    return f"{frames} frames" + ("" if stride is None else f" at stride {stride}")


def check_request(
    path: Path,
    frames: Any,
    stride: Any,
    start: float | None,
    stop: float | None,
    backend: str | None,
) -> None:
    """Raise ValueError, with the path, where what is asked of a video makes no sense whatever is in it."""
    check_counts(str(path), frames, stride)
    for what, seconds in (("start", start), ("stop", stop)):
        if seconds is not None and not (np.isfinite(seconds) and seconds >= 0):
            raise ValueError(
                f"{path}: {what}: expected seconds from the start of the file, 0 or more; got {seconds}"
            )
    if stop is not None and stop <= (start or 0):
        raise ValueError(
            f"{path}: expected start < stop in seconds, got start={start or 0}, stop={stop}"
        )
    if backend not in (None, "decord", "pyav"):
        raise ValueError(f"backend: expected 'decord', 'pyav' or None, got {backend!r}")


def check_counts(where: str, frames: Any, stride: Any) -> None:
    """Raise ValueError unless `frames` and `stride` are None or whole numbers from 1 up."""
    for what, count in (("frames", frames), ("stride", stride)):
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if count is not None and (not whole or count < 1):
            raise ValueError(f"{where}: {what}: expected a whole number from 1 up, got {count!r}")


def choose_frames(
    path: Path,
    table: FrameTable,
    frames: int | None,
    stride: int | None,
    start: float | None,
    stop: float | None,
) -> np.ndarray:
    """Return the frame numbers to read, ascending, as `read_clip` chooses them.

    Raises `ClipError` for a video that is cut off or shorter than the window, ValueError beyond its end.
    """
    count = len(table.times)
    if table.promised and (stop is None or stop > table.stop):
        raise ClipError(
            f"{path}: its header promises {table.promised} frames, the file holds {count}: it was cut off at "
            f"{table.stop:.2f} s. Get the file again, or read a segment before that with start and stop."
        )
    # Annotations and headers round the end: one frame's length is forgiven.
    if (start or 0) >= table.stop or (stop or 0) > table.stop + 1 / table.fps:
        given = f"start={start}, stop={stop}"
        raise ValueError(
            f"{path}: expected a segment within the video, 0 to {table.stop:.3f} s; got {given}"
        )
    microsecond = 1e-6  # so that i / 29.97 means frame i whichever way it was rounded
    first = 0 if start is None else int(np.searchsorted(table.times, start - microsecond))
    last = count if stop is None else int(np.searchsorted(table.times, stop - microsecond))
    window = 1 if frames is None else window_length(frames, stride)
    if count < window:
        raise ClipError(
            f"{path} has {count} frames; {describe_window(frames or 1, stride)} takes {window}. "
            "Ask for fewer frames or a smaller stride, or leave this video out."
        )
    if last - first < window:
        first = min(max(0, (first + last - window) // 2), count - window)
        last = first + window
    return (
        np.arange(first, last, stride or 1)
        if frames is None
        else frame_indices(first, last, frames, stride)
    )
