"""VISOR (Darkhalil et al., NeurIPS 2022): masks of hands and objects on EPIC-Kitchens.

Sparse annotations are drawn by people, about two frames an action, in 1920×1080. Dense ones are
interpolated between those, in 854×480. A frame is located by its time, never by its number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage.draw

from ..clips.clip import Action, Clip
from .epic_layout import frame_rate

__all__ = ["MaskedFrame", "mask_actions", "masked_frames"]

SPARSE_SIZE = (1080, 1920)  # height and width in which polygons are drawn
DENSE_SIZE = (480, 854)
FARTHEST = 0.1  # seconds from an annotated frame to the clip's frame that takes its masks
TIMES = "frames_to_timestamps.json"
_REMEDY = (
    "VISOR is at https://data.bris.ac.uk/data/dataset/2v6cgv1x04ol22qp9rm9x2j6a7, its "
    f"{TIMES} at https://github.com/epic-kitchens/VISOR-FrameExtraction"
)
_FRAME = re.compile(r"(P\d+_\d+)_frame_(\d+)\.\w+")


@dataclass(frozen=True, eq=False)
class MaskedFrame:
    """An annotated frame: its time in seconds, the size polygons are drawn in, and its entities."""

    time: float
    size: tuple[int, int]
    interpolated: bool
    entities: list[dict[str, Any]]


def mask_actions(clip: Clip, folder: Path, video: str, noun: int) -> tuple[Action, ...]:
    """Return an action for every hand and object that is masked in a clip, labelled by its name.

    The first one is the active object, labelled "active object": what is of the segment's `noun`,
    else what a hand is in contact with. An annotated frame belongs to the clip's frame nearest in
    time, at most `FARTHEST` away. Several annotated frames at one frame of the clip: the nearest,
    drawn before interpolated. All actions share `annotated` and `interpolated`. Empty if nothing is
    annotated near the clip.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or is not as it should be.
    """
    chosen = _nearest_frames(clip, masked_frames(folder, video))
    if not chosen:
        return ()
    annotated = np.zeros(len(clip), dtype=bool)
    interpolated = np.zeros(len(clip), dtype=bool)
    masks: dict[str, np.ndarray] = {}

    def add(name: str, place: int, mask: np.ndarray) -> None:
        stack = masks.setdefault(name, np.zeros((len(clip), *clip.size), dtype=bool))
        stack[place] |= mask

    add("active object", 0, np.zeros(clip.size, dtype=bool))
    for place, frame in chosen.items():
        annotated[place], interpolated[place] = True, frame.interpolated
        active = _active(frame.entities, noun)
        for entity in frame.entities:
            mask = _filled(entity["segments"], frame.size, clip.size)
            add(str(entity["name"]), place, mask)
            if id(entity) in active:
                add("active object", place, mask)
    start, stop = float(clip.times[0]), float(clip.times[-1]) + 1 / clip.fps
    return tuple(
        Action(name, start, stop, masks=stack, annotated=annotated, interpolated=interpolated)
        for name, stack in masks.items()
    )


@lru_cache(maxsize=4)  # the dense file of a long video holds a hundred thousand polygons
def masked_frames(folder: Path, video: str) -> tuple[MaskedFrame, ...]:
    """Return the annotated frames of a video, sparse and dense, ascending in time."""
    if not folder.is_dir():
        raise FileNotFoundError(f"visor: no folder {folder}. {_REMEDY}")
    files = sorted({*folder.rglob(f"{video}.json"), *folder.rglob(f"{video}_interpolations.json")})
    frames = []
    for path in files:
        dense = path.stem.endswith("_interpolations")
        for entry in _entries(path):
            try:
                time = _time(folder, str(entry["image"]["name"]))
                entities = list(entry["annotations"])
                drawn = _drawn(entry) if dense else True
                complete = all("name" in each and "segments" in each for each in entities)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}: {type(error).__name__}: {error}. {_REMEDY}") from error
            if not complete:
                raise ValueError(f"{path}: an annotation has no name or no segments. {_REMEDY}")
            size = DENSE_SIZE if dense else SPARSE_SIZE
            frames.append(MaskedFrame(time, size, not drawn, entities))
    return tuple(sorted(frames, key=lambda frame: frame.time))


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["video_annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected JSON with video_annotations: {error!r}. {_REMEDY}"
        ) from error


def _drawn(entry: dict[str, Any]) -> bool:
    """Return whether a frame of the dense annotations was drawn (type 1), not interpolated (0)."""
    types = [entry["type"]] if "type" in entry else []
    types += [entry["image"]["type"]] if "type" in entry["image"] else []
    types += [entity["type"] for entity in entry["annotations"] if "type" in entity]
    return bool(types) and all(int(kind) == 1 for kind in types)


@lru_cache(maxsize=2)
def _times(folder: Path) -> dict[str, float]:
    """Return the official times by image name; empty without the file."""
    for home in (folder, folder / "annotations", folder.parent):
        path = home / TIMES
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            return content.get("timestamps", content)
    return {}


def _time(folder: Path, image: str) -> float:
    """Return when an image is shown; by its number only if it has no official time."""
    official = _times(folder).get(image)
    if official is not None:
        return float(official)
    match = _FRAME.fullmatch(image)
    if match is None:
        raise ValueError(f"expected an image such as P01_01_frame_0000000001.jpg, got {image!r}")
    return (int(match[2]) - 1) / frame_rate(match[1])


def _nearest_frames(clip: Clip, frames: tuple[MaskedFrame, ...]) -> dict[int, MaskedFrame]:
    """Return the annotated frame of each of the clip's frames that has one."""
    gaps = np.diff(clip.times)
    ends = (gaps[0], gaps[-1]) if len(gaps) else (1 / clip.fps, 1 / clip.fps)
    low, high = clip.times[0] - ends[0] / 2, clip.times[-1] + ends[1] / 2
    chosen: dict[int, MaskedFrame] = {}

    def rank(place: int, frame: MaskedFrame) -> tuple[bool, float]:
        return frame.interpolated, abs(clip.times[place] - frame.time)

    for frame in frames:
        place = int(np.abs(clip.times - frame.time).argmin())
        near = abs(clip.times[place] - frame.time) <= FARTHEST
        if near and low <= frame.time <= high:
            known = chosen.get(place)
            if known is None or rank(place, frame) < rank(place, known):
                chosen[place] = frame
    return dict(sorted(chosen.items()))


def _active(entities: list[dict[str, Any]], noun: int) -> set[int]:
    """Return the ids (of Python) of the entities that are the active object."""
    own = {id(entity) for entity in entities if entity.get("class_id") == noun}
    if own:
        return own
    touched = {entity.get("in_contact_object") for entity in entities} - {None, ""}
    return {id(entity) for entity in entities if entity.get("id") in touched}


def _filled(
    segments: list[list[list[float]]], drawn: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Return (H, W) bool: the pixels whose centre is in the polygons; one in another is a hole."""
    mask = np.zeros(size, dtype=bool)
    for points in _polygons(segments):
        rows = points[:, 1] * size[0] / drawn[0] - 0.5
        columns = points[:, 0] * size[1] / drawn[1] - 0.5
        mask ^= skimage.draw.polygon2mask(size, np.stack([rows, columns], axis=1))
    return mask


def _polygons(segments: list[list[list[float]]]) -> Iterator[np.ndarray]:
    for segment in segments:
        points = np.asarray(segment, dtype=np.float64)
        if points.ndim == 2 and points.shape[1] == 2 and len(points) >= 3:
            yield points
