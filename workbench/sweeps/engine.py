"""One process's part of a sweep: batches of clips are read, explained and written as shards."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import torch

from ..clips.clip import Clip
from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from ..saliency.explaining import explain_batch
from .folders import Folder
from .index_files import SHARDS, shard_rows
from .records import Row, StoreSettings, clip_arrays, clip_row
from .shards import Kept, pack, thumbnails
from .store import shard_file

__all__ = ["Engine", "at_once", "failure", "read_for"]

Prepared: TypeAlias = tuple[str, Clip, torch.Tensor]  # name, the clip as it is seen, the input
Explained: TypeAlias = tuple[str, Clip, dict[str, np.ndarray], Row]

# Bytes of input that pass through a network on a processor at once, two clips of 16 x 224 x 224:
# with more, MFNet takes longer for each clip, for the memory of its layers is not used again.
ON_A_PROCESSOR = 20_000_000


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
        # A network is called from one thread, while others read the next clips and write the last.
        self._network_thread = ThreadPoolExecutor(
            1, "network", torch.set_num_threads, (self.threads,)
        )

    def close(self) -> None:
        """End the network's thread."""
        self._network_thread.shutdown()

    def make_shard(self, shard: str, clips: Dataset) -> int:
        """Read, explain and write a batch of clips; return how many of them failed.

        Raises:
            OSError: the shard cannot be written.
        """
        rows: dict[str, Row] = {}
        batch: list[Kept] = []
        for group in self._read(clips, rows).values():
            size = at_once(group[0][2], len(group))
            pieces = [group[start : start + size] for start in range(0, len(group), size)]
            # All are queued before the first is waited for: the network never idles.
            running = [self._network_thread.submit(self._explain, piece) for piece in pieces]
            for explained, errors in (future.result() for future in running):
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
        """Explain clips of one size; if the batch fails, each by itself."""
        prepared = [(clip, x) for _, clip, x in group]
        try:
            return [
                (name, clip, clip_arrays(ex, self.settings, self.heads), clip_row(ex))
                for (name, clip, _), ex in zip(
                    group, explain_batch(self.model, prepared, self.settings.weights)
                )
            ], {}
        except Exception as error:
            if len(group) == 1:
                return [], {group[0][0]: failure(error)}
        explained: list[Explained] = []
        errors: dict[str, Row] = {}
        for each in group:
            some, failed = self._explain([each])
            explained += some
            errors |= failed
        return explained, errors


def at_once(x: torch.Tensor, count: int) -> int:
    """Return how many of `count` inputs like `x` pass through a network together."""
    return min(count, max(1, ON_A_PROCESSOR // x.nbytes)) if x.device.type == "cpu" else count


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
