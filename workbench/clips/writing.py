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

_LARGEST = 16_384  # pixels a side: H.264's limit
_PALETTE_PIXELS = 100_000  # pixels a frame that choose the palette of a GIF


def save_video(
    path: str | Path, frames: Frames, fps: float | None = None, quality: int | None = None
) -> Path:
    """Write frames as a video that plays in a browser, .mp4 (H.264) or .gif (endless), or as .avi.

    Missing folders are made. The file appears whole or not at all, even if the disk is full or the
    process is interrupted. H.264 with 4:2:0 colour has even sizes only: an odd last column or row
    is doubled. A GIF has 256 colours, chosen for the whole video so that still parts do not
    flicker. It counts time in hundredths of a second (50 fps at most), and stores consecutive equal
    frames as one that is shown longer.

    Args:
        path: the file, ending in .mp4, .gif, or .avi (XviD as in UCF-101, not for browsers).
        frames: a clip or frames (T, H, W, 3) uint8.
        fps: frames per second. None: the rate of the clip's own times, so that it plays at life
            speed.
        quality: .mp4: constant rate factor, 0 (lossless) to 51, default 16; .avi: quantiser, 1
            (best) to 31, default 4; .gif ignores it.

    Raises:
        ValueError: another suffix, no fps for bare frames, an fps that is not a positive number, or
            a picture that is too large for the format.
        OSError: the file cannot be written.
    """
    path = Path(path)
    write = {".mp4": _write_mp4, ".gif": _write_gif, ".avi": _write_avi}.get(path.suffix.lower())
    if write is None:
        raise ValueError(
            f"{path}: expected a name ending in .mp4, .gif or .avi, got {path.suffix!r}"
        )
    stack = as_frames(frames)
    height, width = stack.shape[1:3]
    if max(height, width) > _LARGEST:
        raise ValueError(
            f"{path}: expected at most {_LARGEST} pixels a side, got {width}×{height}. "
            "Resize the frames first."
        )
    if fps is None:
        if not isinstance(frames, Clip):
            raise ValueError("fps: expected frames per second; only a Clip knows its own")
        span = float(frames.times[-1] - frames.times[0])
        fps = (len(frames) - 1) / span if span > 0 else frames.fps
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: expected a positive number of frames per second, got {fps}")
    with whole_file(path) as temporary:
        write(temporary, stack, float(fps), quality)
    return path


def save_picture(path: str | Path, picture: np.ndarray) -> Path:
    """Write a picture (H, W, 3) uint8 as .png or .jpg, whole or not at all; folders are made.

    Raises:
        ValueError: another suffix, or not such a picture.
        OSError: the file cannot be written.
    """
    path = Path(path)
    picture = np.asarray(picture)
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: expected a name ending in .png or .jpg, got {path.suffix!r}")
    if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise ValueError(
            f"picture: expected (H, W, 3) uint8, got shape {picture.shape} of {picture.dtype}"
        )
    with whole_file(path) as temporary:
        Image.fromarray(np.ascontiguousarray(picture)).save(temporary, format=kind, quality=92)
    return path


def _write_mp4(path: Path, frames: np.ndarray, fps: float, quality: int | None) -> None:
    from av.video.reformatter import ColorRange, Colorspace

    def configure(stream: Any) -> None:
        stream.options = {"crf": str(16 if quality is None else quality), "preset": "medium"}
        # BT.601, and declared: decord assumes it, browsers read the declaration.
        stream.codec_context.colorspace = Colorspace.SMPTE170M
        stream.codec_context.color_range = ColorRange.MPEG

    options = {"movflags": "+faststart"}
    _encode(path, frames, fps, codec="libx264", configure=configure, format="mp4", options=options)


def _write_avi(path: Path, frames: np.ndarray, fps: float, quality: int | None) -> None:
    def configure(stream: Any) -> None:
        context = stream.codec_context
        context.codec_tag = "XVID"
        context.gop_size = 24
        context.qmin = context.qmax = 4 if quality is None else quality

    _encode(path, frames, fps, codec="mpeg4", configure=configure, format="avi")


def _encode(
    path: Path,
    frames: np.ndarray,
    fps: float,
    *,
    codec: str,
    configure: Callable[[Any], None],
    **container_options: Any,
) -> None:
    import av  # lazily: it loads FFmpeg, and few who import this write videos

    _, height, width, _ = frames.shape
    odd = ((0, height % 2), (0, width % 2), (0, 0))
    try:
        with av.open(str(path.absolute()), "w", **container_options) as container:
            stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            stream.width = width + width % 2
            stream.height = height + height % 2
            stream.pix_fmt = "yuv420p"
            configure(stream)
            for frame in frames:
                even = np.ascontiguousarray(np.pad(frame, odd, mode="edge"))
                picture = av.VideoFrame.from_ndarray(even, format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
    except av.error.ExternalError as error:
        raise ValueError(
            f"{path.name}: the encoder {codec} refuses pictures of {width}×{height} at {fps:g} fps"
        ) from error


def _write_gif(path: Path, frames: np.ndarray, fps: float, _quality: int | None) -> None:
    # One palette for the whole video, chosen from every step-th pixel.
    step = max(1, round(np.sqrt(frames[..., 0].size / _PALETTE_PIXELS)))
    sampled = np.concatenate(list(frames[:, ::step, ::step]))
    # Of Pillow's methods, the one that keeps rare colours: the red of a small peak is the finding.
    palette = Image.fromarray(sampled).quantize(256, Image.Quantize.MAXCOVERAGE)
    pictures = []
    for frame in frames:
        picture = Image.fromarray(np.ascontiguousarray(frame))
        pictures.append(picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    # Whole hundredths that add up to the right length; browsers take anything below two for ten.
    due = np.rint(100 * np.arange(len(frames) + 1) / fps)
    durations = (10 * np.maximum(2, np.diff(due))).astype(int).tolist()
    pictures[0].save(
        path,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        optimize=False,
    )
