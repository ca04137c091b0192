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


_INK, _PAPER = (43, 47, 54), (255, 255, 255)


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
            _draw_box(frame, box, rgb, width, label)
    return drawn


def _draw_box(
    frame: np.ndarray, box: np.ndarray, rgb: tuple[int, int, int], width: int, label: str | None
) -> None:
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
    rows = [as_frames(row) for row in given]
    if not rows or len({row.shape for row in rows}) != 1:
        raise ValueError(
            f"frames: expected rows of one shape (T, H, W, 3), got {[row.shape for row in rows]}"
        )
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
    return _join(
        [_strip(rows, line, times, labels, height, gap) for line in lines], 3 * gap + 2, axis=0
    )


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
        head = [
            _centered(_text(f"{times[n]:.2f} s", size, _INK, _PAPER), margin, width) for n in chosen
        ]
        corner = (
            [] if labels is None else [_centered(np.empty((0, 0, 3), np.uint8), margin, margin)]
        )
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
    text: str,
    size: int,
    color: tuple[int, int, int],
    background: tuple[int, int, int],
    pad: int = 1,
) -> np.ndarray:
    """Return a line of text as a picture (height, width, 3), as high for every text of a size."""
    font = _font(size)
    ascent, descent = font.getmetrics()
    picture = Image.new(
        "RGB", (round(font.getlength(text)) + 2 * pad, ascent + descent + pad), background
    )
    ImageDraw.Draw(picture).text((pad, pad // 2), text, font=font, fill=color)
    return np.asarray(picture)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings this one along: the same on every machine, and it has τ, ≥ and ×.
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def _rgb(color: str) -> tuple[int, int, int]:
    try:
        red, green, blue = (round(255 * part) for part in matplotlib.colors.to_rgb(color))
    except ValueError as error:
        raise ValueError(
            f"color: matplotlib knows no {color!r}. Give a name or '#rrggbb'"
        ) from error
    return red, green, blue
