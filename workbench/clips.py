"""Clips: frames of a video with their times, and what is annotated in them.

`Clip` is a frozen record of decoded frames; its methods return new clips, and carry times, boxes and
actions along. `read_clip` makes one from a video file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .videos import ClipError, FewerFrames, FrameTable, frame_table, read_frames

__all__ = ["Action", "Clip", "ClipError", "frame_indices", "read_clip"]


@dataclass(frozen=True, eq=False)
class Action:
    """One annotated action: what, when and where.

    `start` and `stop` are seconds from the start of the file, half-open. `boxes` is (T, 4), a box
    (x0, y0, x1, y1) in pixels per frame of the clip that holds the action, NaN where there is none.
    """

    label: str
    start: float
    stop: float
    boxes: np.ndarray | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """Frames of a video with their times.

    Attributes:
        frames: (T, H, W, 3) uint8, RGB.
        fps: mean frame rate of the source, frames per second (on variable-rate video go by `times`).
        times: (T,) float64, seconds from the start of the file. Default: `indices / fps`.
        indices: (T,) int64, 0-based frame numbers in the source. Default: 0, 1, 2, …
        path: the file the frames come from, or None.
        label: class name, or None. Default: that of the first action.
        boxes: (T, 4) or, for several boxes a frame, (T, K, 4): (x0, y0, x1, y1) in pixels of these frames,
            half-open, NaN where there is no box. Default: those of the first action.
        name: how a data set calls the clip. Default: the file's stem.
        actions: all annotated actions, the labelled one first.

    Raises:
        ValueError: frames are not (T, H, W, 3) uint8, or another field does not have one entry a frame.
    """

    frames: np.ndarray
    fps: float
    times: np.ndarray = field(default=None)  # type: ignore[arg-type]  # filled in below
    indices: np.ndarray = field(default=None)  # type: ignore[arg-type]
    path: Path | None = None
    label: str | None = None
    boxes: np.ndarray | None = None
    name: str | None = None
    actions: tuple[Action, ...] = ()

    def __post_init__(self) -> None:
        frames = np.asarray(self.frames)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(
                f"frames: expected (T, H, W, 3) uint8 RGB, got shape {frames.shape} of {frames.dtype}. "
                "Grey frames: repeat them over the last axis; floats in [0, 1]: (255 * x).astype('uint8')."
            )
        if min(frames.shape) == 0:
            raise ValueError(f"frames: expected at least one frame and one pixel, got shape {frames.shape}")
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps: expected a positive number of frames per second, got {self.fps}")
        count = len(frames)
        indices = np.arange(count) if self.indices is None else np.asarray(self.indices, dtype=np.int64)
        times = indices / self.fps if self.times is None else np.asarray(self.times, dtype=np.float64)
        boxes, label = self.boxes, self.label
        if self.actions:
            boxes = self.actions[0].boxes if boxes is None else boxes
            label = self.actions[0].label if label is None else label
        if boxes is not None:
            boxes = np.asarray(boxes, dtype=np.float32)
            if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4:
                raise ValueError(f"boxes: expected (T, 4) or (T, K, 4), got {boxes.shape}")
        for what, values in (("times", times), ("indices", indices), ("boxes", boxes)):
            if values is not None and len(values) != count:
                raise ValueError(f"{what}: expected one entry for each of the {count} frames, got {len(values)}")
        path = None if self.path is None else Path(self.path)
        name = self.name if self.name is not None or path is None else path.stem
        for key, value in {
            "frames": frames, "fps": float(self.fps), "times": times, "indices": indices, "path": path,
            "label": label, "boxes": boxes, "name": name, "actions": tuple(self.actions),
        }.items():  # fmt: skip
            object.__setattr__(self, key, value)

    def __len__(self) -> int:
        """Number of frames, T."""
        return len(self.frames)

    def __repr__(self) -> str:
        count, height, width, _ = self.frames.shape
        what = "" if self.label is None else f" {self.label!r}"
        who = "" if self.name is None else f" {self.name}"
        return (
            f"<Clip{who}{what}: {count} frames of {width}×{height}, "
            f"{self.times[0]:.2f}-{self.times[-1]:.2f} s, {self.fps:.4g} fps>"
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    @property
    def action(self) -> tuple[float, float] | None:
        """Start and stop of the first annotated action in seconds, or None."""
        return (self.actions[0].start, self.actions[0].stop) if self.actions else None

    def during(self, interval: tuple[float, float]) -> np.ndarray:
        """Return (T,) bool: which frames lie in the half-open interval (start, stop) in seconds."""
        start, stop = interval
        return (self.times >= start) & (self.times < stop)

    def action_boxes(self, number: int = 0, grow: float = 0.0) -> np.ndarray:
        """Return (T, 4) the boxes of an annotated action in the frames of its interval, NaN in all others.

        `grow` widens the interval on both sides, in seconds. Raises ValueError where there is no such action, or
        it has no boxes.
        """
        action = self.actions[number] if 0 <= number < len(self.actions) else None
        if action is None or action.boxes is None:
            raise ValueError(f"action {number}: the clip has {len(self.actions)} annotated actions, or it has no boxes")
        inside = self.during((action.start - grow, action.stop + grow))
        return np.where(inside[:, None], action.boxes, np.float32(np.nan))

    @property
    def shown_boxes(self) -> np.ndarray | None:
        """(T, K, 4) the boxes to draw: of every annotated action while it goes on, or else all of `boxes`."""
        boxed = [number for number, action in enumerate(self.actions) if action.boxes is not None]
        if boxed:
            return np.stack([self.action_boxes(number) for number in boxed], axis=1)
        return self.boxes if self.boxes is None or self.boxes.ndim == 3 else self.boxes[:, None]

    def select(self, frames: Sequence[int] | np.ndarray) -> Clip:
        """Return the clip of these positions (0-based, within this clip), in the order given."""
        positions = np.asarray(frames, dtype=np.int64)
        return replace(
            self,
            frames=self.frames[positions],
            times=self.times[positions],
            indices=self.indices[positions],
            boxes=None if self.boxes is None else self.boxes[positions],
            actions=self._map_action_boxes(lambda boxes: boxes[positions]),
        )

    def sample(self, frames: int, stride: int | None = None) -> Clip:
        """Return `frames` frames of the clip, chosen as `read_clip` chooses them.

        Raises ValueError where the clip is shorter than the window.
        """
        _check_counts("sample", frames, stride)
        if len(self) < _window(frames, stride):
            raise ValueError(
                f"the clip has {len(self)} frames; {_how(frames, stride)} takes {_window(frames, stride)}. "
                "Read a longer segment, or ask for a smaller stride."
            )
        return self.select(frame_indices(0, len(self), frames, stride))

    def resize(self, height: int, width: int) -> Clip:
        """Return the clip at another picture size: bilinear with antialiasing, boxes scaled along."""
        if (height, width) == self.size:
            return self
        stack = torch.from_numpy(np.ascontiguousarray(self.frames)).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(
            stack, size=(height, width), mode="bilinear", align_corners=False, antialias=True
        )
        scale = np.array([width / self.size[1], height / self.size[0]] * 2, dtype=np.float32)
        return self._with_frames(resized.permute(0, 2, 3, 1).contiguous().numpy(), lambda boxes: boxes * scale)

    def crop(self, top: int, left: int, height: int, width: int) -> Clip:
        """Return a cut-out of every frame; boxes are moved and clipped, NaN where nothing is left of them.

        Raises ValueError where the cut-out reaches beyond the frame.
        """
        full_height, full_width = self.size
        if top < 0 or left < 0 or top + height > full_height or left + width > full_width:
            raise ValueError(
                f"crop: {width}×{height} at ({left}, {top}) leaves the frame of {full_width}×{full_height}"
            )

        def move(boxes: np.ndarray) -> np.ndarray:
            limit = np.array([width, height] * 2, dtype=np.float32)
            moved = np.clip(boxes - np.array([left, top] * 2, dtype=np.float32), 0, limit)
            gone = (moved[..., 2] <= moved[..., 0]) | (moved[..., 3] <= moved[..., 1])
            return np.where(gone[..., None], np.float32(np.nan), moved)

        return self._with_frames(self.frames[:, top : top + height, left : left + width], move)

    def _with_frames(self, frames: np.ndarray, move) -> Clip:  # type: ignore[no-untyped-def]
        boxes = None if self.boxes is None else move(self.boxes)
        return replace(self, frames=frames, boxes=boxes, actions=self._map_action_boxes(move))

    def _map_action_boxes(self, move) -> tuple[Action, ...]:  # type: ignore[no-untyped-def]
        return tuple(a if a.boxes is None else replace(a, boxes=move(a.boxes)) for a in self.actions)


def frame_indices(first: int, last: int, frames: int, stride: int | None) -> np.ndarray:
    """Choose `frames` frame numbers out of first..last-1, a range that holds the window.

    `stride=None` spreads them evenly, `linspace(first, last - 1, frames)` rounded down, as the authors of
    Saliency Tubes do; a number takes every stride-th frame, centred in the range.
    """
    if stride is None:
        return np.linspace(first, last - 1, frames).astype(np.int64)
    spare = last - first - _window(frames, stride)
    return first + spare // 2 + stride * np.arange(frames, dtype=np.int64)


def _window(frames: int, stride: int | None) -> int:
    """Return how many source frames a sampling spans."""
    return frames if stride is None else (frames - 1) * stride + 1


def _how(frames: int, stride: int | None) -> str:
    return f"{frames} frames" + ("" if stride is None else f" at stride {stride}")


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


def check_request(
    path: Path, frames: Any, stride: Any, start: float | None, stop: float | None, backend: str | None
) -> None:
    """Raise ValueError, with the path, where what is asked of a video makes no sense whatever is in it."""
    _check_counts(str(path), frames, stride)
    for what, seconds in (("start", start), ("stop", stop)):
        if seconds is not None and not (np.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"{path}: {what}: expected seconds from the start of the file, 0 or more; got {seconds}")
    if stop is not None and stop <= (start or 0):
        raise ValueError(f"{path}: expected start < stop in seconds, got start={start or 0}, stop={stop}")
    if backend not in (None, "decord", "pyav"):
        raise ValueError(f"backend: expected 'decord', 'pyav' or None, got {backend!r}")


def _check_counts(where: str, frames: Any, stride: Any) -> None:
    for what, count in (("frames", frames), ("stride", stride)):
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if count is not None and (not whole or count < 1):
            raise ValueError(f"{where}: {what}: expected a whole number from 1 up, got {count!r}")


def choose_frames(
    path: Path, table: FrameTable, frames: int | None, stride: int | None, start: float | None, stop: float | None
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
        raise ValueError(f"{path}: expected a segment within the video, 0 to {table.stop:.3f} s; got {given}")
    microsecond = 1e-6  # so that i / 29.97 means frame i whichever way it was rounded
    first = 0 if start is None else int(np.searchsorted(table.times, start - microsecond))
    last = count if stop is None else int(np.searchsorted(table.times, stop - microsecond))
    window = 1 if frames is None else _window(frames, stride)
    if count < window:
        raise ClipError(
            f"{path} has {count} frames; {_how(frames or 1, stride)} takes {window}. "
            "Ask for fewer frames or a smaller stride, or leave this video out."
        )
    if last - first < window:
        first = min(max(0, (first + last - window) // 2), count - window)
        last = first + window
    return np.arange(first, last, stride or 1) if frames is None else frame_indices(first, last, frames, stride)
