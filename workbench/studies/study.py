"""The study of what tubes can be trusted for: the shipped networks and the baselines on the sample clips.

`run` measures every method on every split, in processes and in parts that are kept, so that it goes on where it was
broken off. What it found is shipped; `recorded` reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..clips.clip import Clip
from ..datasets.samples import FOLDER, SPLITS, dataset
from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from ..models.zoo import load_model
from ..saliency.explaining import explain
from ..saliency.tubes import Tube, tau_for_share
from .evaluation import Method, baselines, faithfulness
from .randomisation import cascading_randomisation

__all__ = [
    "SEED",
    "SHARES",
    "STEPS",
    "TABLES",
    "Part",
    "centred",
    "measure",
    "methods",
    "parts",
    "recorded",
    "run",
    "shares",
]

SEED = 3  # of the clips; `evaluate` measures on those of seed 2
STEPS = 8  # of deletion and insertion: within 0.02 of the area that 40 steps give
SHARES = (1.0, 0.75, 0.5, 0.25, 0.1, 0.05, 0.02)  # of the features that are kept
TABLES = ("methods", "centred", "shares", "randomisation")
PART = 20  # clips that are lost at most when it is broken off
RECORD = FOLDER.parent / "study"


def methods(mfnet: VideoModel, tsn: VideoModel, seed: int = 0) -> dict[str, Method]:
    """Return what is compared: name to a function of clip and class name that gives a tube or a volume."""
    # One pass through a network serves all methods and both actions of a clip.
    seen_3d, seen_2d = _remembered(mfnet), _remembered(tsn)
    by_gradient, by_layer = _remembered(mfnet, "gradient"), _remembered(mfnet, "layer")
    return {
        "MFNet tube": lambda clip, label: seen_3d(clip).tube(label),
        "MFNet, τ = 0": lambda clip, label: seen_3d(clip).tube(label, tau=0.0),
        "MFNet, a quarter of the features": _of_share(mfnet, 0.25),
        "MFNet, gradient weights": lambda clip, label: by_gradient(clip).tube(label),
        "MFNet, LayerCAM": lambda clip, label: by_layer(clip).tube(label),
        "TSN tube": lambda clip, label: seen_2d(clip).tube(label),
        **baselines(mfnet, seed),
    }


def shares(mfnet: VideoModel) -> dict[str, Method]:
    """Return the tubes of the features with the largest weights, by the share of them that is kept."""
    return {f"{share:g}": _of_share(mfnet, share) for share in SHARES}


def centred(mfnet: VideoModel) -> dict[str, Method]:
    """Return the tube with the cells of its map at their centres, beside the paper's, whose ends lie on the clip's."""
    explained = _remembered(mfnet)
    return {"MFNet, cells centred": lambda clip, label: explained(clip).tube(label, centred=True)}


def _of_share(model: VideoModel, share: float) -> Method:
    explained = _remembered(model)

    def tube(clip: Clip, label: str) -> Tube:
        ex = explained(clip)
        return ex.tube(label, tau_for_share(ex.channel_weights(label), share))

    return tube


def _remembered(model: VideoModel, weights: str | None = None) -> Callable:
    return lru_cache(maxsize=1)(partial(explain, model, weights=weights))


@dataclass(frozen=True)
class Part:
    """A part of the study: `what` (of `TABLES`) on the clips from `first` on of a split of `size` clips."""

    what: str
    split: str
    first: int
    size: int
    seed: int = SEED
    steps: int = STEPS

    @property
    def name(self) -> str:
        """Of the file that keeps what was measured."""
        return f"{self.what}-{self.split}-{self.first:05d}-of-{self.size}-seed-{self.seed}-steps-{self.steps}.csv"

    @property
    def data(self) -> Dataset:
        """The clips."""
        every = dataset(self.split, self.size, self.seed)
        return every.subset(every.index.index[self.first : self.first + PART])


def parts(clips: int = 200) -> list[Part]:
    """Return the parts: all methods on `clips` of each split, and the shares on half as many of two splits."""
    every = [
        Part("methods", split, first, clips) for split in SPLITS for first in range(0, clips, PART)
    ]
    half = max(2, clips // 2)
    some = [
        Part("shares", split, n, half)
        for split in ("decorrelated", "pair")
        for n in range(0, half, PART)
    ]
    return [
        *every,
        *some,
        *(replace(part, what=what) for what in ("centred", "randomisation") for part in every),
    ]


def measure(part: Part) -> pd.DataFrame:
    """Measure a part, in this process and one thread.

    Returns a table as `evaluation.faithfulness` gives it, or for "randomisation" as `sanity.cascading_randomisation`
    does, of each clip's first action.
    """
    torch.set_num_threads(1)
    mfnet = load_model("samples/mfnet", device="cpu")
    if part.what == "randomisation":
        return _randomisation(mfnet, part)
    if part.what == "methods":
        compared = methods(mfnet, load_model("samples/tsn", device="cpu"))
    else:
        compared = {"shares": shares, "centred": centred}[part.what](mfnet)
    return faithfulness(
        compared, part.data, mfnet.input, score=mfnet.score, steps=part.steps, progress=False
    )


def _randomisation(mfnet: VideoModel, part: Part) -> pd.DataFrame:
    tables = []
    for number, name in enumerate(part.data.index.index):
        clip = part.data.read(name, frames=mfnet.input.frames, stride=mfnet.input.stride)
        table = cascading_randomisation(mfnet, clip, clip.label, seed=part.first + number)
        tables.append(table.assign(data=part.data.title, clip=name))
    return pd.concat(tables)


def run(folder: str | Path, clips: int = 200, workers: int = 2) -> dict[str, pd.DataFrame]:
    """Measure everything that `folder` does not hold yet, and return the tables by name.

    200 clips take about an hour on two cores. Broken off, it goes on with the next call.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = parts(clips)
    missing = [part for part in wanted if not (folder / part.name).is_file()]
    with (
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
        tqdm(
            total=len(wanted), initial=len(wanted) - len(missing), unit="part", desc="study"
        ) as bar,
    ):
        waiting = {pool.submit(measure, part): part for part in missing}
        try:
            for done in as_completed(waiting):
                half = folder / f"{waiting[done].name}.part"
                done.result().to_csv(half, index=False, float_format="%.5g")
                half.replace(folder / waiting[done].name)
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    tables = {
        what: pd.concat(
            [pd.read_csv(folder / part.name) for part in wanted if part.what == what],
            ignore_index=True,
        )
        for what in TABLES
    }
    for what, table in tables.items():
        table.to_csv(folder / f"{what}.csv.gz", index=False)
    return tables


def recorded(what: str = "methods") -> pd.DataFrame:
    """Return a shipped table: `methods`, `centred` and `randomisation` on 200 clips of each split, `shares` on
    100 of two.

    Raises FileNotFoundError outside a checkout, KeyError for another table.
    """
    if what not in TABLES:
        raise KeyError(f"no table {what!r}; there are {', '.join(TABLES)}")
    file = RECORD / f"{what}.csv.gz"
    if not file.is_file():
        raise FileNotFoundError(
            f"no {file}: work in a checkout of the repository, or `python -m workbench study`"
        )
    return pd.read_csv(file, dtype={"method": str})
