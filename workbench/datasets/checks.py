"""Whether data sets on a disk are whole: annotations, files, and that segments lie within their videos."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm.auto import tqdm

from ..clips.frame_folders import frame_index
from ..clips.reading import read_clip
from ..clips.videos import video_info
from .csv_files import read_table
from .epic import SEGMENT_FILES, epic_kitchens
from .epic_layout import annotation_folders, frame_rate
from .object_boxes import OBJECT_LABELS, VIDEO_INFO, boxed_videos, video_boxes
from .places import find_data
from .table import Dataset
from .ucf import list_folder, ucf101

__all__ = ["Report", "check_data"]

_SIGNS = {  # what tells that a folder holds a data set
    "ucf101": ("UCF-101", "ucfTrainTestlist", "classInd.txt"),
    "epic-kitchens": (
        "EPIC-KITCHENS", "EPIC_KITCHENS_2018", "frames_rgb_flow", "videos/train", "P01", "EPIC_*.csv",
        "annotations/EPIC_*.csv", "epic-kitchens-*-annotations",
    ),
}  # fmt: skip
_SUBSETS = ("train", "test")
_SEEN = 16  # frames that are decoded of each video
_MOST = 16  # processes
_ALONE = 64  # so many files are not worth a second process, which takes seconds to start


@dataclass(frozen=True)
class Report:
    """What `check_data` found.

    Attributes:
        summary: DataFrame, a row a part of a data set: `segments`, `classes`, `files`, and how many of the files are
            `missing` or `unreadable`, and of the segments `outside` their video.
        problems: DataFrame, a row a problem: `data set`, `problem` (its kind), `where`, `what`.
    """

    summary: pd.DataFrame
    problems: pd.DataFrame

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.problems.empty

    def text(self, limit: int | None = 10) -> str:
        """Return summary and problems to print, at most `limit` problems of a kind in each data set."""
        parts = [self.summary.to_string()] if len(self.summary) else []
        for (data, kind), rows in self.problems.groupby(["data set", "problem"], sort=False):
            told = rows[["where", "what"]].to_numpy()[:limit]
            lines = [
                f"  {what}" if what.startswith(where) else f"  {where}: {what}"
                for where, what in told
            ]
            more = len(rows) - len(lines)
            lines += [f"  … and {more} more"] if more else []
            parts.append("\n".join([f"{data}, {kind}: {len(rows)}", *lines]))
        parts.append("Nothing is wrong." if self.ok else f"Problems: {len(self.problems)}.")
        return "\n\n".join(parts)


class _Problem(NamedTuple):
    kind: str
    where: str
    what: str


class _Seen(NamedTuple):
    """What a video is found to be: its length in seconds and frame rate (0 where unknown), and what is wrong."""

    seconds: float
    fps: float
    wrong: str


class _Part(NamedTuple):
    """A part of a data set: how to load it, and what is told of its videos, `duration` in seconds and `fps`."""

    title: str
    load: Callable[[], Dataset]
    told: pd.DataFrame | None = None


@dataclass
class _Findings:
    kind: str = "data"
    rows: dict[str, dict[str, object]] = field(default_factory=dict)
    problems: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, problem: str, where: object, what: object) -> None:
        self.problems.append((self.kind, problem, str(where), str(what)))

    def report(self) -> Report:
        columns = ["segments", "classes", "files", "missing", "unreadable", "outside"]
        summary = pd.DataFrame.from_dict(self.rows, orient="index", columns=columns)
        return Report(
            summary, pd.DataFrame(self.problems, columns=["data set", "problem", "where", "what"])
        )


def check_data(
    root: str | PathLike[str] | None = None,
    annotations: str | PathLike[str] | None = None,
    *,
    decode: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Check data sets on a disk, and go on whatever is found; nothing is raised for what is wrong with them.

    Args:
        root: the folder of UCF-101 or EPIC-Kitchens, or one that has them as `ucf101` and `epic-kitchens`. None checks
            both where `wb.find_data` finds them.
        annotations: the folder of lists or CSV files, where they are not with the data.
        decode: whether to decode 16 frames of each video; otherwise headers, and the lists of frames, are read.
        workers: processes that read files, at most 16; None is one a processor.
        progress: whether to show a bar.
    """
    found = _Findings()
    for kind, folder in _data_sets(root, found):
        found.kind = kind
        loaded = []
        for part in (_ucf_parts if kind == "ucf101" else _epic_parts)(folder, annotations, found):
            try:
                loaded.append((part, part.load()))
            except (OSError, ValueError, KeyError) as error:
                found.add("annotations", part.title, error)
        paths = sorted({path for _, data in loaded for path in data.present().index["path"]})
        seen = _inspect_all(paths, decode, workers, f"{kind}: files" if progress else None)
        known: set[_Problem] = set()  # what two parts share is told once
        for part, data in loaded:
            problems = list(dict.fromkeys(_judge(data, seen, part.told)))
            kinds = [each.kind for each in problems]
            found.rows[part.title] = {
                "segments": len(data),
                "classes": len(data.classes),
                "files": data.index["path"].nunique(),
                **{each: kinds.count(each) for each in ("missing", "unreadable", "outside")},
            }
            for problem in problems:
                if problem not in known:
                    found.add(*problem)
            known.update(problems)
    return found.report()


