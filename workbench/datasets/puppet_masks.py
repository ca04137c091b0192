"""JHMDB (Jhuang et al., ICCV 2013): 928 short clips of 21 classes with a mask of the actor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io

from ..clips.clip import Action, Clip
from ..clips.files import file_names
from ..clips.packets import frame_table
from ..clips.reading import read_clip
from .csv_files import data_root
from .table import Dataset

__all__ = ["boxes_of", "jhmdb"]

_REMEDY = (
    "JHMDB_video.zip, puppet_mask.zip and splits.zip are at http://jhmdb.is.tue.mpg.de/dataset"
)
# April_09_brush_hair_u_nm_np1_ba_goo_0: the film, the class, then how it was shot, and a number.
_SOURCE = re.compile(r"_[ufhl]_(?:nm|cm)_np\d+_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+$")


def jhmdb(
    root: str | PathLike[str],
    split: int = 1,
    subset: str | None = "test",
    *,
    frames: int | None = None,
    stride: int | None = None,
) -> Dataset:
    """Return the clips of JHMDB with the actor's mask and box in every frame.

    The part masks of `puppet_mask` are joined to one mask of the actor; the box is the smallest
    around it. Frames beyond the masks are marked as not annotated.

    Args:
        root: the folder that holds `puppet_mask`, `splits` and `ReCompress_Videos` (or
            `JHMDB_video/ReCompress_Videos`).
        split: 1, 2 or 3.
        subset: "train", "test" or None for both.
        frames, stride: how clips are sampled, as `read_clip` does; None reads them whole, 15 to 40
            frames.

    Returns:
        A data set whose index has `class`, `class_id`, `path`, `masks` (the file), `group` (clips
        that were cut from one film), `start`, `stop`, `duration` and `present`.

    Raises:
        FileNotFoundError: no such folder, no splits; a clip or its masks are not on the disk.
        ValueError: no such split or subset, or a file that is not as it should be.
    """
    if split not in (1, 2, 3):
        raise ValueError(f"split: JHMDB has 1, 2 and 3, got {split!r}")
    if subset not in ("train", "test", None):
        raise ValueError(f"subset: expected 'train', 'test' or None for both, got {subset!r}")
    folder = data_root(root, "JHMDB")
    lists = sorted((folder / "splits").glob(f"*_test_split{split}.txt"))
    if not lists:
        raise FileNotFoundError(
            f"no lists <class>_test_split{split}.txt in {folder / 'splits'}. {_REMEDY}"
        )
    classes = [path.name.removesuffix(f"_test_split{split}.txt") for path in lists]
    videos = folder / "ReCompress_Videos"
    if not videos.is_dir():
        videos = folder / "JHMDB_video" / "ReCompress_Videos"
    rows = []
    for class_id, path in enumerate(lists):
        label = classes[class_id]
        there = set(file_names(videos / label))
        for name, part in _read_list(path):
            if subset in (None, part):
                file = f"{name}.avi"
                rows.append(
                    {
                        "name": name,
                        "class": label,
                        "class_id": class_id,
                        "path": (videos / label / file).as_posix(),
                        "masks": (
                            folder / "puppet_mask" / label / name / "puppet_mask.mat"
                        ).as_posix(),
                        "group": _SOURCE.sub("", name),
                        "start": 0.0,
                        "stop": float("nan"),
                        "duration": float("nan"),
                        "present": file in there,
                    }
                )
    if not rows:
        raise ValueError(f"{folder / 'splits'}: the lists name no clip of {subset!r}. {_REMEDY}")
    index = pd.DataFrame(rows).set_index("name")
    title = f"JHMDB {'' if subset is None else subset + ', '}split {split}"
    return Dataset(index, classes, _Reader(), title, frames, stride)


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """Return (T, 4) float32: the smallest box around each mask (T, H, W); NaN for an empty one."""
    boxes = np.full((len(masks), 4), np.nan, dtype=np.float32)
    for frame in np.flatnonzero(masks.any(axis=(1, 2))):
        rows = np.flatnonzero(masks[frame].any(axis=1))
        columns = np.flatnonzero(masks[frame].any(axis=0))
        boxes[frame] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _read_list(path: Path) -> list[tuple[str, str]]:
    """Return each clip of a list and whether it is for "train" or "test"; 0 is for neither."""
    parts = {"1": "train", "2": "test"}
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"(\S+)\.avi\s+([012])", line.strip())
        if match is None:
            raise ValueError(
                f"{path}:{number}: expected '<name>.avi' and 0, 1 or 2; got {line!r}. {_REMEDY}"
            )
        if match[2] in parts:
            found.append((match[1], parts[match[2]]))
    return found


@dataclass(frozen=True)
class _Reader:
    """Reads a row of the index; can be sent to other processes."""

    def __call__(self, row: pd.Series, frames: int | None, stride: int | None) -> Clip:
        path, file, label = Path(row["path"]), Path(row["masks"]), str(row["class"])
        for part in (path, file):
            if not part.is_file():
                raise FileNotFoundError(
                    f"clip {row.name!r} of JHMDB is not complete on the disk; expected {part}. "
                    f"{_REMEDY}"
                )
        start = float(row["start"]) or None
        stop = None if pd.isna(row["stop"]) else float(row["stop"])
        clip = read_clip(path, frames, stride, start, stop, label=label, name=str(row.name))
        masks = _read_masks(file)
        if masks.shape[1:] != clip.size:
            raise ValueError(
                f"{file}: expected masks of the video's size {clip.size}, got {masks.shape[1:]}"
            )
        annotated = clip.indices < len(masks)
        known = np.zeros((len(clip), *clip.size), dtype=bool)
        known[annotated] = masks[clip.indices[annotated]]
        stop = frame_table(path).stop
        action = Action(label, 0.0, stop, boxes_of(known), known, annotated)
        return Clip(
            clip.frames,
            clip.fps,
            clip.times,
            clip.indices,
            path,
            label,
            name=clip.name,
            actions=(action,),
        )


def _read_masks(path: Path) -> np.ndarray:
    """Return (T, H, W) bool: the pixels of any part of the actor."""
    try:
        parts = scipy.io.loadmat(path, variable_names=["part_mask"])["part_mask"]
    except (KeyError, ValueError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"{path}: expected a MATLAB file with part_mask: {error!r}. {_REMEDY}"
        ) from error
    if parts.ndim == 2:  # MATLAB drops a last axis of length 1
        parts = parts[..., None]
    if parts.ndim != 3:
        raise ValueError(f"{path}: part_mask: expected (H, W, T), got {parts.shape}. {_REMEDY}")
    return np.moveaxis(parts > 0, -1, 0)
