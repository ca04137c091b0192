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
from .csv_files import data_root, folder_with, read_table
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
_COLUMNS = (
    "participant_id", "video_id", "narration", "start_timestamp", "stop_timestamp", "start_frame", "stop_frame",
    "verb", "verb_class", "noun", "noun_class",
)  # fmt: skip
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
    visor: str | PathLike[str] | None = None,
) -> Dataset:
    """Return the action segments of a part of EPIC-Kitchens; no video is touched before a clip is read.

    Videos are read by the segments' timestamps. JPEG frames (in folders, or in tars, which need not be unpacked) are
    the video at a constant rate, 60 a second for release 55's videos and 50 for those that came with 100: file n is
    its picture at (n - 1) / rate seconds, so that both show the same moments. Clips of release 55 carry the boxes of
    objects where `EPIC_train_object_labels.csv` is among the annotations: (T, K, 4), see `Clip.boxes`.

    Args:
        root: the folder that holds `EPIC-KITCHENS`, or that itself; or of release 55's older layout, with `videos`
            and `frames_rgb_flow`.
        release: 55 or 100. Their class ids differ, and are never mixed.
        subset: "train" or "validation"; release 55 has labels for "train" only.
        task: "verb" or "noun", what the classes are.
        annotations: the folder of the CSV files; by default they are looked for in root, in `annotations` in or
            beside it, and in the repository's own folder, `epic-kitchens-100-annotations`.
        source: "video" or "frames" reads only these; None takes the video where it is there, else its frames.
        frames, stride: how clips are sampled, as `read_clip` does; None reads all frames (370 MB a second at full HD).
        visor: the folder of VISOR's JSON files, sparse (`P01_01.json`), dense
            (`P01_01_interpolations.json`) or both, with `frames_to_timestamps.json`. Clips then have
            masks: the segment's action that of the active object, and further actions those of every
            hand and object, by name, see `datasets.visor.mask_actions`.

    Returns:
        A data set named by narration id (release 55: uid) whose index has `class`, `class_id`, `start`, `stop` and
        `duration` in seconds, `path` and `present`, `participant`, `video`, `narration`, `verb`, `noun` as narrated
        and their `verb_class`, `noun_class`, and the official `start_frame`, `stop_frame`, which count JPEG files.
        Segments without a class (`EPIC_train_invalid_labels.csv`) are left out.

    Raises:
        FileNotFoundError: no such folder, or no annotations; a clip that is read is not on the disk.
        ValueError: no such release, subset or task; a CSV file lacks columns, or is of the other release.
    """
    for what, value, options in (
        ("task", task, ("verb", "noun")),
        ("source", source, ("video", "frames", None)),
    ):
        if value not in options:
            raise ValueError(f"{what}: expected {' or '.join(map(repr, options))}, got {value!r}")
    file = _segment_file(release, subset)
    folder = data_root(root, "EPIC-Kitchens")
    homes = annotation_folders(folder, release, annotations)
    notes = folder_with(file, homes, _REMEDY.format(release=release))
    classes = read_classes(notes, release, task)
    index = read_segments(notes / file, release)
    ids = index[f"{task}_class"]
    beyond = ids[(ids < 0) | (ids >= len(classes))]
    if len(beyond):
        raise ValueError(
            f"{notes / file}: {task}_class {beyond.iloc[0]} of segment {beyond.index[0]} is not among the "
            f"{len(classes)} classes of release {release}: is one of the files of the other release?"
        )
    videos = index[["participant", "video"]].drop_duplicates().astype(str)
    there = locate(folder, videos, source)
    paths = {
        v: there.get(v) or expected_paths(folder, p, v, source)[0].as_posix()
        for p, v in videos.to_numpy()
    }
    index.insert(0, "class", np.array(classes, dtype=object)[ids])
    index = index.astype({"class": "str"})
    index.insert(1, "class_id", ids)
    index.insert(5, "path", index["video"].map(paths))
    index.insert(6, "present", index["video"].isin(there.index))
    boxed = notes if release == 55 and (notes / OBJECT_LABELS).is_file() else None
    masked = None if visor is None else data_root(visor, "VISOR")
    reader = _Reader(folder, source, boxed, masked)
    return Dataset(
        index, classes, reader, f"EPIC-Kitchens-{release} {subset}, {task}s", frames, stride
    )


def read_classes(notes: Path, release: int, task: str) -> list[str]:
    """Return the names of the classes by id, from the annotations' folder.

    Raises FileNotFoundError where there is no list, ValueError where it is not of this release or has gaps.
    """
    path = notes / (f"EPIC_{task}_classes.csv" if release == 55 else f"EPIC_100_{task}_classes.csv")
    columns = {55: [f"{task}_id", "class_key"], 100: ["id", "key"]}
    remedy = _REMEDY.format(release=release)
    try:
        table = read_table(path, columns[release], remedy)
    except ValueError as error:
        other = 155 - release
        try:
            read_table(path, columns[other])
        except ValueError:
            raise error from None
        raise ValueError(
            f"{path} is a list of release {other}: expected columns {', '.join(columns[release])}, got "
            f"{', '.join(columns[other])}. Ids of the releases differ; keep their lists apart. {remedy}"
        ) from None
    ids, keys = table.iloc[:, 0].tolist(), table.iloc[:, 1].astype(str).tolist()
    if ids != list(range(len(ids))) or len(set(keys)) < len(keys) or not keys:
        raise ValueError(f"{path}: expected ids 0, 1, 2, … and each name once. {remedy}")
    return keys


