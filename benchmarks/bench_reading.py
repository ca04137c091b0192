"""What reading a clip costs: decord against PyAV, an hour's end against its start, memory over 500 reads.

    python benchmarks/bench_reading.py [folder with videos]

With no folder, on synthetic videos alone. Times are the best of several, page cache warm.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from videos import read_numbers, write_video

from workbench.clips import videos
from workbench.clips.reading import read_clip
from workbench.clips.videos import ClipError

HOUR = 3600


def milliseconds(path: Path, repeats: int = 5, **request: Any) -> float:
    """Return the best time of a few reads, in milliseconds."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        read_clip(path, **request)
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times)


def hour(folder: Path, suffix: str) -> None:
    """Print what 16 frames cost at the start and at the end of one hour, first read and later ones."""
    path = write_video(folder / f"hour{suffix}", HOUR * 25, gop=250)
    for backend in ("decord", "pyav"):
        costs = {}
        for where, start in (("start", 0.0), ("end", HOUR - 10.0)):
            videos._list_frames.cache_clear()
            first = milliseconds(path, 1, start=start, stop=start + 10, backend=backend)
            later = milliseconds(path, start=start, stop=start + 10, backend=backend)
            costs[where] = first, later
            clip = read_clip(path, start=start, stop=start + 10, backend=backend)
            assert (read_numbers(clip.frames) == clip.indices % 2**16).all()
        ratios = [end / begin for begin, end in zip(costs["start"], costs["end"])]
        print(f"one hour {suffix} {backend:6}: ", end="")
        print(f"start {costs['start'][0]:.0f} ms, then {costs['start'][1]:.0f} ms; ", end="")
        print(f"end {costs['end'][0]:.0f} ms, then {costs['end'][1]:.0f} ms; ratios ", end="")
        print(", ".join(f"{ratio:.2f}" for ratio in ratios))


def memory(path: Path, reads: int = 500) -> None:
    """Print by how much the process grows over many reads."""
    process = psutil.Process()
    for backend in ("decord", "pyav"):
        for _ in range(20):
            read_clip(path, backend=backend)
        before = process.memory_info().rss
        for _ in range(reads):
            read_clip(path, backend=backend)
        grown = (process.memory_info().rss - before) / 2**20
        print(f"{reads} reads of {path.name} with {backend}: {grown:+.1f} MB")


def compare(path: Path) -> None:
    """Print the time of 16 frames spread over a video, for both decoders."""
    for backend in (None, "decord", "pyav"):
        try:
            cost = f"{milliseconds(path, backend=backend):.0f} ms"
        except ClipError as error:
            cost = f"refused ({error})"
        print(f"16 frames of {path.name} with {backend or 'automatic choice'}: {cost}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short = write_video(folder / "short.mp4", 250)
        own = sorted(Path(sys.argv[1]).glob("*.*")) if len(sys.argv) > 1 else []
        for path in [short, *(each for each in own if each.suffix in (".avi", ".mp4", ".mkv"))]:
            compare(path)
        memory(short)
        for suffix in (".mp4", ".mkv"):
            hour(folder, suffix)
