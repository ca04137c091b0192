"""Damaged data folders: lists, tables, videos and folders of frames of UCF-101 and EPIC-Kitchens.

Outcomes of a folder:
    right     it was loaded, and every clip is right or refused
    refused   loading it is a documented error that names a file or folder
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from test_epic_kitchens import annotate, box_labels, jpegs, segment, write_folder, write_tar
from test_ucf101 import make_ucf
from videos import read_numbers, write_video

import workbench as wb
from workbench.datasets.checks import check_data

from .isolation import Row, run_cases

CELLS = (
    "", "-1", "1.5", "1e400", "nan", "0.4", "00:00:99", "99:99:99", "..", "/etc/passwd", "a" * 300,
    "\u202e\x00", "[]", "[(1,2)]", "'; DROP TABLE", "12345678901234567890", "00:00:01.70",
)  # fmt: skip
DOCUMENTED = (ValueError, KeyError, FileNotFoundError, NotADirectoryError)


@cache
def sound() -> Path:
    """Return a folder with both data sets: videos, a folder and a tar of frames, lists, tables."""
    root = Path(tempfile.mkdtemp())
    make_ucf(root / "ucf101")
    kitchens = root / "epic-kitchens"
    home = kitchens / "EPIC-KITCHENS" / "P01"
    (home / "videos").mkdir(parents=True)
    write_video(home / "videos" / "P01_01.MP4", 50)
    frames = jpegs(np.arange(50) / 25, 60, 2.0)
    write_folder(home / "rgb_frames" / "P01_02", frames)
    write_tar(home / "rgb_frames" / "P01_03.tar", frames)
    videos = ("P01_01", "P01_02", "P01_03")
    rows = [segment(number, 0.5, 1.5, video) for number, video in enumerate(videos)]
    notes = kitchens / "annotations"
    for release in (55, 100):
        annotate(notes, rows, release)
    box_labels(notes, [(0, 30, "[(0, 0, 10, 10)]")])
    return root


def damage(path: Path, rng: np.random.Generator) -> str:
    """Damage a file in place, and return how."""
    data = path.read_bytes()
    if path.suffix in (".csv", ".txt"):
        how = str(rng.choice(["cell", "line", "bytes", "cut", "empty", "gone", "folder", "nul"]))
    else:
        how = str(rng.choice(["bytes", "cut", "empty", "gone", "folder", "text"]))
    if how == "cell":
        lines = data.decode("latin-1").splitlines()
        row = int(rng.integers(len(lines)))
        cells = lines[row].split("," if path.suffix == ".csv" else " ")
        cells[int(rng.integers(len(cells)))] = str(rng.choice(CELLS))
        lines[row] = ",".join(cells)
        path.write_text("\n".join(lines), encoding="utf-8")
    elif how == "line":
        lines = data.decode("latin-1").splitlines()
        row = int(rng.integers(len(lines)))
        lines[row:row] = [lines[int(rng.integers(len(lines)))]] if rng.random() < 0.5 else ['"x,,']
        path.write_text("\n".join(lines), encoding="utf-8")
    elif how == "bytes":
        damaged = bytearray(data)
        for place in rng.integers(len(damaged), size=int(rng.choice([1, 5, 30]))):
            damaged[place] = int(rng.integers(256))
        path.write_bytes(damaged)
    elif how == "cut":
        path.write_bytes(data[: int(rng.integers(len(data)))])
    elif how == "nul":
        path.write_bytes(data.replace(b"0", b"\0"))
    elif how in ("empty", "text"):
        path.write_bytes(b"" if how == "empty" else b"no such thing\n" * 20)
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
    return how


def loaders(root: Path) -> list:
    """Return what loads each data set of a folder."""
    kitchens = root / "epic-kitchens"
    return [
        lambda: wb.ucf101(root / "ucf101", subset="train"),
        lambda: wb.ucf101(root / "ucf101", subset="test"),
        lambda: wb.epic_kitchens(kitchens, 100, "validation", "verb"),
        lambda: wb.epic_kitchens(kitchens, 55, "train", "noun"),
    ]


def judge(seed: int) -> tuple[str, str]:
    """Damage one to three files of a folder; load and read everything, and check the folder."""
    rng = np.random.default_rng(seed)
    refused = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        shutil.copytree(sound(), root)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        # As often a list or a table as anything else: there are fewer of them.
        tables = [path for path in files if path.suffix in (".csv", ".txt")]
        done = []
        for _ in range(int(rng.integers(1, 4))):
            choice = tables if rng.random() < 0.6 else files
            path = choice[int(rng.integers(len(choice)))]
            if path.is_file() and path.stat().st_size:
                done.append(f"{path.relative_to(root)}: {damage(path, rng)}")
        case = "; ".join(done)
        for load in loaders(root):
            try:
                data = load()
            except DOCUMENTED as error:
                if str(root) not in str(error):
                    raise
                refused.append(str(error))
                continue
            for name in data.index.index:
                try:
                    clip = data.read(name, frames=8)
                except DOCUMENTED as error:
                    if str(root) not in str(error):
                        raise
                    refused.append(str(error))
                    continue
                if clip.size == (32, 128) and clip.path.suffix.lower() in (".avi", ".mp4"):
                    shown = read_numbers(clip.frames)
                    if (shown != np.rint(clip.times * 25)).any() and (shown < 60).all():
                        return "wrong frame", f"{case}; {name} shows {shown.tolist()}"
        report = check_data(root, progress=False, workers=1)
        report.text()
    return ("refused" if refused else "right"), f"{case}; {refused[:1]}"


def run(seed: int, count: int) -> list[Row]:
    """Return a row for each of `count` damaged folders."""
    seeds = [seed * 1_000_003 + number for number in range(count)]
    return run_cases("folders", judge, [(f"seed {own}", own) for own in seeds], hang=30)
