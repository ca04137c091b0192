"""UCF-101 (Soomro, Zamir and Shah, CRCV-TR-12-01, 2012), as it is unpacked."""

from __future__ import annotations

from functools import partial
from os import PathLike
from pathlib import Path

import pandas as pd

from ..clips.clip import Clip
from ..clips.files import file_names
from ..clips.reading import read_clip
from .csv_files import data_root, folder_with
from .table import Dataset

__all__ = ["list_folder", "ucf101"]

_LINE = r"(?P<class>[^/]+)/(?P<name>[^/]+_g(?P<group>\d+)_c\d+)\.avi(?:\s+(?P<label>\d+))?"
_REMEDY = (
    "The lists are UCF101TrainTestSplits-RecognitionTask.zip at "
    "https://www.crcv.ucf.edu/data/UCF101.php"
)


def ucf101(
    root: str | PathLike[str],
    split: int = 1,
    subset: str = "test",
    *,
    frames: int | None = None,
    stride: int | None = None,
    annotations: str | PathLike[str] | None = None,
    backend: str | None = None,
) -> Dataset:
    """Return the clips of a part of UCF-101; no video is opened before a clip is read.

    Args:
        root: the folder that holds `UCF-101` and `ucfTrainTestlist`, or `UCF-101` itself, with the
            lists beside it or in it.
        split: 1, 2 or 3.
        subset: "train" or "test".
        frames, stride: how clips are sampled, as in `read_clip`; None reads them whole (5 s, 40 MB,
            on average).
        annotations: the folder of the lists, if it is none of the above.
        backend: the decoder, as in `read_clip`.

    Returns:
        A data set whose index has `class` (the name of the clip's folder), `class_id`, `path`,
        `group` (1-25: clips of one group are of one scene), `start` (0), `stop` and `duration`
        (NaN: to the end of the file) and `present`.

    Raises:
        FileNotFoundError: no such folder, or no lists; a clip that is read is not on the disk.
        ValueError: no such split or subset, or the lists are not UCF-101's; the message names the
            line.
    """
    if subset not in ("train", "test"):
        raise ValueError(f"subset: UCF-101 has 'train' and 'test', got {subset!r}")
    if split not in (1, 2, 3):
        raise ValueError(f"split: UCF-101 has 1, 2 and 3, got {split!r}")
    folder = data_root(root, "UCF-101")
    lists = list_folder(folder, annotations)
    classes = _read_classes(lists / "classInd.txt")
    index = _read_list(lists / f"{subset}list{split:02d}.txt", classes)
    videos = folder / "UCF-101"
    if not videos.is_dir() and _holds_classes(folder, classes):
        videos = folder
    there = {
        f"{name}/{file}" for name in index["class"].unique() for file in file_names(videos / name)
    }
    index["present"] = index["path"].isin(there)
    index["path"] = f"{videos.as_posix()}/" + index["path"]
    reader = partial(_read, backend=backend)
    return Dataset(index, classes, reader, f"UCF-101 {subset}, split {split}", frames, stride)


def list_folder(root: Path, annotations: str | PathLike[str] | None = None) -> Path:
    """Return the folder of the class list and the splits.

    Raises FileNotFoundError that names where it looked.
    """
    homes = [root, root / "UCF-101", root.parent]
    if annotations is not None:
        homes = [Path(annotations).expanduser()]
    below = ("", "ucfTrainTestlist", "ucf101/ucfTrainTestlist")
    folders = [home / folder for home in homes for folder in below]
    return folder_with("classInd.txt", folders, _REMEDY)


def _holds_classes(folder: Path, classes: list[str]) -> bool:
    return folder.name == "UCF-101" or not set(classes).isdisjoint(file_names(folder))


def _read_classes(path: Path) -> list[str]:
    lines = _lines(path)
    numbered = lines.str.extract(r"^(\d{1,9})\s+(\S+)$")
    wrong = numbered[1].isna()
    _refuse(path, lines, wrong, "a number and a class, as in '1 ApplyEyeMakeup'")
    expected = pd.Series(range(1, len(lines) + 1), lines.index)
    wrong = numbered[0].astype(int) != expected
    _refuse(path, lines, wrong, "classes numbered 1, 2, 3, …")
    _refuse(path, lines, numbered[1].duplicated(), "each class once")
    return numbered[1].tolist()


def _read_list(path: Path, classes: list[str]) -> pd.DataFrame:
    """Return class, class_id, path below the videos, group and times of a split, by name."""
    lines = _lines(path)
    found = lines.str.extract(f"^{_LINE}$")
    expected = "'<Class>/v_<Class>_gNN_cNN.avi', and in a training list the class's number"
    _refuse(path, lines, found["name"].isna(), expected)
    class_id = found["class"].map({name: number for number, name in enumerate(classes)})
    _refuse(path, lines, class_id.isna(), "a class of classInd.txt")
    label = pd.to_numeric(found["label"])
    wrong = label.notna() & (label != class_id + 1)
    _refuse(path, lines, wrong, "the number that classInd.txt gives the class (counted from 1)")
    _refuse(path, lines, found["name"].duplicated(), "each clip once")
    table = pd.DataFrame(
        {
            "class": found["class"],
            "class_id": class_id.astype(int),
            "path": found["class"] + "/" + found["name"] + ".avi",
            "group": found["group"].astype(int),
            "start": 0.0,
            "stop": float("nan"),
            "duration": float("nan"),
        }
    )
    return table.set_index(found["name"].rename("name"))


def _lines(path: Path) -> pd.Series:
    """Return a file's lines that are not empty, by their number from 1."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}. {_REMEDY}")
    # Editors on Windows put a byte order mark first: utf-8-sig drops it.
    text = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    lines = pd.Series(text, range(1, len(text) + 1), dtype=str).str.strip()
    lines = lines[lines != ""]
    if lines.empty:
        raise ValueError(f"{path} is empty. {_REMEDY}")
    return lines


def _refuse(path: Path, lines: pd.Series, wrong: pd.Series, expected: str) -> None:
    if wrong.any():
        number = lines.index[wrong.to_numpy()][0]
        raise ValueError(f"{path}:{number}: expected {expected}; got {lines[number]!r}. {_REMEDY}")


def _read(row: pd.Series, frames: int | None, stride: int | None, backend: str | None) -> Clip:
    path = Path(row["path"])
    if not path.is_file():
        raise FileNotFoundError(
            f"clip {row.name!r} of UCF-101 is not on the disk; expected {path}. `data.present()` "
            "has the clips that are; data/README.md says where to get UCF101.rar and where to "
            "unpack it."
        )
    return read_clip(
        path,
        frames,
        stride,
        start=float(row["start"]) or None,
        stop=None if pd.isna(row["stop"]) else float(row["stop"]),
        label=row["class"],
        name=str(row.name),
        backend=backend,
    )
