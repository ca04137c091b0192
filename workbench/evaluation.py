"""How good a network is on labelled clips, and how good its tubes are on clips whose answer is known."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from .clips import ClipError
from .datasets import Dataset
from .explanations import Explanation, explain
from .metrics import centre_gaussian, frame_difference, pointing_game
from .models import VideoModel

__all__ = ["evaluate", "predictions", "randomised", "summary"]

# Boxes are grown by this share of the frame, intervals by this share of the clip: the maps are no finer. Half a
# cell of an 8×7×7 map is 0.06 of the clip and 0.07 of the frame.
TOLERANCE = 0.05


def evaluate(model: VideoModel, data: Dataset, *, seed: int = 0, progress: bool = True) -> pd.DataFrame:
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
            raise ValueError(f"{name} has no annotated action: there is no known answer to hold the tube against")
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
    boxes = clip.action_boxes(number, grow=TOLERANCE * len(clip) * float(np.diff(clip.times).mean()))
    hits = {how: pointing_game(volume, boxes, TOLERANCE) for how, volume in volumes.items()}
    return hits | {"tube, strict in time": pointing_game(volumes["tube"], clip.action_boxes(number), TOLERANCE)}


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
            logits = model.logits(data.read(name, frames=model.input.frames, stride=model.input.stride))
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
        row = {"clip": name, "class": label, "predicted": classes[best], "probability": float(chances[best])}
        rows.append({**row, "true probability": float(chances[own]), "correct": best == own})
    columns = ["clip", "class", "predicted", "probability", "true probability", "correct"]
    return pd.DataFrame(rows, columns=columns)


def randomised(model: VideoModel, seed: int = 0) -> VideoModel:
    """Return a copy of a model with random weights, and batch-norm statistics that go with them.

    Each parameter tensor is shuffled, which keeps its scale and its shape and destroys what was learnt (a
    form of the model randomisation check of Adebayo et al., NeurIPS 2018).
    """
    generator = torch.Generator().manual_seed(seed)
    module: nn.Module = copy.deepcopy(model.module)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.ndim:
                order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
                tensor.copy_(tensor.flatten()[order].view_as(tensor))
    return VideoModel(module, model.input, model.classes, model.layer, model.head, f"{model.name}, random weights")
