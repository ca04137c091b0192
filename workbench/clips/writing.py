"""Writing: frames become a video file or a picture, which appears whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .clip import Clip, Frames, as_frames
from .files import whole_file

__all__ = ["save_picture", "save_video"]


def save_video(
    path: str | Path, frames: Frames, fps: float | None = None, quality: int | None = None
) -> Path:
    """Write frames as a video that plays in a browser, .mp4 (H.264) or .gif (endless), or as .avi (XviD).

    Missing folders are made. The file appears whole or not at all, also when the disk is full or the work
    is interrupted. H.264 with 4:2:0 colour holds even sizes only: an odd last column or row is doubled.
    A GIF has 256 colours, chosen for the whole video so that still parts do not flicker, counts time in
    hundredths of a second (50 fps at most), and holds equal frames in a row as one, shown for longer.

    Args:
        path: the file, ending in .mp4, .gif, or .avi: MPEG-4 part 2 as UCF-101 has it, not for browsers.
        frames: a clip or frames (T, H, W, 3) uint8.
        fps: frames per second. None: the rate of the clip's own times, so that it plays at life speed.

    Raises:
        ValueError: another suffix, no fps for bare frames, or an fps that is not a positive number.
        OSError: the file cannot be written.
    """
    path = Path(path)
    write = {".mp4": _write_mp4, ".gif": _write_gif, ".avi": _write_avi}.get(path.suffix.lower())
    if write is None:
        raise ValueError(
            f"{path}: expected a name ending in .mp4, .gif or .avi, got {path.suffix!r}"
        )
    stack = as_frames(frames)
    if fps is None:
        if not isinstance(frames, Clip):
            raise ValueError("fps: expected frames per second; only a Clip knows its own")
        span = float(frames.times[-1] - frames.times[0])
        fps = (len(frames) - 1) / span if span > 0 else frames.fps
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: expected a positive number of frames per second, got {fps}")
    with whole_file(path) as part:
        write(part, stack, float(fps), quality)
    return path


def save_picture(path: str | Path, picture: np.ndarray) -> Path:
    """Write a picture (H, W, 3) uint8 as .png or .jpg; whole or not at all, missing folders are made.

    Raises:
        ValueError: another suffix, or not such a picture.
        OSError: the file cannot be written.
    """
    path, picture = Path(path), np.asarray(picture)
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: expected a name ending in .png or .jpg, got {path.suffix!r}")
    if (
        picture.ndim != 3
        or picture.shape[-1] != 3
        or picture.dtype != np.uint8
        or picture.size == 0
    ):
        raise ValueError(
            f"picture: expected (H, W, 3) uint8, got shape {picture.shape} of {picture.dtype}"
        )
    with whole_file(path) as part:
        Image.fromarray(np.ascontiguousarray(picture)).save(part, format=kind, quality=92)
    return path


def _write_mp4(path: Path, frames: np.ndarray, fps: float, quality: int | None) -> None:
    from av.video.reformatter import ColorRange, Colorspace

    def settle(stream: Any) -> None:
        stream.options = {"crf": str(16 if quality is None else quality), "preset": "medium"}
        # BT.601, and it says so: readers that do not look (decord) take it for granted, browsers look.
        stream.codec_context.colorspace = Colorspace.SMPTE170M
        stream.codec_context.color_range = ColorRange.MPEG

    _encode(path, frames, fps, "libx264", settle, format="mp4", options={"movflags": "+faststart"})


def _write_avi(path: Path, frames: np.ndarray, fps: float, quality: int | None) -> None:
    def settle(stream: Any) -> None:
        context = stream.codec_context
        context.codec_tag, context.gop_size = "XVID", 24
        context.qmin = context.qmax = 4 if quality is None else quality

    _encode(path, frames, fps, "mpeg4", settle, format="avi")


def _encode(
    path: Path,
    frames: np.ndarray,
    fps: float,
    codec: str,
    settle: Callable[[Any], None],
    **container_facts: Any,
) -> None:
    import av  # lazily: it loads FFmpeg, and most who import overlays write no video

    _, height, width, _ = frames.shape
    spare = ((0, height % 2), (0, width % 2), (0, 0))
    with av.open(str(path), "w", **container_facts) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = (
            width + width % 2,
            height + height % 2,
            "yuv420p",
        )
        settle(stream)
        for frame in frames:
            even = np.ascontiguousarray(np.pad(frame, spare, mode="edge"))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: np.ndarray, fps: float, _quality: int | None) -> None:
    step = max(
        1, round(np.sqrt(frames[..., 0].size / 100_000))
    )  # so many pixels choose the palette
    sampled = np.concatenate(list(frames[:, ::step, ::step]))
    # Of Pillow's methods, the one that keeps rare colours: the red of a small peak is the finding.
    palette = Image.fromarray(sampled).quantize(256, Image.Quantize.MAXCOVERAGE)
    pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    first, *others = (
        p.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for p in pictures
    )
    # Whole hundredths that add up to the right length; browsers take anything below two for ten.
    due = np.rint(100 * np.arange(len(frames) + 1) / fps)
    durations = (10 * np.maximum(2, np.diff(due))).astype(int).tolist()
    first.save(
        path, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False
    )
