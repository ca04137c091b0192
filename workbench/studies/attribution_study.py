"""The study of methods of attribution: how well each points, and what it costs.

The shipped MFNet on `pair` clips of unseen seeds: two objects do two different actions, so a method
that ignores the class cannot point at the right one. `recorded` reads the shipped result;
`python -m workbench study-attributions FOLDER` measures it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..clips.clip import Clip
from ..clips.files import whole_file
from ..datasets.samples import CLASSES, FOLDER, dataset
from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from ..models.zoo import load_model
from ..saliency.attribution import attribute
from ..saliency.explaining import explain
from ..saliency.tubes import Tube, upsample
from .evaluation import Method
from .scoring import TOLERANCE, Scores, read_scores, score
from .scoring.measures import PEAK

__all__ = [
    "COMPARED",
    "CONTROLS",
    "attribution_methods",
    "measure_attributions",
    "measure_costs",
    "pair_clips",
    "recorded_attributions",
    "recorded_costs",
    "widened_points",
]

SEED = 5  # no other study draws clips of this seed
STEPS = 6  # of insertion
EARLIER = "conv4"  # the stage before the target layer
CONTROLS = ("tube of the other action", "tube of an absent class", "mean activation")
COMPARED = (
    "tube",
    "grad-cam",
    "grad-cam++",
    "layercam",
    "grad-cam, a stage earlier",
    "layercam, a stage earlier",
    "score-cam",
    "occlusion",
    "rise",
    "integrated-gradients",
    "smoothgrad",
    "extremal",
    *CONTROLS,
)
PART = 10  # clips
RECORD = FOLDER.parent / "study" / "attributions.parquet"
COSTS = RECORD.with_name("attribution_costs.csv")
WIDER = 0.05  # of the clip on either side, as the tolerance of `evaluation`


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
    return {name: own.get(name, name) for name in COMPARED}


def measure_attributions(folder: str | Path, clips: int = 100, workers: int = 2) -> Scores:
    """Score every method on `clips` clips, and write the table to `attributions.parquet`.

    100 clips take about an hour on two cores. An interrupted run resumes: rows are kept in files of
    `PART` clips.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    measure = partial(_measure, folder, clips)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        tables = list(pool.map(measure, range(0, clips, PART)))
    table = pd.concat(tables, ignore_index=True)
    methods = table["method"].unique().tolist()
    rank = table["method"].map(methods.index)
    scores = Scores(table.iloc[rank.argsort(kind="stable")].reset_index(drop=True))
    scores.attrs = tables[0].attrs
    with whole_file(folder / RECORD.name) as part_file:
        scores.to_parquet(part_file, index=False)
    return scores


def measure_costs(clips: int = 3) -> pd.DataFrame:
    """Return what each method costs: forward passes and seconds, the median over a few clips.

    In one thread. Run it while the machine does nothing else: the seconds in the table of scores
    are those of a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = load_model("samples/mfnet", device="cpu")
        data = pair_clips(clips)
        rows = score(data, model, attribution_methods(model, data), progress=False)
    finally:
        torch.set_num_threads(threads)
    return rows.groupby("method", sort=False)[["forward passes", "seconds"]].median()


def widened_points(rows: pd.DataFrame) -> pd.Series:
    """Tell of each row of the record whether it points at the action, the interval widened.

    The interval is widened by `WIDER` of the clip on both sides, the box as in "points ±15 px". A
    row without a peak is missing.
    """
    data = pair_clips(1 + rows["clip"].map(_number).max())
    spec = load_model("samples/mfnet", device="cpu").input
    hits = pd.Series(pd.NA, index=rows.index, dtype="boolean")
    for name, part in rows[rows["peak time"].notna()].groupby("clip"):
        clip = spec.view(data.read(str(name), frames=spec.frames, stride=spec.stride))
        boxes = clip.action_boxes(grow=WIDER * len(clip) * float(np.diff(clip.times).mean()))
        for row, time, x, y in part[list(PEAK)].itertuples():
            (x0, y0), (x1, y1) = boxes[np.abs(clip.times - time).argmin()].reshape(2, 2)
            margin = TOLERANCE * clip.size[0]  # the pictures are square
            hits[row] = x0 - margin <= x < x1 + margin and y0 - margin <= y < y1 + margin
    return hits


def _number(name: str) -> int:
    """Return a clip's number: 7 of "pair_00007_stir"."""
    return int(name.split("_")[1])


def recorded_attributions() -> Scores:
    """Return the shipped table, of 100 clips.

    Raises:
        FileNotFoundError: outside a checkout.
    """
    return read_scores(RECORD)


def recorded_costs() -> pd.DataFrame:
    """Return the shipped costs by method, measured alone on one core.

    Raises:
        FileNotFoundError: outside a checkout.
    """
    return pd.read_csv(COSTS, index_col="method")


def _measure(folder: Path, clips: int, first: int) -> Scores:
    """Score the `PART` clips from number `first` on, of `clips`, in this process and one thread."""
    torch.set_num_threads(1)
    model = load_model("samples/mfnet", device="cpu")
    data = pair_clips(clips)
    return score(
        data.subset(data.index.index[first : first + PART]),
        model,
        attribution_methods(model, data),
        path=folder / f"clips-{first}-of-{clips}.parquet",
        insertion_steps=STEPS,
        progress=False,
    )
