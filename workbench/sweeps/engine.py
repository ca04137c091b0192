"""One process's part of a sweep: batches of clips are read, explained and written as shards."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from ..clips.clip import Clip
from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from ..saliency.class_weights import HeadWeights
from ..saliency.explaining import explain_batch
from ..saliency.explanation import Explanation
from ..saliency.tubes import activation_map
from .folders import Folder
from .index_files import SHARDS, TOP, shard_rows
from .patterns import centre_share, focused_share
from .shards import Kept, pack, thumbnails
from .store import shard_file

__all__ = ["Engine", "StoreSettings", "read_for"]

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class StoreSettings:
    """What of an explanation is kept.

    Attributes:
        weights: as `explain` takes them.
        full: whether maps are kept in full precision.
        top: of how many classes the weights are kept, for a clip that has its own.
    """

    weights: str | None
    full: bool
    top: int


class Engine:
    """A model, and the folder that its explanations go to."""

    def __init__(
        self,
        model: VideoModel,
        folder: Folder,
        *,
        settings: StoreSettings,
        head: torch.Tensor | None,
    ) -> None:
        self.model = model
        self.folder = folder
        self.settings = settings
        self.head = head
        # A network is called from one thread, while others read the next clips and write the last.
        self._network_thread = ThreadPoolExecutor(1, "network")

    def close(self) -> None:
        """End the network's thread."""
        self._network_thread.shutdown()

    def make_shard(self, shard: str, clips: Dataset) -> int:
        """Read, explain and write a batch of clips; return how many of them failed.

        Raises:
            OSError: the shard cannot be written.
        """
        rows: dict[str, Row] = {}
        prepared = self._read(clips, rows)
        batch: list[Kept] = []
        for group in prepared.values():
            kept, errors = self._network_thread.submit(self._explain, group).result()
            batch += [each for each, _ in kept]
            rows.update({each.name: row for each, row in kept})
            rows.update(errors)
        if batch:
            content, addresses = pack(batch)
            for each, (part, place) in zip(batch, addresses):
                rows[each.name] |= {"part": part, "row": place, "bytes": len(content)}
            self.folder.write(shard_file(shard), content)
        labels = _labels(clips)
        for name, row in rows.items():
            label = labels.get(name)
            correct = (
                None if label is None or "prediction" not in row else row["prediction"] == label
            )
            row |= {"name": name, "shard": shard, "label": label, "correct": correct}
        # The index file is last: a shard without one does not count.
        ordered = [rows[name] for name in clips.index.index]
        self.folder.write(f"{SHARDS}/{shard}.parquet", shard_rows(ordered))
        return len(rows) - len(batch)

    def _read(
        self, clips: Dataset, rows: dict[str, Row]
    ) -> dict[torch.Size, list[tuple[str, Clip, torch.Tensor]]]:
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

    def _explain(
        self, group: list[tuple[str, Clip, torch.Tensor]]
    ) -> tuple[list[tuple[Kept, Row]], dict[str, Row]]:
        """Explain clips of one size; if the batch fails, each by itself."""
        weights = self.settings.weights
        try:
            explained = explain_batch(self.model, [(clip, x) for _, clip, x in group], weights)
            # A generator would hold every explanation's gradients until the last is kept.
            return [self._keep(name, ex) for (name, *_), ex in zip(group, explained)], {}
        except Exception as error:
            if len(group) == 1:
                return [], {group[0][0]: failure(error)}
        kept: list[tuple[Kept, Row]] = []
        errors: dict[str, Row] = {}
        for each in group:
            some, failed = self._explain([each])
            kept += some
            errors |= failed
        return kept, errors

    def _keep(self, name: str, ex: Explanation) -> tuple[Kept, Row]:
        """Return what is stored of an explanation, and its row of the index."""
        precision = torch.float32 if self.settings.full else torch.float16
        arrays = {f"maps_{number}": _stored(maps, precision) for number, maps in enumerate(ex.maps)}
        arrays |= {
            "logits": ex.logits.float().cpu().numpy(),
            "times": ex.clip.times,
            "indices": ex.clip.indices,
            "fps": np.array(ex.clip.fps),
        }
        arrays |= self._own_weights(ex)
        low = _low_map(ex)
        order = ex.logits.argsort(descending=True)[:TOP].tolist()
        probabilities = ex.probabilities.cpu()
        row: Row = {"status": "ok", "prediction": ex.classes[order[0]]}
        row["probability"] = float(probabilities[order[0]])
        for place, number in enumerate(order[1:], start=2):
            row[f"class_{place}"] = ex.classes[number]
            row[f"probability_{place}"] = float(probabilities[number])
        row |= {
            "start": float(ex.clip.times[0]),
            "stop": float(ex.clip.times[-1]),
            "residual": ex.residual,
            "centre": centre_share(low),
            "focus": focused_share(low),
            "grid": list(low.shape),
            "map": low.astype(np.float16).ravel(),
        }
        return Kept(name, arrays, ex.clip.size, thumbnails(ex.clip)), row

    def _own_weights(self, ex: Explanation) -> dict[str, np.ndarray]:
        """Return the weights of the top classes, unless the store's head is what weighs them."""
        weighting = ex.weighting
        if (
            isinstance(weighting, HeadWeights)
            and self.head is not None
            and torch.equal(weighting.matrix.cpu(), self.head)
        ):
            return {}
        ids = ex.logits.argsort(descending=True)[: self.settings.top].tolist()
        label = ex.clip.label
        # The right class is worth having when the prediction is wrong.
        if label in ex.classes and ex.classes.index(label) not in ids:
            ids[-1] = ex.classes.index(label)
        arrays = {"class_ids": np.array(ids), "bias": ex.bias.float().cpu().numpy()}
        rows = [weighting.of(number) for number in ids]
        for pathway in range(len(ex.maps)):
            weights = torch.stack([row[pathway] for row in rows]).detach()
            voxelwise = weights.ndim > 2 and not self.settings.full
            arrays[f"class_weights_{pathway}"] = _stored(
                weights, torch.float16 if voxelwise else torch.float32
            )
        return arrays


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


def _stored(values: torch.Tensor, precision: torch.dtype) -> np.ndarray:
    return values.to(precision).cpu().numpy()


def _low_map(ex: Explanation) -> np.ndarray:
    """Return the predicted class's map (T', H', W') before upsampling, on the finest grid."""
    grid = ex.activations.shape[1:]
    total = torch.zeros(grid)
    for maps, weights in zip(ex.maps, ex.weighting.of(ex.class_id())):
        low, _ = activation_map(maps, weights)
        total += torch.nn.functional.interpolate(low[None, None].float().cpu(), list(grid))[0, 0]
    return total.numpy()
