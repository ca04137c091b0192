"""Whether data sets on a disk are complete: annotations, files, segments within their videos."""

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
from ..clips.packets import video_info
from ..clips.reading import read_clip
from .csv_files import numbers, read_table
from .epic import SEGMENT_FILES, epic_kitchens
from .epic_layout import annotation_folders, frame_rate
from .object_boxes import OBJECT_LABELS, VIDEO_INFO, boxed_videos, video_boxes
from .places import find_data
from .table import Dataset
from .ucf import list_folder, ucf101

__all__ = ["Report", "check_data"]

_SIGNS = {  # what shows that a folder holds a data set
    "ucf101": ("UCF-101", "ucfTrainTestlist", "classInd.txt"),
    "epic-kitchens": (
        "EPIC-KITCHENS",
        "EPIC_KITCHENS_2018",
        "frames_rgb_flow",
        "videos/train",
        "P01",
        "EPIC_*.csv",
        "annotations/EPIC_*.csv",
        "epic-kitchens-*-annotations",
    ),
}
_SUBSETS = ("train", "test")
_DECODED = 16  # frames that are decoded of each video
_MAX_WORKERS = 16
_ALONE = 64  # so many files are not worth a second process, which takes seconds to start


@dataclass(frozen=True)
class Report:
    """The findings of `check_data`.

    Attributes:
        summary: DataFrame, a row a part of a data set: `segments`, `classes`, `files`, and how many
            of the files are `missing` or `unreadable`, and of the segments `outside` their video.
        problems: DataFrame, a row a problem: `data set`, `problem` (its kind), `where`, `what`.
    """

    summary: pd.DataFrame
    problems: pd.DataFrame

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.problems.empty

    def text(self, limit: int | None = 10) -> str:
        """Return summary and problems to print, at most `limit` of a kind in each data set."""
        parts = [self.summary.to_string()] if len(self.summary) else []
        for (data, kind), rows in self.problems.groupby(["data set", "problem"], sort=False):
            lines = [f"{data}, {kind}: {len(rows)}"]
            for where, what in rows[["where", "what"]].to_numpy()[:limit]:
                # Most messages begin with the path.
                lines.append(f"  {what}" if what.startswith(where) else f"  {where}: {what}")
            more = len(rows) - len(lines) + 1
            lines += [f"  … and {more} more"] if more else []
            parts.append("\n".join(lines))
        parts.append("Nothing is wrong." if self.ok else f"Problems: {len(self.problems)}.")
        return "\n\n".join(parts)


class _Problem(NamedTuple):
    kind: str
    where: str
    what: str


class _File(NamedTuple):
    """A video as it was found: seconds and frame rate (0 if unknown), and what is wrong with it."""

    seconds: float
    fps: float
    wrong: str


class _Part(NamedTuple):
    """A part of a data set: how to load it, and its videos' published `duration` and `fps`."""

    title: str
    load: Callable[[], Dataset]
    published: pd.DataFrame | None = None


@dataclass
class _Findings:
    kind: str = "data"
    rows: dict[str, dict[str, object]] = field(default_factory=dict)
    problems: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, problem: str, where: object, what: object) -> None:
        if isinstance(what, Exception):
            what = str(what) or type(what).__name__
        self.problems.append((self.kind, problem, str(where), str(what)))

    def report(self) -> Report:
        columns = ["segments", "classes", "files", "missing", "unreadable", "outside"]
        summary = pd.DataFrame.from_dict(self.rows, orient="index", columns=columns)
        problems = pd.DataFrame(self.problems, columns=["data set", "problem", "where", "what"])
        return Report(summary, problems)