def _data_sets(root: str | PathLike[str] | None, found: _Findings) -> list[tuple[str, Path]]:
    """Return which data sets are to be checked, and their folders."""
    places = []
    if root is None:
        for kind in _SIGNS:
            try:
                places.append((kind, find_data(kind).root))
            except FileNotFoundError as error:
                found.add("folder", kind, error)
        return places
    folder = Path(root).expanduser().absolute()
    if not folder.is_dir():
        found.add("folder", folder, "there is no such folder")
        return []
    for kind, signs in _SIGNS.items():
        homes = [home for home in (folder, folder / kind) if home.is_dir()]
        places += [
            (kind, home)
            for home in homes
            if home.name == signs[0] or any(any(home.glob(s)) for s in signs)
        ][:1]
    if not places:
        expected = "; or ".join(f"{', '.join(signs)} ({kind})" for kind, signs in _SIGNS.items())
        found.add(
            "folder", folder, f"holds none of {expected}. data/README.md tells what goes where"
        )
    return places


def _ucf_parts(
    root: Path, annotations: str | PathLike[str] | None, found: _Findings
) -> Iterator[_Part]:
    """Yield the parts of UCF-101 of whose split there is a list."""
    try:
        lists = list_folder(root, annotations)
    except FileNotFoundError as error:
        found.add("annotations", root, error)
        return
    splits = [
        n
        for n in (1, 2, 3)
        if any((lists / f"{subset}list{n:02d}.txt").is_file() for subset in _SUBSETS)
    ]
    if not splits:
        found.add(
            "annotations", lists, "no list of a split: expected trainlist01.txt and testlist01.txt"
        )
    for split in splits:
        for subset in _SUBSETS:
            load = partial(ucf101, root, split, subset, annotations=annotations)
            yield _Part(f"UCF-101 {subset}, split {split}", load)


def _epic_parts(
    root: Path, annotations: str | PathLike[str] | None, found: _Findings
) -> Iterator[_Part]:
    """Yield the parts of EPIC-Kitchens of which there is a CSV file; check what is told of videos, and boxes."""
    some = False
    for (release, subset), file in SEGMENT_FILES.items():
        notes = _holding(root, release, annotations, file)
        if notes is None:
            continue
        some, told = True, None
        try:
            told = _told_of_videos(notes, release)
        except (OSError, ValueError) as error:
            found.add("annotations", notes, error)
        for task in ("verb", "noun"):
            load = partial(epic_kitchens, root, release, subset, task, annotations)
            yield _Part(f"EPIC-Kitchens-{release} {subset}, {task}s", load, told)
    if not some:
        found.add(
            "annotations",
            root,
            f"expected one of {', '.join(SEGMENT_FILES.values())}; see data/README.md",
        )
    boxed = _holding(root, 55, annotations, OBJECT_LABELS)
    if boxed is not None:
        try:
            for video in boxed_videos(boxed):
                video_boxes(boxed, video)
        except (OSError, ValueError) as error:
            found.add("annotations", OBJECT_LABELS, error)


def _holding(
    root: Path, release: int, annotations: str | PathLike[str] | None, file: str
) -> Path | None:
    return next(
        (
            home
            for home in annotation_folders(root, release, annotations)
            if (home / file).is_file()
        ),
        None,
    )


def _told_of_videos(notes: Path, release: int) -> pd.DataFrame:
    name, key = ("EPIC_100_video_info.csv", "video_id") if release == 100 else (VIDEO_INFO, "video")
    return read_table(notes / name, [key, "duration", "fps"]).set_index(key)


