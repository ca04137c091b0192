"""Where videos, frames and annotations of EPIC-Kitchens lie, in the layouts of both releases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import pandas as pd

from ..clips.files import file_names

__all__ = ["annotation_folders", "expected_paths", "frame_rate", "locate"]

# Folders of a participant, {}: in EPIC-KITCHENS as downloaded now, and release 55's older layout.
_NEWER: dict[str, tuple[str, ...]] = {"video": ("{}/videos",), "frames": ("{}/rgb_frames",)}
_OLDER: dict[str, tuple[str, ...]] = {
    "video": ("videos/train/{}", "videos/test/{}"),
    "frames": ("frames_rgb_flow/rgb/train/{}", "frames_rgb_flow/rgb/test/{}"),
}


def frame_rate(video: str) -> float:
    """Return the JPEG files a second of a video: 60 in release 55, 50 if new in 100 (P01_101)."""
    return 50.0 if re.fullmatch(r"P\d+_\d{3}", video) else 60.0


def locate(root: Path, videos: pd.DataFrame, source: str | None) -> pd.Series:
    """Return the paths of the videos that are there, by `video`.

    The path is that of the file, else of its folder of frames, else of their tar. `videos` has the
    columns `participant` and `video`. Only folders are listed; nothing is opened.
    """
    found: dict[str, str] = {}
    for participant in videos["participant"].unique():
        for folder, kind in _folders(root, str(participant), source):
            for name in sorted(file_names(folder)):
                stem, _, suffix = name.partition(".")
                if suffix.lower() == "mp4" if kind == "video" else suffix in ("", "tar"):
                    found.setdefault(stem, f"{folder.as_posix()}/{name}")
    wanted = set(videos["video"])
    return pd.Series({video: path for video, path in found.items() if video in wanted}, dtype=str)


def expected_paths(root: Path, participant: str, video: str, source: str | None) -> list[Path]:
    """Return all paths at which a video would be found."""
    paths = []
    for folder, kind in _folders(root, participant, source):
        names = [f"{video}.MP4"] if kind == "video" else [video, f"{video}.tar"]
        paths += [folder / name for name in names]
    return paths


def annotation_folders(
    root: Path, release: int, annotations: str | PathLike[str] | None
) -> list[Path]:
    """Return the folders that may have the CSV files of a release."""
    homes = [root, root / "EPIC-KITCHENS", root.parent]
    if annotations is not None:
        homes = [Path(annotations).expanduser().absolute()]
    below = ("", "annotations", f"epic-kitchens-{release}-annotations", f"epic-kitchens-{release}")
    return [home / folder for home in homes for folder in below]


def _folders(root: Path, participant: str, source: str | None) -> Iterator[tuple[Path, str]]:
    newer = root
    if root.name != "EPIC-KITCHENS" and not (root / participant).is_dir():
        newer = root / "EPIC-KITCHENS"
    older = root / "EPIC_KITCHENS_2018"
    if not older.is_dir():
        older = root
    for kind in ("video", "frames") if source is None else (source,):
        for home, layout in ((newer, _NEWER), (older, _OLDER)):
            for template in layout[kind]:
                yield home / template.format(participant), kind
