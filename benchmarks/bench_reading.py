"""What reading a clip costs, beside plain PyAV, decord and torchcodec; and whether it is right.

    python benchmarks/bench_reading.py [--only TEXT] [--keep FOLDER] [--real FOLDER] [--hours 1]

The plain readers do what a user would write: open the file, take 16 frames by number. Every picture
of the synthetic videos shows its number, so frames that are wrong are counted. For real videos
(--real), the reference is PyAV from the first frame. Times are the best of several, page cache
warm, the readers in turn. "workbench, first" lists the file's frames, which is remembered for the
next reads of it. "CPU" is the work of all threads: it can be compared on a busy machine, too. The ratios are to the best of the
other readers whose frames are all exact.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch  # noqa: F401 - before decord
from videos import picture, read_numbers, write_video

import workbench as wb
from workbench.clips import packets
from workbench.clips.decoding import _import_decord

ROUNDS = (6, 40)  # at least, and at most
SECONDS = 3  # after which no round more than the least begins
FPS = 25


class Request(NamedTuple):
    """Frames of a video: their numbers, and the segment in seconds that `read_clip` takes for them."""

    path: Path
    indices: np.ndarray
    start: float
    stop: float


Reader = Callable[[Request], np.ndarray]


def request(path: Path, indices: np.ndarray) -> Request:
    times = packets.frame_table(path).times
    return Request(path, indices, times[indices[0]], times[indices[-1]] + 0.5 / FPS)


def workbench(wanted: Request, backend: str | None = None) -> np.ndarray:
    path, indices, start, stop = wanted
    return wb.read_clip(path, len(indices), start=start, stop=stop, backend=backend).frames


def workbench_first(wanted: Request) -> np.ndarray:
    packets._list_frames.cache_clear()
    return workbench(wanted)


def workbench_decord(wanted: Request) -> np.ndarray:
    return workbench(wanted, "decord")


def plain_pyav(wanted: Request) -> np.ndarray:
    import av

    path, indices, *_ = wanted
    numbers = set(indices.tolist())
    pictures = []
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate)
        if indices[0] > 250:
            container.seek(int(indices[0] / rate / stream.time_base), stream=stream)
        for count, frame in enumerate(container.decode(stream)):
            number = round(frame.time * rate) if indices[0] > 250 else count
            if number in numbers:
                pictures.append(frame.to_ndarray(format="rgb24"))
            if number >= indices[-1]:
                break
    return np.stack(pictures)


def plain_decord(wanted: Request) -> np.ndarray:
    reader = _import_decord().VideoReader(str(wanted.path))
    return reader.get_batch(wanted.indices.tolist()).asnumpy()


def plain_torchcodec(wanted: Request) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(wanted.path), dimension_order="NHWC", num_ffmpeg_threads=0)
    return decoder.get_frames_at(wanted.indices.tolist()).data.numpy()


def readers() -> dict[str, Reader]:
    found: dict[str, Reader] = {
        "workbench": workbench,
        "workbench, first": workbench_first,
        "PyAV": plain_pyav,
    }
    if _import_decord() is not None:
        found |= {"decord": plain_decord, "workbench, decord": workbench_decord}
    try:
        import torchcodec  # noqa: F401

        found["torchcodec"] = plain_torchcodec
    except (ImportError, OSError, RuntimeError):
        print("torchcodec is not installed here")
    return found


def compare(
    title: str,
    path: Path,
    indices: np.ndarray,
    exact: Callable[[np.ndarray], np.ndarray],
    chosen: dict[str, Reader],
) -> None:
    """Print time and share of exact frames of each reader; `exact` judges pictures."""
    wanted = request(path, indices)
    times: dict[str, list[float]] = {name: [] for name in chosen}
    work: dict[str, list[float]] = {name: [] for name in chosen}
    shares: dict[str, str] = {}
    began = time.perf_counter()
    # The first round loads libraries, and is not counted.
    for repeat in range(ROUNDS[1]):
        if repeat >= ROUNDS[0] and time.perf_counter() - began > SECONDS:
            break
        for name, read in chosen.items():
            worked = time.process_time()
            begin = time.perf_counter()
            try:
                pictures = read(wanted)
            except Exception as error:
                shares[name] = f"refused: {type(error).__name__}"
                continue
            if repeat:
                times[name].append(1000 * (time.perf_counter() - begin))
                work[name].append(1000 * (time.process_time() - worked))
            right = exact(pictures) if len(pictures) == len(indices) else np.zeros(1)
            shares[name] = f"{right.mean():.0%}"
    others = [name for name in chosen if not name.startswith("workbench")]
    exact_ones = [name for name in others if times[name] and shares[name] == "100%"]
    fastest = min((min(times[name]) for name in exact_ones), default=np.nan)
    thriftiest = min((min(work[name]) for name in exact_ones), default=np.nan)
    for name, values in times.items():
        if not values:
            print(f"| {title} | {name} | – | – | – | – | {shares[name]} |")
            continue
        best = min(values)
        least = min(work[name])
        row = f"{best:.1f} | {best / fastest:.2f} | {least:.1f} | {least / thriftiest:.2f}"
        print(f"| {title} | {name} | {row} | {shares[name]} |", flush=True)


def numbered(indices: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pictures: read_numbers(pictures) == indices % 2**16


def scenes(count: int, height: int, width: int) -> Iterable[np.ndarray]:
    """Numbered pictures with texture that moves, so that they cost what real ones do."""
    texture = np.random.default_rng(0).integers(0, 70, (height + 64, width + 64, 3), np.uint8)
    for number in range(count):
        moved = texture[number % 64 :][:height, 2 * number % 64 :][:, :width]
        yield (picture(number, height, width) * 0.7).astype(np.uint8) + moved


def synthetic(folder: Path, hours: float, only: str, chosen: dict[str, Reader]) -> None:
    avi = {"codec": "mpeg4", "gop": 12}
    short = [
        ("UCF-101-like AVI, 320×240", ".avi", 180, (240, 320), {**avi, "b_frames": 0}),
        ("the same with B frames", ".avi", 180, (240, 320), {**avi, "b_frames": 2}),
        ("EPIC-like MP4, 456×256", ".mp4", 300, (256, 456), {}),
        ("1080p MP4", ".mp4", 150, (1080, 1920), {}),
    ]
    for number, (title, suffix, count, size, how) in enumerate(short):
        if only in title:
            path = folder / f"{number}{suffix}"
            if not path.exists():
                write_video(path, scenes(count, *size), **how)
            indices = np.linspace(0, count - 1, 16).astype(int)
            compare(title, path, indices, numbered(indices), chosen)
    for suffix, how in ((".mp4", {}), (".avi", {"codec": "mpeg4", "b_frames": 0})):
        count = round(hours * 3600 * FPS)
        for where, first in (("start", 0), ("end", count - 10 * FPS)):
            title = f"{hours:g} h {suffix}, {where}"
            if only in title:
                path = folder / f"{hours:g} hours{suffix}"
                if not path.exists():
                    write_video(path, count, gop=50, **how)
                indices = np.linspace(first, first + 10 * FPS - 1, 16).astype(int)
                compare(title, path, indices, numbered(indices), chosen)


def real(folder: Path, chosen: dict[str, Reader]) -> None:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (".avi", ".mp4", ".mkv"):
            continue
        try:
            everything = wb.read_clip(path, frames=None)
        except wb.ClipError as error:
            print(f"left out: {error}")
            continue
        indices = np.linspace(0, len(everything) - 1, 16).astype(int)
        truth = plain_pyav(request(path, np.arange(len(everything))))[indices]

        def exact(pictures: np.ndarray, truth: np.ndarray = truth) -> np.ndarray:
            return np.abs(pictures.astype(int) - truth).max(axis=(1, 2, 3)) <= 2

        height, width = everything.size
        compare(f"{path.name[:24]}, {width}×{height}", path, indices, exact, chosen)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, default=os.environ.get("WORKBENCH_CLIPS"))
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--only", default="", help="videos with this in their titles")
    parser.add_argument("--keep", type=Path, help="folder to keep the synthetic videos in")
    asked = parser.parse_args()
    chosen = readers()
    print(f"{os.cpu_count()} processors. Milliseconds for 16 frames.\n")
    print("| video | reader | time | ÷ fastest | CPU | ÷ thriftiest | exact |")
    print("|---|---|---|---|---|---|---|")
    with nullcontext(asked.keep) if asked.keep else tempfile.TemporaryDirectory() as folder:
        Path(folder).mkdir(exist_ok=True)
        synthetic(Path(folder), asked.hours, asked.only, chosen)
    if asked.real:
        real(Path(asked.real), chosen)


if __name__ == "__main__":
    main()