def _judge(data: Dataset, seen: dict[str, _Seen], told: pd.DataFrame | None) -> Iterator[_Problem]:
    """Yield what is wrong with a part's files and segments."""
    index = data.index
    for path in index.loc[~index["present"], "path"].unique():
        yield _Problem("missing", path, "there is no such file")
    for path in index.loc[index["present"], "path"].unique():
        if seen[path].wrong:
            yield _Problem("unreadable", path, seen[path].wrong)
    backward = index[index["stop"] <= index["start"]]
    for name, start, stop in zip(backward.index, backward["start"], backward["stop"]):
        yield _Problem("outside", name, f"ends at {stop:.2f} s, before it starts at {start:.2f} s")
    ends = {"the file": index["path"].map({path: each.seconds for path, each in seen.items()})}
    rates = {"the file": index["path"].map({path: each.fps for path, each in seen.items()})}
    if told is not None:
        ends["EPIC video info"] = index["video"].map(told["duration"])
        rates["EPIC video info"] = index["video"].map(told["fps"])
    for source, end in ends.items():
        # Annotations round: one frame's length is forgiven, as it is when clips are read.
        beyond = index[(end > 0) & (index["stop"] > end + 1 / rates[source])]
        for name, stop, path, last in zip(
            beyond.index, beyond["stop"], beyond["path"], end[beyond.index]
        ):
            what = f"ends at {stop:.2f} s, its video {path} at {last:.2f} s by {source}"
            yield _Problem("outside", name, what)


def _inspect_all(
    paths: Sequence[str], decode: bool, workers: int | None, title: str | None
) -> dict[str, _Seen]:
    """Look at files in processes of their own; one that crashes its process is found, and the others go on."""
    todo, seen = list(paths), {}
    workers = min(workers or os.cpu_count() or 1, _MOST, 1 + len(todo) // max(1, _ALONE))
    with tqdm(total=len(todo), desc=title, disable=title is None or not todo) as bar:
        while todo and workers > 0:
            if workers == 1 and len(paths) <= _ALONE:
                results: Iterator[tuple[str, _Seen | None]] = (
                    (path, _inspect(path, decode)) for path in todo
                )
            else:
                results = _in_processes(todo, decode, workers)
            for path, each in results:
                if each is not None:
                    seen[path] = each
                    bar.update()
            todo = [path for path in todo if path not in seen]
            if (
                todo and workers == 1
            ):  # alone and in order: it is the first that brought the process down
                seen[todo.pop(0)] = _Seen(
                    0, 0, "reading it crashes the process. Get the file again"
                )
                bar.update()
            workers = 1
    return seen


def _in_processes(
    paths: Sequence[str], decode: bool, workers: int
) -> Iterator[tuple[str, _Seen | None]]:
    """Yield what files are found to be as it comes; None for those that a crashed process left undone."""
    context = multiprocessing.get_context(
        "spawn"
    )  # decord and torch hold threads, which a fork would lose
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = {pool.submit(_inspect, path, decode): path for path in paths}
        for job in as_completed(jobs):
            try:
                yield jobs[job], job.result()
            except BrokenProcessPool:
                yield jobs[job], None


def _inspect(path: str, decode: bool) -> _Seen:
    """Look at a video: its header, or the list of its frames; and decode some."""
    file = Path(path)
    try:
        if file.is_dir() or file.suffix == ".tar":
            return _inspect_frames(file, decode)
        info = video_info(file)
        if decode:
            read_clip(file, min(_SEEN, info.frames or _SEEN))
        wrong = (
            ""
            if info.duration > 0
            else "its header tells no duration: it was cut off. Get the file again"
        )
        return _Seen(info.duration, info.fps, wrong)
    except Exception as error:  # whatever a broken file does, the check goes on
        return _Seen(0, 0, str(error) or type(error).__name__)


def _inspect_frames(path: Path, decode: bool) -> _Seen:
    index, rate = frame_index(path), frame_rate(path.stem)
    wrong = []
    if not index.whole:
        wrong.append(f"it is cut off after frame {index.count}")
    if len(index.missing):
        wrong.append(
            f"{len(index.missing)} of {index.count} frames are missing, the first is {index.missing[0]}"
        )
    step = max(1, len(index.numbers) // _SEEN)
    for _ in index.pictures(
        index.numbers[::step][:_SEEN].tolist() if decode else index.numbers[:1].tolist()
    ):
        pass
    return _Seen(index.count / rate, rate, "; ".join(wrong) + (". Get it again" if wrong else ""))
