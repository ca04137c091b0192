"""How well networks classify labelled clips, and how well tubes point at known answers."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ..clips.clip import Clip
from ..clips.errors import ClipError
from ..datasets.table import Dataset
from ..metrics.arrays import as_region
from ..metrics.baseline_volumes import centre_gaussian, frame_difference
from ..metrics.confidence import bootstrap, proportion
from ..metrics.localisation import energy_inside, highest_peaks, pointing_game, share_inside
from ..metrics.perturbation import (
    STEPS,
    Score,
    check_scores,
    deletion,
    insertion,
    random_order,
    replacement,
)
from ..metrics.temporal import temporal_auc, temporal_iou, temporal_variation
from ..models.input_spec import InputSpec
from ..models.video_model import VideoModel
from ..saliency.explaining import explain
from ..saliency.explanation import Explanation
from ..saliency.tubes import Tube
from .randomisation import randomised, reinitialised

__all__ = [
    "Method",
    "baselines",
    "compare",
    "evaluate",
    "faithfulness",
    "predictions",
    "randomised",
    "summary",
]

Method = Callable[[Clip, str], Tube | np.ndarray]

# Boxes grow by this share of the frame and intervals by this share of the clip: maps are no finer.
# Half a cell of an 8×7×7 map is 0.06 of the clip and 0.07 of the frame.
TOLERANCE = 0.05
CALIBRATION = 8  # clips that the batch norms of the network with fresh weights are calibrated on
WIDE = f" ±{TOLERANCE:.0%}"


def evaluate(
    model: VideoModel, data: Dataset, *, seed: int = 0, progress: bool = True
) -> pd.DataFrame:
    """Classify every clip of a data set, and test each action's tube against four baselines.

    Args:
        model: the network; copies with shuffled and with fresh weights are among the baselines.
        data: clips with annotated `actions`, boxes included (`wb.samples.dataset`).
        seed: of the shuffled and of the fresh weights.
        progress: whether to show a bar.

    Returns:
        A DataFrame, a row per annotated action: clip, class, `correct` (the predicted class is one
        of the clip's actions), `probability` of the class; and for `tube`, `random weights`, `fresh
        weights`, `centre Gaussian` and `frame difference` whether the largest voxel lies in the
        action's box, in its interval, both grown by `TOLERANCE`. `tube, strict in time` is the tube
        with the interval as annotated.

    Raises:
        ValueError: a clip has no annotated action with boxes.
    """
    some = [_read(data, name, model) for name in data.index.index[:CALIBRATION]]
    networks = {
        "tube": model,
        "random weights": randomised(model, seed),
        "fresh weights": reinitialised(model, some, seed),
    }
    rows: list[dict[str, object]] = []
    for name in tqdm(data.index.index, desc=data.title, disable=not progress):
        clip = _read(data, name, model)
        _require_actions(clip, name)
        explained = {key: explain(network, clip) for key, network in networks.items()}
        ex = explained["tube"]
        labels = [action.label for action in clip.actions]
        correct = ex.classes[ex.class_id()] in labels
        for number, label in enumerate(labels):
            probability = float(ex.probabilities[ex.class_id(label)])
            row = {"clip": name, "class": label, "correct": correct, "probability": probability}
            rows.append(row | _hits(explained, number=number))
    return pd.DataFrame(rows)


def _read(data: Dataset, name: str, model: VideoModel) -> Clip:
    return data.read(name, frames=model.input.frames, stride=model.input.stride)


def _hits(explained: Mapping[str, Explanation], *, number: int) -> dict[str, bool]:
    """Tell for the tube of an action and for each baseline whether it points at the action."""
    clip = explained["tube"].clip
    label = clip.actions[number].label
    volumes = {
        **{name: ex.tube(label).volume for name, ex in explained.items()},
        "centre Gaussian": centre_gaussian((len(clip), *clip.size)),
        "frame difference": frame_difference(clip),
    }
    wide, strict = clip.action_boxes(number, grow=_tolerance_of(clip)), clip.action_boxes(number)
    hits = {name: pointing_game(volume, wide, TOLERANCE) for name, volume in volumes.items()}
    return hits | {"tube, strict in time": pointing_game(volumes["tube"], strict, TOLERANCE)}


def summary(rows: pd.DataFrame) -> pd.Series:
    """Return the shares of an `evaluate` table.

    Accuracy is by clip and hits are by action; `tube, all actions` is the share of clips with a hit
    for every action."""
    hits = rows.drop(columns=["clip", "class", "correct", "probability"])
    by_clip = rows.groupby("clip")
    return pd.Series(
        {
            "clips": len(by_clip),
            "accuracy": by_clip["correct"].first().mean(),
            **hits.mean(),
            "tube, all actions": by_clip["tube"].all().mean(),
        }
    )


def predictions(model: VideoModel, data: Dataset, *, progress: bool = True) -> pd.DataFrame:
    """Classify every clip of a data set, to find those on which the network is wrong.

    Args:
        model: the network; clips are sampled as its `input` says.
        data: clips on the disk; `data.present()` selects them, `data.subset` makes a part.
        progress: whether to show a bar.

    Returns:
        A DataFrame, a row per clip in the order of the data: clip, class, `predicted`, its
            `probability`,
        the `true probability` of the clip's own class, and `correct`.

    Raises:
        ValueError: the network lacks a class of the data, or does not take a clip; the message
            names it.
        FileNotFoundError: clips are not on the disk; nothing is classified then.
        ClipError: a clip cannot be read; the message names it.
    """
    index = data.index
    absent = index.index[~index["present"]] if "present" in index else index.index[:0]
    if len(absent):
        raise FileNotFoundError(
            f"{len(absent)} of {len(data)} clips are not on the disk, the first {absent[0]!r}: "
            "give data.present()"
        )
    rows = []
    for name in tqdm(index.index, desc=data.title, disable=not progress):
        try:
            clip = data.read(name, frames=model.input.frames, stride=model.input.stride)
            logits = model.logits(clip)
        except (ClipError, ValueError) as error:
            raise type(error)(f"clip {name!r}: {error}") from error
        classes = model.classes or list(map(str, range(len(logits))))
        label = index.loc[name, "class"]
        if label not in classes:
            raise ValueError(
                f"clip {name!r}: class {label!r} is not among the {len(classes)} of "
                f"{model.name or 'the network'} ({classes[0]!r}, …). "
                "Give the model the classes= that it was trained on, as the data spell them"
            )
        probabilities = logits.softmax(0).cpu()
        best, true = int(probabilities.argmax()), classes.index(label)
        rows.append(
            {
                "clip": name,
                "class": label,
                "predicted": classes[best],
                "probability": float(probabilities[best]),
                "true probability": float(probabilities[true]),
                "correct": best == true,
            }
        )
    columns = ["clip", "class", "predicted", "probability", "true probability", "correct"]
    return pd.DataFrame(rows, columns=columns)


def faithfulness(
    methods: Mapping[str, Method],
    data: Dataset,
    input: InputSpec,
    *,
    score: Callable[[str], Score] | None = None,
    steps: int | Sequence[float] = STEPS,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure several methods on every clip, against its known answer and against the network.

    Rows do not depend on one another, so parts of a data set (`data.subset`) can be measured in
    processes of their own and the tables concatenated.

    Args:
        methods: name to a function of clip, as the network sees it, and class name that returns a
            tube or a volume (T, H, W): `{"tube": lambda clip, label: wb.explain(model,
            clip).tube(label), **baselines(model)}`.
        data: clips with annotated actions, boxes included (`wb.samples.dataset`).
        input: how the network takes a clip (`model.input`).
        score: class name to the network's score function (`model.score`), for deletion and
            insertion. None leaves them out; they take nearly all of the time.
        steps: of deletion and insertion.
        progress: whether to show a bar.

    Returns:
        A DataFrame, a row per clip, action and method: `data`, `clip`, `action` (its number in the
            clip),
        `class`, `method`; `points` (the largest voxel is in the action's box in its interval),
        `points in space` (among the interval's frames), `points in time`, and `found` (one of the
        highest peaks, as many as the clip has actions of the class), each also as `… ±5%`, box
        and interval grown by `TOLERANCE`; `energy inside`, and `box share`, which it is by chance;
        `temporal IoU`, `temporal AUC` (NaN if the interval is the whole clip), `temporal
        variation`; and with a score `probability`, and the areas `deletion` and `insertion`.

    Raises:
        ValueError: no methods, a clip without an annotated action with boxes, or a method whose
            volume is not the clip's size or holds NaN; the message names the clip and the method.
    """
    if not methods:
        raise ValueError(
            "methods: expected at least one, name to a function of clip and class name"
        )
    rows: list[dict[str, object]] = []
    for name in tqdm(data.index.index, desc=data.title, disable=not progress):
        clip = input.view(data.read(name, frames=input.frames, stride=input.stride))
        _require_actions(clip, name)
        blurred = None if score is None else replacement(clip)
        for number, action in enumerate(clip.actions):
            network = None if score is None else _cached(score(action.label))
            for method, volume_of in methods.items():
                try:
                    volume = _volume_like(clip, volume_of(clip, action.label))
                    measured = _localisation(volume, clip, number=number)
                    if network is not None and blurred is not None:
                        measured |= _perturbation(
                            network, clip, volume, baseline=blurred, steps=steps
                        )
                except ValueError as error:
                    raise ValueError(f"clip {name!r}, method {method!r}: {error}") from error
                row = {
                    "data": data.title,
                    "clip": name,
                    "action": number,
                    "class": action.label,
                    "method": method,
                }
                rows.append(row | measured)
    return pd.DataFrame(rows)


def _require_actions(clip: Clip, name: str) -> None:
    if not clip.actions:
        raise ValueError(
            f"{name} has no annotated action: there is no known answer to test the tube against"
        )


def _volume_like(clip: Clip, tube: Tube | np.ndarray) -> np.ndarray:
    """Return the volume of a tube or an array; raises ValueError unless it is the clip's size."""
    volume = tube.volume if isinstance(tube, Tube) else np.asarray(tube)
    if volume.shape != clip.frames.shape[:3]:
        raise ValueError(
            f"expected a volume of the clip's size {clip.frames.shape[:3]}, got {volume.shape}"
        )
    return volume


def _localisation(volume: np.ndarray, clip: Clip, *, number: int) -> dict[str, object]:
    """Return the metrics of a volume against the boxes and the interval of an action."""
    action = clip.actions[number]
    interval = (action.start, action.stop)
    strict, wide = clip.action_boxes(number), clip.action_boxes(number, _tolerance_of(clip))
    row: dict[str, object] = {}
    for suffix, boxes, tolerance in (("", strict, 0.0), (WIDE, wide, TOLERANCE)):
        row[f"points{suffix}"] = pointing_game(volume, boxes, tolerance)
        row[f"points in space{suffix}"] = pointing_game(volume, boxes, tolerance, axes="space")
        row[f"points in time{suffix}"] = pointing_game(volume, boxes, tolerance, axes="time")
        row[f"found{suffix}"] = _found(volume, clip, boxes, number=number, tolerance=tolerance)
    row["energy inside"] = energy_inside(volume, strict)
    row["box share"] = share_inside(strict, (len(clip), *clip.size))
    row["temporal IoU"] = temporal_iou(volume, interval, clip.times)
    fills_clip = clip.during(interval).all()
    row["temporal AUC"] = np.nan if fills_clip else temporal_auc(volume, interval, clip.times)
    row["temporal variation"] = temporal_variation(volume)
    return row


def _found(
    volume: np.ndarray, clip: Clip, boxes: np.ndarray, *, number: int, tolerance: float
) -> bool:
    """Tell whether one of the highest peaks, as many as the class has actions, is in the boxes."""
    labels = [action.label for action in clip.actions]
    region, _ = as_region(boxes, volume.shape, tolerance)
    peaks = highest_peaks(volume, labels.count(labels[number]))
    return bool(region[tuple(peaks.T)].any())


def _perturbation(
    score: Score,
    clip: Clip,
    volume: np.ndarray,
    *,
    baseline: np.ndarray,
    steps: int | Sequence[float],
) -> dict[str, object]:
    """Return how much the network needs what a volume marks."""
    seed = seed_of(clip)
    deleted = deletion(score, clip, volume, steps=steps, baseline=baseline, seed=seed)
    inserted = insertion(score, clip, volume, steps=steps, baseline=baseline, seed=seed)
    probability = float(deleted.score[0])
    return {"probability": probability, "deletion": deleted.auc, "insertion": inserted.auc}


def _cached(score: Score) -> Score:
    """Return a score function that scores no frames twice: a clip's curves share their ends."""
    known: dict[bytes, float] = {}

    def cached(frames: np.ndarray) -> np.ndarray:
        keys = [hashlib.blake2b(np.ascontiguousarray(clip).data).digest() for clip in frames]
        new = [number for number, key in enumerate(keys) if key not in known]
        if new:
            scores = check_scores(score, frames[new]).tolist()
            known.update(zip((keys[number] for number in new), scores))
        return np.array([known[key] for key in keys])

    return cached


def baselines(model: VideoModel, seed: int = 0) -> dict[str, Method]:
    """Return the methods to report beside a tube.

    Random weights, centre Gaussian, frame difference, random order. `seed` is of the random
    weights, and together with a clip's name and class of its random order."""
    # Keep the last explanation: all actions of a clip share one pass.
    explained = lru_cache(maxsize=1)(partial(explain, randomised(model, seed)))
    return {
        "random weights": lambda clip, label: explained(clip).tube(label),
        "centre Gaussian": lambda clip, label: centre_gaussian((len(clip), *clip.size)),
        "frame difference": lambda clip, label: frame_difference(clip),
        "random order": lambda clip, label: random_order(
            (len(clip), *clip.size), seed=seed_of(clip, label, seed)
        ),
    }


def compare(
    rows: pd.DataFrame,
    *,
    against: str | None = None,
    by: Sequence[str] = ("data", "method"),
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the mean of every metric of a `faithfulness` table, with intervals over clips.

    Shares of hits (bool columns) have Wilson's interval, all other means that of the bootstrap.

    Args:
        rows: the table, possibly of several data sets and parts concatenated.
        against: a method. The means are then of the others' differences from it on the same
            actions; an interval that excludes 0 means that they differ.
        by: the columns that define a group.
        level, seed: of the intervals, as in `wb.metrics.bootstrap` and `wb.metrics.proportion`.

    Returns:
        A DataFrame, a row per group and metric: the columns `by`, `metric`, `mean`, `low`, `high`,
            and
        `clips`, their number. Rows in which a metric is NaN are left out of its mean.

    Raises:
        KeyError: no such method or column.
        ValueError: a group with fewer than two clips, or a method with actions that `against`
            lacks.
    """
    keys = {"data", "clip", "action", "class", "method", *by}
    metrics = [name for name in rows.select_dtypes(["number", "bool"]).columns if name not in keys]
    if against is not None:
        rows = _differences(rows, metrics, against=against)
    means = []
    for group, part in rows.groupby(list(by), sort=False):
        for metric in metrics:
            valid = part[part[metric].notna()]
            if valid.empty:
                continue
            clips = (valid["data"].astype(str) + "/" + valid["clip"].astype(str)).to_numpy(str)
            values = valid[metric].to_numpy()
            if values.dtype == bool:
                interval = proportion(values, clips, level=level)
            else:
                interval = bootstrap(values, clips, level=level, seed=seed)
            row = dict(zip(by, group)) | {"metric": metric} | interval._asdict()
            means.append(row | {"clips": len(np.unique(clips))})
    return pd.DataFrame(means, columns=[*by, "metric", "mean", "low", "high", "clips"])


def _differences(rows: pd.DataFrame, metrics: list[str], *, against: str) -> pd.DataFrame:
    """Return every other method's rows minus those of `against` for the same actions."""
    if against not in set(rows["method"]):
        raise KeyError(
            f"no method {against!r}; there are {', '.join(map(str, rows['method'].unique()))}"
        )
    keys = ["data", "clip", "action"]
    is_reference = rows["method"] == against
    reference = rows[is_reference].set_index(keys)[metrics]
    others = rows[~is_reference]
    actions = pd.MultiIndex.from_frame(others[keys])
    if not (reference.index.is_unique and actions.isin(reference.index).all()):
        raise ValueError(f"expected one row of {against!r} for every action of another method")
    values = others[metrics].astype(np.float64)
    difference = values - reference.loc[actions].to_numpy(dtype=np.float64)
    return pd.concat([others.drop(columns=metrics), difference], axis=1)


def _tolerance_of(clip: Clip) -> float:
    """Return `TOLERANCE` of the clip in seconds."""
    return TOLERANCE * len(clip) * float(np.diff(clip.times).mean())


def seed_of(clip: Clip, *more: object) -> int:
    """Return a seed of the clip's own, so that random orders differ from clip to clip."""
    return zlib.crc32("/".join(map(str, (clip.name, *more))).encode())
