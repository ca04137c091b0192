"""Clips with a known answer, drawn a batch at a time: gratings in boxes, in front of clutter.

A class is a pattern of stripes, shown in one box during one interval. Background, noise, plain and
flickering boxes and a moving disc say nothing of the class. A `pair` clip shows two patterns,
one after the other, at two places. A clip costs under a millisecond, so that small transformers
learn from fresh clips in minutes; `samples` has the clips of the shipped 3-D networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..clips.clip import Action, Clip
from .table import Dataset

__all__ = ["GRATINGS", "Gratings", "draw_gratings", "grating_clips"]

# (kx, ky) of the two waves that are multiplied, in wave numbers; a zero wave is a constant.
WAVES = {
    "horizontal": ((0.0, 1.0), (0.0, 0.0)),
    "vertical": ((1.0, 0.0), (0.0, 0.0)),
    "rising": ((0.71, 0.71), (0.0, 0.0)),
    "falling": ((0.71, -0.71), (0.0, 0.0)),
    "checkered": ((0.0, 1.0), (1.0, 0.0)),
}
GRATINGS = tuple(WAVES)
FRAMES, SIDE, FPS = 16, 48, 16.0  # a clip lasts a second
SIZES = (13, 19)  # pixels of a box, half-open
SPANS = (4, 8)  # frames that it is shown, half-open
WAVELENGTHS = (4.0, 6.0)  # pixels
MARGIN = 1.0  # pixels between the boxes of a pair
DECOYS = 3  # boxes of clutter a clip
RADIUS = 4  # pixels of the disc
GRAIN = 12  # half the range of the noise, in grey levels; no painted level is above 255 - 24


@dataclass(frozen=True, eq=False)
class Gratings:
    """A batch of clips and what they show.

    Attributes:
        frames: (N, T, H, W, 3) uint8.
        classes: (N, 2) the class ids shown; -1 for no second one.
        boxes: (N, 2, 4) int, (x0, y0, x1, y1) in pixels, half-open.
        intervals: (N, 2, 2) int, first frame and the one after the last.
    """

    frames: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    intervals: np.ndarray

    def targets(self) -> np.ndarray:
        """Return (N, classes) float32: 1 for the class of a clip, 0.5 for each class of a pair."""
        targets = np.zeros((len(self.classes), len(GRATINGS)), dtype=np.float32)
        rows, columns = np.nonzero(self.classes >= 0)
        targets[rows, self.classes[rows, columns]] = 1
        return targets / targets.sum(1, keepdims=True)


def draw_gratings(
    count: int, rng: np.random.Generator, pairs: float = 0.5, *, easy: bool = False
) -> Gratings:
    """Draw `count` clips of 16 frames of 48×48 pixels; a share of `pairs` shows two classes.

    `easy` clips have one class in a larger box for longer, to begin training with.
    """
    pairs = 0.0 if easy else pairs
    classes = np.argsort(rng.random((count, len(GRATINGS))), axis=1)[:, :2]
    two = rng.random(count) < pairs
    boxes, intervals = _places(rng, count, easy)
    for row in np.flatnonzero(two):
        boxes[row], intervals[row] = _pair_of_places(rng)
    shown = np.stack([np.ones(count, dtype=bool), two], axis=1)
    frames = _background(rng, count)
    _add_clutter(rng, frames)
    for number in range(2):
        rows = np.flatnonzero(shown[:, number])
        for row in rows:
            _paint(
                frames[row],
                boxes[row, number],
                intervals[row, number],
                _pattern(rng, boxes[row, number], intervals[row, number], classes[row, number]),
            )
    _add_grain(rng, frames)
    return Gratings(frames, np.where(shown, classes, -1), boxes, intervals)


def grating_clips(count: int, seed: int, pairs: float = 0.5) -> Dataset:
    """Return `count` clips with their actions and boxes as a `Dataset`; of a pair the first leads.

    The index has the columns `class`, `class_id`, `start`, `stop`, `duration` and `pair`. The clips
    are drawn at once and held in memory, a hundred kilobytes each.
    """
    clips = {}
    for number in range(count):
        # With a seed each, the first clips are the same however many are drawn.
        drawn = draw_gratings(1, np.random.default_rng([seed, number]), pairs)
        name = f"gratings_s{seed}_{number:04d}"
        clips[name] = _clip(drawn, name)
    rows = [
        {
            "class": clip.label,
            "class_id": GRATINGS.index(str(clip.label)),
            "start": 0.0,
            "stop": FRAMES / FPS,
            "duration": FRAMES / FPS,
            "pair": len(clip.actions) == 2,
        }
        for clip in clips.values()
    ]
    index = pd.DataFrame(rows, index=pd.Index(clips, name="name"))

    def read(row: pd.Series, frames: int | None, stride: int | None) -> Clip:
        clip = clips[str(row.name)]
        return clip if frames in (None, FRAMES) else clip.sample(frames, stride)

    return Dataset(index, list(GRATINGS), read, title="gratings")


def _clip(drawn: Gratings, name: str) -> Clip:
    """Return the first clip of a batch with its actions."""
    actions = []
    for class_id, box, (first, last) in zip(drawn.classes[0], drawn.boxes[0], drawn.intervals[0]):
        if class_id < 0:
            continue
        boxes = np.full((FRAMES, 4), np.nan, dtype=np.float32)
        boxes[first:last] = box
        actions.append(Action(GRATINGS[class_id], first / FPS, last / FPS, boxes))
    return Clip(drawn.frames[0], FPS, name=name, actions=tuple(actions))


def _places(
    rng: np.random.Generator, count: int, easy: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (count, 2, 4) and intervals (count, 2, 2), anywhere and at any time."""
    scale = 2 if easy else 1
    size = scale * rng.integers(*SIZES, (count, 2, 2))
    corner = rng.integers(0, SIDE - size + 1)
    span = scale * rng.integers(*SPANS, (count, 2))
    first = rng.integers(0, FRAMES - span + 1)
    return np.concatenate([corner, corner + size], -1), np.stack([first, first + span], -1)


