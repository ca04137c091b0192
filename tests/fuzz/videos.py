"""Damaged videos. Every picture shows its number, so a wrong frame is seen.

Outcomes of a file, the worst of its four reads:
    right           the frames are those that the file shows there, undamaged
    refused         a documented error that names the file
    damaged picture the right frames, but at least one is visibly damaged (nobody complained)
    lost frames     the file lost frames without a trace: a plain decoder, too, shows later ones
    wrong frame     another frame than a plain decoder shows at this place
"""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from videos import read_numbers, textured, write_video

import workbench as wb

from .isolation import Row, run_cases

FRAMES = 60
KINDS = {  # name: suffix, how it is written
    "mp4": (".mp4", {}),
    "mp4, faststart": (".mp4", {"container": {"movflags": "faststart"}}),
    "mkv": (".mkv", {}),
    "avi, mpeg4": (".avi", {"codec": "mpeg4", "b_frames": 0}),
    "avi, mpeg4, B frames": (".avi", {"codec": "mpeg4", "b_frames": 2}),
    "avi, h264": (".avi", {"b_frames": 0}),
    "ts": (".ts", {"codec": "mpeg2video"}),
}
REQUESTS = ({}, {"frames": None}, {"stop": 0.6}, {"start": 1.2, "stop": 2.2})
SEVERITY = ("right", "refused", "damaged picture", "lost frames", "wrong frame")
VISIBLE = 1.0  # of 255: mean difference of a damaged picture


def mutate(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Return how a file is damaged, and the damaged file."""
    size = len(data)
    how = str(rng.choice(["flip", "header", "tail", "zeros", "noise", "cut", "remove", "repeat"]))
    damaged = bytearray(data)
    begin = int(rng.integers(size))
    length = int(rng.integers(1, max(2, size // int(rng.choice([10, 50, 500])))))
    if how == "flip":
        for place in rng.integers(size, size=int(rng.choice([1, 3, 10, 50]))):
            damaged[place] ^= int(rng.integers(1, 256))
    elif how in ("header", "tail"):
        reach = min(size, 4096)
        for place in rng.integers(reach, size=int(rng.choice([1, 2, 5]))):
            damaged[place if how == "header" else size - 1 - place] = int(rng.integers(256))
    elif how in ("zeros", "noise"):
        length = min(length, size - begin)
        damaged[begin : begin + length] = bytes(length) if how == "zeros" else rng.bytes(length)
    elif how == "cut":
        del damaged[begin:]
    elif how == "remove":
        del damaged[begin : begin + length]
    else:
        damaged[begin:begin] = damaged[begin : begin + length]
    return how, bytes(damaged)


@cache
def intact(kind: str) -> tuple[bytes, np.ndarray]:
    """Return a sound video, and its pictures."""
    suffix, how = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / f"intact{suffix}", textured(FRAMES), **how)
        return path.read_bytes(), plain(path)[0]


def plain(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return all frames as PyAV decodes them from the start, and their times (NaN: unknown)."""
    frames, times = [], []
    try:
        with av.open(str(path)) as container:
            origin = (container.start_time or 0) / 1e6
            stored = container.format.name != "avi"
            for packet in container.demux(video=0):
                try:
                    decoded = packet.decode()
                except av.FFmpegError:
                    continue
                frames += [frame.to_ndarray(format="rgb24") for frame in decoded]
                times += [
                    float(frame.pts * frame.time_base) - origin
                    if stored and frame.pts is not None
                    else np.nan
                    for frame in decoded
                ]
    except (av.FFmpegError, OSError, IndexError):
        pass  # what was decoded before the damage is compared
    if not frames or len({frame.shape for frame in frames}) > 1:
        return np.empty((0, 64, 256, 3), np.uint8), np.empty(0)
    return np.stack(frames), np.array(times)


def judge(case: tuple[str, int]) -> tuple[str, str]:
    """Damage a file, read it four times, and return the worst outcome."""
    kind, seed = case
    data, truth = intact(kind)
    how, damaged = mutate(data, np.random.default_rng(seed))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"damaged{KINDS[kind][0]}"
        path.write_bytes(damaged)
        for request in REQUESTS:
            found.append((*judge_read(path, request, truth), request))
    outcome, detail, request = max(found, key=lambda each: SEVERITY.index(each[0]))
    return outcome, f"{how}; {request}; {detail}"


def judge_read(path: Path, request: dict, truth: np.ndarray) -> tuple[str, str]:
    try:
        clip = wb.read_clip(path, **request)
    except (wb.ClipError, ValueError, FileNotFoundError) as error:
        if str(path) not in str(error):
            raise
        return "refused", str(error)
    if clip.size != truth.shape[1:3]:
        return "damaged picture", f"{clip.size} pixels"
    shown = read_numbers(clip.frames)
    expected = np.rint(clip.times * 25).astype(int)
    if (shown == expected).all():
        difference = np.abs(clip.frames.astype(int) - truth[expected]).mean(axis=(1, 2, 3))
        if difference.max() < VISIBLE:
            return "right", ""
        return "damaged picture", f"mean differences up to {difference.max():.1f}"
    # Pictures that are damaged beyond reading have no number to go by.
    legible = shown < FRAMES
    off = np.flatnonzero(legible & (shown != expected))
    nearest = truth[shown[off] % FRAMES]
    off = off[np.abs(clip.frames[off].astype(int) - nearest).mean(axis=(1, 2, 3)) < 8]
    if not len(off):
        return "damaged picture", f"shows {shown.tolist()}"
    detail = f"frames {clip.indices[off].tolist()} show {shown[off].tolist()}"
    everything, times = plain(path)
    for place in off:
        by_time = np.flatnonzero(np.abs(times - clip.times[place]) < 1e-3)
        # Without times (AVI), frames are counted.
        other = by_time[0] if len(by_time) else int(clip.indices[place])
        if other >= len(everything) or read_numbers(everything[[other]])[0] != shown[place]:
            return "wrong frame", detail
    return "lost frames", detail


def run(seed: int, count: int) -> list[Row]:
    """Return a row for each of `count` damaged videos."""
    kinds = list(KINDS)
    cases = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        own_seed = seed * 1_000_003 + number
        cases.append((f"{kind}, seed {own_seed}", (kind, own_seed)))
    return run_cases("videos", judge, cases)
