"""Reading: a video file becomes a `Clip`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .clip import Clip
from .decoding import FewerFramesError, read_frames
from .errors import ClipError
from .packets import FrameTable, frame_table
from .sampling import check_request, choose_frames

__all__ = ["read_clip"]


def read_clip(
    path: str | Path,
    frames: int | None = 16,
    stride: int | None = None,
    start: float | None = None,
    stop: float | None = None,
    *,
    label: str | None = None,
    name: str | None = None,
    backend: str | None = None,
) -> Clip:
    """Read frames of a video file, or of a segment of it, exact to the frame.

    A segment with fewer frames than the window is widened around its centre, within the video.

    Args:
        path: the video file.
        frames: how many frames; None takes every frame of the segment (every stride-th one).
        stride: None spreads the frames evenly over the segment, as the authors of Saliency Tubes
            do; 2 takes every second frame, centred in the segment.
        start, stop: the segment, seconds from the start of the file: frames with
            start <= time < stop. Default: the whole video.
        label, name: what the clip shows, and its name. Default of the name: the file's stem.
        backend: "pyav" or "decord"; None is PyAV, the fastest one that notices damage. With
            "decord", PyAV decodes the same frames, and a frame that differs is an error.

    Returns:
        A clip with frames in the video's own size, turned upright if the file says so, their times,
        their numbers in the file, and the mean frame rate.

    Raises:
        FileNotFoundError: there is no such file.
        ClipError: the file is not a readable video, is damaged in the segment, or is shorter than
            the window; the frames would take more memory than the limit, 4 GB unless the
            environment variable WORKBENCH_CLIP_GB says otherwise; decord is not exact here.
        ValueError: frames, stride, start or stop make no sense, or lie beyond the video's end.
    """
    path = Path(path)
    check_request(path, frames=frames, stride=stride, start=start, stop=stop, backend=backend)
    request = dict(frames=frames, stride=stride, start=start, stop=stop)
    table = frame_table(path)
    try:
        pictures, indices = _read(path, table, backend, **request)
    except ClipError:
        if not table.by_index:
            raise
        # An index tells less of damage than the packets do.
        table = frame_table(path, trust_index=False)
        pictures, indices = _read(path, table, backend, **request)
    return Clip(pictures, table.fps, table.times[indices], indices, path, label, name=name)


def _read(
    path: Path,
    table: FrameTable,
    backend: str | None,
    **request: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures of a request, and their numbers. Raises as `read_clip`."""
    _check_complete(path, table, request["stop"])
    while True:
        indices = choose_frames(path, table, table.size, **request)
        try:
            return read_frames(path, table, indices, backend), indices
        except FewerFramesError as found:  # the table shrinks each time
            table = table.first(found.count)


def _check_complete(path: Path, table: FrameTable, stop: float | None) -> None:
    """Raise `ClipError` if a segment may reach beyond the place where a file was cut off."""
    if table.cut and (stop is None or stop > table.stop):
        raise ClipError(
            f"{path}: its header promises {table.cut}: it was cut off at {table.stop:.2f} s. Get "
            "the file again, or read a segment before that with start and stop."
        )
