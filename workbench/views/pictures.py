"""Pictures: boxes drawn into frames, and frames laid out as a filmstrip."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..clips.clip import Clip, Frames, as_frames

__all__ = ["draw_boxes", "filmstrip"]

Color = tuple[int, int, int]

INK: Color = (43, 47, 54)
PAPER: Color = (255, 255, 255)


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
        boxes: (T, 4) or (T, K, 4): (x0, y0, x1, y1) in pixels, half-open, NaN for no box. Parts
            beyond the frame are cut off. None: the clip's `shown_boxes`.
        color: any colour matplotlib knows.
        width: of the lines, in pixels.
        label: written at each box.

    Raises:
        ValueError: boxes are missing, of another shape or inside out, or the colour or width is
            invalid.
    """
    frames = as_frames(clip)
    if boxes is None:
        boxes = clip.shown_boxes if isinstance(clip, Clip) else None
        if boxes is None:
            raise ValueError(
                "boxes: the clip has none of its own; give an array (T, 4) or (T, K, 4)"
            )
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim not in (2, 3) or boxes.shape[-1] != 4 or len(boxes) != len(frames):
        raise ValueError(
            f"boxes: expected ({len(frames)}, 4) or ({len(frames)}, K, 4), got {boxes.shape}"
        )
    boxes = boxes.reshape(len(frames), -1, 4)
    if (boxes[..., :2] > boxes[..., 2:]).any():
        raise ValueError(
            "boxes: expected (x0, y0, x1, y1) with x0 ≤ x1 and y0 ≤ y1; some are inside out"
        )
    if width < 1:
        raise ValueError(f"width: expected at least 1 pixel, got {width}")
    rgb = _rgb(color)
    drawn = frames.copy()
    for frame, here in zip(drawn, boxes):
        for box in here[np.isfinite(here).all(axis=-1)]:
            _draw_box(frame, box, color=rgb, width=width, label=label)
    return drawn


