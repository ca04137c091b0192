"""Find the clips and networks of the figures: from the samples, UCF-101 or EPIC-Kitchens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...clips.clip import Action, Clip
from ...clips.packets import video_info
from ...datasets.epic import epic_kitchens
from ...datasets.places import find_data
from ...datasets.samples import dataset, shipped
from ...datasets.table import Dataset
from ...datasets.ucf import ucf101
from ...models.video_model import VideoModel
from ...models.zoo import load_model

__all__ = ["labelled", "network", "segments", "surrounded"]


def labelled(source: str) -> Dataset:
    """Return the clips of "samples", "kitchen", "ucf101" or "epic" (release 55, which has boxes).

    The kitchen is drawn: 64 clips of the samples' egocentric split.
    UCF-101 and EPIC-Kitchens are where `wb.find_data` finds them: the real data, or samples in
    their layout. Raises KeyError for another name."""
    if source == "samples":
        return shipped()
    if source == "ucf101":
        place = find_data(source)
        subset = "test" if place.real else "train"
        return ucf101(place, split=1, subset=subset).present()
    if source == "epic":
        place = find_data("epic-kitchens")
        return epic_kitchens(place, release=55, subset="train", task="verb").present()
    if source == "kitchen":
        return dataset("kitchen", 64, seed=5)
    raise KeyError(f"no data set {source!r}; there are samples, kitchen, ucf101 and epic")


def network(
    name: str, data: Dataset, checkpoint: str | Path | None = None, output: str | None = None
) -> VideoModel:
    """Load a network for the classes of a data set: a shipped one, or one from a checkpoint.

    `output` is the one with the data set's classes, for a network with several (a TSN for verbs and
    nouns). Raises what `wb.load_model` raises.
    """
    if name.startswith("samples/"):
        model = load_model(name)
        # The network says stir; UCF-101's layout spells it Stir.
        spelling = {label.lower(): label for label in data.classes}
        model.classes = [spelling.get(label.lower(), label) for label in model.classes or []]
        return model
    if output is None:
        return load_model(name, checkpoint=checkpoint, classes=data.classes)
    return load_model(name, checkpoint=checkpoint, classes={output: data.classes}, output=output)


def segments(data: Dataset, label: str, narrated: str = "", most: int | None = None) -> list[str]:
    """Return the first names of a class, and only those narrated with a word if one is given.

    Raises ValueError if there is none; the message lists the classes that have segments.
    """
    chosen = data.index["class"] == label
    if narrated:
        chosen &= data.index["narration"].str.contains(narrated, case=False, regex=False)
    names = data.index.index[chosen].tolist()
    if not names:
        words = f" narrated with {narrated!r}" if narrated else ""
        classes = ", ".join(data.index["class"].unique())
        raise ValueError(f"{data.title}: no segment of {label!r}{words}; there are {classes}")
    return names[:most]


def surrounded(
    data: Dataset, name: str, seconds: float, frames: int | None = None, stride: int | None = None
) -> Clip:
    """Read a segment with the seconds before and after it, so that there is a when to be found.

    The segment becomes the clip's action: `clip.action` is its start and stop, and
    `clip.action_boxes()` has the first box of each frame if the data set has boxes. A clip whose
    action is already a part of it (`wb.samples`) is read as it is. Near the ends of the video there
    is less around a segment.

    Raises what `Dataset.read` raises, and ValueError for a clip that is a whole video.
    """
    row = data.index.loc[name].copy()
    start, stop = float(str(row["start"])), float(str(row["stop"]))
    clip = data.read(name, frames, stride)
    if clip.action is not None and clip.action != (start, stop):
        return clip
    if not np.isfinite([start, stop]).all():
        raise ValueError(f"{name} is a whole video, not a segment of one: nothing surrounds it")
    end = np.inf  # a frame folder's reader knows its end
    if clip.path is not None and clip.path.suffix.lower() in (".mp4", ".avi"):
        end = video_info(clip.path).duration
    row["start"], row["stop"] = max(0.0, start - seconds), min(end, stop + seconds)
    clip = data.reader(row, frames=frames, stride=stride)
    boxes = clip.boxes[:, 0] if clip.boxes is not None and clip.boxes.ndim == 3 else clip.boxes
    return replace(clip, actions=(Action(str(row["class"]), start, stop, boxes),))
