"""Augmentation: random windows, cut-outs and mirror images of a data set's clips, and the loaders that read them.

Every random choice follows from (seed, epoch, clip), so a run that was broken off goes on with the very clips
that it would have seen.
"""

from __future__ import annotations

import pickle
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.data

from ..clips.clip import Clip
from ..clips.sampling import frame_indices
from ..datasets.table import Dataset
from ..models.input_spec import InputSpec

__all__ = [
    "Feed",
    "Plan",
    "Unreadable",
    "loader",
    "random_view",
    "random_window",
    "segment_ends",
    "sided_classes",
]

SPAN = 0.7  # the shortest part of a segment that frames are spread over, where the network has no stride
SIDES = (0.75, 1.15)  # of a cut-out, as shares of what the network sees when it is evaluated
STRETCH = 0.1  # by which width and height may differ besides
SIDED = re.compile(r"(left|right)(wards?|hand(ed)?|most)?|(anti|counter)?clockwise")


def sided_classes(classes: Sequence[str]) -> list[str]:
    """Return the classes that a mirror would change: with left, right or clockwise among the words of their names."""
    words = {name: re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name) for name in classes}
    return [name for name in classes if any(SIDED.fullmatch(word.lower()) for word in words[name])]


class Ends(NamedTuple):
    """The first and the last frame of a segment: their numbers in the video, and their times in seconds."""

    first: int
    last: int
    start: float
    stop: float


def segment_ends(data: Dataset, key: int) -> Ends:
    """Read a segment's first and last frame, to learn how many there are: labels know seconds, or not even those."""
    both = data.reader(data.index.iloc[key], frames=2, stride=None)
    return Ends(
        int(both.indices[0]), int(both.indices[-1]), float(both.times[0]), float(both.times[-1])
    )


def random_window(
    data: Dataset, key: int, spec: InputSpec, rng: np.random.Generator, ends: Ends | None = None
) -> Clip:
    """Read as many frames of a segment as a network takes, at its stride, from a random place in the segment.

    Without a stride the frames are spread evenly over a random part, at least `SPAN` of the segment. A segment
    shorter than the window is read as a data set reads it: widened around its centre, within the video. `ends`
    saves reading the segment's ends again.

    Raises:
        ValueError, ClipError: the reader's; a clip that comes with another number of frames.
    """
    row = data.index.iloc[key]
    ends = segment_ends(data, key) if ends is None else ends
    count = ends.last - ends.first + 1
    window = (spec.frames - 1) * (spec.stride or 1) + 1
    if count <= window:
        return _checked(data.reader(row, frames=spec.frames, stride=spec.stride), spec)
    length = (
        window
        if spec.stride
        else int(rng.integers(max(window, int(np.ceil(SPAN * count))), count + 1))
    )
    offset = int(rng.integers(0, count - length + 1))
    period = (ends.stop - ends.start) / (count - 1)
    start = max(0.0, ends.start + (offset - 0.5) * period)
    stop = ends.start + (offset + length - 0.5) * period
    part = row.copy()
    part["start"], part["stop"] = start, stop
    clip = _checked(data.reader(part, frames=spec.frames, stride=spec.stride), spec)
    inside = start - period < clip.times[0] and clip.times[-1] < stop + period
    if inside and ends.first <= clip.indices[0] and clip.indices[-1] <= ends.last:
        return clip
    # A reader that goes its own way about `start` and `stop`, or a video of uneven rate: cut from the whole segment.
    whole = data.reader(row, frames=None, stride=None)
    return whole.select(frame_indices(offset, offset + length, spec.frames, spec.stride))


def random_view(clip: Clip, spec: InputSpec, rng: np.random.Generator, *, flip: bool) -> np.ndarray:
    """Return (T, H, W, 3) uint8 of a random cut-out at the size that the network takes, every other one mirrored.

    The cut-out has `SIDES` times the sides of the one that `spec.view` takes from the centre, within the frame.

    Raises:
        ValueError: the network's crop is larger than the resized frame.
    """
    height, width = clip.size
    if isinstance(spec.resize, int):
        scale = spec.resize / min(height, width)
        resized = (round(height * scale), round(width * scale))
    else:
        resized = spec.resize or clip.size
    size = (
        resized
        if spec.crop is None
        else (spec.crop, spec.crop)
        if isinstance(spec.crop, int)
        else spec.crop
    )
    if size[0] > resized[0] or size[1] > resized[1]:
        raise ValueError(
            f"the network crops {size} pixels (height, width) out of {resized}: give InputSpec a resize"
        )
    seen = (height * size[0] / resized[0], width * size[1] / resized[1])
    room = min(height / seen[0], width / seen[1])
    side, *stretch = (
        rng.uniform(SIDES[0], min(SIDES[1], room)),
        *np.exp(rng.uniform(-STRETCH, STRETCH, 2)),
    )
    tall = int(np.clip(round(seen[0] * side * stretch[0]), 1, height))
    wide = int(np.clip(round(seen[1] * side * stretch[1]), 1, width))
    top, left = int(rng.integers(0, height - tall + 1)), int(rng.integers(0, width - wide + 1))
    frames = clip.crop(top, left, tall, wide).resize(*size).frames
    mirrored = rng.random() < 0.5
    return np.ascontiguousarray(frames[:, :, ::-1] if flip and mirrored else frames)


