"""Object boxes of EPIC-Kitchens-55 (`EPIC_train_object_labels.csv`), in time and in pixels of a clip."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from ..clips.clip import Clip
from .csv_files import read_table

__all__ = ["OBJECT_LABELS", "VIDEO_INFO", "VideoBoxes", "boxed_videos", "boxes_on", "video_boxes"]

OBJECT_LABELS = "EPIC_train_object_labels.csv"
VIDEO_INFO = "EPIC_video_info.csv"
_CORRESPONDENCE = "EPIC_train_object_action_correspondence.csv"
_RATE = 59.94  # frames of the object labels a second
_SPACING = 30 / _RATE  # seconds from one annotated frame to the next
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True, eq=False)
class VideoBoxes:
    """The objects that are annotated in a video.

    times: (A,) seconds of the annotated frames, ascending; frames: (B,) which of these a box is in; nouns: (B,) class
    ids; boxes: (B, 4) as x0, y0, x1, y1 in shares of the frame's width and height, within it.
    """

    times: np.ndarray
    frames: np.ndarray
    nouns: np.ndarray
    boxes: np.ndarray


def boxes_on(clip: Clip, folder: Path, video: str, noun: int) -> np.ndarray | None:
    """Return the boxes of objects in a clip's frames, (T, K, 4) float32, NaN where there are fewer than K.

    One frame in 30 is annotated; a frame of the clip takes the nearest one's boxes if that is within half this
    spacing, 0.25 s. The K-th box is of one noun throughout; boxes of the segment's own `noun` come first. None where
    nothing is annotated near the clip.

    Raises:
        FileNotFoundError, ValueError: `EPIC_video_info.csv`, which tells the pixels that boxes are counted in, is not
            in the folder or does not list the video, or a file is not as it should be.
    """
    known = video_boxes(folder, video)
    if known is None or not len(known.boxes):
        return None
    after = np.searchsorted(known.times, clip.times).clip(1, max(1, len(known.times) - 1))
    near = np.stack([after - 1, after.clip(max=len(known.times) - 1)])
    away = np.abs(known.times[near] - clip.times)
    nearest = np.where(away[0] <= away[1], near[0], near[1])
    used = np.where(away.min(0) <= _SPACING / 2, nearest, -1)
    rows = pd.DataFrame({"frame": known.frames, "noun": known.nouns})[np.isin(known.frames, used)]
    if rows.empty:
        return None
    rows["rank"] = rows.groupby(["frame", "noun"]).cumcount()
    rows["other"] = rows["noun"] != noun
    rows["slot"] = rows.groupby(["other", "noun", "rank"]).ngroup()
    table = np.full(
        (len(known.times) + 1, rows["slot"].max() + 1, 4), np.nan, dtype=np.float32
    )  # the last for -1
    height, width = clip.size
    table[rows["frame"], rows["slot"]] = known.boxes[rows.index] * [width, height, width, height]
    return table[used]


@lru_cache(maxsize=64)
def video_boxes(folder: Path, video: str) -> VideoBoxes | None:
    """Return a video's boxes from the annotations' folder, None where there are none. Raises as `boxes_on`."""
    labels = _labels(folder).get(video)
    if labels is None:
        return None
    numbers, frames = np.unique(labels["frame"].to_numpy(), return_inverse=True)
    times = pd.Series(numbers / _RATE, numbers)
    times.update(_times(folder).get(video, pd.Series(dtype=float)))
    order = np.argsort(times.to_numpy(), kind="stable")
    frames = np.argsort(order)[frames]
    native = np.array(_resolution(folder, video), dtype=float)
    parsed = [np.array(_NUMBER.findall(text), dtype=float) for text in labels["bounding_boxes"]]
    for text, numbers_in in zip(labels["bounding_boxes"], parsed):
        if len(numbers_in) % 4:
            raise ValueError(
                f"{folder / OBJECT_LABELS}: expected boxes as [(top, left, height, width), …], got {text} for {video}"
            )
    counts = np.array([len(each) // 4 for each in parsed])
    top, left, height, width = np.concatenate(parsed).reshape(-1, 4).T
    corners = np.stack([left, top, left + width, top + height], axis=1) / np.tile(native, 2)
    corners = corners.clip(0, 1)
    real = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    frames, nouns = (
        np.repeat(each, counts)[real] for each in (frames, labels["noun_class"].to_numpy())
    )
    return VideoBoxes(times.to_numpy()[order], frames, nouns, corners[real])


def boxed_videos(folder: Path) -> list[str]:
    """Return the videos that the object labels are of. Raises as `boxes_on`."""
    return list(_labels(folder))


@lru_cache(maxsize=2)  # the official file has 326,000 rows
def _labels(folder: Path) -> dict[str, pd.DataFrame]:
    table = read_table(
        folder / OBJECT_LABELS, ["noun_class", "video_id", "frame", "bounding_boxes"]
    )
    return {str(video): rows for video, rows in table.groupby("video_id")}


@lru_cache(maxsize=2)
def _times(folder: Path) -> dict[str, pd.Series]:
    """Return seconds by object frame for the videos of the correspondence file, where there is one."""
    if not (folder / _CORRESPONDENCE).is_file():
        warnings.warn(
            f"no {folder / _CORRESPONDENCE}: boxes are placed by frame number at {_RATE} fps, which "
            "can be 2 s off. Get the file from epic-kitchens-55-annotations.",
            stacklevel=2,
        )
        return {}
    table = read_table(
        folder / _CORRESPONDENCE, ["video_id", "object_frame", "timestamp"]
    ).drop_duplicates(["video_id", "object_frame"])
    table["seconds"] = pd.to_timedelta(table["timestamp"]).dt.total_seconds()
    return {
        str(video): rows.set_index("object_frame")["seconds"]
        for video, rows in table.groupby("video_id")
    }


def _resolution(folder: Path, video: str) -> tuple[int, int]:
    """Return a video's own width and height in pixels."""
    path = folder / VIDEO_INFO
    info = read_table(
        path, ["video", "resolution"], "The boxes of objects are in the pixels that it tells."
    )
    found = info.set_index("video")["resolution"].get(video)
    match = re.fullmatch(r"(\d+)x(\d+)", str(found))
    if match is None:
        raise ValueError(
            f"{path}: expected a resolution such as 1920x1080 for {video}, got {found}"
        )
    return int(match[1]), int(match[2])
