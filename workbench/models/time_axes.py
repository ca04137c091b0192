"""Time axes: which axis of an output counts time steps, for networks that answer per frame.

Action segmentation gives (1, T, N) or (1, N, T), a detector of shot boundaries (1, T, 1), a pulse
estimator (1, T). The answers need not be as many as the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch

__all__ = ["NO_TIME", "answer_times", "by_answer", "find_time_axis"]

NO_TIME = 0  # in place of an axis: the output is one answer for the clip
Shape: TypeAlias = tuple[int, ...]


def find_time_axis(
    name: str, shape: Shape, *, frames: int, classes: int | None, other: Callable[[], Shape | None]
) -> int:
    """Return the axis of an output that counts time steps, 1 or 2; `NO_TIME` if there is none.

    The number of classes decides if it is that of one axis only. Otherwise it is the axis that
    changes with the length of the clip, or that is as long as a clip of the only length that the
    network takes.

    Args:
        name: of the output.
        shape: (1, N), or (1, T, N) or (1, N, T).
        frames: length of the clip.
        classes: number of class names; None if none were given.
        other: returns the output's shape for a clip of another length; None if there is no such.

    Raises:
        ValueError: either axis may be the one.
    """
    sizes = shape[1:]
    if len(sizes) == 1:
        if classes is not None or frames < 2 or sizes[0] != frames:
            return 1 if classes == 1 and sizes[0] == frames > 1 else NO_TIME
        longer = other()
        return NO_TIME if longer is None or longer == shape else 1
    if classes is not None and sizes.count(classes) == 1:
        return 1 if sizes[1] == classes else 2
    longer = other()
    changed = [axis for axis in (1, 2) if longer is not None and longer[axis] != shape[axis]]
    as_long = [axis for axis in (1, 2) if shape[axis] == frames]
    if len(changed) == 1:
        return changed[0]
    if 1 in sizes and (longer is not None or len(as_long) != 1):
        return NO_TIME
    if len(as_long) == 1:
        return as_long[0]
    raise ValueError(
        f"output {name!r} has the shape {shape} for a clip of {frames} frames, and either axis may "
        "count time steps. Say which: wb.wrap_model(…, time_axis=1) for (1, T, N), time_axis=2 "
        "for (1, N, T); or give classes= with the N names"
    )


def by_answer(part: torch.Tensor, axis: int) -> torch.Tensor:
    """Return an output as (batch, K, N) if it has a time axis, K answers; else as (batch, N)."""
    if axis == NO_TIME:
        return part if part.ndim == 2 else part.flatten(1)
    if part.ndim == 2:
        return part.unsqueeze(-1)
    return part if axis == 1 else part.transpose(1, 2)


def answer_times(
    count: int, times: np.ndarray, stated: Sequence[float] | None = None
) -> np.ndarray:
    """Return (K,) the time in seconds of each of K answers.

    Args:
        count: K.
        times: (T,) seconds, when each frame of the clip is shown.
        stated: (K,) the frame that each answer belongs to, from 0, fractions allowed; None: the
            answers share the clip evenly, each in the middle of its share.

    Raises:
        ValueError: `stated` has another length.
    """
    frames = len(times)
    if stated is None:
        stated = ((np.arange(count) + 0.5) * frames / count - 0.5).tolist()
    if len(stated) != count:
        raise ValueError(
            f"answer_frames states {len(stated)} frames, and the network gives {count} answers: "
            "state one for each answer, or leave it out to spread them evenly"
        )
    return np.interp(np.asarray(stated, dtype=float), np.arange(frames), times)
