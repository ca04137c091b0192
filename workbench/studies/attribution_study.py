"""The study of methods of attribution: how well each points, and what it costs.

The shipped MFNet on `pair` clips of unseen seeds: two objects do two different actions, so a method
that ignores the class cannot point at the right one. `recorded` reads the shipped result;
`python -m workbench study-attributions FOLDER` measures it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..clips.clip import Clip
from ..datasets.samples import CLASSES, FOLDER, dataset
from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from ..models.zoo import load_model
from ..saliency.attribution import attribute
from ..saliency.explaining import explain
from ..saliency.tubes import Tube, upsample
from .scoring import Method, Scores, read_scores, score

__all__ = [
    "CHEAP",
    "COSTLY",
    "attribution_methods",
    "measure_attributions",
    "pair_clips",
    "recorded_attributions",
]

SEED = 5  # no other study draws clips of this seed
STEPS = 6  # of insertion
EARLIER = "conv4"  # the stage before the target layer
CHEAP = (
    "tube",
    "grad-cam",
    "grad-cam++",
    "layercam",
    "grad-cam, a stage earlier",
    "layercam, a stage earlier",
    "integrated-gradients",
    "smoothgrad",
    "tube of the other action",
    "tube of an absent class",
    "mean activation",
)
COSTLY = ("score-cam", "occlusion", "rise", "extremal")
RECORD = FOLDER.parent / "study" / "attributions.parquet"


@dataclass(frozen=True)
class _FirstAction:
    """Reads a clip with its first action only: one row a clip, so that rows are independent."""

    data: Dataset

    def __call__(self, row: pd.Series, frames: int | None, stride: int | None) -> Clip:
        clip = self.data.reader(row, frames=frames, stride=stride)
        return replace(clip, actions=clip.actions[:1])


def pair_clips(count: int = 100) -> Dataset:
    """Return `pair` clips, annotated with their first action; the index has the second's class."""
    data = dataset("pair", count, SEED)
    return replace(data, reader=_FirstAction(data))


def attribution_methods(model: VideoModel, data: Dataset) -> dict[str, str | Method]:
    """Return every method, the controls of class among them, for `score`."""
    earlier = replace(model, layer=EARLIER)
    second = data.index["class_2"].to_dict()

    def other_action(clip: Clip, label: str) -> Tube:
        return explain(model, clip).tube(str(second[clip.name]))

    def absent_class(clip: Clip, label: str) -> Tube:
        absent = [name for name in CLASSES if name not in (label, second[clip.name])]
        return explain(model, clip).tube(absent[len(str(clip.name)) % len(absent)])

    def mean_activation(clip: Clip, label: str) -> np.ndarray:
        ex = explain(model, clip)
        return upsample(ex.activations.mean(0), (len(clip), *clip.size)).cpu().numpy()

    own: Mapping[str, str | Method] = {
        "grad-cam, a stage earlier": lambda clip, label: attribute(
            earlier, clip, label, "grad-cam"
        ),
        "layercam, a stage earlier": lambda clip, label: attribute(
            earlier, clip, label, "layercam"
        ),
        "tube of the other action": other_action,
        "tube of an absent class": absent_class,
        "mean activation": mean_activation,
    }
    return {name: own.get(name, name) for name in (*CHEAP, *COSTLY)}


def measure_attributions(
    folder: str | Path, clips: int = 100, costly: int = 50, workers: int = 2
) -> Scores:
    """Score every method on `clips` clips, those of `COSTLY` on the first `costly` of them.

    An interrupted run resumes. 100 and 50 clips take about 20 minutes on two cores.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        _Part(folder, chosen, first, min(first + size, count), clips)
        for chosen, count, size in ((COSTLY, costly, 13), (CHEAP, clips, 25))
        for first in range(0, count, size)
    ]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        tables = list(pool.map(_measure, parts))
    # Baselines are in every part; those of the clips that all methods saw come once.
    table = pd.concat(tables, ignore_index=True).drop_duplicates(["clip", "actor", "method"])
    order = {name: number for number, name in enumerate((*CHEAP, *COSTLY))}
    rank = table["method"].map(order).fillna(len(order))
    scores = Scores(table.assign(rank=rank).sort_values(["rank", "clip"], kind="stable"))
    scores = Scores(scores.drop(columns="rank").reset_index(drop=True))
    scores.attrs = {**tables[0].attrs, "methods": [*CHEAP, *COSTLY]}
    scores.to_parquet(folder / RECORD.name, index=False)
    return scores


def recorded_attributions() -> Scores:
    """Return the shipped table, of 100 clips (50 for `COSTLY`).

    Raises:
        FileNotFoundError: outside a checkout.
    """
    return read_scores(RECORD)


@dataclass(frozen=True)
class _Part:
    """Some methods on the clips from `first` up to `last` of `clips`."""

    folder: Path
    methods: tuple[str, ...]
    first: int
    last: int
    clips: int


def _measure(part: _Part) -> Scores:
    torch.set_num_threads(1)
    model = load_model("samples/mfnet", device="cpu")
    data = pair_clips(part.clips)
    every = attribution_methods(model, data)
    return score(
        data.subset(data.index.index[part.first : part.last]),
        model,
        {name: every[name] for name in part.methods},
        path=part.folder / f"{part.methods[0]}-{part.first}-{part.last}-of-{part.clips}.parquet",
        insertion_steps=STEPS,
        progress=False,
    )
