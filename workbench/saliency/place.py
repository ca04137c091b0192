"""The proof of place: how time, height and width lie in a layer's output.

The completeness test proves layer, head and channel axis. It says nothing about the order of
voxels, because a mean does not depend on it. So the input is disturbed region by region: the first
and the last half along each of T, H and W. If the map's axes are what a layout says, the voxels of
a half change more when that half of the clip is disturbed than when the other half is.

The score of an axis is the area under the ROC curve of that comparison over the voxels: 1 if every
voxel follows its own half, 0.5 by chance, 0 if the axis runs backwards. The score of a layout is
that of its worst axis. Grids of a few voxels prove nothing: their axes score well by accident.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..models.hooks import Call
from .layouts import Layout

__all__ = [
    "PROVED",
    "Response",
    "best_reading",
    "disturbed",
    "is_sequence",
    "place_score",
    "proved_score",
    "respond",
]

PROVED = 0.85  # a layout with this score or more is the right one
# Standard deviations above chance along each axis: less, and a grid of 2×2 is proved by accident.
ENOUGH = 2.4
ORDERED = 0.7  # over the whole map; a movement in the clip orders frames in a row by 0.63
NEAR = 0.05  # by less than this, a better score of another reading decides nothing
PATCHES = 7  # along height and width of a frame that is disturbed gently
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


def disturbed(x: torch.Tensor, *, gently: bool = False) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield axis (0 to 2), half (0 or 1) and the input (1, C, T, H, W) with that half disturbed.

    The half is replaced by noise of the clip's own mean and spread, the same for all halves. With
    `gently`, patches of that spread are laid over it, other ones in every frame.
    """
    generator = torch.Generator().manual_seed(0)
    if gently:
        patches = torch.randn(*x.shape[:3], PATCHES, PATCHES, generator=generator).to(x)
        other = x + x.std() * nn.functional.interpolate(patches, size=tuple(x.shape[2:]))
    else:
        other = torch.randn(x.shape, generator=generator).to(x) * x.std() + x.mean()
    for number, axis in enumerate(AXES):
        size = x.shape[axis]
        if size < 2:
            continue
        for half, part in enumerate((slice(0, size // 2), slice(size - size // 2, size))):
            region = [slice(None)] * x.ndim
            region[axis] = part
            changed = x.clone()
            changed[tuple(region)] = other[tuple(region)]
            yield number, half, changed


def respond(
    take: Callable[[torch.Tensor], Mapping[Call, torch.Tensor]],
    x: torch.Tensor,
    *,
    gently: bool = False,
    plain: Mapping[Call, torch.Tensor] | None = None,
) -> dict[Call, Response]:
    """Return what layers give for a clip, and with each half of it disturbed: seven passes.

    Args:
        take: from an input (1, C, T, H, W) to the outputs of the layers.
        x: the clip's input.
        gently: see `disturbed`.
        plain: what the layers give for the clip itself, if that is known: six passes.
    """
    plain = take(x) if plain is None else plain
    halves: dict[Call, list[list[torch.Tensor]]] = {call: [[], [], []] for call in plain}
    for axis, _, changed in disturbed(x, gently=gently):
        for call, output in take(changed).items():
            halves[call][axis].append(output)
    responses = {}
    for call, by_axis in halves.items():
        pairs = tuple((each[0], each[1]) if each else None for each in by_axis)
        responses[call] = Response(plain[call], pairs)
    return responses


def best_reading(
    response: Response, layout: Layout, others: Sequence[Layout]
) -> tuple[Layout, float | None]:
    """Return the layout that places the changes best, and its score; None: it is not proved.

    The first layout is kept unless another one is proved and clearly better.
    """
    score = proved_score(response, layout)
    for other in others:
        other_score = proved_score(response, other)
        if other_score is not None and (score is None or other_score > score + NEAR):
            layout, score = other, other_score
    return layout, score


def is_sequence(response: Response, layout: Layout, frames: int) -> bool:
    """Return whether tokens are steps in time, one after the other, and no grid.

    A network that answers per frame has a token for each frame or fewer. A grid of so few voxels
    that happens to fit would be proved by accident.
    """
    count = math.prod(layout.grid)
    if not layout.of_tokens or layout.axes.startswith("(n t)") or count > frames:
        return False
    line = replace(layout, axes="n (t h w) c", grid=(count, 1, 1))
    return proved_score(response, line) is not None


def proved_score(response: Response, layout: Layout) -> float | None:
    """Return how well a layout places the changes if that proves it; None otherwise.

    A proof needs a good score along every axis, and enough voxels for it to be no accident. Tokens
    shifted by one score well on wide grids, so a shift must not score better.
    """
    axes = _axis_scores(response, layout)
    if not axes or not all(axis.proved for axis in axes):
        return None
    score = min(axis.score for axis in axes)
    if any(place_score(response, other) > score + NEAR for other in _shifted(layout)):
        return None
    return score


def place_score(response: Response, layout: Layout) -> float:
    """Return how well a layout places the changes: 1 at best, 0.5 by chance; NaN without change.

    An axis along which the map has one voxel, or the clip one frame, has no place to prove.
    """
    scores = [axis.score for axis in _axis_scores(response, layout)]
    return min(scores, default=float("nan"))


def _shifted(layout: Layout) -> Iterator[Layout]:
    """Yield the layouts whose tokens begin one earlier or later, of those that there may be."""
    if layout.of_tokens and layout.lead:
        yield replace(layout, lead=layout.lead - 1, tail=layout.tail + 1)
    if layout.of_tokens and layout.tail:
        yield replace(layout, lead=layout.lead + 1, tail=layout.tail - 1)


@dataclass(frozen=True)
class _AxisScore:
    """The score of an axis along its lines and over the whole map.

    `deviations`: by how many standard deviations the first is above chance.
    """

    score: float
    over_all: float
    deviations: float

    @property
    def proved(self) -> bool:
        """Whether the axis is what the layout says, and not by accident."""
        return self.score >= PROVED and self.over_all >= ORDERED and self.deviations >= ENOUGH


def _axis_scores(response: Response, layout: Layout) -> list[_AxisScore]:
    scores = []
    for axis, halves in enumerate(response.halves):
        if halves is None or layout.grid[axis] < 2:
            continue
        first, last = (_change(half, response.plain, layout) for half in halves)
        score = _axis_score(first, last, axis)
        if axis == 0 and layout.axes.startswith("(n t)"):
            # A batch of as many pictures as the clip has frames leaves little to chance.
            score = replace(score, deviations=math.inf)
        scores.append(score)
    return scores


def _change(output: torch.Tensor, plain: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return (T', H', W') how far each voxel moved."""
    difference = layout.arranged(output)[0].float() - layout.arranged(plain)[0].float()
    return difference.pow(2).sum(0).sqrt()


def _axis_score(first: torch.Tensor, last: torch.Tensor, axis: int) -> _AxisScore:
    """Return how often a voxel of the first half follows the first half more than one of the last.

    Voxels are compared along each line of the axis, so that places which change more than others do
    not count, and over the whole map: something that moves through the clip can put every short
    line in order, but not the map.
    """
    total = first + last
    if not bool(total.any()):
        return _AxisScore(float("nan"), float("nan"), 0.0)
    share = torch.where(total > 0, first / total.clamp(min=1e-30), 0.5).movedim(axis, 0).flatten(1)
    size, lines = share.shape
    half = size // 2
    # The middle slice of an odd number belongs to neither half.
    early, late = share[:half], share[size - half :]
    gap = early[:, None] - late[None]
    along = float(((gap > 0).float() + 0.5 * (gap == 0).float()).mean())
    over_all = _share_above(early.flatten().contiguous(), late.flatten().contiguous())
    # Spread of the first score if early and late voxels were exchangeable (Mann and Whitney).
    spread = math.sqrt((2 * half + 1) / (12 * half * half * lines))
    return _AxisScore(along, over_all, (along - 0.5) / spread)


def _share_above(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return in what share of all pairs the first number is the larger; ties count half."""
    ordered = other.sort().values
    below = torch.searchsorted(ordered, one) + torch.searchsorted(ordered, one, right=True)
    return float(below.double().mean()) / (2 * len(other))
