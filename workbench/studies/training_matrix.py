"""The training matrix: is it the third dimension, or the training data, that tells when?

Figure 3 compares a TSN and an MFNet that were trained on different clips. Here both networks are
trained alike, with the recipe of the shipped TSN, on iid and on decorrelated clips, with three
seeds each, and measured on all splits. `python -m workbench study-training FOLDER` trains and
measures; `recorded_matrix` reads the shipped result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch

from ..clips.clip import Clip
from ..clips.files import whole_file
from ..datasets.samples import FOLDER, SPLITS, dataset
from ..models.checkpoints import load_strictly, read_checkpoint
from ..models.video_model import VideoModel
from ..saliency.explaining import explain
from ..saliency.explanation import Explanation
from ..saliency.tubes import Tube
from ..training.sample_networks import small_mfnet, small_tsn, train_and_save, tsn_stages
from .evaluation import faithfulness

__all__ = [
    "CELLS",
    "Cell",
    "load_cell",
    "matrix_means",
    "measure_cell",
    "measure_matrix",
    "recorded_matrix",
    "train_cell",
]

NETWORKS: dict[str, tuple[Callable[[], VideoModel], int]] = {
    "mfnet": (small_mfnet, 16),  # frames in training; all networks are measured on 16
    "tsn": (small_tsn, 8),
}
MIXES = ("iid", "decorrelated")
SEEDS = (0, 1, 2)
CLIPS_SEED = 9  # no network was trained on clips of this seed, and no other study draws them
RECORD = FOLDER.parent / "study" / "training.csv.gz"
MEASURES = ("correct", "temporal AUC", "temporal variation", "points ±5%")


@dataclass(frozen=True)
class Cell:
    """A network of the matrix: its kind, the split that it learns from, and its seed."""

    network: str
    mix: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.network}_{self.mix}_{self.seed}"


CELLS = tuple(Cell(*which) for which in product(NETWORKS, MIXES, SEEDS))


def train_cell(cell: Cell, folder: str | Path, *, progress: bool = True) -> Path:
    """Train a network of the matrix; returns the path of its weights in `folder`.

    Takes ten minutes on a core. The seed fixes weights and clips, so on the same machine and
    libraries the weights come out the same.
    """
    build, frames = NETWORKS[cell.network]
    stages = tsn_stages(cell.mix, frames)
    return train_and_save(
        build, stages, folder, cell.name, seed=cell.seed, workers=1, progress=progress
    )


def load_cell(cell: Cell, folder: str | Path) -> VideoModel:
    """Return a network of the matrix with the weights that `train_cell` wrote."""
    file = Path(folder) / f"{cell.name}.safetensors"
    model = NETWORKS[cell.network][0]()
    load_strictly(model.module, read_checkpoint(file), str(file))
    model.module.eval()
    return model


def measure_cell(
    cell: Cell, folder: str | Path, clips: int, splits: Sequence[str] = SPLITS
) -> pd.DataFrame:
    """Return a row for every action in `clips` clips of each split, as `faithfulness` does.

    Besides, `network`, `mix` and `seed`, and `correct`: the predicted class is one of the clip's
    actions.
    """
    model = load_cell(cell, folder)
    predicted: dict[str | None, str] = {}

    @lru_cache(maxsize=1)
    def explained(clip: Clip) -> Explanation:
        ex = explain(model, clip)
        predicted[clip.name] = ex.classes[ex.class_id()]
        return ex

    def tube(clip: Clip, label: str) -> Tube:
        return explained(clip).tube(label)

    tables = [
        faithfulness({"tube": tube}, dataset(split, clips, CLIPS_SEED), model.input, progress=False)
        for split in splits
    ]
    rows = pd.concat(tables, ignore_index=True).drop(columns="method")
    hits = rows["clip"].map(predicted) == rows["class"]
    rows["correct"] = hits.groupby(rows["clip"]).transform("any")
    about = {"network": cell.network, "mix": cell.mix, "seed": cell.seed}
    return pd.concat([pd.DataFrame(about, index=rows.index), rows], axis=1)


def measure_matrix(folder: str | Path, clips: int = 100, workers: int = 2) -> pd.DataFrame:
    """Train and measure all networks of the matrix, except those that `folder` holds already.

    Takes an hour and a half on two cores. Returns the rows of all cells, which are also written to
    `training.csv.gz`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        tables = list(pool.map(partial(_train_and_measure, folder, clips), CELLS))
    rows = pd.concat(tables, ignore_index=True)
    with whole_file(folder / RECORD.name) as part:
        rows.to_csv(part, index=False, compression="gzip")
    return rows


def _train_and_measure(folder: Path, clips: int, cell: Cell) -> pd.DataFrame:
    torch.set_num_threads(1)
    if not (folder / f"{cell.name}.safetensors").is_file():
        train_cell(cell, folder, progress=False)
    table = folder / f"{cell.name}-{clips}-clips.csv"
    if not table.is_file():
        with whole_file(table) as part:
            measure_cell(cell, folder, clips).to_csv(part, index=False, float_format="%.5g")
    return pd.read_csv(table)


def matrix_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of `MEASURES` over the seeds, and the lowest and highest seed.

    A row per network, mix and split; the columns are the measure and `mean`, `low` or `high`.
    Accuracy is by clip, the others by action.
    """
    keys = ["network", "mix", "data"]
    measures = list(MEASURES)
    by_seed = rows.groupby([*keys, "seed"], sort=False)[measures].mean()
    by_clip = rows.drop_duplicates([*keys, "seed", "clip"])
    by_seed["correct"] = by_clip.groupby([*keys, "seed"], sort=False)["correct"].mean()
    over_seeds = by_seed.groupby(keys, sort=False)
    return over_seeds.agg(["mean", "min", "max"]).rename(columns={"min": "low", "max": "high"})


def recorded_matrix() -> pd.DataFrame:
    """Return the shipped rows: cells of the matrix on 100 clips of each split.

    Raises FileNotFoundError outside a checkout.
    """
    if not RECORD.is_file():
        raise FileNotFoundError(
            f"no {RECORD}: work in a checkout of the repository, or "
            "`python -m workbench study-training`"
        )
    return pd.read_csv(RECORD)
