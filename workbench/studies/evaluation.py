"""How good a network is on labelled clips, and how good its tubes are on clips whose answer is known."""

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
from ..metrics.baseline_volumes import centre_gaussian, frame_difference
from ..metrics.confidence import bootstrap
from ..metrics.localisation import energy_inside, pointing_game, share_inside
from ..metrics.perturbation import (
    STEPS,
    Score,
    deletion,
    insertion,
    random_order,
    replacement,
    scored,
)
from ..metrics.temporal import temporal_auc, temporal_iou, temporal_variation
from ..models.input_spec import InputSpec
from ..models.video_model import VideoModel
from ..saliency.explanations import Explanation, explain
from ..saliency.tubes import Tube
from .randomisation import randomised

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

# Boxes are grown by this share of the frame, intervals by this share of the clip: the maps are no finer. Half a
# cell of an 8×7×7 map is 0.06 of the clip and 0.07 of the frame.
TOLERANCE = 0.05
WIDE = f" ±{TOLERANCE:.0%}"


def evaluate(
    model: VideoModel, data: Dataset, *, seed: int = 0, progress: bool = True
) -> pd.DataFrame:
    """Classify every clip of a data set, and let each action's tube point at it, beside three baselines.

    Args:
        model: the network; a copy with random weights of the same shapes is one of the baselines.
        data: clips with annotated `actions`, boxes included (`wb.samples.dataset`).
        seed: of the random weights.
        progress: whether to show a bar.

    Returns:
        A DataFrame, a row an annotated action: clip, class, `correct` (the predicted class is one of the clip's
        actions), and for `tube`, `random weights`, `centre Gaussian` and `frame difference` whether the
        largest voxel lies in the action's box, in its interval, both grown by `TOLERANCE`; and for the tube also with
        the interval as it is.

    Raises:
        ValueError: a clip has no annotated action with boxes.
    """
    untrained = randomised(model, seed)
    rows: list[dict[str, object]] = []
    for name in tqdm(data.index.index, desc=data.title, disable=not progress):
        clip = data.read(name, frames=model.input.frames, stride=model.input.stride)
        if not clip.actions:
            raise ValueError(
                f"{name} has no annotated action: there is no known answer to hold the tube against"
            )
        ex, chance = explain(model, clip), explain(untrained, clip)
        labels = [action.label for action in clip.actions]
        correct = ex.classes[ex.class_id()] in labels
        for number, label in enumerate(labels):
            probability = float(ex.probabilities[ex.class_id(label)])
            row = {"clip": name, "class": label, "correct": correct, "probability": probability}
            rows.append(row | _hits(ex, chance, number, label))
    return pd.DataFrame(rows)


def _hits(ex: Explanation, chance: Explanation, number: int, label: str) -> dict[str, bool]:
    """Tell for the tube of an action and for each baseline whether it points at the action."""
    volumes = {
        "tube": ex.tube(label).volume,
        "random weights": chance.tube(label).volume,
        "centre Gaussian": centre_gaussian((len(ex.clip), *ex.clip.size)),
        "frame difference": frame_difference(ex.clip),
    }
    clip = ex.clip
    boxes = clip.action_boxes(number, grow=_slack(clip))
    hits = {how: pointing_game(volume, boxes, TOLERANCE) for how, volume in volumes.items()}
    return hits | {
        "tube, strict in time": pointing_game(volumes["tube"], clip.action_boxes(number), TOLERANCE)
    }


