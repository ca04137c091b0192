"""The proof of place: how time, height and width lie in a layer's output.

The completeness test proves layer, head and channel axis. It says nothing about the order of
voxels, because a mean does not depend on it. So the input is disturbed region by region: the first
and the last half along each of T, H and W. If the map's axes are what a layout says, the voxels of
a half change more when that half of the clip is disturbed than when the other half is.

The score of an axis is the area under the ROC curve of that comparison over the voxels: 1 if every
voxel follows its own half, 0.5 by chance, 0 if the axis runs backwards. The score of a layout is
that of its worst axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..models.hooks import Call
from .layouts import Layout

__all__ = ["PROVED", "Response", "best_reading", "disturbed", "place_score", "respond"]

PROVED = 0.85  # a layout with this score or more is the right one
NEAR = 0.05  # by less than this, a better score of another reading decides nothing
AXES = (2, 3, 4)  # T, H, W of an input (N, C, T, H, W)


@dataclass(frozen=True)
class Response:
    """What a layer gave for the clip as it is, and with each half of it disturbed.

    Attributes:
        plain: the layer's output.
        halves: for each axis T, H, W the outputs with its first and its last half disturbed; None
            for an axis of one frame or pixel.
    """

    plain: torch.Tensor
    halves: tuple[tuple[torch.Tensor, torch.Tensor] | None, ...]


def disturbed(x: torch.Tensor) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield axis (0 to 2), half (0 or 1) and the input (1, C, T, H, W) with that half disturbed.

    The half is replaced by noise of the clip's own mean and spread, the same for all halves.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=generator).to(x) * x.std() + x.mean()
    for number, axis in enumerate(AXES):
        size = x.shape[axis]
        if size < 2:
            continue
        for half, part in enumerate((slice(0, size // 2), slice(size - size // 2, size))):
            region = [slice(None)] * x.ndim
            region[axis] = part
            changed = x.clone()
            changed[tuple(region)] = noise[tuple(region)]
            yield number, half, changed


def respond(
    take: Callable[[torch.Tensor], Mapping[Call, torch.Tensor]], x: torch.Tensor
) -> dict[Call, Response]:
    """Return what layers give for a clip, and with each half of it disturbed: seven passes.

    Args:
        take: from an input (1, C, T, H, W) to the outputs of the layers.
        x: the clip's input.
    """
    plain = take(x)
    halves: dict[Call, list[list[torch.Tensor]]] = {call: [[], [], []] for call in plain}
    for axis, _, changed in disturbed(x):
        for call, output in take(changed).items():
            halves[call][axis].append(output)
    responses = {}
    for call, by_axis in halves.items():
        pairs = tuple((each[0], each[1]) if each else None for each in by_axis)
        responses[call] = Response(plain[call], pairs)
    return responses


def best_reading(
    response: Response, layout: Layout, others: Sequence[Layout]
) -> tuple[Layout, float]:
    """Return the layout that places the changes best, and its score.

    The first layout is kept unless another one is proved and clearly better.
    """
    score = place_score(response, layout)
    scores = [place_score(response, other) for other in others]
    for other, other_score in zip(others, scores):
        kept = score >= PROVED and score >= other_score - NEAR
        if other_score >= PROVED and not kept and not score >= other_score:
            layout, score = other, other_score
    return layout, score


def place_score(response: Response, layout: Layout) -> float:
    """Return how well a layout places the changes: 1 at best, 0.5 by chance; NaN without change.

    An axis along which the map has one voxel, or the clip one frame, has no place to prove.
    """
    scores = []
    for axis, halves in enumerate(response.halves):
        if halves is None or layout.grid[axis] < 2:
            continue
        first, last = (_change(half, response.plain, layout) for half in halves)
        scores.append(_axis_score(first, last, axis))
    return min(scores, default=float("nan"))


def _change(output: torch.Tensor, plain: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return (T', H', W') how far each voxel moved."""
    difference = layout.arranged(output)[0].float() - layout.arranged(plain)[0].float()
    return difference.pow(2).sum(0).sqrt()


def _axis_score(first: torch.Tensor, last: torch.Tensor, axis: int) -> float:
    """Return how often a voxel of the first half follows the first half more than one of the last.

    Voxels are compared along lines of the axis, so that places which change more than others do
    not count.
    """
    total = first + last
    if not bool(total.any()):
        return float("nan")
    share = torch.where(total > 0, first / total.clamp(min=1e-30), 0.5).movedim(axis, 0).flatten(1)
    size = len(share)
    # The middle slice of an odd number belongs to neither half.
    early, late = share[: size // 2], share[size - size // 2 :]
    gap = early[:, None] - late[None]
    return float(((gap > 0).float() + 0.5 * (gap == 0).float()).mean())
