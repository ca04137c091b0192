"""Batches: which clips are read for which step, and the loaders that read them."""

from __future__ import annotations

import pickle
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.data

from ..clips.errors import ClipError
from ..datasets.table import Dataset
from ..models.input_spec import InputSpec
from .augmentation import Ends, matched, random_view, random_window, segment_ends
from .interrupts import Interrupt

__all__ = ["Feed", "Plan", "Unreadable", "loader", "readable"]


@dataclass(frozen=True)
class Plan:
    """Which clips make which batch: the (epoch, clip) pairs of steps `first` to `total`.

    An epoch is a permutation of all clips by (seed, epoch), in batches of nearly equal size, at
    most `batch`. With several processes, each takes its share of every batch.
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
        """Yield the pairs of each batch in turn."""
        for step in range(self.first, self.total):
            epoch, number = divmod(step, self.epoch_steps)
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(self.clips)
            batch = np.array_split(order, self.epoch_steps)[number]
            # Processes that wait for each other need equal shares: repeat the first clips.
            length = -(-len(batch) // self.processes) * self.processes
            share = np.resize(batch, length)[self.process :: self.processes]
            yield [(epoch, int(clip)) for clip in share]

    def __len__(self) -> int:
        """Return the number of steps left."""
        return self.total - self.first


class Unreadable(NamedTuple):
    """In place of a batch: the message of an error, because workers cannot raise every error."""

    message: str


class Feed(torch.utils.data.Dataset):
    """Clips before normalisation: (epoch, clip) to frames (T, H, W, 3) uint8 and class ids.

    `targets` (clips, tasks) are class ids by clip; None: those of `data`, (clips,). With a seed,
    windows and views are random; without one, they are those of `InputSpec.view`. Videos are opened
    when an item is read, so in the worker process.
    """

    def __init__(
        self,
        data: Dataset,
        spec: InputSpec,
        *,
        seed: int | None,
        flip: bool = False,
        targets: np.ndarray | None = None,
    ) -> None:
        self.data = data
        self.spec = spec
        self.seed = seed
        self.flip = flip
        self.targets = data.index["class_id"].to_numpy() if targets is None else targets
        self.ends: dict[int, Ends] = {}  # of the segments this process has read

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, Any] | Unreadable:
        """Read a clip; an error is returned as `Unreadable`."""
        epoch, number = key
        try:
            return self._frames(epoch, number), np.int64(self.targets[number])
        except (ValueError, KeyError, OSError, RuntimeError) as error:
            where = f"clip {self.data.index.index[number]!r} of {self.data.title or 'the data set'}"
            return Unreadable(f"{where}: {error}")

    def _frames(self, epoch: int, number: int) -> np.ndarray:
        if self.seed is None:
            clip = self.data.read(number, frames=self.spec.frames, stride=self.spec.stride)
            return np.ascontiguousarray(self.spec.view(matched(clip, self.spec)).frames)
        if number not in self.ends:
            self.ends[number] = segment_ends(self.data, number)
        rng = np.random.default_rng([self.seed, 1, epoch, number])
        clip = random_window(self.data, number, self.spec, rng, self.ends[number])
        return random_view(clip, self.spec, rng, flip=self.flip)


def loader(
    feed: Feed, plan: Plan | list[list[tuple[int, int]]], workers: int
) -> torch.utils.data.DataLoader:
    """Return a loader of (frames (N, T, H, W, 3) uint8, class ids by clip), or `Unreadable`.

    Workers are forked on Linux. Elsewhere they are spawned and the data set is pickled, so its
    reader must be defined at the top of a module; if it is not, clips are read in this process,
    after a warning.
    """
    fork = sys.platform == "linux"
    if workers and not fork and (problem := _not_picklable(feed.data)):
        warnings.warn(
            f"clips are read in this process, not by {workers} workers: the data set cannot be "
            f"sent to them ({problem}). Define its reader at the top of a module that can be "
            "imported.",
            stacklevel=4,  # the caller of fine_tune
        )
        workers = 0
    return torch.utils.data.DataLoader(
        feed,
        batch_sampler=plan,  # pairs
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_ignore_interrupt,
        multiprocessing_context="fork" if workers and fork else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # the default draws from the user's random state
    )


def readable(
    batches: Iterable[Any], interrupt: Interrupt
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches; raises KeyboardInterrupt after Ctrl-C, ClipError if one cannot be read."""
    for batch in batches:
        interrupt.check()
        if isinstance(batch, Unreadable):
            raise ClipError(batch.message)
        yield batch


def _collate(items: list[Any]) -> tuple[torch.Tensor, torch.Tensor] | Unreadable:
    for item in items:
        if isinstance(item, Unreadable):
            return item
    clips, targets = zip(*items)
    sizes = sorted({frames.shape[1:3] for frames in clips})
    if len(sizes) > 1:
        return Unreadable(
            f"pictures of {sizes} pixels (height, width) make no batch: "
            "give InputSpec a resize or a crop"
        )
    return torch.from_numpy(np.stack(clips)), torch.from_numpy(np.stack(targets))


def _ignore_interrupt(_worker: int) -> None:
    """Leave Ctrl-C, which reaches every process, to the main one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _not_picklable(data: Dataset) -> str:
    """Return why a data set cannot be sent to a spawned process; "" if it can."""
    if getattr(data.reader, "__module__", "") == "__main__":
        return "its reader is defined in the notebook or script"
    try:
        pickle.dumps(data)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return str(error)
    return ""