def read_segments(path: Path, release: int) -> pd.DataFrame:
    """Return a file's segments that have classes, by name, without the columns `class`, `class_id`, path and `present`.

    Raises FileNotFoundError where it is not there, ValueError where it lacks columns or is of the other release.
    """
    name, remedy = _NAMES[release], _REMEDY.format(release=release)
    try:
        table = read_table(path, [name, *_COLUMNS], remedy)
    except ValueError as error:
        other = 155 - release
        try:
            read_table(path, [_NAMES[other], *_COLUMNS])
        except ValueError:
            raise error from None
        raise ValueError(
            f"{path} is of release {other}: it names segments by {_NAMES[other]}, expected {name}. Ids of the releases "
            f"differ; ask for release={other}, or get the right file. {remedy}"
        ) from None
    table = table[table["verb_class"].notna() & table["noun_class"].notna()]
    if (path.parent / _INVALID).is_file() and release == 55:
        table = table[~table[name].isin(read_table(path.parent / _INVALID, [name])[name])]
    start, stop = (_seconds(path, table, f"{end}_timestamp") for end in ("start", "stop"))
    index = pd.DataFrame(
        {
            "start": start,
            "stop": stop,
            "duration": stop - start,
            "participant": table["participant_id"],
            "video": table["video_id"],
            **{key: table[key] for key in ("narration", "verb", "noun")},
            **{
                key: table[key].astype(int)
                for key in ("verb_class", "noun_class", "start_frame", "stop_frame")
            },
        }
    )
    return index.set_index(table[name].astype(str).rename("name"))


def _segment_file(release: int, subset: str) -> str:
    if release not in (55, 100):
        raise ValueError(f"release: there are 55 and 100, got {release!r}")
    if (release, subset) not in SEGMENT_FILES:
        has = " and ".join(repr(each) for number, each in SEGMENT_FILES if number == release)
        why = ""
        if subset.startswith("test"):
            why = " The labels of the test sets are not published."
        elif release == 55 and subset == "validation":
            why = " Release 55 has no validation set: hold out participants, data.subset(data.index['participant'] …)."
        raise ValueError(f"subset: release {release} has labels for {has}, got {subset!r}.{why}")
    return SEGMENT_FILES[release, subset]


def _seconds(path: Path, table: pd.DataFrame, column: str) -> pd.Series:
    """Return seconds of timestamps such as 00:00:01.70."""
    times = pd.to_timedelta(table[column], errors="coerce").dt.total_seconds()
    if times.isna().any():
        number = int(np.flatnonzero(times.isna())[0])
        raise ValueError(
            f"{path}: {column}: expected a time such as 00:00:01.70, got {table[column].iloc[number]!r} "
            f"for segment {table.iloc[number, 0]!r}"
        )
    return times


@dataclass(frozen=True)
class _Reader:
    """Reads a row of the index; can be sent to other processes."""

    root: Path
    source: str | None
    boxes: Path | None
    masks: Path | None = None

    def __call__(self, row: pd.Series, frames: int | None, stride: int | None) -> Clip:
        video, label, name = str(row["video"]), str(row["class"]), str(row.name)
        path = Path(row["path"])
        if not path.exists():
            places = expected_paths(self.root, str(row["participant"]), video, self.source)
            listing = "".join(f"\n  {place}" for place in places)
            raise FileNotFoundError(
                f"video {video} of segment {name!r} is not on the disk; expected one of{listing}\n`data.present()` has "
                "the segments whose videos are; data/README.md tells where to get the others."
            )
        start, stop = float(row["start"]), float(row["stop"])
        if path.suffix.lower() == ".mp4":
            clip = read_clip(path, frames, stride, start, stop, label=label, name=name)
        else:
            clip = read_frames_clip(
                path, frame_rate(video), frames, stride, start, stop, label=label, name=name
            )
        boxes = (
            None
            if self.boxes is None
            else boxes_on(clip, self.boxes, video, int(row["noun_class"]))
        )
        actions: tuple[Action, ...] = (Action(label, start, stop),)
        if self.masks is not None:
            masked = mask_actions(clip, self.masks, video, int(row["noun_class"]))
            if masked:
                active, *others = masked
                segment = replace(active, label=label, start=start, stop=stop)
                actions = (segment, *others)
        return replace(clip, actions=actions, boxes=boxes)