class Unreadable(NamedTuple):
    """What came instead of a batch: the message of an error, which a worker process cannot raise as it is."""

    message: str


@dataclass(frozen=True)
class Plan:
    """Which clips make which batch: the (epoch, clip) pairs of steps `first` to `total`.

    An epoch is a permutation of all clips by (seed, epoch), in batches of nearly equal size, at most `batch`. Each
    of several processes takes its share of every batch.
    """

    clips: int
    batch: int
    total: int
    seed: int
    first: int = 0
    process: int = 0
    processes: int = 1

    @property
    def epoch_steps(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.clips // self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the pairs of one batch after the other."""
        for step in range(self.first, self.total):
            epoch, number = divmod(step, self.epoch_steps)
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(self.clips)
            batch = np.array_split(order, self.epoch_steps)[number]
            even = np.resize(batch, -(-len(batch) // self.processes) * self.processes)
            yield [(epoch, int(clip)) for clip in even[self.process :: self.processes]]

    def __len__(self) -> int:
        """Return how many steps are left."""
        return self.total - self.first


class Feed(torch.utils.data.Dataset):
    """Clips as a network's input before normalisation: (epoch, clip) to (T, H, W, 3) uint8 and the class id.

    Random where `seed` is given, as `InputSpec.view` shows them where it is None. Videos are opened where the item
    is asked for, so in the worker.
    """

    def __init__(
        self, data: Dataset, spec: InputSpec, *, seed: int | None, flip: bool = False
    ) -> None:
        self.data, self.spec, self.seed, self.flip = data, spec, seed, flip
        self.targets = data.index["class_id"].to_numpy()
        self.ends: dict[int, Ends] = {}  # of the segments that this process has seen

    def __len__(self) -> int:
        """Return how many clips there are."""
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, int] | Unreadable:
        """Read a clip; what goes wrong comes back as `Unreadable`."""
        epoch, number = key
        try:
            return self._frames(epoch, number), int(self.targets[number])
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            where = f"clip {self.data.index.index[number]!r} of {self.data.title or 'the data set'}"
            return Unreadable(f"{where}: {error}")

    def _frames(self, epoch: int, number: int) -> np.ndarray:
        if self.seed is None:
            clip = self.data.read(number, frames=self.spec.frames, stride=self.spec.stride)
            return np.ascontiguousarray(self.spec.view(_checked(clip, self.spec)).frames)
        rng = np.random.default_rng([self.seed, 1, epoch, number])
        if number not in self.ends:
            self.ends[number] = segment_ends(self.data, number)
        clip = random_window(self.data, number, self.spec, rng, self.ends[number])
        return random_view(clip, self.spec, rng, flip=self.flip)


def loader(
    feed: Feed, plan: Plan | list[list[tuple[int, int]]], workers: int
) -> torch.utils.data.DataLoader:
    """Return a loader of (frames (N, T, H, W, 3) uint8, class ids (N,)), or `Unreadable` in a batch's place.

    Workers are forked on Linux. Elsewhere they start anew and the data set is sent to them, which takes a reader
    defined at the top of a module: with any other, clips are read in this process, after a warning.
    """
    fork = sys.platform == "linux"
    if workers and not fork and (problem := _unsendable(feed.data)):
        warnings.warn(
            f"clips are read in this process, not by {workers} workers: the data set cannot be sent to them "
            f"({problem}). Define its reader at the top of a module that can be imported.",
            stacklevel=4,  # where fine_tune was called
        )
        workers = 0
    return torch.utils.data.DataLoader(
        feed,
        batch_sampler=plan,  # of pairs
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_ignore_interrupt,
        multiprocessing_context="fork" if workers and fork else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # the default would draw from the user's random state
    )


def _checked(clip: Clip, spec: InputSpec) -> Clip:
    if len(clip) == spec.frames:
        return clip
    if len(clip) > spec.frames:
        return clip.sample(spec.frames, spec.stride)
    raise ValueError(f"it came with {len(clip)} frames, and the network takes {spec.frames}")


def _collate(items: list[Any]) -> tuple[torch.Tensor, torch.Tensor] | Unreadable:
    for item in items:
        if isinstance(item, Unreadable):
            return item
    frames, targets = zip(*items)
    sizes = sorted({each.shape[1:3] for each in frames})
    if len(sizes) > 1:
        return Unreadable(
            f"pictures of {sizes} pixels (height, width) make no batch: give InputSpec a resize or a crop"
        )
    return torch.from_numpy(np.stack(frames)), torch.tensor(targets)


def _ignore_interrupt(_worker: int) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches every process; the main one sees to it


def _unsendable(data: Dataset) -> str:
    if getattr(data.reader, "__module__", "") == "__main__":
        return "its reader is defined in the notebook or script"
    try:
        pickle.dumps(data)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return str(error)
    return ""
