"""A clip: frames of a video with their times, and what is annotated in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from .sampling import check_counts, frame_indices, too_short, window_length

__all__ = ["Action", "Clip", "Frames", "as_frames"]

_Mapping: TypeAlias = Callable[[np.ndarray], np.ndarray]  # boxes to boxes


@dataclass(frozen=True, eq=False)
class Action:
    """One annotated action: what, when and where.

    `start` and `stop` are seconds from the start of the file, half-open. `boxes` is (T, 4), a box
    (x0, y0, x1, y1) in pixels for each frame of the clip that holds the action, NaN for no box.

    `masks` is (T, H, W) bool in the pixels of that clip. `annotated` is (T,) bool: whether anyone
    looked at the frame; in others the mask is empty because it is not known. None: all frames.
    `interpolated` is (T,) bool: whether the mask was computed from annotated frames nearby.
    """

    label: str
    start: float
    stop: float
    boxes: np.ndarray | None = field(default=None, repr=False)
    masks: np.ndarray | None = field(default=None, repr=False)
    annotated: np.ndarray | None = field(default=None, repr=False)
    interpolated: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """Frames of a video with their times. Methods return new clips, with boxes and actions.

    Attributes:
        frames: (T, H, W, 3) uint8, RGB.
        fps: mean frame rate of the source, frames per second (for a variable rate use `times`).
        times: (T,) float64, seconds from the start of the file. Default: `indices / fps`.
        indices: (T,) int64, 0-based frame numbers in the source. Default: 0, 1, 2, …
        path: the file the frames come from, or None.
        label: class name, or None. Default: that of the first action.
        boxes: (T, 4) or, for several boxes a frame, (T, K, 4): (x0, y0, x1, y1) in pixels of these
            frames, half-open, NaN for no box. Default: those of the first action.
        name: the clip's name in its data set. Default: the file's stem.
        actions: all annotated actions, the labelled one first.

    Raises:
        ValueError: frames are not (T, H, W, 3) uint8, or another field does not have one entry a
            frame.
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
        _check_frames(frames)
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise ValueError(
                f"fps: expected a positive number of frames per second, got {self.fps}"
            )
        fps = float(self.fps)
        actions = tuple(self.actions)
        # Defaults follow from other fields.
        indices = np.arange(len(frames)) if self.indices is None else self.indices
        indices = np.asarray(indices, dtype=np.int64)
        times = np.asarray(indices / fps if self.times is None else self.times, dtype=np.float64)
        boxes = self.boxes
        label = self.label
        if actions and boxes is None:
            boxes = actions[0].boxes
        if actions and label is None:
            label = actions[0].label
        path = None if self.path is None else Path(self.path)
        name = path.stem if self.name is None and path is not None else self.name
        if boxes is not None:
            boxes = np.asarray(boxes, dtype=np.float32)
            if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4:
                raise ValueError(f"boxes: expected (T, 4) or (T, K, 4), got {boxes.shape}")
        for what, values in (("times", times), ("indices", indices), ("boxes", boxes)):
            if values is not None and len(values) != len(frames):
                raise ValueError(
                    f"{what}: expected one entry for each of the {len(frames)} frames, "
                    f"got {len(values)}"
                )
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "fps", fps)
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "actions", actions)

    def __len__(self) -> int:
        """Number of frames, T."""
        return len(self.frames)

    def __repr__(self) -> str:
        count, height, width, _ = self.frames.shape
        name = "" if self.name is None else f" {self.name}"
        label = "" if self.label is None else f" {self.label!r}"
        return (
            f"<Clip{name}{label}: {count} frames of {width}×{height}, "
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
        """Return (T, 4) the boxes of an action in the frames of its interval, NaN in all others.

        `grow` widens the interval on both sides, in seconds. Raises ValueError if there is no such
        action or it has no boxes.
        """
        action = self.actions[number] if 0 <= number < len(self.actions) else None
        if action is None or action.boxes is None:
            raise ValueError(
                f"action {number}: expected an action with boxes; the clip has "
                f"{len(self.actions)} annotated actions"
            )
        inside = self.during((action.start - grow, action.stop + grow))
        return np.where(inside[:, None], action.boxes, np.float32(np.nan))

    def action_masks(self, number: int = 0) -> np.ndarray:
        """Return (T, H, W) bool: the masks of an annotated action in its interval, else empty.

        Raises:
            ValueError: there is no such action, or it has no masks.
        """
        action = self.actions[number] if 0 <= number < len(self.actions) else None
        if action is None or action.masks is None:
            raise ValueError(
                f"action {number}: the clip has {len(self.actions)} annotated actions, or it has "
                "no masks"
            )
        return action.masks & self.during((action.start, action.stop))[:, None, None]

    @property
    def shown_boxes(self) -> np.ndarray | None:
        """(T, K, 4) the boxes to draw: those of the actions in their intervals, or else `boxes`."""
        boxed = [number for number, action in enumerate(self.actions) if action.boxes is not None]
        if boxed:
            return np.stack([self.action_boxes(number) for number in boxed], axis=1)
        return self.boxes if self.boxes is None or self.boxes.ndim == 3 else self.boxes[:, None]

    def select(self, frames: Sequence[int] | np.ndarray) -> Clip:
        """Return the clip of some frames: positions in this clip, from 0, or a (T,) bool mask.

        Raises ValueError if a mask has another length, or selects no frame; IndexError for a
        position beyond the clip.
        """
        positions = np.asarray(frames)
        if positions.dtype == bool:
            if positions.shape != (len(self),):
                raise ValueError(
                    f"select: expected a mask of ({len(self)},), one entry a frame, "
                    f"got {positions.shape}"
                )
            positions = np.flatnonzero(positions)
        elif positions.size and not np.issubdtype(positions.dtype, np.integer):
            raise ValueError(
                f"select: expected whole numbers or a bool mask, got {positions.dtype}"
            )
        positions = positions.astype(np.int64)
        return replace(
            self,
            frames=self.frames[positions],
            times=self.times[positions],
            indices=self.indices[positions],
            boxes=None if self.boxes is None else self.boxes[positions],
            actions=tuple(_selected(action, positions) for action in self.actions),
        )

    def sample(self, frames: int, stride: int | None = None) -> Clip:
        """Return `frames` frames of the clip, chosen as `read_clip` chooses them.

        Raises ValueError if the clip is shorter than the window.
        """
        check_counts("sample", frames, stride)
        if len(self) < window_length(frames, stride):
            raise ValueError(
                f"the clip {too_short(len(self), frames, stride)}. Read a longer segment, or ask "
                "for fewer frames or a smaller stride."
            )
        return self.select(frame_indices(0, len(self), frames, stride))

    def resize(self, height: int, width: int) -> Clip:
        """Return the clip at another picture size: bilinear with antialiasing, boxes scaled too.

        Raises ValueError unless height and width are positive.
        """
        if height < 1 or width < 1:
            raise ValueError(
                f"resize: expected a height and width of at least 1 pixel, got {height} and {width}"
            )
        if (height, width) == self.size:
            return self
        stack = torch.from_numpy(np.ascontiguousarray(self.frames)).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(
            stack, size=(height, width), mode="bilinear", align_corners=False, antialias=True
        )
        frames = resized.permute(0, 2, 3, 1).contiguous().numpy()
        scale = np.array([width / self.size[1], height / self.size[0]] * 2, dtype=np.float32)
        rows = _nearest(self.size[0], height)
        columns = _nearest(self.size[1], width)
        return self._with_frames(
            frames, lambda boxes: boxes * scale, lambda masks: masks[:, rows[:, None], columns]
        )

    def crop(self, top: int, left: int, height: int, width: int) -> Clip:
        """Return a cut-out of every frame; boxes are moved and clipped, NaN if nothing is left.

        Raises ValueError if the cut-out is empty or reaches beyond the frame.
        """
        full_height, full_width = self.size
        inside = 0 <= top <= full_height - height and 0 <= left <= full_width - width
        if height < 1 or width < 1 or not inside:
            raise ValueError(
                f"crop: expected at least one pixel, within the frame of {full_width}×"
                f"{full_height}; got {width}×{height} at ({left}, {top})"
            )

        def move(boxes: np.ndarray) -> np.ndarray:
            limit = np.array([width, height] * 2, dtype=np.float32)
            moved = np.clip(boxes - np.array([left, top] * 2, dtype=np.float32), 0, limit)
            gone = (moved[..., 2] <= moved[..., 0]) | (moved[..., 3] <= moved[..., 1])
            return np.where(gone[..., None], np.float32(np.nan), moved)

        window = np.s_[:, top : top + height, left : left + width]
        return self._with_frames(self.frames[window], move, lambda masks: masks[window])

    def _with_frames(self, frames: np.ndarray, move: _Mapping, move_masks: _Mapping) -> Clip:
        actions = tuple(
            replace(
                action,
                boxes=None if action.boxes is None else move(action.boxes),
                masks=None if action.masks is None else move_masks(action.masks),
            )
            for action in self.actions
        )
        boxes = None if self.boxes is None else move(self.boxes)
        return replace(self, frames=frames, boxes=boxes, actions=actions)


def _selected(action: Action, positions: np.ndarray) -> Action:
    """Return an action of the frames at these positions."""
    by_frame = ("boxes", "masks", "annotated", "interpolated")
    known = {key: getattr(action, key) for key in by_frame}
    return replace(action, **{k: v[positions] for k, v in known.items() if v is not None})


def _nearest(source: int, target: int) -> np.ndarray:
    """Return (target,) int64: the pixel of the source at the centre of each target pixel."""
    return ((np.arange(target) + 0.5) * source / target).astype(np.int64)


Frames: TypeAlias = "Clip | np.ndarray"


def as_frames(clip: Frames) -> np.ndarray:
    """Return the frames of a clip, or an array after checking that it is (T, H, W, 3) uint8."""
    return clip.frames if isinstance(clip, Clip) else Clip(frames=clip, fps=1.0).frames


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(
            f"frames: expected (T, H, W, 3) uint8 RGB, got shape {frames.shape} of {frames.dtype}. "
            "Grey frames: repeat them over the last axis; "
            "floats in [0, 1]: (255 * x).astype('uint8')."
        )
    if min(frames.shape) == 0:
        raise ValueError(
            f"frames: expected at least one frame and one pixel, got shape {frames.shape}"
        )
