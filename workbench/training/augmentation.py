"""Augmentation: random windows, crops and mirror images of a data set's clips.

Every random choice follows from (seed, epoch, clip), so a run that is resumed sees the same clips
as one that was never interrupted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..clips.clip import Clip
from ..clips.sampling import frame_indices
from ..datasets.table import Dataset
from ..models.input_spec import InputSpec

__all__ = ["Ends", "matched", "random_view", "random_window", "segment_ends", "sided_classes"]

SPAN = 0.7  # shortest part of a segment to spread frames over, for a network without a stride
SIDES = (0.75, 1.15)  # sides of a random crop, as shares of the network's centre crop
STRETCH = 0.1  # width and height differ besides by up to exp(STRETCH)
SIDED = re.compile(r"(left|right)(wards?|hand(ed)?|most)?|(anti|counter)?clockwise")


def sided_classes(classes: Sequence[str]) -> list[str]:
    """Return the classes that mirroring would change: left, right or clockwise in their names."""
    words = {name: re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name) for name in classes}
    return [name for name in classes if any(SIDED.fullmatch(word.lower()) for word in words[name])]


class Ends(NamedTuple):
    """The first and last frame of a segment: indices in the video, and times in seconds."""

    first: int
    last: int
    start: float
    stop: float


def segment_ends(data: Dataset, key: int) -> Ends:
    """Read a segment's first and last frame, because labels give seconds or nothing at all."""
    clip = data.reader(data.index.iloc[key], frames=2, stride=None)
    return Ends(
        first=int(clip.indices[0]),
        last=int(clip.indices[-1]),
        start=float(clip.times[0]),
        stop=float(clip.times[-1]),
    )


def random_window(
    data: Dataset, key: int, spec: InputSpec, rng: np.random.Generator, ends: Ends | None = None
) -> Clip:
    """Read as many frames as a network takes, at its stride, from a random place in a segment.

    Without a stride, the frames are spread over a random part, at least `SPAN` of the segment. A
    segment shorter than the window is read as the data set reads it: widened around its centre,
    within the video. `ends` saves reading the segment's ends again.

    Raises:
        ValueError, ClipError: the reader's, or a clip with another number of frames.
    """
    row = data.index.iloc[key]
    ends = segment_ends(data, key) if ends is None else ends
    count = ends.last - ends.first + 1
    window = (spec.frames - 1) * (spec.stride or 1) + 1
    if count <= window:
        return matched(data.reader(row, frames=spec.frames, stride=spec.stride), spec)

    # Choose the window in frames of the segment.
    length = window
    if spec.stride is None:
        shortest = max(window, int(np.ceil(SPAN * count)))
        length = int(rng.integers(shortest, count + 1))
    offset = int(rng.integers(0, count - length + 1))

    # Read it by time, with half a frame's margin on both sides.
    period = (ends.stop - ends.start) / (count - 1)
    part = row.copy()
    part["start"] = max(0.0, ends.start + (offset - 0.5) * period)
    part["stop"] = ends.start + (offset + length - 0.5) * period
    clip = matched(data.reader(part, frames=spec.frames, stride=spec.stride), spec)
    in_time = part["start"] - period < clip.times[0] and clip.times[-1] < part["stop"] + period
    in_segment = ends.first <= clip.indices[0] and clip.indices[-1] <= ends.last
    if in_time and in_segment:
        return clip

    # The reader ignores `start` and `stop`, or the video's rate is uneven: read it all, then cut.
    whole = data.reader(row, frames=None, stride=None)
    return whole.select(frame_indices(offset, offset + length, spec.frames, spec.stride))


def random_view(clip: Clip, spec: InputSpec, rng: np.random.Generator, *, flip: bool) -> np.ndarray:
    """Return a random crop (T, H, W, 3) uint8 at the network's size; `flip` mirrors every other.

    The crop's sides are `SIDES` times those of the crop that `spec.view` takes, within the frame.

    Raises:
        ValueError: the network's crop is larger than the resized frame.
    """
    height, width = clip.size
    resized = spec.resized(height, width)
    size = spec.cropped(*resized)

    # What the network sees when it is evaluated, in pixels of the clip.
    seen_height = height * size[0] / resized[0]
    seen_width = width * size[1] / resized[1]

    room = min(height / seen_height, width / seen_width)
    side = rng.uniform(SIDES[0], min(SIDES[1], room))
    taller, wider = np.exp(rng.uniform(-STRETCH, STRETCH, 2))
    tall = int(np.clip(round(seen_height * side * taller), 1, height))
    wide = int(np.clip(round(seen_width * side * wider), 1, width))
    top = int(rng.integers(0, height - tall + 1))
    left = int(rng.integers(0, width - wide + 1))
    frames = clip.crop(top, left, tall, wide).resize(*size).frames
    mirrored = rng.random() < 0.5  # drawn in any case, so that `flip` changes nothing else
    return np.ascontiguousarray(frames[:, :, ::-1] if flip and mirrored else frames)


def matched(clip: Clip, spec: InputSpec) -> Clip:
    """Return a clip with the network's number of frames; raises ValueError if it has fewer."""
    if len(clip) == spec.frames:
        return clip
    if len(clip) > spec.frames:
        return clip.sample(spec.frames, spec.stride)
    raise ValueError(f"it came with {len(clip)} frames, and the network takes {spec.frames}")
