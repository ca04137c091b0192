"""Reading: a video file becomes a `Clip`."""

from __future__ import annotations

from pathlib import Path

from .clip import Clip
from .sampling import check_request, choose_frames
from .videos import FewerFrames, frame_table, read_frames

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

    A segment that holds fewer frames than the window is widened around its centre, within the video.

    Args:
        path: the video file.
        frames: how many frames; None takes every frame of the segment (every stride-th one).
        stride: None spreads the frames evenly over the segment, as the authors of Saliency Tubes do; 2 takes
            every second frame, centred in the segment.
        start, stop: the segment, seconds from the start of the file: frames with start <= time < stop.
            Default: the whole video.
        label, name: what the clip shows, and what it is called. Default of the name: the file's stem.
        backend: "decord" or "pyav"; None takes decord where it is installed and exact, else PyAV.

    Returns:
        A clip with frames in the video's own size, turned upright where the file says so, their times,
        their numbers in the file, and the mean frame rate.

    Raises:
        FileNotFoundError: there is no such file.
        ClipError: the file is not a readable video, is damaged where it is read, or is shorter than the
            window.
        ValueError: frames, stride, start or stop make no sense, or lie beyond the video's end.
    """
    path = Path(path)
    check_request(path, frames, stride, start, stop, backend)
    table = frame_table(path)
    while True:
        indices = choose_frames(path, table, frames, stride, start, stop)
        try:
            pictures = read_frames(path, table, indices, backend)
            break
        except FewerFrames as found:  # ends: the table shrinks each time
            table = table.first(found.count)
    return Clip(pictures, table.fps, table.times[indices], indices, path, label, name=name)
