"""One process's part of a sweep: batches of clips are read, explained and written as shards."""

from __future__ import annotations

import copy
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from ..clips.clip import Clip
from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from ..saliency.explaining import explain_batch
from ..saliency.layer_search import copy_choices
from .folders import Folder
from .index_files import SHARDS, shard_rows
from .records import Row, StoreSettings, clip_arrays, clip_row
from .shards import Kept, pack, thumbnails
from .store import shard_file

__all__ = ["Engine", "failure", "read_for"]

Prepared: TypeAlias = tuple[str, Clip, torch.Tensor]  # name, the clip as it is seen, the input
Explained: TypeAlias = tuple[str, Clip, dict[str, np.ndarray], Row]

# Two networks with half of the threads each: while one waits for the slowest of its threads, for
# Python or for the next batch, the other computes. More would need more memory.
NETWORKS = 2


class Engine:
    """A model, and the folder that its explanations go to.

    Attributes:
        model: what explains the clips.
        folder: of the store.
        settings: what of an explanation is kept.
        heads: the outputs whose head the store has.
        threads: with how many threads the network computes.
    """

    def __init__(
        self,
        model: VideoModel,
        folder: Folder,
        *,
        settings: StoreSettings,
        heads: frozenset[str],
    ) -> None:
        self.model = model
        self.folder = folder
        self.settings = settings
        self.heads = heads
        self.threads = torch.get_num_threads()
        # A network is called from its own threads, while others read the next clips.
        networks = min(NETWORKS, self.threads) if model.device.type == "cpu" else 1
        self._network_threads = ThreadPoolExecutor(networks, "network")
        self._free: SimpleQueue[VideoModel] = SimpleQueue()
        self._free.put(model)
        self._threads_each = self.threads  # until there are several networks
        self._missing = networks - 1

    def close(self) -> None:
        """End the networks' threads."""
        self._network_threads.shutdown()

    def make_shard(self, shard: str, clips: Dataset) -> int:
        """Read, explain and write a batch of clips; return how many of them failed.

        Raises:
            OSError: the shard cannot be written.
        """
        rows: dict[str, Row] = {}
        batch: list[Kept] = []
        for group in self._read(clips, rows).values():
            explained, errors = self._network_threads.submit(self._explain, group).result()
            for name, clip, arrays, row in explained:
                batch.append(Kept(name, arrays, clip.size, thumbnails(clip)))
                rows[name] = row
            rows |= errors
        if batch:
            content, addresses = pack(batch)
            for each, (part, place) in zip(batch, addresses):
                rows[each.name] |= {"part": part, "row": place, "bytes": len(content)}
            self.folder.write(shard_file(shard), content)
        labels = _labels(clips)
        for name, row in rows.items():
            label = labels.get(name)
            predicted = row.get("prediction")
            correct = None if label is None or predicted is None else predicted == label
            row |= {"name": name, "shard": shard, "label": label, "correct": correct}
        # The index file is last: a shard without one does not count.
        ordered = [rows[name] for name in clips.index.index]
        self.folder.write(f"{SHARDS}/{shard}.parquet", shard_rows(ordered))
        return len(rows) - len(batch)

    def _read(self, clips: Dataset, rows: dict[str, Row]) -> dict[torch.Size, list[Prepared]]:
        """Return the clips as the network takes them, by size; those that fail become rows."""
        groups = defaultdict(list)
        for name in clips.index.index:
            try:
                seen, x = self.model.prepare(read_for(self.model, clips, name))
            except Exception as error:  # whatever is wrong with one clip must not stop the others
                rows[name] = failure(error)
            else:
                groups[x.shape].append((name, seen, x))
        return groups

    def _explain(self, group: list[Prepared]) -> tuple[list[Explained], dict[str, Row]]:
        """Explain clips of one size by whichever network is free."""
        model = self._free.get()
        try:
            if self._missing:
                self._add_twins(group)
            # The same number from the first batch on, for the last bits depend on it.
            torch.set_num_threads(self._threads_each)
            return self._explain_by(model, group)
        finally:
            self._free.put(model)

    def _explain_by(
        self, model: VideoModel, group: list[Prepared]
    ) -> tuple[list[Explained], dict[str, Row]]:
        """Explain clips of one size; if the batch fails, each by itself."""
        prepared = [(clip, x) for _, clip, x in group]
        try:
            return [
                (name, clip, clip_arrays(ex, self.settings, self.heads), clip_row(ex))
                for (name, clip, _), ex in zip(
                    group, explain_batch(model, prepared, self.settings.weights)
                )
            ], {}
        except Exception as error:
            if len(group) == 1:
                return [], {group[0][0]: failure(error)}
        explained: list[Explained] = []
        errors: dict[str, Row] = {}
        for each in group:
            some, failed = self._explain_by(model, [each])
            explained += some
            errors |= failed
        return explained, errors

    def _add_twins(self, group: list[Prepared]) -> None:
        """Add copies of the network, if they explain the first clip that it explains alike."""
        kind = self.settings.weights
        for _, clip, x in group:
            example = [(clip, x)]
            try:
                (expected,) = explain_batch(self.model, example, kind)
            except Exception:  # the clip's; its batch records it
                continue
            missing, self._missing = self._missing, 0
            try:
                twins = [_twin(self.model) for _ in range(missing)]
                for twin in twins:
                    (ex,) = explain_batch(twin, example, kind)
                    torch.testing.assert_close(ex.logits, expected.logits)
                    torch.testing.assert_close(ex.maps, expected.maps)
            except Exception:  # whatever a network of the user's own raises: one will do
                return
            self._threads_each = self.threads // (1 + missing)
            for twin in twins:
                self._free.put(twin)
            return


def _twin(model: VideoModel) -> VideoModel:
    """Return a model around a copy of the network, whose parameters lie in the same memory.

    Raises:
        ValueError: the network is compiled, or spread over several devices.
    """
    if model.module is not model.network:
        raise ValueError("only a bare network can be copied")
    twin = copy.copy(model)
    shared = {
        id(each): nn.Parameter(each.detach(), each.requires_grad)
        for each in model.module.parameters()
        if type(each) is nn.Parameter
    }
    twin.module = copy.deepcopy(model.module, shared)
    copy_choices(model, twin)
    return twin


def read_for(model: VideoModel, data: Dataset, name: str) -> Clip:
    """Read a clip as long as the network takes it."""
    return data.read(name, frames=model.input.frames, stride=model.input.stride)


def failure(error: BaseException | str) -> Row:
    """Return the row of a clip that failed."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return {"status": "failed", "error": text}


def _labels(clips: Dataset) -> dict[str, str | None]:
    if "class" not in clips.index:
        return {}
    labels = clips.index["class"]
    return {
        name: label if isinstance(label, str) else None
        for name, label in zip(clips.index.index, labels)
    }
