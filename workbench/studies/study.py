"""The study of what tubes can be trusted for: shipped networks and baselines on the sample clips.

`run` measures every method on every split. It works in processes and saves every part, so an
interrupted run resumes. The tables are shipped; `recorded` reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..clips.clip import Clip
from ..clips.files import whole_file
from ..datasets.samples import FOLDER, HARD_SPLITS, SPLITS, dataset
from ..datasets.table import Dataset
from ..models.video_model import VideoModel
from ..models.zoo import load_model
from ..saliency.explaining import explain
from ..saliency.explanation import Explanation
from ..saliency.tubes import Tube, tau_for_share, upsample
from .evaluation import Method, baselines, faithfulness, predictions, seed_of
from .randomisation import cascading_randomisation, reinitialised

__all__ = [
    "SEED",
    "SHARES",
    "STEPS",
    "TABLES",
    "Part",
    "centred",
    "controls",
    "follows_height",
    "hard",
    "measure",
    "methods",
    "parts",
    "recorded",
    "run",
    "shares",
    "untrained",
]

SEED = 3  # of the clips; `evaluate` measures on those of seed 2
STEPS = 8  # of deletion and insertion; the table `steps` compares them with `FINE_STEPS`
FINE_STEPS = 40
SHARES = (1.0, 0.75, 0.5, 0.25, 0.1, 0.05, 0.02)  # of the features kept
TABLES = (
    "methods",
    "centred",
    "shares",
    "randomisation",
    "controls",
    "movement",
    "hard",
    "steps",
)
FRESH = 3  # networks with fresh weights
VERTICAL = ("lift", "lower")  # the classes whose object changes its height
PART = 20  # clips in a part, the most that an interruption loses for each worker
RECORD = FOLDER.parent / "study"


def methods(mfnet: VideoModel, tsn: VideoModel, seed: int = 0) -> dict[str, Method]:
    """Return the methods compared: name to a function from clip and class name to a tube."""
    # Each keeps its last explanation: one pass serves several methods and all actions of a clip.
    by_mfnet, by_tsn = _explainer(mfnet), _explainer(tsn)
    by_gradient, by_layer = _explainer(mfnet, "gradient"), _explainer(mfnet, "layer")
    return {
        "MFNet tube": lambda clip, label: by_mfnet(clip).tube(label),
        "MFNet, τ = 0": lambda clip, label: by_mfnet(clip).tube(label, tau=0.0),
        "MFNet, a quarter of the features": _strongest_features(mfnet, 0.25),
        "MFNet, gradient weights": lambda clip, label: by_gradient(clip).tube(label),
        "MFNet, LayerCAM": lambda clip, label: by_layer(clip).tube(label),
        "TSN tube": lambda clip, label: by_tsn(clip).tube(label),
        **baselines(mfnet, seed),
    }


def shares(mfnet: VideoModel) -> dict[str, Method]:
    """Return the tubes of the features with the largest weights, by the share of them kept."""
    return {f"{share:g}": _strongest_features(mfnet, share) for share in SHARES}


def centred(mfnet: VideoModel) -> dict[str, Method]:
    """Return the tube that takes the cells of its map at their centres.

    The paper's tube puts the first and last cells on the ends of the clip.
    """
    by_mfnet = _explainer(mfnet)
    return {"MFNet, cells centred": lambda clip, label: by_mfnet(clip).tube(label, centred=True)}


def controls(mfnet: VideoModel) -> dict[str, Method]:
    """Return maps that a tube has to beat before its class weights can be credited.

    `class-blind` is the mean of all activation maps, so it is the same for every class. `absent
    class` is the tube of a class that the clip does not show, `other action` that of the clip's
    other action (in a clip of one action it is the action's own tube). `one feature` is the map of
    the feature that contributes most.
    """
    by_mfnet = _explainer(mfnet)

    def class_blind(clip: Clip, label: str) -> np.ndarray:
        ex = by_mfnet(clip)
        return upsample(ex.activations.mean(0), (len(clip), *clip.size)).cpu().numpy()

    def absent_class(clip: Clip, label: str) -> Tube:
        shown = {action.label for action in clip.actions}
        others = [name for name in mfnet.classes or () if name not in shown]
        return by_mfnet(clip).tube(others[seed_of(clip, label) % len(others)])

    def other_action(clip: Clip, label: str) -> Tube:
        others = [action.label for action in clip.actions if action.label != label]
        return by_mfnet(clip).tube(others[0] if others else label)

    def one_feature(clip: Clip, label: str) -> Tube:
        ex = by_mfnet(clip)
        return ex.feature_tube(int(ex.channels(label, top=1)["channel"].iloc[0]))

    return {
        "class-blind": class_blind,
        "absent class": absent_class,
        "other action": other_action,
        "one feature": one_feature,
    }


def hard(mfnet: VideoModel) -> dict[str, Method]:
    """Return what is compared on `HARD_SPLITS`, which the network was not trained on."""
    by_mfnet = _explainer(mfnet)
    known = controls(mfnet)
    return {
        "MFNet tube": lambda clip, label: by_mfnet(clip).tube(label),
        "class-blind": known["class-blind"],
        "absent class": known["absent class"],
        **baselines(mfnet),
        **untrained(mfnet),
    }


def untrained(mfnet: VideoModel) -> dict[str, Method]:
    """Return the tubes of `FRESH` networks with fresh weights and calibrated batch norms."""
    clips = list(dataset("decorrelated", 8, seed=SEED + 1))
    explained = [_explainer(reinitialised(mfnet, clips, seed=seed)) for seed in range(FRESH)]
    return {f"fresh weights {seed}": _own_tube(by) for seed, by in enumerate(explained)}


def _own_tube(explained: Callable[[Clip], Explanation]) -> Method:
    return lambda clip, label: explained(clip).tube(label)


def follows_height(tube: Tube, clip: Clip) -> float:
    """Return the correlation over an action's frames of the tube's height with the object's.

    The tube's height in a frame is the centroid of its positive values; the object's is the middle
    of its box. NaN with fewer than three frames, or if either height does not change.
    """
    boxes = clip.action_boxes()
    frames = np.isfinite(boxes).all(1) & (tube.volume.max((1, 2)) > 0)
    if frames.sum() < 3:
        return float("nan")
    positive = tube.volume[frames].clip(min=0)
    rows = np.arange(positive.shape[1]) + 0.5
    centroid = (positive.sum(2) * rows).sum(1) / positive.sum((1, 2))
    middle = boxes[frames][:, [1, 3]].mean(1)
    if not (np.ptp(centroid) > 0 and np.ptp(middle) > 0):
        return float("nan")
    return float(np.corrcoef(centroid, middle)[0, 1])


def _strongest_features(model: VideoModel, share: float) -> Method:
    explained = _explainer(model)

    def tube(clip: Clip, label: str) -> Tube:
        ex = explained(clip)
        return ex.tube(label, tau_for_share(ex.channel_weights(label), share))

    return tube


def _explainer(model: VideoModel, weights: str | None = None) -> Callable[[Clip], Explanation]:
    return lru_cache(maxsize=1)(partial(explain, model, weights=weights))


@dataclass(frozen=True)
class Part:
    """A part of the study: `what` (of `TABLES`) on `PART` clips of a split of `size` clips.

    `first` is the number of its first clip; `seed` is of the clips, and `steps` of the curves. No
    steps leave deletion and insertion out, which take most of the time.
    """

    what: str
    split: str
    first: int
    size: int
    seed: int = SEED
    steps: int = STEPS

    @property
    def name(self) -> str:
        """The name of the file with its measurements."""
        clips = f"{self.split}-{self.first:05d}-of-{self.size}"
        return f"{self.what}-{clips}-seed-{self.seed}-steps-{self.steps}.csv"

    @property
    def data(self) -> Dataset:
        """The clips."""
        split = dataset(self.split, self.size, self.seed)
        return split.subset(split.index.index[self.first : self.first + PART])


def parts(clips: int = 200) -> list[Part]:
    """Return all parts: each table on `clips` of each split, unless this says otherwise.

    Shares are measured on half as many of two splits, movement on half as many of each, `hard` on
    half as many of each of the harder splits, and controls and steps on an eighth.
    """
    half = max(2, clips // 2)
    by_what = {what: [(split, clips) for split in SPLITS] for what in TABLES}
    by_what["shares"] = [("decorrelated", half), ("pair", half)]
    by_what["movement"] = [(split, half) for split in SPLITS]
    by_what["hard"] = [(split, half) for split in HARD_SPLITS]
    for what in ("controls", "steps"):
        by_what[what] = [(split, max(2, clips // 8)) for split in SPLITS]
    return [
        Part(what, split, first, size)
        for what, splits in by_what.items()
        for split, size in splits
        for first in range(0, size, PART)
    ]


def measure(part: Part) -> pd.DataFrame:
    """Measure a part, in this process and one thread.

    Returns a table as `evaluation.faithfulness` does, or for "randomisation" as
    `cascading_randomisation` does for each clip's first action.
    """
    torch.set_num_threads(1)
    mfnet = load_model("samples/mfnet", device="cpu")
    if part.what == "randomisation":
        return _measure_randomisation(mfnet, part)
    others = {"movement": _measure_movement, "hard": _measure_hard, "steps": _measure_steps}
    if part.what in others:
        return others[part.what](mfnet, part)
    if part.what == "methods":
        compared = methods(mfnet, load_model("samples/tsn", device="cpu"))
    else:
        tables = {"shares": shares, "centred": centred, "controls": controls}
        compared = tables[part.what](mfnet)
    table = faithfulness(
        compared,
        part.data,
        mfnet.input,
        score=mfnet.score if part.steps else None,
        steps=part.steps or STEPS,
        progress=False,
    )
    if part.what != "controls":
        return table
    # Whether the trained network needs what an untrained one marks is no question of interest.
    located = faithfulness(untrained(mfnet), part.data, mfnet.input, progress=False)
    return pd.concat([table, located], ignore_index=True)


def _measure_randomisation(mfnet: VideoModel, part: Part) -> pd.DataFrame:
    tables = []
    for number, name in enumerate(part.data.index.index, start=part.first):
        clip = part.data.read(name, frames=mfnet.input.frames, stride=mfnet.input.stride)
        table = cascading_randomisation(mfnet, clip, clip.label, seed=number)
        tables.append(table.assign(data=part.data.title, clip=name))
    return pd.concat(tables)


def _measure_movement(mfnet: VideoModel, part: Part) -> pd.DataFrame:
    """Measure for each clip what needs no second method: heights, and which classes come first."""
    rows = []
    for name in part.data.index.index:
        ex = explain(mfnet, part.data.read(name, frames=mfnet.input.frames))
        labels = [action.label for action in ex.clip.actions]
        height = float("nan")
        if labels[0] in VERTICAL:
            height = follows_height(ex.tube(labels[0]), ex.clip)
        top = ex.top(len(labels))["class"].tolist()
        rows.append(
            {
                "data": part.data.title,
                "clip": name,
                "class": labels[0],
                "height correlation": height,
                "actions on top": set(top) == set(labels),
            }
        )
    return pd.DataFrame(rows)


def _measure_hard(mfnet: VideoModel, part: Part) -> pd.DataFrame:
    """Locate actions on harder clips, and tell of each whether the network is right."""
    table = faithfulness(hard(mfnet), part.data, mfnet.input, progress=False)
    named = predictions(mfnet, part.data, progress=False).set_index("clip")
    return table.assign(correct=table["clip"].map(named["correct"]))


def _measure_steps(mfnet: VideoModel, part: Part) -> pd.DataFrame:
    """Measure the curves of the tube in few steps and in many: a method for each."""
    by_mfnet = _explainer(mfnet)
    tables = [
        faithfulness(
            {f"{steps} steps": lambda clip, label: by_mfnet(clip).tube(label)},
            part.data,
            mfnet.input,
            score=mfnet.score,
            steps=steps,
            progress=False,
        )
        for steps in (part.steps, FINE_STEPS)
    ]
    return pd.concat(tables, ignore_index=True)


def run(folder: str | Path, clips: int = 200, workers: int = 2) -> dict[str, pd.DataFrame]:
    """Measure every part that `folder` does not hold yet, and return the tables by name.

    200 clips take about an hour on two cores. After an interruption the next call resumes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = parts(clips)
    missing = [part for part in wanted if not (folder / part.name).is_file()]
    done = len(wanted) - len(missing)
    with (
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
        tqdm(total=len(wanted), initial=done, unit="part", desc="study") as bar,
    ):
        waiting = {pool.submit(measure, part): part for part in missing}
        try:
            for future in as_completed(waiting):
                _write_table(folder / waiting[future].name, future.result(), float_format="%.5g")
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    tables = {}
    for what in TABLES:
        measured = [pd.read_csv(folder / part.name) for part in wanted if part.what == what]
        tables[what] = pd.concat(measured, ignore_index=True)
        _write_table(folder / f"{what}.csv.gz", tables[what], compression="gzip")
    return tables


def _write_table(path: Path, table: pd.DataFrame, **options: Any) -> None:
    with whole_file(path) as part:
        table.to_csv(part, index=False, **options)


def recorded(what: str = "methods") -> pd.DataFrame:
    """Return a shipped table.

    `methods`, `centred` and `randomisation` are on 200 clips of each split, `shares` on 100 of two,
    `movement` on 100 of each, `hard` on 100 of each of the harder splits, and `controls` and
    `steps` on 25 of each.

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