def check_data(
    root: str | PathLike[str] | None = None,
    annotations: str | PathLike[str] | None = None,
    *,
    decode: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Check data sets on a disk. Whatever is wrong is reported; nothing is raised.

    Args:
        root: the folder of UCF-101 or EPIC-Kitchens, or one that has them as `ucf101` and
            `epic-kitchens`. None checks both in the places of `wb.find_data`.
        annotations: the folder of lists or CSV files, if they are not with the data.
        decode: whether to decode 16 frames of each video; otherwise headers and lists of frames are
            read.
        workers: processes that read files, at most 16. None: one a processor.
        progress: whether to show a bar.
    """
    found = _Findings()
    try:
        for kind, folder in _data_sets(root, found):
            found.kind = kind
            _check(kind, folder, annotations, found, decode=decode, workers=workers, bar=progress)
    except Exception as error:  # whatever is on the disk, there is a report
        found.add("folder", root, error)
    return found.report()


def _check(
    kind: str,
    folder: Path,
    annotations: str | PathLike[str] | None,
    found: _Findings,
    *,
    decode: bool,
    workers: int | None,
    bar: bool,
) -> None:
    """Check one data set: load its parts, look at every file once, judge the segments."""
    loaded = []
    parts = _ucf_parts if kind == "ucf101" else _epic_parts
    for part in parts(folder, annotations, found):
        try:
            loaded.append((part, part.load()))
        except Exception as error:  # whatever is in an annotation file, the check goes on
            found.add("annotations", part.title, error)
    paths = sorted({path for _, data in loaded for path in data.present().index["path"]})
    files = _inspect_all(paths, decode, workers, f"{kind}: files" if bar else None)
    reported: set[_Problem] = set()  # parts share files
    for part, data in loaded:
        problems = list(dict.fromkeys(_judge(data, files, part.published)))
        kinds = [problem.kind for problem in problems]
        found.rows[part.title] = {
            "segments": len(data),
            "classes": len(data.classes),
            "files": data.index["path"].nunique(),
            **{name: kinds.count(name) for name in ("missing", "unreadable", "outside")},
        }
        for problem in problems:
            if problem not in reported:
                found.add(*problem)
        reported.update(problems)


def _data_sets(root: str | PathLike[str] | None, found: _Findings) -> list[tuple[str, Path]]:
    """Return which data sets are to be checked, and their folders."""
    places = []
    if root is None:
        for kind in _SIGNS:
            try:
                places.append((kind, find_data(kind).root))
            except OSError as error:
                found.add("folder", kind, error)
        return places
    folder = Path(root).expanduser().absolute()
    if not folder.is_dir():
        found.add("folder", folder, "there is no such folder")
        return []
    for kind, signs in _SIGNS.items():
        for home in (folder, folder / kind):
            if home.is_dir() and (home.name == signs[0] or any(any(home.glob(s)) for s in signs)):
                places.append((kind, home))
                break
    if not places:
        expected = "; or ".join(f"{', '.join(signs)} ({kind})" for kind, signs in _SIGNS.items())
        found.add("folder", folder, f"holds none of {expected}. See data/README.md")
    return places


def _ucf_parts(
    root: Path, annotations: str | PathLike[str] | None, found: _Findings
) -> Iterator[_Part]:
    """Yield the parts of UCF-101 whose split has a list."""
    try:
        lists = list_folder(root, annotations)
    except OSError as error:
        found.add("annotations", root, error)
        return
    splits = [
        split
        for split in (1, 2, 3)
        if any((lists / f"{subset}list{split:02d}.txt").is_file() for subset in _SUBSETS)
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
    """Yield the parts of EPIC-Kitchens that have a CSV file; check boxes and lists of videos."""
    any_file = False
    for (release, subset), file in SEGMENT_FILES.items():
        notes = _folder_of(root, release, annotations, file)
        if notes is None:
            continue
        any_file = True
        published = None
        try:
            published = _published(notes, release)
        except (OSError, ValueError) as error:
            found.add("annotations", notes, error)
        for task in ("verb", "noun"):
            load = partial(epic_kitchens, root, release, subset, task, annotations)
            yield _Part(f"EPIC-Kitchens-{release} {subset}, {task}s", load, published)
    if not any_file:
        files = ", ".join(SEGMENT_FILES.values())
        found.add("annotations", root, f"expected one of {files}; see data/README.md")
    boxed = _folder_of(root, 55, annotations, OBJECT_LABELS)
    if boxed is not None:
        try:
            for video in boxed_videos(boxed):
                video_boxes(boxed, video)
        except (OSError, ValueError) as error:
            found.add("annotations", OBJECT_LABELS, error)


def _folder_of(
    root: Path, release: int, annotations: str | PathLike[str] | None, file: str
) -> Path | None:
    """Return the first folder of annotations that has a file."""
    homes = annotation_folders(root, release, annotations)
    return next((home for home in homes if (home / file).is_file()), None)


def _published(notes: Path, release: int) -> pd.DataFrame:
    """Return the official `duration` (seconds) and `fps` of videos."""
    name, key = ("EPIC_100_video_info.csv", "video_id") if release == 100 else (VIDEO_INFO, "video")
    path = notes / name
    table = read_table(path, [key, "duration", "fps"])
    for column in ("duration", "fps"):
        table[column] = numbers(path, table, column)
    return table.drop_duplicates(key).set_index(key)


def _judge(
    data: Dataset, files: dict[str, _File], published: pd.DataFrame | None
) -> Iterator[_Problem]:
    """Yield what is wrong with a part's files and segments."""
    index = data.index
    for path in index.loc[~index["present"], "path"].unique():
        yield _Problem("missing", path, "there is no such file")
    for path in index.loc[index["present"], "path"].unique():
        if files[path].wrong:
            yield _Problem("unreadable", path, files[path].wrong)
    backward = index[index["stop"] <= index["start"]]
    for name, start, stop in zip(backward.index, backward["start"], backward["stop"]):
        yield _Problem("outside", name, f"ends at {stop:.2f} s, before it starts at {start:.2f} s")
    # Ends and rates of the videos, by the file and as published.
    seconds = {path: file.seconds for path, file in files.items()}
    rates = {path: file.fps for path, file in files.items()}
    sources = {"the file": (index["path"].map(seconds), index["path"].map(rates))}
    if published is not None:
        videos = index["video"]
        sources["EPIC video info"] = (
            videos.map(published["duration"]),
            videos.map(published["fps"]),
        )
    for source, (end, rate) in sources.items():
        # Annotations round: one frame's length is forgiven, as it is when clips are read.
        beyond = index[(end > 0) & (index["stop"] > end + 1 / rate)]
        ends = end[beyond.index]
        for name, stop, path, last in zip(beyond.index, beyond["stop"], beyond["path"], ends):
            what = f"ends at {stop:.2f} s, its video {path} at {last:.2f} s by {source}"
            yield _Problem("outside", str(name), what)


def _inspect_all(
    paths: Sequence[str], decode: bool, workers: int | None, title: str | None
) -> dict[str, _File]:
    """Look at files in processes of their own. A file that crashes its process is reported."""
    todo = list(paths)
    files: dict[str, _File] = {}
    enough = 1 + len(todo) // max(1, _ALONE)
    workers = max(1, min(workers or os.cpu_count() or 1, _MAX_WORKERS, enough))
    in_this_process = workers == 1 and len(paths) <= _ALONE
    with tqdm(total=len(todo), desc=title, disable=title is None or not todo) as bar:
        while todo:
            results: Iterator[tuple[str, _File | None]]
            if in_this_process:
                results = ((path, _inspect(path, decode)) for path in todo)
            else:
                results = _in_processes(todo, decode, workers)
            for path, file in results:
                if file is not None:
                    files[path] = file
                    bar.update()
            todo = [path for path in todo if path not in files]
            # With one process, in order, the first file without a result is the one that crashed.
            if todo and workers == 1:
                wrong = "reading it crashes the process. Get the file again"
                files[todo.pop(0)] = _File(0, 0, wrong)
                bar.update()
            workers = 1
    return files


def _in_processes(
    paths: Sequence[str], decode: bool, workers: int
) -> Iterator[tuple[str, _File | None]]:
    """Yield the files as they are done; None for those that a crashed process left undone."""
    # decord and torch hold threads, which a fork would lose.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = {pool.submit(_inspect, path, decode): path for path in paths}
        for job in as_completed(jobs):
            try:
                yield jobs[job], job.result()
            except BrokenProcessPool:
                yield jobs[job], None


def _inspect(path: str, decode: bool) -> _File:
    """Look at a video: its header, or the list of its frames; and decode some."""
    file = Path(path)
    try:
        if file.is_dir() or file.suffix == ".tar":
            return _inspect_frames(file, decode)
        info = video_info(file)
        if decode:
            read_clip(file, min(_DECODED, info.frames or _DECODED))
        wrong = ""
        if not info.duration > 0:
            wrong = "its header has no duration: it was cut off. Get the file again"
        return _File(info.duration, info.fps, wrong)
    except Exception as error:  # whatever a broken file does, the check goes on
        return _File(0, 0, str(error) or type(error).__name__)


def _inspect_frames(path: Path, decode: bool) -> _File:
    index = frame_index(path)
    rate = frame_rate(path.stem)
    wrong = []
    if not index.whole:
        wrong.append(f"it is cut off after frame {index.count}")
    if index.missing:
        wrong.append(
            f"{index.missing} of {index.count} frames are missing, "
            f"the first is {index.first_missing}"
        )
    step = max(1, len(index.numbers) // _DECODED)
    sampled = index.numbers[::step][: _DECODED if decode else 1]
    for _ in index.pictures(sampled.tolist()):
        pass
    remedy = ". Get it again" if wrong else ""
    return _File(index.count / rate, rate, "; ".join(wrong) + remedy)
