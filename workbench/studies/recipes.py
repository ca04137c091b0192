"""How the checkpoints of the figures are made: fine-tune, choose the epoch, test once.

`python -m workbench fine-tune ucf101 --checkpoint <Kinetics checkpoint>` runs this. The epoch is
chosen on clips held out of the training list, and the test list is read once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..clips.clip import Clip
from ..clips.files import whole_file
from ..clips.sampling import window_length
from ..datasets.epic import epic_kitchens
from ..datasets.places import find_data
from ..datasets.table import Dataset
from ..datasets.ucf import ucf101
from ..models.video_model import VideoModel
from ..training.augmentation import segment_ends
from ..training.fine_tuning import fine_tune
from ..training.run_checkpoints import write_state

__all__ = [
    "accuracy",
    "confusion",
    "hold_out",
    "multi_clip",
    "parts_of",
    "train_and_test",
    "windows",
]

CHECKPOINT = "mfnet3d.pth"  # where the figures' notebooks look for it, in results/<data set>


def hold_out(data: Dataset, share: float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split a training list into clips to learn from and clips to choose the epoch on.

    Clips cut from one scene never fall on both sides. UCF-101 gives up `share` of the groups of
    each class, and at least one if the class has several; EPIC-Kitchens gives up whole videos.

    Raises:
        ValueError: a share outside 0 to 1, or one side would be empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"share: expected above 0 and below 1, got {share}")
    rng = np.random.default_rng(seed)
    index = data.index
    if "group" in index:
        held = []
        for _, clips in index.groupby("class", sort=False):
            groups = rng.permutation(np.sort(clips["group"].unique()))
            count = min(len(groups) - 1, max(1, round(share * len(groups))))
            held += clips.index[clips["group"].isin(groups[:count])].tolist()
        out = index.index.isin(held)
    else:
        videos = rng.permutation(np.sort(index["video"].unique()))
        counts = index["video"].value_counts().loc[videos].cumsum()
        most = max(share * len(index), counts.iloc[0])
        out = index["video"].isin(counts.index[counts <= most]).to_numpy()
    if out.all() or not out.any():
        raise ValueError(
            f"{data.title}: {len(index)} clips cannot be split without cutting a scene in two: "
            "it takes two groups of a class, or two videos"
        )
    return data.subset(index.index[~out]), data.subset(index.index[out])


def windows(data: Dataset, name: str, model: VideoModel, count: int) -> Iterator[Clip]:
    """Read up to `count` windows of a segment, evenly spaced, each sampled as the network asks.

    A network without a stride takes the segment as one window, and so does one whose window is as
    long as the segment.
    """
    spec = model.input
    position = int(data.index.index.get_loc(name))  # type: ignore[arg-type]  # names are unique
    if spec.stride is None or count == 1:
        yield data.read(name, frames=spec.frames, stride=spec.stride)
        return
    ends = segment_ends(data, position)
    length = window_length(spec.frames, spec.stride)
    spare = ends.last - ends.first + 1 - length
    if spare <= 0:
        yield data.read(name, frames=spec.frames, stride=spec.stride)
        return
    pace = (ends.stop - ends.start) / (ends.last - ends.first)
    for offset in np.unique(np.linspace(0, spare, count).astype(int)):
        row = data.index.iloc[position].copy()
        # Half a frame early, so that rounding loses no frame.
        first = ends.start + (offset - 0.5) * pace
        row["start"], row["stop"] = max(0.0, first), first + length * pace
        yield data.reader(row, frames=spec.frames, stride=spec.stride)


def multi_clip(
    model: VideoModel, data: Dataset, clips: int = 10, *, progress: bool = True
) -> pd.DataFrame:
    """Classify every clip of a data set by the mean probability over `windows`.

    Returns:
        A DataFrame, a row per clip: clip, class, `predicted`, its `probability`, and the `rank` of
        the clip's own class, 1 if it is right.

    Raises:
        ValueError: the network lacks a class of the data.
    """
    classes = model.classes or []
    lacking = sorted(set(data.index["class"]) - set(classes))
    if lacking:
        raise ValueError(f"{model.name or 'the network'} lacks the class {lacking[0]!r}")
    rows = []
    for name, label in tqdm(data.index["class"].items(), total=len(data), disable=not progress):
        seen = [model.logits(clip).softmax(0) for clip in windows(data, str(name), model, clips)]
        mean = torch.stack(seen).mean(0).cpu()
        best, true = int(mean.argmax()), classes.index(label)
        rank = 1 + int((mean > mean[true]).sum())
        rows.append((name, label, classes[best], float(mean[best]), rank))
    return pd.DataFrame(rows, columns=["clip", "class", "predicted", "probability", "rank"])


def accuracy(table: pd.DataFrame) -> pd.Series:
    """Return the number of clips and the top-1 and top-5 accuracy of a `multi_clip` table."""
    rank = table["rank"]
    return pd.Series(
        {"clips": len(table), "top-1": (rank == 1).mean(), "top-5": (rank <= 5).mean()}
    )


def confusion(table: pd.DataFrame) -> pd.DataFrame:
    """Count the clips of each class (rows) by the class predicted (columns)."""
    return pd.crosstab(table["class"], table["predicted"])


def parts_of(source: str) -> tuple[Dataset, Dataset, Dataset]:
    """Return the clips of "ucf101" or "epic-kitchens" to learn from, to choose by, and to test on.

    UCF-101 has a test list. EPIC-Kitchens-55 has none with labels, so a tenth of its videos is held
    out for it, and another tenth to choose by.
    """
    place = find_data(source)
    if place.name == "ucf101":
        train, test = (
            ucf101(place, split=1, subset=subset).present() for subset in ("train", "test")
        )
    else:
        data = epic_kitchens(place, release=55, subset="train", task="verb").present()
        train, test = hold_out(data, seed=1)
    return (*hold_out(train), test)


def train_and_test(
    model: VideoModel,
    parts: tuple[Dataset, Dataset, Dataset],
    output: Path,
    *,
    clips: int = 10,
    progress: bool = True,
    **options: Any,
) -> pd.Series:
    """Fine-tune a network, and write its checkpoint and its test results to a folder.

    `mfnet3d.pth` is in the published layout, of the epoch that did best on the second part.
    `predictions.csv`, `confusion.csv` and `accuracy.csv` are of the third part. An interrupted run
    resumes.

    Args:
        model: what to start from.
        parts: clips to learn from, to choose the epoch by, and to test on (`parts_of`).
        output: the folder.
        clips: windows per test clip, see `multi_clip`.
        progress: whether to show bars.
        options: what `fine_tune` takes.

    Returns:
        `accuracy` of the test.
    """
    train, validation, test = parts
    run = fine_tune(
        model, train, validation=validation, output=output, progress=progress, **options
    )
    state = {f"module.{name}": value for name, value in run.model.network.state_dict().items()}
    write_state(output / CHECKPOINT, {"epoch": run.epoch, "state_dict": state, "optimizer": {}})
    table = multi_clip(run.model, test, clips, progress=progress)
    result = accuracy(table)
    for name, content, index in (
        ("predictions", table, False),
        ("confusion", confusion(table), True),
        ("accuracy", result.to_frame("value"), True),
    ):
        with whole_file(output / f"{name}.csv") as path:
            content.to_csv(path, index=index)
    return result
