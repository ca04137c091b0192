"""Patterns across many tubes, from the low maps of the predicted classes in the index.

Evidence is the positive part of a map. A clip whose map has none is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

__all__ = ["centre_share", "focused_share", "nearest", "profiles", "spatial_maps"]

TOP_SHARE = 0.1


def centre_share(low: np.ndarray) -> float:
    """Return the share of evidence in the middle half of height and width.

    A map (T', H', W') that is the same everywhere has 0.25; one without evidence NaN.
    """
    plane = np.clip(low, 0, None).sum(axis=0, dtype=np.float64)
    total = plane.sum()
    if not total > 0:
        return float("nan")
    height, width = (_middle(count) for count in plane.shape)
    return float(height @ plane @ width / total)


def focused_share(low: np.ndarray) -> float:
    """Return the share of evidence in the strongest tenth of a map's voxels.

    A map that is the same everywhere has 0.1, one with all evidence in a few voxels 1.
    """
    values = np.sort(np.clip(low, 0, None), axis=None)[::-1].astype(np.float64)
    total = values.sum()
    if not total > 0:
        return float("nan")
    whole, part = divmod(TOP_SHARE * len(values), 1)
    return float((values[: int(whole)].sum() + part * values[int(whole)]) / total)


def profiles(maps: pd.DataFrame, by: str = "label", points: int = 16) -> pd.DataFrame:
    """Return mean temporal profiles of evidence, a row for each value of a column.

    Each clip counts the same: its profile, scaled to a mean of 1, is interpolated to `points`
    equally long stretches; the columns are the middle of each as a share of the clip's duration.

    Args:
        maps: with columns `grid`, `map`, and the one to group by.
        by: "label", "prediction", "correct" or any other column.
        points: how many stretches.
    """
    places = (np.arange(points) + 0.5) / points
    rows, groups = [], []
    for values, group in zip(_volumes(maps), maps[by]):
        profile = values.sum(axis=(1, 2))
        if profile.sum() > 0:
            own = (np.arange(len(profile)) + 0.5) / len(profile)
            rows.append(np.interp(places, own, profile / profile.mean()))
            groups.append(group)
    table = pd.DataFrame(rows, columns=places.round(3), index=pd.Index(groups, name=by))
    return table.groupby(level=0).mean()


def spatial_maps(maps: pd.DataFrame, by: str = "label") -> dict[Any, np.ndarray]:
    """Return mean maps (H', W') of evidence, by the values of a column; the mean of each is 1.

    Raises:
        ValueError: maps of different sizes fall into one group.
    """
    planes: dict[Any, list[np.ndarray]] = {}
    for values, group in zip(_volumes(maps), maps[by]):
        plane = values.sum(axis=0)
        if plane.sum() > 0 and pd.notna(group):
            planes.setdefault(group, []).append(plane / plane.mean())
    for group, those in planes.items():
        if len({plane.shape for plane in those}) > 1:
            raise ValueError(
                f"the maps of {group!r} have different sizes: choose clips of one size"
            )
    return {group: np.mean(those, axis=0) for group, those in sorted(planes.items())}


def nearest(maps: pd.DataFrame, name: str, count: int = 10) -> pd.DataFrame:
    """Return the clips whose evidence lies most alike in space and time, the closest first.

    The column `similarity` is the cosine of the two maps; only maps of the same grid are compared.

    Raises:
        KeyError: no clip of that name.
    """
    if name not in maps.index:
        raise KeyError(f"no explained clip {name!r}")
    own: Any = maps.at[name, "grid"]
    grid = tuple(own)
    same = maps[[tuple(each) == grid for each in maps["grid"]]]
    vectors = np.clip(np.stack(same["map"].to_list()).astype(np.float32), 0, None)
    lengths = np.linalg.norm(vectors, axis=1)
    vectors /= np.where(lengths > 0, lengths, 1)[:, None]
    similarity = vectors @ vectors[same.index.get_loc(name)]
    found = pd.DataFrame({"similarity": similarity}, index=same.index).drop(name)
    return found.nlargest(count, "similarity")


def _volumes(maps: pd.DataFrame) -> list[np.ndarray]:
    """Return the evidence (T', H', W') of each clip."""
    return [
        np.clip(np.asarray(values, np.float64), 0, None).reshape(tuple(grid))
        for grid, values in zip(maps["grid"], maps["map"])
    ]


def _middle(count: int) -> np.ndarray:
    """Return (count,) how much of each cell of an axis lies in its middle half."""
    edges = np.linspace(0, 1, count + 1).clip(0.25, 0.75)
    return np.diff(edges) * count