def _pair_of_places(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two boxes and intervals that share neither a pixel nor a frame."""
    while True:
        boxes, intervals = (both[0] for both in _places(rng, 1))
        (x0, y0, x1, y1), (u0, v0, u1, v1) = boxes
        apart = max(u0 - x1, x0 - u1, v0 - y1, y0 - v1) >= MARGIN
        if apart and (intervals[0, 1] <= intervals[1, 0] or intervals[1, 1] <= intervals[0, 0]):
            return boxes, intervals


def _background(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return (count, T, H, W, 3) uint8: a still, smooth picture for each clip."""
    coarse = rng.integers(50, 200, (count, 4, 4, 3)).astype(np.float32)
    # Linear interpolation along both axes is one matrix.
    corners = np.arange(4)
    linear = np.maximum(0, 1 - np.abs(np.linspace(0, 3, SIDE)[:, None] - corners))
    smooth = np.einsum("hi,wj,nijc->nhwc", linear, linear, coarse, optimize=True)
    return np.repeat(smooth[:, None].astype(np.uint8), FRAMES, axis=1)


def _add_grain(rng: np.random.Generator, frames: np.ndarray) -> None:
    """Add noise of 0 to 2 * GRAIN: each clip begins elsewhere in a long row of it."""
    size = frames[0].size
    row = rng.integers(0, 2 * GRAIN + 1, 2 * size, dtype=np.uint8)
    for frame, start in zip(frames, rng.integers(0, size, len(frames))):
        frame += row[start : start + size].reshape(frame.shape)


def _add_clutter(rng: np.random.Generator, frames: np.ndarray) -> None:
    """Paint plain boxes, boxes that flicker and a moving disc, at their own times."""
    count = len(frames)
    y, x = np.ogrid[:SIDE, :SIDE]
    time = np.arange(FRAMES)[:, None]
    for frame, start, way in zip(
        frames, rng.uniform(0, SIDE, (count, 2)), rng.uniform(-3, 3, (count, 2))
    ):
        colour = rng.integers(30, 225, 3)
        across, down = ((start + way * time) % SIDE).T[..., None, None]
        frame[(x - across) ** 2 + (y - down) ** 2 < RADIUS**2] = colour
    for _ in range(DECOYS):
        boxes, intervals = _places(rng, count)
        for frame, box, interval, plain in zip(
            frames, boxes[:, 0], intervals[:, 0], rng.random(count) < 0.5
        ):
            x0, y0, x1, y1 = box
            size = (interval[1] - interval[0], y1 - y0, x1 - x0)
            level = np.zeros(1) if plain else rng.uniform(-1, 1, size[0])
            pattern = np.broadcast_to(level[:, None, None], size)
            _paint(frame, box, interval, _coloured(rng, pattern))


def _pattern(
    rng: np.random.Generator, box: np.ndarray, interval: np.ndarray, class_id: int
) -> np.ndarray:
    """Return (frames, height, width, 3): a drifting grating in two random colours."""
    x0, y0, x1, y1 = box
    time, y, x = np.ogrid[: interval[1] - interval[0], : y1 - y0, : x1 - x0]
    number = 2 * np.pi / rng.uniform(*WAVELENGTHS)
    values: np.ndarray | float = 1.0
    for across, down in WAVES[GRATINGS[class_id]]:
        if across or down:
            phase, drift = rng.uniform(0, 2 * np.pi), rng.uniform(-0.6, 0.6)
            values = values * np.sin(number * (across * x + down * y) + phase + drift * time)
    return _coloured(rng, np.asarray(values))


def _coloured(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """Return values (T, H, W) of -1 to 1 as pixels (T, H, W, 3) around a random grey."""
    return rng.integers(85, 151, 3) + rng.uniform(50, 80, 3) * values[..., None]


def _paint(frames: np.ndarray, box: np.ndarray, interval: np.ndarray, pixels: np.ndarray) -> None:
    x0, y0, x1, y1 = box
    frames[interval[0] : interval[1], y0:y1, x0:x1] = pixels
