"""Solids: the shapes of a volume in time, width and height, as arrays for a 3-D view.

A volume is (T, H, W) with times (T,). Points have x = time in the unit of the times, y = column and
z = row in pixels; pixel i spans i to i + 1. Coordinates are float32 and triangles (i, j, k) int32,
because these travel to a browser as raw bytes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import skimage.measure
from PIL import Image

__all__ = ["box_edges", "frame_rim", "isosurface", "picture", "time_ends"]

Arrays = dict[str, np.ndarray]


def time_ends(times: np.ndarray) -> tuple[float, float]:
    """Return where the first frame starts and the last one ends: half a step outside the times."""
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    return float(times[0]) - step / 2, float(times[-1]) + step / 2


def isosurface(volume: np.ndarray, times: np.ndarray, level: float, grid: int = 64) -> Arrays:
    """Return the surface where a volume crosses a level, closed at the volume's faces.

    Marching cubes (scikit-image) on at most `grid` samples an axis, in a shell of zeros.

    Args:
        volume: (T, H, W), 0 to 1.
        times: (T,).
        level: above 0. If no sample exceeds it, the surface is a single triangle of no area.
        grid: samples along an axis; details thinner than the step between them may be missed.

    Returns:
        x, y, z per vertex and i, j, k per triangle.
    """
    values, axes = _sample(volume, times, grid)
    if values.max() <= level:
        t, row, column = (np.repeat(axis[:1], 3).astype(np.float32) for axis in axes)
        i, j, k = np.arange(3, dtype=np.int32)[:, None]
        return {"x": t, "y": column, "z": row, "i": i, "j": j, "k": k}
    vertices, faces, _, _ = skimage.measure.marching_cubes(np.pad(values, 1), level)
    # Vertices count samples of the padded volume, whose shell lies on the volume's faces.
    t, row, column = (
        np.interp(along, np.arange(len(axis)), axis).astype(np.float32)
        for along, axis in zip(vertices.T, axes)
    )
    i, j, k = np.ascontiguousarray(faces.T, dtype=np.int32)
    return {"x": t, "y": column, "z": row, "i": i, "j": j, "k": k}


def _sample(
    volume: np.ndarray, times: np.ndarray, limit: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return at most `limit` evenly spaced samples an axis, and where they lie.

    The places of an axis begin and end with the volume's faces: two more than there are samples.
    """
    centers = [times, *(np.arange(n) + 0.5 for n in volume.shape[1:])]
    ends = [time_ends(times), *((0.0, float(n)) for n in volume.shape[1:])]
    chosen = [np.linspace(0, n - 1, min(n, limit)).round().astype(np.intp) for n in volume.shape]
    axes = [
        np.r_[low, along[which], high] for (low, high), along, which in zip(ends, centers, chosen)
    ]
    return volume[np.ix_(*chosen)], axes


def picture(frame: np.ndarray, time: float, size: int = 112) -> Arrays:
    """Return a frame as a coloured mesh across the volume, upright at its time.

    There is a vertex at the centre of each pixel, and more around them on the frame's rim; colours
    are interpolated in between. (Colours as text take six times the bytes of palette indices, but
    indices cannot be interpolated.)

    Args:
        frame: (H, W, 3) uint8.
        time: where it stands.
        size: pixels along the longer side; larger frames are averaged down.

    Returns:
        x, y, z and vertexcolor ("#rrggbb") per vertex, and i, j, k per triangle.
    """
    height, width, _ = frame.shape
    small = Image.fromarray(np.ascontiguousarray(frame))
    small.thumbnail((size, size), Image.Resampling.BOX)
    rimmed = np.pad(np.asarray(small), ((1, 1), (1, 1), (0, 0)), mode="edge")
    text = rimmed.tobytes().hex()  # cutting one string is ten times faster than formatting numbers
    colors = ["#" + text[n : n + 6] for n in range(0, len(text), 6)]
    plane = _plane(small.height, small.width, height, width)
    return {
        "x": np.full(len(colors), time, dtype=np.float32),
        **plane,
        "vertexcolor": np.array(colors, dtype=object),  # Plotly checks every item of a list
    }


@lru_cache(maxsize=8)
def _plane(rows: int, columns: int, height: int, width: int) -> Arrays:
    """Return y, z of a picture's pixel centres and rim, and its triangles. Shared: do not write."""
    along_z = np.r_[0, (np.arange(rows) + 0.5) * height / rows, height]
    along_y = np.r_[0, (np.arange(columns) + 0.5) * width / columns, width]
    z, y = np.meshgrid(along_z, along_y, indexing="ij")
    # Two triangles for each cell between four vertices; `corner` is its upper left one.
    corner = (np.arange(rows + 1)[:, None] * (columns + 2) + np.arange(columns + 1)).ravel()
    below = corner + columns + 2
    triangles = {
        "i": np.concatenate([corner, corner + 1]),
        "j": np.concatenate([corner + 1, below + 1]),
        "k": np.concatenate([below, below]),
    }
    plane = {"y": y.ravel().astype(np.float32), "z": z.ravel().astype(np.float32)}
    return plane | {name: indices.astype(np.int32) for name, indices in triangles.items()}


def frame_rim(time: float, height: int, width: int) -> Arrays:
    """Return the closed line around a frame: x, y, z of five points."""
    y, z = np.array([[0, width, width, 0, 0], [0, 0, height, height, 0]], dtype=np.float32)
    return {"x": np.full(5, time, dtype=np.float32), "y": y, "z": z}


def box_edges(times: np.ndarray, height: int, width: int) -> Arrays:
    """Return the twelve edges of a volume as one line with NaN between edges: x, y, z."""
    ends = np.array([time_ends(times), (0, width), (0, height)], dtype=np.float32)
    points = []
    for axis in range(3):
        for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
            points += [ends[range(3), np.insert(corner, axis, end)] for end in (0, 1)]
            points.append(np.full(3, np.nan, dtype=np.float32))
    x, y, z = np.ascontiguousarray(np.array(points).T)
    return {"x": x, "y": y, "z": z}
