"""Object boxes of EPIC-Kitchens-55 (`EPIC_train_object_labels.csv`), in a clip's frames."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from ..clips.clip import Clip
from .csv_files import clock_times, integers, read_table

__all__ = ["OBJECT_LABELS", "VIDEO_INFO", "VideoBoxes", "boxed_videos", "boxes_on", "video_boxes"]

OBJECT_LABELS = "EPIC_train_object_labels.csv"
VIDEO_INFO = "EPIC_video_info.csv"
_CORRESPONDENCE = "EPIC_train_object_action_correspondence.csv"
_RATE = 59.94  # frames of the object labels a second
_SPACING = 30 / _RATE  # seconds from one annotated frame to the next
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True, eq=False)
class VideoBoxes:
    """The annotated objects of a video.

    Attributes:
        times: (A,) seconds of the annotated frames, ascending.
        frames: (B,) which of these a box is in.
        nouns: (B,) class ids.
        boxes: (B, 4) x0, y0, x1, y1 as shares of the frame's width and height, within it.
    """

    times: np.ndarray
    frames: np.ndarray
    nouns: np.ndarray
    boxes: np.ndarray


def boxes_on(clip: Clip, folder: Path, video: str, noun: int) -> np.ndarray | None:
    """Return the boxes of objects in a clip's frames, (T, K, 4) float32, NaN for no box.

    One frame in 30 is annotated; a frame of the clip takes the nearest one's boxes if that is
    within half this spacing, 0.25 s. The K-th box is of one noun throughout; boxes of the segment's
    own `noun` come first. None if nothing is annotated near the clip.

    Raises:
        FileNotFoundError, ValueError: `EPIC_video_info.csv`, which gives the pixels that boxes are
            counted in, is not in the folder or does not list the video, or a file is malformed.
    """
    annotated = video_boxes(folder, video)
    if annotated is None or not len(annotated.boxes):
        return None
    # For each frame of the clip, the nearest annotated frame, or -1.
    last = len(annotated.times) - 1
    after = np.searchsorted(annotated.times, clip.times).clip(1, max(1, last))
    near = np.stack([after - 1, after.clip(max=last)])
    away = np.abs(annotated.times[near] - clip.times)
    nearest = np.where(away[0] <= away[1], near[0], near[1])
    used = np.where(away.min(0) <= _SPACING / 2, nearest, -1)

    # One slot for the first, second, … box of each noun, the segment's own noun first.
    rows = pd.DataFrame({"frame": annotated.frames, "noun": annotated.nouns})
    rows = rows[np.isin(annotated.frames, used)]
    if rows.empty:
        return None
    rows["rank"] = rows.groupby(["frame", "noun"]).cumcount()
    rows["other"] = rows["noun"] != noun
    rows["slot"] = rows.groupby(["other", "noun", "rank"]).ngroup()

    # A row for each annotated frame, and one of NaN, which -1 selects.
    shape = (len(annotated.times) + 1, rows["slot"].max() + 1, 4)
    table = np.full(shape, np.nan, dtype=np.float32)
    height, width = clip.size
    pixels = annotated.boxes[rows.index] * [width, height, width, height]
    table[rows["frame"], rows["slot"]] = pixels
    return table[used]


@lru_cache(maxsize=64)
def video_boxes(folder: Path, video: str) -> VideoBoxes | None:
    """Return a video's boxes from the annotations' folder, or None. Raises as `boxes_on`."""
    labels = _labels(folder).get(video)
    if labels is None:
        return None
    path = folder / OBJECT_LABELS
    # Times of the annotated frames: of the correspondence file if it lists them.
    numbers, frames = np.unique(labels["frame"].to_numpy(), return_inverse=True)
    times = pd.Series(numbers / _RATE, numbers)
    times.update(_times(folder).get(video, pd.Series(dtype=float)))
    order = np.argsort(times.to_numpy(), kind="stable")
    frames = np.argsort(order)[frames]

    parsed = []
    for row, text in labels["bounding_boxes"].items():
        values = np.array(_NUMBER.findall(str(text)), dtype=float)
        if len(values) % 4:
            raise ValueError(
                f"{path}, row {row}: bounding_boxes: expected boxes as "
                f"[(top, left, height, width), …], got {text} for {video}"
            )
        parsed.append(values)
    counts = np.array([len(values) // 4 for values in parsed])
    top, left, height, width = np.concatenate(parsed).reshape(-1, 4).T
    native = np.array(_resolution(folder, video), dtype=float)
    corners = np.stack([left, top, left + width, top + height], axis=1) / np.tile(native, 2)
    corners = corners.clip(0, 1)
    seen = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    frames = np.repeat(frames, counts)[seen]
    nouns = np.repeat(labels["noun_class"].to_numpy(), counts)[seen]
    return VideoBoxes(times.to_numpy()[order], frames, nouns, corners[seen])


def boxed_videos(folder: Path) -> list[str]:
    """Return the videos with object labels. Raises as `boxes_on`."""
    return list(_labels(folder))


@lru_cache(maxsize=2)  # the official file has 326,000 rows
def _labels(folder: Path) -> dict[str, pd.DataFrame]:
    path = folder / OBJECT_LABELS
    table = read_table(path, ["noun_class", "video_id", "frame", "bounding_boxes"])
    table["noun_class"] = integers(path, table, "noun_class")
    table["frame"] = integers(path, table, "frame")
    return {str(video): rows for video, rows in table.groupby("video_id")}


@lru_cache(maxsize=2)
def _times(folder: Path) -> dict[str, pd.Series]:
    """Return seconds by object frame for the videos of the correspondence file, if there is one."""
    path = folder / _CORRESPONDENCE
    if not path.is_file():
        warnings.warn(
            f"no {path}: boxes are placed by frame number at {_RATE} fps, which can be 2 s off. "
            "Get the file from epic-kitchens-55-annotations.",
            stacklevel=2,
        )
        return {}
    table = read_table(path, ["video_id", "object_frame", "timestamp"])
    table = table.drop_duplicates(["video_id", "object_frame"])
    table["object_frame"] = integers(path, table, "object_frame")
    table["seconds"] = clock_times(path, table, "timestamp")
    return {
        str(video): rows.set_index("object_frame")["seconds"]
        for video, rows in table.groupby("video_id")
    }


def _resolution(folder: Path, video: str) -> tuple[int, int]:
    """Return a video's own width and height in pixels."""
    path = folder / VIDEO_INFO
    remedy = "It gives the pixels that the boxes of objects are counted in."
    table = read_table(path, ["video", "resolution"], remedy).drop_duplicates("video")
    resolution = table.set_index("video")["resolution"].get(video)
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", str(resolution))
    if match is None:
        raise ValueError(
            f"{path}: expected a resolution such as 1920x1080 for {video}, got {resolution}"
        )
    return int(match[1]), int(match[2])