def summary(rows: pd.DataFrame) -> pd.Series:
    """Return an `evaluate` table's shares: accuracy by clip, hits by action, and clips all of whose tubes hit."""
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
        data: clips on the disk; `data.present()` has those of a data set, `data.subset` makes a part.
        progress: whether to show a bar.

    Returns:
        A DataFrame, a row a clip in the order of the data: clip, class, `predicted`, its `probability`, the
        `true probability` of the clip's own class, and `correct`.

    Raises:
        ValueError: the network lacks a class of the data, or does not take a clip; the message names it.
        FileNotFoundError: clips are not on the disk; nothing is classified then.
        ClipError: a clip cannot be read; the message names it.
    """
    index = data.index
    absent = index.index[~index["present"]] if "present" in index else index.index[:0]
    if len(absent):
        raise FileNotFoundError(
            f"{len(absent)} of {len(data)} clips are not on the disk, the first {absent[0]!r}: give data.present()"
        )
    rows = []
    for name in tqdm(index.index, desc=data.title, disable=not progress):
        try:
            logits = model.logits(
                data.read(name, frames=model.input.frames, stride=model.input.stride)
            )
        except (ClipError, ValueError) as error:
            raise type(error)(f"clip {name!r}: {error}") from error
        classes = model.classes or list(map(str, range(len(logits))))
        label, chances = index.loc[name, "class"], logits.softmax(0).cpu()
        if label not in classes:
            raise ValueError(
                f"clip {name!r}: class {label!r} is not among the {len(classes)} of {model.name or 'the network'} "
                f"({classes[0]!r}, …). Give the model the classes= that it was trained on, as the data spell them"
            )
        best, own = int(chances.argmax()), classes.index(label)
        row = {
            "clip": name,
            "class": label,
            "predicted": classes[best],
            "probability": float(chances[best]),
        }
        rows.append({**row, "true probability": float(chances[own]), "correct": best == own})
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
    """Hold what several methods say of every clip against what is known of it, and against the network.

    A part of a data set (`data.subset`) can be measured in a process of its own and the tables concatenated: rows
    do not depend on one another.

    Args:
        methods: name to what makes a tube or a volume (T, H, W) of a clip, as the network sees it, for a class
            name: `{"tube": lambda clip, label: wb.explain(model, clip).tube(label), **baselines(model)}`.
        data: clips with annotated actions, boxes included (`wb.samples.dataset`).
        input: how the network takes a clip (`model.input`).
        score: class name to the network's score function (`model.score`), for deletion and insertion; None
            leaves these out, which take nearly all of the time.
        steps: of deletion and insertion.
        progress: whether to show a bar.

    Returns:
        A DataFrame, a row for each action of each clip and each method: `data`, `clip`, `action` (its number in
        the clip), `class`, `method`; `points` (the largest voxel is in the action's box in its interval),
        `points in space` (of the interval's frames), `points in time`, each also `… ±5%`, box and interval
        grown by `TOLERANCE`; `energy inside` and `box share`, what it is by chance; `temporal IoU`, `temporal AUC`
        (NaN where the interval is the whole clip), `temporal variation`; and with a score `probability`,
        `deletion` and `insertion`, the areas.

    Raises:
        ValueError: no methods, a clip without an annotated action with boxes, or a method whose volume is not the
            clip's size or holds NaN; the message names the clip and the method.
    """
    if not methods:
        raise ValueError(
            "methods: expected at least one, name to a function of clip and class name"
        )
    rows: list[dict[str, object]] = []
    for name in tqdm(data.index.index, desc=data.title, disable=not progress):
        clip = input.view(data.read(name, frames=input.frames, stride=input.stride))
        if not clip.actions:
            raise ValueError(
                f"{name} has no annotated action: there is no known answer to hold the tube against"
            )
        blurred = None if score is None else replacement(clip)
        for number, action in enumerate(clip.actions):
            network = None if score is None else _remembering(score(action.label))
            for method, volume_of in methods.items():
                row = {
                    "data": data.title,
                    "clip": name,
                    "action": number,
                    "class": action.label,
                    "method": method,
                }
                try:
                    tube = _of_size(volume_of(clip, action.label), clip)
                    row |= _localised(tube, clip, number)
                    if network is not None and blurred is not None:
                        row |= _needed(network, clip, tube, blurred, steps)
                except ValueError as error:
                    raise ValueError(f"clip {name!r}, method {method!r}: {error}") from error
                rows.append(row)
    return pd.DataFrame(rows)


def _of_size(tube: Tube | np.ndarray, clip: Clip) -> np.ndarray:
    volume = tube.volume if isinstance(tube, Tube) else np.asarray(tube)
    if volume.shape != clip.frames.shape[:3]:
        raise ValueError(
            f"expected a volume of the clip's size {clip.frames.shape[:3]}, got {volume.shape}"
        )
    return volume


def _localised(volume: np.ndarray, clip: Clip, number: int) -> dict[str, object]:
    """Return the metrics that hold a volume against the boxes and the interval of an action."""
    action, boxes = clip.actions[number], clip.action_boxes(number)
    interval = (action.start, action.stop)
    row: dict[str, object] = {}
    for suffix, held, tolerance in (
        ("", boxes, 0.0),
        (WIDE, clip.action_boxes(number, _slack(clip)), TOLERANCE),
    ):
        row[f"points{suffix}"] = pointing_game(volume, held, tolerance)
        row[f"points in space{suffix}"] = pointing_game(volume, held, tolerance, axes="space")
        row[f"points in time{suffix}"] = pointing_game(volume, held, tolerance, axes="time")
    return row | {
        "energy inside": energy_inside(volume, boxes),
        "box share": share_inside(boxes, (len(clip), *clip.size)),
        "temporal IoU": temporal_iou(volume, interval, clip.times),
        "temporal AUC": float("nan")
        if clip.during(interval).all()
        else temporal_auc(volume, interval, clip.times),
        "temporal variation": temporal_variation(volume),
    }


def _needed(
    score: Score, clip: Clip, volume: np.ndarray, blurred: np.ndarray, steps: int | Sequence[float]
) -> dict[str, object]:
    """Return how much the network needs what a volume marks."""
    seed = _seed_of(clip)
    removed = deletion(score, clip, volume, steps=steps, baseline=blurred, seed=seed)
    shown = insertion(score, clip, volume, steps=steps, baseline=blurred, seed=seed)
    return {"probability": float(removed.score[0]), "deletion": removed.auc, "insertion": shown.auc}


def _remembering(score: Score) -> Score:
    """Return a score function that asks once for the same frames: all curves of a clip share their two ends."""
    known: dict[bytes, float] = {}

    def remembered(frames: np.ndarray) -> np.ndarray:
        keys = [hashlib.blake2b(np.ascontiguousarray(each).data).digest() for each in frames]
        new = [number for number, key in enumerate(keys) if key not in known]
        if new:
            known.update(zip((keys[number] for number in new), scored(score, frames[new]).tolist()))
        return np.array([known[key] for key in keys])

    return remembered


def baselines(model: VideoModel, seed: int = 0) -> dict[str, Method]:
    """Return the methods to hold beside a tube: random weights, centre Gaussian, frame difference, random order.

    `seed` is of the random weights, and with a clip's name of its random order.
    """
    # Both actions of a clip are explained by one pass.
    explained = lru_cache(maxsize=1)(partial(explain, randomised(model, seed)))
    return {
        "random weights": lambda clip, label: explained(clip).tube(label),
        "centre Gaussian": lambda clip, label: centre_gaussian((len(clip), *clip.size)),
        "frame difference": lambda clip, label: frame_difference(clip),
        "random order": lambda clip, label: random_order(
            (len(clip), *clip.size), seed=_seed_of(clip, label, seed)
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
    """Return the mean of every metric of a `faithfulness` table, with bootstrap intervals over clips.

    Args:
        rows: the table, of several data sets and parts of them concatenated.
        against: a method; the means are then of the others' differences from it on the same actions, and where
            an interval excludes 0 they differ.
        by: the columns that make a group.
        level, seed: of the intervals, as in `wb.metrics.bootstrap`.

    Returns:
        A DataFrame, a row for each group and metric: the columns `by`, `metric`, `mean`, `low`, `high`, and `clips`,
        how many the mean is over. A metric that is NaN for some rows is that of the others.

    Raises:
        KeyError: no such method or column.
        ValueError: a group with fewer than two clips, or a method that has actions that `against` lacks.
    """
    keys = {"data", "clip", "action", "class", "method", *by}
    metrics = [name for name in rows.select_dtypes(["number", "bool"]).columns if name not in keys]
    if against is not None:
        rows = _differences(rows, metrics, against)
    told = []
    for group, part in rows.groupby(list(by), sort=False):
        for metric in metrics:
            known = part[part[metric].notna()]
            if known.empty:
                continue
            clips = (known["data"].astype(str) + "/" + known["clip"].astype(str)).to_numpy(
                dtype=str
            )
            mean = bootstrap(
                known[metric].to_numpy(dtype=np.float64), clips, level=level, seed=seed
            )
            told.append(
                {
                    **dict(zip(by, group)),
                    "metric": metric,
                    **mean._asdict(),
                    "clips": len(np.unique(clips)),
                }
            )
    return pd.DataFrame(told, columns=[*by, "metric", "mean", "low", "high", "clips"])


def _differences(rows: pd.DataFrame, metrics: list[str], against: str) -> pd.DataFrame:
    """Return every other method's rows less those of `against` for the same actions."""
    if against not in set(rows["method"]):
        raise KeyError(
            f"no method {against!r}; there are {', '.join(map(str, rows['method'].unique()))}"
        )
    keys = ["data", "clip", "action"]
    other = rows["method"] != against
    reference, rest = rows[~other].set_index(keys)[metrics], rows[other]
    places = pd.MultiIndex.from_frame(rest[keys])
    if not (reference.index.is_unique and places.isin(reference.index).all()):
        raise ValueError(
            f"expected one row of {against!r} for every action that another method has one for"
        )
    difference = rest[metrics].astype(np.float64) - reference.loc[places].to_numpy(dtype=np.float64)
    return pd.concat([rest.drop(columns=metrics), difference], axis=1)


def _slack(clip: Clip) -> float:
    """Return `TOLERANCE` of the clip in seconds."""
    return TOLERANCE * len(clip) * float(np.diff(clip.times).mean())


def _seed_of(clip: Clip, *more: object) -> int:
    """Return a seed that is the clip's own, so that what is random differs from clip to clip."""
    return zlib.crc32("/".join(map(str, (clip.name, *more))).encode())
