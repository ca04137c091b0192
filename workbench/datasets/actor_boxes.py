"""UCF101-24: a box around each actor in every frame, for 24 classes of UCF-101.

Annotations of Soomro et al. as corrected by Singh et al., "Online Real-time Multiple Spatiotemporal
Action Localisation and Prediction" (ICCV 2017), in either of the formats in use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from ..clips.clip import Action, Clip
from ..clips.files import file_names
from ..clips.packets import frame_table
from ..clips.reading import read_clip
from .array_pickles import load_arrays
from .csv_files import data_root, folder_with
from .table import Dataset

__all__ = ["ActorTube", "read_actors", "ucf101_24"]

FILES = ("pyannot.pkl", "UCF101v2-GT.pkl", "pyannot_with_class_names.pkl")
CLASSES = (
    "Basketball", "BasketballDunk", "Biking", "CliffDiving", "CricketBowling", "Diving", "Fencing",
    "FloorGymnastics", "GolfSwing", "HorseRiding", "IceDancing", "LongJump", "PoleVault",
    "RopeClimbing", "SalsaSpin", "SkateBoarding", "Skiing", "Skijet", "SoccerJuggling", "Surfing",
    "TennisSwing", "TrampolineJumping", "VolleyballSpiking", "WalkingWithDog",
)  # fmt: skip
SIZE = (240, 320)  # height and width of the frames that boxes are counted in
TEST_GROUPS = 7  # split 1 tests on the groups 1 to 7 of every class
_REMEDY = "pyannot.pkl is at https://github.com/gurkirt/corrected-UCF101-Annots"
_NAME = re.compile(r"([^/]+)/(v_.+_g(\d+)_c\d+)")


@dataclass(frozen=True, eq=False)
class ActorTube:
    """One actor of a video.

    Attributes:
        label: class id, 0-based.
        first: 0-based number of the first frame with a box.
        boxes: (n, 4) float32 (x0, y0, x1, y1) in the frames from `first` on, 0-based pixels of
            320×240, half-open, NaN for a frame without a box.
    """

    label: int
    first: int
    boxes: np.ndarray


ActorTubes: TypeAlias = dict[str, list[ActorTube]]


def ucf101_24(
    root: str | PathLike[str],
    annotations: str | PathLike[str] | None = None,
    split: int = 1,
    subset: str | None = "test",
    *,
    frames: int | None = None,
    stride: int | None = None,
) -> Dataset:
    """Return the videos of UCF101-24 with a box per actor and frame.

    No video is touched before a clip is read. Each actor of a clip is an `Action` with the boxes
    and the interval of its tube; the actions of a clip are ordered as annotated.

    Args:
        root: the folder that holds `UCF-101`, or that itself.
        annotations: `pyannot.pkl` or `UCF101v2-GT.pkl`, or a folder with one of them; None: looked
            for in root and beside it. Pickles are read by an unpickler that knows arrays only.
        split: 1, the only one that is annotated officially.
        subset: "train", "test" or None for both.
        frames, stride: how clips are sampled, as `read_clip` does; None reads them whole.

    Returns:
        A data set whose index has `class`, `class_id` (0 to 23), `path`, `group` (1 to 25; clips of
        one class and group are of one scene), `start`, `stop`, `duration`, `actors`, `boxes` (how
        many) and `present`.

    Raises:
        FileNotFoundError: no such folder or no annotations.
        ValueError: no such split or subset, or a file that is not as it should be.
    """
    if split != 1:
        raise ValueError(f"split: UCF101-24 has the official split 1, got {split!r}")
    if subset not in ("train", "test", None):
        raise ValueError(f"subset: expected 'train', 'test' or None for both, got {subset!r}")
    folder = data_root(root, "UCF-101")
    actors = read_actors(_annotation_file(folder, annotations))
    rows = [_row(name, tubes) for name, tubes in actors.items()]
    index = pd.DataFrame(rows).set_index("name")
    if subset is not None:
        testing = index["group"] <= TEST_GROUPS
        index = index[testing if subset == "test" else ~testing]
    videos = folder / "UCF-101" if (folder / "UCF-101").is_dir() else folder
    there = {
        f"{name}/{file}" for name in index["class"].unique() for file in file_names(videos / name)
    }
    index["present"] = index["path"].isin(there)
    index["path"] = f"{videos.as_posix()}/" + index["path"]
    by_clip = {name.partition("/")[2]: tubes for name, tubes in actors.items()}
    title = "UCF101-24" if subset is None else f"UCF101-24 {subset}, split 1"
    return Dataset(index, list(CLASSES), _Reader(by_clip), title, frames, stride)


def read_actors(path: Path) -> ActorTubes:
    """Return the actors of each video, by `<Class>/<name>`, from a file of either format.

    `pyannot.pkl` has boxes (x, y, w, h), `UCF101v2-GT.pkl` has (x1, y1, x2, y2) with x2 = x + w.
    Both count pixels from 1.

    Raises:
        ValueError: the file is no pickle of arrays, or is laid out in another way.
    """
    content = load_arrays(path)
    try:
        if "gttubes" in content:
            return {
                str(video): [
                    _corner_tube(int(label), tube)
                    for label, tubes in by_label.items()
                    for tube in tubes
                ]
                for video, by_label in content["gttubes"].items()
            }
        videos = content.get("db", content)
        return {
            str(video): [_size_tube(tube) for tube in entry["annotations"]]
            for video, entry in videos.items()
        }
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{path}: expected the layout of pyannot.pkl or UCF101v2-GT.pkl, and "
            f"{type(error).__name__}: {error}. {_REMEDY}"
        ) from error


def _size_tube(tube: dict[str, Any]) -> ActorTube:
    """Return an actor from the layout of pyannot.pkl."""
    first, beyond = int(tube["sf"]), int(tube["ef"])
    # Cast before adding: the file holds uint8, in which x + w overflows.
    boxes = np.asarray(tube["boxes"]).astype(np.float32)
    if boxes.shape != (beyond - first, 4):
        raise ValueError(f"expected {beyond - first} boxes, one a frame, got {boxes.shape}")
    boxes[:, :2] -= 1
    boxes[:, 2:] += boxes[:, :2]
    return ActorTube(int(tube["label"]), first, boxes)


def _corner_tube(label: int, tube: np.ndarray) -> ActorTube:
    """Return an actor from the layout of UCF101v2-GT.pkl: (n, 5) frame, x1, y1, x2, y2."""
    rows = np.asarray(tube).astype(np.float32)
    if rows.ndim != 2 or rows.shape[1] != 5 or not len(rows):
        raise ValueError(f"expected rows of frame, x1, y1, x2, y2, got {rows.shape}")
    numbers = rows[:, 0].astype(np.int64) - 1
    first = int(numbers.min())
    boxes = np.full((int(numbers.max()) + 1 - first, 4), np.nan, dtype=np.float32)
    boxes[numbers - first] = rows[:, 1:] - 1
    return ActorTube(label, first, boxes)


def _annotation_file(root: Path, annotations: str | PathLike[str] | None) -> Path:
    if annotations is not None:
        given = Path(annotations).expanduser().absolute()
        if given.is_file():
            return given
        homes = [given]
    else:
        homes = [root, root / "UCF-101", root.parent]
    folders = [home / below for home in homes for below in ("", "annotations", "ucf101-24")]
    for file in FILES:
        for folder in folders:
            if (folder / file).is_file():
                return folder / file
    return folder_with(FILES[0], folders, _REMEDY)  # raises, and says where it looked


def _row(name: str, tubes: list[ActorTube]) -> dict[str, object]:
    match = _NAME.fullmatch(name)
    labels = {tube.label for tube in tubes}
    if match is None or match[1] not in CLASSES:
        raise ValueError(f"expected a video as '<Class>/v_<Class>_gNN_cNN', got {name!r}")
    class_id = CLASSES.index(match[1])
    if not labels <= {class_id}:
        raise ValueError(f"{name}: expected class {class_id} for every actor, got {labels}")
    return {
        "name": match[2],
        "class": match[1],
        "class_id": class_id,
        "path": f"{name}.avi",
        "group": int(match[3]),
        "start": 0.0,
        "stop": float("nan"),
        "duration": float("nan"),
        "actors": len(tubes),
        "boxes": sum(len(tube.boxes) for tube in tubes),
    }


@dataclass(frozen=True)
class _Reader:
    """Reads a row of the index; can be sent to other processes."""

    actors: ActorTubes

    def __call__(self, row: pd.Series, frames: int | None, stride: int | None) -> Clip:
        path, name = Path(row["path"]), str(row.name)
        if not path.is_file():
            raise FileNotFoundError(
                f"clip {name!r} of UCF-101 is not on the disk; expected {path}. `data.present()` "
                "has the clips that are; data/README.md says where to get UCF101.rar."
            )
        start = float(row["start"]) or None
        stop = None if pd.isna(row["stop"]) else float(row["stop"])
        clip = read_clip(path, frames, stride, start, stop, label=row["class"], name=name)
        table = frame_table(path)
        ends = np.append(table.times, table.stop)
        actions = [_action(clip, actor, ends, row["class"]) for actor in self.actors[name]]
        return Clip(
            clip.frames, clip.fps, clip.times, clip.indices, path, row["class"], name=name,
            actions=tuple(actions),
        )  # fmt: skip


def _action(clip: Clip, actor: ActorTube, ends: np.ndarray, label: str) -> Action:
    """Return an actor's boxes in the frames of a clip, and its interval in seconds.

    `ends` are the times of all frames of the file, and of its end.
    """
    last = len(ends) - 1
    beyond = actor.first + len(actor.boxes)
    place = clip.indices - actor.first
    inside = (place >= 0) & (place < len(actor.boxes))
    boxes = np.full((len(clip), 4), np.nan, dtype=np.float32)
    boxes[inside] = actor.boxes[place[inside]]
    height, width = clip.size
    boxes *= np.array([width / SIZE[1], height / SIZE[0]] * 2, dtype=np.float32)
    return Action(label, float(ends[min(actor.first, last)]), float(ends[min(beyond, last)]), boxes)
