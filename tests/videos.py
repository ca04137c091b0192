"""Test videos with a known answer: every picture shows its frame number as a bar code of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# Orange and blue: swapped colour channels would flip every bit.
ONE, ZERO = (230, 60, 30), (20, 40, 200)
COLUMNS, ROWS = 8, 2
HEIGHT, WIDTH = 32, 128


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return (H, W, 3) uint8: 16 blocks, the bits of the number, the highest first."""
    bits = [(number >> bit) & 1 for bit in reversed(range(COLUMNS * ROWS))]
    colours = np.array([ONE if bit else ZERO for bit in bits], dtype=np.uint8)
    blocks = colours.reshape(ROWS, COLUMNS, 3)
    return blocks.repeat(height // ROWS, axis=0).repeat(width // COLUMNS, axis=1)


def textured(count: int) -> Iterator[np.ndarray]:
    """Yield numbered pictures (64, 256, 3) with enough detail that damage shows."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 60, (64 + count, 256, 3))
    for number in range(count):
        detailed = picture(number, 64, 256) * 0.7 + texture[number : number + 64]
        yield np.clip(detailed, 0, 255).astype(np.uint8)


def read_numbers(frames: np.ndarray) -> np.ndarray:
    """Return (T,) int64: the numbers that pictures (T, H, W, 3) show."""
    count, height, width, _ = frames.shape
    blocks = frames.reshape(count, ROWS, height // ROWS, COLUMNS, width // COLUMNS, 3)
    means = blocks.astype(float).mean(axis=(2, 4)).reshape(count, ROWS * COLUMNS, 3)
    bits = means[..., 0] > means[..., 2]
    return bits @ (1 << np.arange(ROWS * COLUMNS)[::-1])


def write_video(
    path: Path,
    frames: int | Iterable[np.ndarray] = 60,
    *,
    codec: str = "libx264",
    fps: int = 25,
    rate: Fraction | None = None,
    times: Iterable[float] | None = None,
    gop: int = 12,
    b_frames: int = 2,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """Write frames 0, 1, 2, … as a video and return its path.

    `times` in seconds, to the millisecond, make the frame rate variable; `frames` may be pictures.
    `options` are those of the codec, `container` those of the file format.
    `rate` is a frame rate that is no whole number, in place of `fps`.
    """
    if isinstance(frames, int):
        frames = (picture(number) for number in range(frames))
    ticks = None if times is None else [round(1000 * time) for time in times]
    defaults = {"qscale": "3"}
    if codec == "libx264":
        defaults = {"bf": str(b_frames), "preset": "ultrafast"}
    with av.open(str(path), "w", container_options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate or fps)
        context = stream.codec_context
        context.pix_fmt = "yuv420p"
        context.gop_size = gop
        context.max_b_frames = b_frames
        context.time_base = 1 / (rate or Fraction(fps)) if ticks is None else Fraction(1, 1000)
        context.options = {**defaults, **(options or {})}
        for number, pixels in enumerate(frames):
            if number == 0:
                context.height, context.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = number if ticks is None else ticks[number]
            frame.time_base = context.time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path