def _draw_box(
    frame: np.ndarray, box: np.ndarray, *, color: Color, width: int, label: str | None
) -> None:
    """Draw one box into one frame (H, W, 3), in place."""
    height, columns = frame.shape[:2]
    x0, y0, x1, y1 = np.clip(np.rint(box), 0, [columns, height, columns, height]).astype(int)
    if x1 <= x0 or y1 <= y0:  # outside the frame
        return
    inside = frame[y0:y1, x0:x1]
    for side in (inside[:width], inside[-width:], inside[:, :width], inside[:, -width:]):
        side[...] = color
    if not label:
        return
    luma = np.dot(color, (0.299, 0.587, 0.114))
    ink = INK if luma > 140 else PAPER
    tag = _text(label, max(11, height // 18), color=ink, background=color, pad=3)
    top = y0 - len(tag) if y0 >= len(tag) else y0  # above the box, or in it if there is no room
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

    Several sets of frames (say the clip, its heat and its focus) become rows, one below the other.
    The picture is (height, width, 3) uint8.

    Args:
        frames: a clip or frames (T, H, W, 3) uint8, or a sequence of them, all of one shape.
        count: how many frames, `linspace(0, T - 1, count)` rounded down; at most T.
        columns: frames side by side before the strip wraps to a new line. None: all.
        times: (T,) seconds, written above the frames. None: those of the first clip among the rows,
            if any.
        labels: a title for each row, written at its left from bottom to top.
        height: of a frame in the picture, in pixels. None: as it is.
        gap: between frames, in pixels.

    Raises:
        ValueError: no rows, rows of different shapes, or times, labels or numbers that do not fit.
    """
    single = isinstance(frames, Clip) or getattr(frames, "ndim", 0) == 4
    given: list[Any] = [frames] if single else list(frames)  # type: ignore[arg-type]
    rows = [as_frames(row) for row in given]
    if not rows or len({row.shape for row in rows}) != 1:
        raise ValueError(
            f"frames: expected rows of one shape (T, H, W, 3), got {[row.shape for row in rows]}"
        )
    if times is None:
        times = next((row.times for row in given if isinstance(row, Clip)), None)
    for name, values, expected in (("labels", labels, len(rows)), ("times", times, len(rows[0]))):
        if values is not None and len(values) != expected:
            raise ValueError(f"{name}: expected {expected}, got {len(values)}")
    limits = (("count", count, 1), ("columns", columns, 1), ("height", height, 1), ("gap", gap, 0))
    for name, number, least in limits:
        if number is not None and number < least:
            raise ValueError(f"{name}: expected {least} or more, got {number}")
    chosen = np.linspace(0, len(rows[0]) - 1, min(count, len(rows[0]))).astype(int)
    lines = np.array_split(chosen, range(columns, len(chosen), columns)) if columns else [chosen]
    height = height or rows[0].shape[1]
    blocks = [
        _block(rows, line, times=times, labels=labels, height=height, gap=gap) for line in lines
    ]
    return _join(blocks, gap=3 * gap + 2, axis=0)


def _block(
    rows: list[np.ndarray],
    chosen: np.ndarray,
    *,
    times: np.ndarray | None,
    labels: Sequence[str] | None,
    height: int,
    gap: int,
) -> np.ndarray:
    """Return the chosen frames of each row, with times above and row titles at the left."""
    width = max(1, round(rows[0].shape[2] * height / rows[0].shape[1]))
    font_size = max(10, min(18, height // 10))
    margin = round(1.7 * font_size)
    lines = [[_resized(row[n], height, width) for n in chosen] for row in rows]
    if labels is not None:
        for line, label in zip(lines, labels):
            title = np.rot90(_text(label, font_size))
            line.insert(0, _centered(title, height, margin))
    if times is not None:
        head = [_centered(_text(f"{times[n]:.2f} s", font_size), margin, width) for n in chosen]
        if labels is not None:
            head.insert(0, np.full((margin, margin, 3), 255, dtype=np.uint8))
        lines.insert(0, head)
    return _join([_join(line, gap=gap, axis=1) for line in lines], gap=gap, axis=0)


def _resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame
    picture = Image.fromarray(np.ascontiguousarray(frame))
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


def _join(pictures: list[np.ndarray], *, gap: int, axis: int) -> np.ndarray:
    """Lay pictures below (axis 0) or beside (axis 1) each other on white, with a gap between."""
    size = [max(picture.shape[n] for picture in pictures) for n in (0, 1)]
    size[axis] = sum(picture.shape[axis] + gap for picture in pictures) - gap
    canvas = np.full((*size, 3), 255, dtype=np.uint8)
    corner = [0, 0]
    for picture in pictures:
        y, x = corner
        canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
        corner[axis] += picture.shape[axis] + gap
    return canvas


def _centered(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the picture centred on white of this size; parts that do not fit are cut off."""
    picture = picture[:height, :width]
    room = np.full((height, width, 3), 255, dtype=np.uint8)
    y, x = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    room[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return room


def _text(
    text: str, size: int, *, color: Color = INK, background: Color = PAPER, pad: int = 1
) -> np.ndarray:
    """Return a line of text as a picture (height, width, 3); texts of a size are equally high."""
    font = _font(size)
    ascent, descent = font.getmetrics()
    width, height = round(font.getlength(text)) + 2 * pad, ascent + descent + pad
    picture = Image.new("RGB", (width, height), background)
    ImageDraw.Draw(picture).text((pad, pad // 2), text, font=font, fill=color)
    return np.asarray(picture)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Comes with matplotlib, so it is the same on every machine; it has τ, ≥ and ×.
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def _rgb(color: str) -> Color:
    try:
        red, green, blue = (round(255 * part) for part in matplotlib.colors.to_rgb(color))
    except ValueError as error:
        raise ValueError(f"color: matplotlib has no {color!r}. Give a name or '#rrggbb'") from error
    return red, green, blue
