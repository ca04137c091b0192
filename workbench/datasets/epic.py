"""EPIC-Kitchens 55 and 100 (Damen et al., ECCV 2018 and IJCV 2022), as they are downloaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from ..clips.clip import Action, Clip
from ..clips.frame_folders import read_frames_clip
from ..clips.reading import read_clip
from .csv_files import clock_times, data_root, folder_with, integers, read_table
from .epic_layout import annotation_folders, expected_paths, frame_rate, locate
from .object_boxes import OBJECT_LABELS, boxes_on
from .table import Dataset
from .visor import mask_actions

__all__ = ["SEGMENT_FILES", "epic_kitchens", "read_classes", "read_segments"]

# Segments with labels, by release and subset.
SEGMENT_FILES = {
    (55, "train"): "EPIC_train_action_labels.csv",
    (100, "train"): "EPIC_100_train.csv",
    (100, "validation"): "EPIC_100_validation.csv",
}
_INVALID = "EPIC_train_invalid_labels.csv"
_NAMES = {55: "uid", 100: "narration_id"}
_COUNTS = ("verb_class", "noun_class", "start_frame", "stop_frame")
_COLUMNS = (
    "participant_id",
    "video_id",
    "narration",
    "start_timestamp",
    "stop_timestamp",
    "verb",
    "noun",
    *_COUNTS,
)
_REMEDY = (
    "The annotations are at https://github.com/epic-kitchens/epic-kitchens-{release}-annotations"
)


def epic_kitchens(
    root: str | PathLike[str],
    release: int = 100,
    subset: str = "validation",
    task: str = "verb",
    annotations: str | PathLike[str] | None = None,
    *,
    source: str | None = None,
    frames: int | None = 16,
    stride: int | None = None,
    backend: str | None = None,
    visor: str | PathLike[str] | None = None,
) -> Dataset:
    """Return the action segments of a part of EPIC-Kitchens; no video is opened before a read.

    Videos are read by the segments' timestamps. JPEG frames (in folders, or in tars, which need not
    be unpacked) are the video at a constant rate, 60 a second for release 55's videos and 50 for
    those that came with 100: file n is its picture at (n - 1) / rate seconds, so both show the same
    moments. Clips of release 55 carry the boxes of objects if `EPIC_train_object_labels.csv` is
    among the annotations: (T, K, 4), see `Clip.boxes`.

    Args:
        root: the folder that holds `EPIC-KITCHENS`, or that itself; or of release 55's older
            layout, with `videos` and `frames_rgb_flow`.
        release: 55 or 100. Their class ids differ, and are never mixed.
        subset: "train" or "validation"; release 55 has labels for "train" only.
        task: "verb" or "noun", what the classes are.
        annotations: the folder of the CSV files. Default: root, `annotations` in or beside it, or
            the repository's own folder, `epic-kitchens-100-annotations`.
        source: "video" or "frames" reads only these; None takes the video if it is there, else its
            frames.
        frames, stride: how clips are sampled, as in `read_clip`; None reads all frames (370 MB a
            second at full HD).
        backend: the decoder of videos, as in `read_clip`.
        visor: the folder of VISOR's JSON files, sparse (`P01_01.json`), dense
            (`P01_01_interpolations.json`) or both, with `frames_to_timestamps.json`. Clips then
            have masks: the segment's action that of the active object, and further actions those
            of every hand and object, by name, see `datasets.visor.mask_actions`.

    Returns:
        A data set named by narration id (release 55: uid) whose index has `class`, `class_id`,
        `start`, `stop` and `duration` in seconds, `path` and `present`, `participant`, `video`,
        `narration`, `verb`, `noun` as narrated and their `verb_class`, `noun_class`, and the
        official `start_frame`, `stop_frame`, which count JPEG files. Segments without a class
        (`EPIC_train_invalid_labels.csv`) are left out.

    Raises:
        FileNotFoundError: no such folder, or no annotations; a clip that is read is not on the
            disk.
        ValueError: no such release, subset or task; a CSV file lacks columns, has a cell that
            cannot be read (the message names file, row and column), or is of the other release.
    """
    options = {"task": (task, ("verb", "noun")), "source": (source, ("video", "frames", None))}
    for name, (value, allowed) in options.items():
        if value not in allowed:
            expected = " or ".join(map(repr, allowed))
            raise ValueError(f"{name}: expected {expected}, got {value!r}")
    file = _segment_file(release, subset)
    folder = data_root(root, "EPIC-Kitchens")
    homes = annotation_folders(folder, release, annotations)
    notes = folder_with(file, homes, _REMEDY.format(release=release))
    classes = read_classes(notes, release, task)
    index = read_segments(notes / file, release)

    ids = index[f"{task}_class"]
    beyond = ids[ids >= len(classes)]
    if len(beyond):
        raise ValueError(
            f"{notes / file}: {task}_class {beyond.iloc[0]} of segment {beyond.index[0]} is not "
            f"among the {len(classes)} classes of release {release}: is one of the files of the "
            "other release?"
        )
    # Only the folders of the participants are listed.
    videos = index[["participant", "video"]].drop_duplicates()
    there = locate(folder, videos, source)
    paths = {}
    for participant, video in videos.to_numpy():
        expected_path = expected_paths(folder, participant, video, source)[0]
        paths[video] = there.get(video) or expected_path.as_posix()

    index.insert(0, "class", np.array(classes, dtype=object)[ids])
    index = index.astype({"class": "str"})
    index.insert(1, "class_id", ids)
    index.insert(5, "path", index["video"].map(paths))
    index.insert(6, "present", index["video"].isin(there.index))
    boxed = notes if release == 55 and (notes / OBJECT_LABELS).is_file() else None
    masked = None if visor is None else data_root(visor, "VISOR")
    reader = _Reader(folder, source, boxed, backend, masked)
    title = f"EPIC-Kitchens-{release} {subset}, {task}s"
    return Dataset(index, classes, reader, title, frames, stride)


def read_classes(notes: Path, release: int, task: str) -> list[str]:
    """Return the names of the classes by id, from the annotations' folder.

    Raises FileNotFoundError if there is no list, ValueError if it is not of this release or has
    gaps.
    """
    path = notes / (f"EPIC_{task}_classes.csv" if release == 55 else f"EPIC_100_{task}_classes.csv")
    columns = {55: [f"{task}_id", "class_key"], 100: ["id", "key"]}
    remedy = _REMEDY.format(release=release)
    try:
        table = read_table(path, columns[release], remedy)
    except ValueError as error:
        other = 155 - release
        if not _has_columns(path, columns[other]):
            raise error from None
        raise ValueError(
            f"{path} is a list of release {other}: expected columns {', '.join(columns[release])}, "
            f"got {', '.join(columns[other])}. Ids of the releases differ; keep their lists apart. "
            f"{remedy}"
        ) from None
    id_column, name_column = columns[release]
    ids = integers(path, table, id_column).tolist()
    names = table[name_column].tolist()
    complete = table[name_column].notna().all() and len(set(names)) == len(names) > 0
    if ids != list(range(len(ids))) or not complete:
        raise ValueError(f"{path}: expected ids 0, 1, 2, … and each name once. {remedy}")
    return names


def read_segments(path: Path, release: int) -> pd.DataFrame:
    """Return a file's segments that have classes, by name.

    The columns `class`, `class_id`, `path` and `present` are left to `epic_kitchens`. Raises
    FileNotFoundError if the file is not there, ValueError if it cannot be read, see there.
    """
    name = _NAMES[release]
    remedy = _REMEDY.format(release=release)
    try:
        table = read_table(path, [name, *_COLUMNS], remedy)
    except ValueError as error:
        other = 155 - release
        if not _has_columns(path, [_NAMES[other], *_COLUMNS]):
            raise error from None
        raise ValueError(
            f"{path} is of release {other}: it names segments by {_NAMES[other]}, expected {name}. "
            f"Ids of the releases differ; ask for release={other}, or get the right file. {remedy}"
        ) from None
    # Some official rows have no class.
    table = table[table["verb_class"].notna() & table["noun_class"].notna()]
    invalid = path.parent / _INVALID
    if release == 55 and invalid.is_file():
        table = table[~table[name].isin(read_table(invalid, [name])[name])]
    _check_ids(path, table, name)
    start = clock_times(path, table, "start_timestamp")
    stop = clock_times(path, table, "stop_timestamp")
    index = pd.DataFrame(
        {
            "start": start,
            "stop": stop,
            "duration": stop - start,
            "participant": table["participant_id"],
            "video": table["video_id"],
            "narration": table["narration"],
            "verb": table["verb"],
            "noun": table["noun"],
            **{column: integers(path, table, column) for column in _COUNTS},
        }
    )
    return index.set_index(table[name].rename("name"))


def _check_ids(path: Path, table: pd.DataFrame, name: str) -> None:
    """Raise ValueError unless names are unique, and ids are those of files within the data set."""
    for column in (name, "participant_id", "video_id"):
        # An id with a slash or dots would lead out of the data set's folder.
        wrong = ~table[column].str.fullmatch(r"[A-Za-z0-9_-]+").fillna(False).astype(bool)
        if wrong.any():
            row = table.index[wrong][0]
            raise ValueError(
                f"{path}, row {row}: {column}: expected letters, digits, - and _; "
                f"got {table.at[row, column]!r}"
            )
    repeated = table[name].duplicated()
    if repeated.any():
        row = table.index[repeated][0]
        raise ValueError(f"{path}, row {row}: {name} {table.at[row, name]!r} occurs twice")


def _has_columns(path: Path, columns: list[str]) -> bool:
    try:
        read_table(path, columns)
    except ValueError:
        return False
    return True


def _segment_file(release: int, subset: str) -> str:
    if release not in (55, 100):
        raise ValueError(f"release: there are 55 and 100, got {release!r}")
    if (release, subset) not in SEGMENT_FILES:
        has = " and ".join(repr(part) for number, part in SEGMENT_FILES if number == release)
        why = ""
        if str(subset).startswith("test"):
            why = " The labels of the test sets are not published."
        elif release == 55 and subset == "validation":
            why = (
                " Release 55 has no validation set: hold out participants, "
                "data.subset(data.index['participant'] …)."
            )
        raise ValueError(f"subset: release {release} has labels for {has}, got {subset!r}.{why}")
    return SEGMENT_FILES[release, subset]


@dataclass(frozen=True)
class _Reader:
    """Reads a row of the index; can be sent to other processes."""

    root: Path
    source: str | None
    boxes: Path | None
    backend: str | None = None
    masks: Path | None = None

    def __call__(self, row: pd.Series, frames: int | None, stride: int | None) -> Clip:
        video = str(row["video"])
        name = str(row.name)
        label = str(row["class"])
        path = Path(row["path"])
        if not path.exists():
            places = expected_paths(self.root, str(row["participant"]), video, self.source)
            listing = "".join(f"\n  {place}" for place in places)
            raise FileNotFoundError(
                f"video {video} of segment {name!r} is not on the disk; expected one of{listing}\n"
                "`data.present()` has the segments whose videos are; data/README.md says where to "
                "get the others."
            )
        start = float(row["start"])
        stop = float(row["stop"])
        if path.suffix.lower() == ".mp4":
            clip = read_clip(
                path, frames, stride, start, stop, label=label, name=name, backend=self.backend
            )
        else:
            rate = frame_rate(video)
            clip = read_frames_clip(path, rate, frames, stride, start, stop, label=label, name=name)
        boxes = None
        if self.boxes is not None:
            boxes = boxes_on(clip, self.boxes, video, int(row["noun_class"]))
        actions: tuple[Action, ...] = (Action(label, start, stop),)
        if self.masks is not None:
            masked = mask_actions(clip, self.masks, video, int(row["noun_class"]))
            if masked:
                active, *others = masked
                segment = replace(active, label=label, start=start, stop=stop)
                actions = (segment, *others)
        return replace(clip, actions=actions, boxes=boxes)
