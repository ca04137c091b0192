"""Whole videos: an untrimmed recording is explained window by window, and stitched together."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..clips.clip import Clip
from ..clips.packets import FrameTable, frame_table
from ..clips.reading import read_clip
from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from ..saliency.class_weights import HeadWeights, StoredWeights
from ..saliency.explanation import Explanation
from .records import head_weights, pathways
from .shards import unpack_thumbnails
from .store import Store
from .sweeping import sweep

if TYPE_CHECKING:
    import distributed

__all__ = ["VideoExplanation", "explain_video"]

SECONDS = 2.0  # a window's length, for a network that takes frames from all over its clip
CELLS = 1024  # the overview has at most so many steps in time, so that its size is bounded


@dataclass(eq=False, repr=False)
class VideoExplanation(Explanation):
    """The explanation of a whole recording.

    As an `Explanation` it is an overview: its clip has one small picture for each step in time (at
    most 1024), and its tubes have that size. `stretch` gives any part in full.

    Attributes:
        store: the windows' explanations.
        video: the file.
        windows: DataFrame, a row for each window that was explained: start and stop in seconds.
        timeline: DataFrame, the probability of each class (columns) in each window, by the time of
            its middle in seconds.
    """

    store: Store = field(kw_only=True)
    video: Path = field(kw_only=True)
    windows: pd.DataFrame = field(kw_only=True)
    timeline: pd.DataFrame = field(kw_only=True)
    # Keeps the folder of a store that nobody asked for until this is gone.
    _temporary: Any = field(default=None, kw_only=True)

    def stretch(self, start: float, stop: float, frames: int = 64) -> Explanation:
        """Return the explanation of a part of the video, with its frames as the network saw them.

        Args:
            start, stop: seconds from the start of the file.
            frames: how many frames to show, evenly spread; fewer if the part has fewer.

        Raises:
            FileNotFoundError: the video is not there.
            ValueError: no explained window covers that part.
        """
        table = frame_table(self.video)
        inside = int(((table.times >= start) & (table.times < stop)).sum())
        clip = read_clip(self.video, max(1, min(frames, inside)), None, start, stop)
        seen = replace(self.store.input, frames=len(clip)).view(clip)
        windows = self.windows[(self.windows["stop"] > start) & (self.windows["start"] < stop)]
        if windows.empty:
            raise ValueError(f"{self.video.name} was not explained between {start} s and {stop} s")
        grid = _Grid.over(start, stop, _cell_length(self.store, windows))
        return _stitched(self.store, windows, grid).explanation(seen)


def explain_video(
    model: VideoModel,
    path: str | os.PathLike[str],
    store: str | os.PathLike[str] | None = None,
    *,
    window: float | None = None,
    start: float | None = None,
    stop: float | None = None,
    weights: str | None = None,
    top: int = 5,
    batch: int = 8,
    client: distributed.Client | None = None,
    progress: bool = True,
) -> VideoExplanation:
    """Explain an untrimmed recording: windows that overlap by half, swept into a store.

    Where windows overlap, their maps are averaged. The logits are those of the averaged maps, so
    that the mean of a tube, with the bias, still is the logit of an exact explanation.

    Args:
        model: from `wb.load_model` or `wb.wrap_model`.
        path: the video file.
        store: a folder for the windows' explanations; the same call resumes an interrupted one.
            None: a temporary one, which goes when the explanation does.
        window: seconds; None: the network's frames at its own stride, or 2 s if it has none.
        start, stop: the part to explain, seconds; None: all of it.
        weights, top, batch, client, progress: see `wb.sweep`.

    Raises:
        FileNotFoundError, ClipError: the video is not there or cannot be read.
        ValueError: a part that makes no sense; or as `wb.sweep` raises.

    Deviations:
        Of a network with several outputs, only the main one is stitched; `store` has all of them.
        Of a network without a linear head, class weights are averaged over overlapping windows as
        the maps are, and are zero in windows where the class is not among the `top` classes.
    """
    path = Path(path)
    data = _windows(path, model, window=window, start=start, stop=stop)
    temporary = None
    if store is None:
        temporary = tempfile.TemporaryDirectory(prefix="explain_video-")
        store = temporary.name
    swept = sweep(
        data, model, store, client, batch=batch, weights=weights, top=top, progress=progress
    )
    windows = data.index.loc[[name for name in data.index.index if name in swept]]
    first, last = float(data.index["start"].iloc[0]), float(data.index["stop"].iloc[-1])
    grid = _Grid.over(first, last, _cell_length(swept, windows), CELLS)
    stitched = _stitched(swept, windows, grid)
    overview = stitched.explanation(stitched.overview_clip(path))
    own = {key: value for key, value in vars(overview).items() if key != "_siblings"}
    return VideoExplanation(
        **own,
        store=swept,
        video=path,
        windows=windows,
        timeline=stitched.timeline(),
        _temporary=temporary,
    )


def _windows(
    path: Path, model: VideoModel, *, window: float | None, start: float | None, stop: float | None
) -> Dataset:
    """Return the windows of a video as a data set; the last one ends where the video does."""
    table = frame_table(path)
    first, last = start or 0.0, table.stop if stop is None else stop
    if not 0 <= first < last <= table.stop + 1 / table.fps:
        raise ValueError(
            f"{path}: expected a part within the video, 0 to {table.stop:.3f} s; "
            f"got start={start}, stop={stop}"
        )
    length = window or _window_length(model, table)
    if not length > 0:
        raise ValueError(f"window: expected seconds, got {window}")
    length = min(length, last - first)
    count = math.ceil(2 * (last - first) / length - 1 - 1e-6)
    starts = np.minimum(first + np.arange(max(1, count)) * length / 2, last - length)
    names = [f"{path.stem} {begin:.3f}+{length:.3f}" for begin in starts]
    index = pd.DataFrame(
        {"start": starts, "stop": starts + length, "duration": length},
        index=pd.Index(names, name="name"),
    )
    return Dataset(index, model.classes or [], partial(_read_window, path), title=path.name)


def _window_length(model: VideoModel, table: FrameTable) -> float:
    stride = model.input.stride
    return SECONDS if stride is None else model.input.frames * stride / table.fps


def _read_window(path: Path, row: pd.Series, frames: int | None, stride: int | None) -> Clip:
    # decord would read the whole file for each window, and its memory grows (measured).
    return read_clip(
        path, frames, stride, row["start"], row["stop"], name=str(row.name), backend="pyav"
    )


def _cell_length(store: Store, windows: pd.DataFrame) -> float:
    """Return the length in seconds of the cells that windows half a window apart share."""
    kept = store.read(windows.index[0])
    steps = max(array.shape[1] for key, array in kept.arrays.items() if key.startswith("maps_"))
    # An odd number of steps is cut in two, so that half a window is a whole number of cells.
    return float(windows["duration"].iloc[0]) / (steps * (1 + steps % 2))


@dataclass(frozen=True)
class _Grid:
    """Cells in time, several of which may make one step of the result.

    Attributes:
        start, stop: seconds.
        centres: (cells,) seconds.
        step: (cells,) the step that each cell belongs to.
        steps: how many there are.
    """

    start: float
    stop: float
    centres: np.ndarray
    step: np.ndarray
    steps: int

    @classmethod
    def over(cls, start: float, stop: float, cell: float, most: int | None = None) -> _Grid:
        """Return cells of a length from start to stop, in at most so many steps."""
        count = max(1, round((stop - start) / cell))
        centres = start + (np.arange(count) + 0.5) * (stop - start) / count
        together = 1 if most is None else math.ceil(count / most)
        step = np.arange(count) // together
        return cls(start, stop, centres, step, int(step[-1]) + 1)

    @property
    def times(self) -> np.ndarray:
        """(steps,) the middle of each step in seconds."""
        totals = np.bincount(self.step, self.centres)
        return totals / np.bincount(self.step)

    def shares(self, windows: pd.DataFrame) -> np.ndarray:
        """Return (cells,) what each window over a cell contributes to its step, as a factor."""
        over = np.zeros(len(self.centres))
        for begin, end in zip(windows["start"], windows["stop"]):
            over += self.within(begin, end)
        return 1 / np.maximum(over, 1) / np.bincount(self.step)[self.step]

    def within(self, begin: float, end: float) -> np.ndarray:
        """Return (cells,) bool: which cells have their centre in a window."""
        return (self.centres >= begin) & (self.centres < end)

    def matrix(self, row: Any, steps: int, shares: np.ndarray) -> tuple[slice, torch.Tensor]:
        """Return which steps a window reaches, and how much its own steps give to each of them."""
        cells = np.flatnonzero(self.within(row.start, row.stop))
        if not len(cells):
            return slice(0, 0), torch.zeros(0, steps)
        own = ((self.centres[cells] - row.start) / (row.stop - row.start) * steps).astype(int)
        reached = slice(int(self.step[cells[0]]), int(self.step[cells[-1]]) + 1)
        weights = np.zeros((reached.stop - reached.start, steps), np.float32)
        np.add.at(
            weights, (self.step[cells] - reached.start, own.clip(0, steps - 1)), shares[cells]
        )
        return reached, torch.from_numpy(weights)


@dataclass
class _Stitched:
    """What comes of one pass through the windows of a stretch."""

    store: Store
    windows: pd.DataFrame
    grid: _Grid
    maps: tuple[torch.Tensor, ...]
    logits: np.ndarray  # (windows, N)
    pictures: np.ndarray  # (steps, h, w, 3)
    indices: np.ndarray  # (steps,)

    def explanation(self, clip: Clip) -> Explanation:
        """Return the explanation of the stretch, shown on a clip."""
        output = self.store.output
        weighting: HeadWeights | StoredWeights
        if output.exact:
            residual = float(self.store.index.loc[self.windows.index, "residual"].max())
            means = torch.cat([maps.mean((1, 2, 3)) for maps in self.maps])
            widths = tuple(map(len, self.maps))
            head = self.store.heads[output.name]
            weighting = head_weights(head, means, widths, residual, output)
            logits = weighting.bias + weighting.matrix @ means
        else:
            logits = torch.from_numpy(self.logits.mean(0))
            rows: Any = _WindowWeights(self.store, self.windows, self.grid)
            how = output.how(float("nan"))
            weighting = StoredWeights(rows, torch.zeros_like(logits), how)
        return Explanation(
            logits=logits,
            maps=self.maps,
            weighting=weighting,
            layer=output.layer,
            clip=clip,
            classes=output.classes,
            model=self.store.facts["model"],
            output=output.name,
            place=output.place,
            independent=output.independent,
        )

    def overview_clip(self, path: Path) -> Clip:
        """Return one small picture for each step in time."""
        rate = self.grid.steps / (self.grid.stop - self.grid.start)
        return Clip(self.pictures, rate, self.grid.times, self.indices, path)

    def timeline(self) -> pd.DataFrame:
        """Return the probability of each class in each window."""
        logits = torch.from_numpy(self.logits)
        independent = self.store.output.independent
        probabilities = logits.sigmoid() if independent else logits.softmax(1)
        middles = (self.windows["start"] + self.windows["stop"]).to_numpy() / 2
        return pd.DataFrame(
            probabilities.numpy(), index=pd.Index(middles, name="time"), columns=self.store.classes
        )


def _stitched(store: Store, windows: pd.DataFrame, grid: _Grid) -> _Stitched:
    """Read the windows once, and average their maps where they overlap."""
    shares = grid.shares(windows)
    rows = {row.Index: row for row in windows.itertuples()}
    order = {name: number for number, name in enumerate(windows.index)}
    logits = np.zeros((len(windows), len(store.classes)), np.float32)
    maps: list[torch.Tensor] = []
    pictures = np.zeros(0, np.uint8)
    indices = np.zeros(grid.steps, np.int64)
    distance = np.full(grid.steps, np.inf)
    for kept in store.read_all(windows.index):
        logits[order[kept.name]] = kept.arrays["logits"]
        own = pathways(kept.arrays, "maps")
        if not maps:
            maps = [torch.zeros(len(each), grid.steps, *each.shape[2:]) for each in own]
            small = unpack_thumbnails(kept.thumbnails, len(kept.arrays["times"]))
            pictures = np.zeros((grid.steps, *small.shape[1:]), np.uint8)
        for total, part in zip(maps, own):
            reached, weights = grid.matrix(rows[kept.name], part.shape[1], shares)
            total[:, reached] += torch.einsum("st,cthw->cshw", weights, part)
        # Each step shows the frame that is nearest to its middle.
        times = kept.arrays["times"]
        apart = np.abs(grid.times[:, None] - times)
        nearest = apart.argmin(1)
        closer = np.flatnonzero(apart.min(1) < distance)
        if len(closer):
            small = unpack_thumbnails(kept.thumbnails, len(times))
            pictures[closer] = small[nearest[closer]]
            indices[closer] = kept.arrays["indices"][nearest[closer]]
            distance[closer] = apart.min(1)[closer]
    return _Stitched(store, windows, grid, tuple(maps), logits, pictures, indices)


class _WindowWeights(Mapping[int, tuple[torch.Tensor, ...]]):
    """Weights of each class over a stretch, (C, steps, 1, 1) or (C, steps, H', W').

    They are read from the windows when a class is asked for.
    """

    def __init__(self, store: Store, windows: pd.DataFrame, grid: _Grid) -> None:
        self.store = store
        self.windows = windows
        self.grid = grid
        self._read: dict[int, tuple[torch.Tensor, ...]] = {}

    def __getitem__(self, class_id: int) -> tuple[torch.Tensor, ...]:
        if class_id not in self._read:
            self._read[class_id] = self._stitch(class_id)
        return self._read[class_id]

    def __contains__(self, class_id: object) -> bool:
        return isinstance(class_id, int) and 0 <= class_id < len(self.store.classes)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.store.classes)))

    def __len__(self) -> int:
        return len(self.store.classes)

    def _stitch(self, class_id: int) -> tuple[torch.Tensor, ...]:
        shares = self.grid.shares(self.windows)
        rows = {row.Index: row for row in self.windows.itertuples()}
        totals: list[torch.Tensor] = []
        for kept in self.store.read_all(self.windows.index):
            ids = kept.arrays["class_ids"].tolist()
            own = []
            for weights in pathways(kept.arrays, "class_weights"):
                one = weights[ids.index(class_id)] if class_id in ids else weights[0] * 0
                own.append(one if one.ndim > 1 else one[:, None, None, None])
            totals = totals or [torch.zeros(len(a), self.grid.steps, *a.shape[2:]) for a in own]
            for total, array in zip(totals, own):
                reached, mixing = self.grid.matrix(rows[kept.name], array.shape[1], shares)
                total[:, reached] += torch.einsum("st,cthw->cshw", mixing, array)
        return tuple(totals)
