"""Overlays: a tube over the frames it explains, as pictures, filmstrips and video files.

`heat` and `focus` are the paper's *Heat Tube* and *Focus Tube* (Stergiou et al., ICIP 2019, Fig. 2). Every
function takes a `Clip` or its frames (T, H, W, 3) uint8 and returns new frames; none writes to its input.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import matplotlib.colors
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .clips import Clip
from .tubes import Tube

__all__ = ["draw_boxes", "filmstrip", "focus", "heat", "save_picture", "save_video"]

Frames: TypeAlias = "Clip | np.ndarray"

_INK, _PAPER = (43, 47, 54), (255, 255, 255)


def heat(clip: Frames, tube: Tube, alpha: float = 0.5, colormap: str = "jet") -> np.ndarray:
    """Colour the frames by the tube: (1 − alpha) · frame + alpha · colormap(tube.normalized).

    The paper's Heat Tube; the defaults are the authors' `jet / 2 + frame / 2`. Colours span the whole
    volume, so a frame without evidence stays blue throughout.

    Args:
        clip: the clip as the network saw it (`ex.clip`), or its frames (T, H, W, 3) uint8.
        tube: its tube, (T, H, W).
        alpha: share of the colours, 0 to 1.
        colormap: matplotlib's name.

    Returns:
        (T, H, W, 3) uint8.

    Raises:
        ValueError: shapes differ, the tube has NaN, alpha is outside [0, 1], or the colormap is unknown.
    """
    frames = _matched(clip, tube)
    _check_share("alpha", alpha)
    table = 255 * alpha * _colormap(colormap)
    blended = np.empty_like(frames)
    for out, frame, saliency in zip(blended, frames, tube.normalized):
        # As matplotlib looks colours up; the frame is a float here, so nothing wraps around at 255.
        color = table[np.minimum((saliency * len(table)).astype(np.intp), len(table) - 1)]
        np.rint(color + np.float32(1 - alpha) * frame, out=color)
        out[...] = color
    return blended


def focus(clip: Frames, tube: Tube, floor: float = 20 / 255) -> np.ndarray:
    """Dim the frames outside the tube: frame · (floor + (1 − floor) · tube.normalized).

    The paper's Focus Tube; the authors scale the map to 20..255 and use it as brightness.

    Args:
        clip: the clip as the network saw it (`ex.clip`), or its frames (T, H, W, 3) uint8.
        tube: its tube, (T, H, W).
        floor: brightness where there is no saliency, 0 to 1.

    Returns:
        (T, H, W, 3) uint8.

    Raises:
        ValueError: shapes differ, the tube has NaN, or floor is outside [0, 1].
    """
    frames = _matched(clip, tube)
    _check_share("floor", floor)
    dimmed = np.empty_like(frames)
    for out, frame, saliency in zip(dimmed, frames, tube.normalized):
        out[...] = np.rint(frame * (np.float32(floor) + np.float32(1 - floor) * saliency)[..., None])
    return dimmed


def draw_boxes(
    clip: Frames,
    boxes: np.ndarray | None = None,
    color: str = "white",
    width: int = 2,
    label: str | None = None,
) -> np.ndarray:
    """Return the frames, (T, H, W, 3) uint8, with boxes drawn into them; lines lie inside the box.

    Args:
        clip: a clip or frames (T, H, W, 3) uint8.
        boxes: (T, 4) or (T, K, 4): (x0, y0, x1, y1) in pixels, half-open, NaN where there is none. What lies
            beyond the frame is cut off. None: the clip's `shown_boxes`.
        color: any colour matplotlib knows.
        width: of the lines, in pixels.
        label: written at each box.

    Raises:
        ValueError: boxes are missing, of another shape or turned inside out, or the colour or width is none.
    """
    frames = _frames(clip)
    if boxes is None:
        boxes = clip.shown_boxes if isinstance(clip, Clip) else None
        if boxes is None:
            raise ValueError("boxes: the clip has none of its own; give an array (T, 4) or (T, K, 4)")
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4 or len(boxes) != len(frames):
        raise ValueError(f"boxes: expected ({len(frames)}, 4) or ({len(frames)}, K, 4), got {boxes.shape}")
    boxes = boxes.reshape(len(frames), -1, 4)
    if (boxes[..., :2] > boxes[..., 2:]).any():
        raise ValueError("boxes: expected (x0, y0, x1, y1) with x0 ≤ x1 and y0 ≤ y1; some are inside out")
    if width < 1:
        raise ValueError(f"width: expected at least 1 pixel, got {width}")
    rgb = _rgb(color)
    drawn = frames.copy()
    for frame, here in zip(drawn, boxes):
        for box in here[np.isfinite(here).all(axis=-1)]:
            _draw_box(frame, box, rgb, width, label)
    return drawn


def _draw_box(frame: np.ndarray, box: np.ndarray, rgb: tuple[int, int, int], width: int, label: str | None) -> None:
    """Draw one box into one frame (H, W, 3), in place."""
    height, columns = frame.shape[:2]
    x0, y0, x1, y1 = np.clip(np.rint(box), 0, [columns, height, columns, height]).astype(int)
    if x1 <= x0 or y1 <= y0:  # nothing of it lies in the frame
        return
    inside = frame[y0:y1, x0:x1]
    for side in (inside[:width], inside[-width:], inside[:, :width], inside[:, -width:]):
        side[...] = rgb
    if not label:
        return
    dark_on_light = np.dot(rgb, (0.299, 0.587, 0.114)) > 140
    tag = _text(label, max(11, height // 18), _INK if dark_on_light else _PAPER, rgb, pad=3)
    top = y0 - len(tag) if y0 >= len(tag) else y0  # above the box, or in it where there is no room
    left = max(0, min(x0, columns - tag.shape[1]))
    room = frame[top : top + len(tag), left : left + tag.shape[1]]
    room[...] = tag[: room.shape[0], : room.shape[1]]


def filmstrip(
    frames: Frames | Sequence[Frames],
    count: int = 8,
    *,
    columns: int | None = None,
    times: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    height: int | None = None,
    gap: int = 3,
) -> np.ndarray:
    """Lay evenly chosen frames side by side, on white.

    Several sets of frames (say the clip, its heat and its focus) make a row each, one below the other. The
    picture is (height, width, 3) uint8.

    Args:
        frames: a clip or frames (T, H, W, 3) uint8, or a sequence of them, all of one shape.
        count: how many frames, `linspace(0, T - 1, count)` rounded down; all where the clip has no more.
        columns: frames side by side before the strip goes on below. None: all.
        times: (T,) seconds, written over the frames. None: those of the first clip among the rows, if any.
        labels: a title for each row, written at its left from bottom to top.
        height: of a frame in the picture, in pixels. None: as it is.
        gap: between frames, in pixels.

    Raises:
        ValueError: no rows, rows of different shapes, or times, labels or numbers that do not fit.
    """
    single = isinstance(frames, Clip) or getattr(frames, "ndim", 0) == 4
    given: list[Any] = [frames] if single else list(frames)  # type: ignore[arg-type]
    rows = [_frames(row) for row in given]
    if not rows or len({row.shape for row in rows}) != 1:
        raise ValueError(f"frames: expected rows of one shape (T, H, W, 3), got {[row.shape for row in rows]}")
    if times is None:
        times = next((row.times for row in given if isinstance(row, Clip)), None)
    for what, values, expected in (("labels", labels, len(rows)), ("times", times, len(rows[0]))):
        if values is not None and len(values) != expected:
            raise ValueError(f"{what}: expected {expected}, one for each, got {len(values)}")
    for what, number in (("count", count), ("columns", columns), ("height", height), ("gap", gap)):
        if number is not None and number < (what != "gap"):
            raise ValueError(f"{what}: expected {int(what != 'gap')} or more, got {number}")
    chosen = np.linspace(0, len(rows[0]) - 1, min(count, len(rows[0]))).astype(int)
    lines = np.array_split(chosen, range(columns, len(chosen), columns)) if columns else [chosen]
    height = height or rows[0].shape[1]
    return _join([_strip(rows, line, times, labels, height, gap) for line in lines], 3 * gap + 2, axis=0)


def _strip(
    rows: list[np.ndarray],
    chosen: np.ndarray,
    times: np.ndarray | None,
    labels: Sequence[str] | None,
    height: int,
    gap: int,
) -> np.ndarray:
    """Return one block: the chosen frames of each row, with times above and row titles at the left."""
    width = max(1, round(rows[0].shape[2] * height / rows[0].shape[1]))
    size = max(10, min(18, height // 10))
    margin = round(1.7 * size)
    lines = [[_resized(row[n], height, width) for n in chosen] for row in rows]
    if labels is not None:
        for line, label in zip(lines, labels):
            line.insert(0, _centered(np.rot90(_text(label, size, _INK, _PAPER)), height, margin))
    if times is not None:
        head = [_centered(_text(f"{times[n]:.2f} s", size, _INK, _PAPER), margin, width) for n in chosen]
        corner = [] if labels is None else [_centered(np.empty((0, 0, 3), np.uint8), margin, margin)]
        lines.insert(0, corner + head)
    return _join([_join(line, gap, axis=1) for line in lines], gap, axis=0)


def _resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame
    picture = Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


def _join(pictures: list[np.ndarray], gap: int, axis: int) -> np.ndarray:
    """Lay pictures below (axis 0) or beside (axis 1) each other on white, with a gap between them."""
    size = [max(picture.shape[n] for picture in pictures) for n in (0, 1)]
    size[axis] = sum(picture.shape[axis] + gap for picture in pictures) - gap
    canvas = np.full((*size, 3), 255, dtype=np.uint8)
    at = [0, 0]
    for picture in pictures:
        canvas[at[0] : at[0] + picture.shape[0], at[1] : at[1] + picture.shape[1]] = picture
        at[axis] += picture.shape[axis] + gap
    return canvas


def _centered(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the picture in the middle of a white one of this size; what does not fit is cut off."""
    picture = picture[:height, :width]
    room = np.full((height, width, 3), 255, dtype=np.uint8)
    y, x = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    room[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return room


def _text(
    text: str, size: int, color: tuple[int, int, int], background: tuple[int, int, int], pad: int = 1
) -> np.ndarray:
    """Return a line of text as a picture (height, width, 3), as high for every text of a size."""
    font = _font(size)
    ascent, descent = font.getmetrics()
    picture = Image.new("RGB", (round(font.getlength(text)) + 2 * pad, ascent + descent + pad), background)
    ImageDraw.Draw(picture).text((pad, pad // 2), text, font=font, fill=color)
    return np.asarray(picture)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings this one along: the same on every machine, and it has τ, ≥ and ×.
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def save_video(path: str | Path, frames: Frames, fps: float | None = None, quality: int | None = None) -> Path:
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
        raise ValueError(f"{path}: expected a name ending in .mp4, .gif or .avi, got {path.suffix!r}")
    stack = _frames(frames)
    if fps is None:
        if not isinstance(frames, Clip):
            raise ValueError("fps: expected frames per second; only a Clip knows its own")
        span = float(frames.times[-1] - frames.times[0])
        fps = (len(frames) - 1) / span if span > 0 else frames.fps
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: expected a positive number of frames per second, got {fps}")
    with _whole(path) as part:
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
    if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.uint8 or picture.size == 0:
        raise ValueError(f"picture: expected (H, W, 3) uint8, got shape {picture.shape} of {picture.dtype}")
    with _whole(path) as part:
        Image.fromarray(np.ascontiguousarray(picture)).save(part, format=kind, quality=92)
    return path


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a name to write to, which becomes `path` at the end, or vanishes on any failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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
    path: Path, frames: np.ndarray, fps: float, codec: str, settle: Callable[[Any], None], **container_facts: Any
) -> None:
    import av  # lazily: it loads FFmpeg, and most who import overlays write no video

    _, height, width, _ = frames.shape
    spare = ((0, height % 2), (0, width % 2), (0, 0))
    with av.open(str(path), "w", **container_facts) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        settle(stream)
        for frame in frames:
            even = np.ascontiguousarray(np.pad(frame, spare, mode="edge"))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: np.ndarray, fps: float, _quality: int | None) -> None:
    step = max(1, round(np.sqrt(frames[..., 0].size / 100_000)))  # so many pixels choose the palette
    sampled = np.concatenate(list(frames[:, ::step, ::step]))
    # Of Pillow's methods, the one that keeps rare colours: the red of a small peak is the finding.
    palette = Image.fromarray(sampled).quantize(256, Image.Quantize.MAXCOVERAGE)
    pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    first, *others = (p.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for p in pictures)
    # Whole hundredths that add up to the right length; browsers take anything below two for ten.
    due = np.rint(100 * np.arange(len(frames) + 1) / fps)
    durations = (10 * np.maximum(2, np.diff(due))).astype(int).tolist()
    first.save(path, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False)


def _frames(clip: Frames) -> np.ndarray:
    """Return the frames of a clip, or an array once it is seen to be frames."""
    return clip.frames if isinstance(clip, Clip) else Clip(frames=clip, fps=1.0).frames


def _matched(clip: Frames, tube: Tube) -> np.ndarray:
    """Return the frames, once clip and tube belong together and the tube has numbers."""
    frames = _frames(clip)
    if frames.shape[:3] != tube.volume.shape:
        raise ValueError(f"the tube is {tube.volume.shape} and the clip {frames.shape[:3]} (T, H, W). "
                         "Use ex.clip, the clip as the network saw it")  # fmt: skip
    if not np.isfinite(tube.volume).all():
        raise ValueError(f"tube: expected numbers, got NaN or infinity in {tube!r}. "
                         "Look for them in the clip or the network")  # fmt: skip
    return frames


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number between 0 and 1, got {value}")


def _colormap(name: str) -> np.ndarray:
    """Return (N, 3) float32, the colours of a matplotlib colormap, 0 to 1."""
    if name not in matplotlib.colormaps:
        raise ValueError(f"colormap: matplotlib knows no {name!r}. "
                         "Good ones: 'jet', 'turbo', 'inferno', 'viridis'")  # fmt: skip
    table = matplotlib.colormaps[name]
    return table(np.arange(table.N))[:, :3].astype(np.float32)


def _rgb(color: str) -> tuple[int, int, int]:
    try:
        red, green, blue = (round(255 * part) for part in matplotlib.colors.to_rgb(color))
    except ValueError as error:
        raise ValueError(f"color: matplotlib knows no {color!r}. Give a name or '#rrggbb'") from error
    return red, green, blue
