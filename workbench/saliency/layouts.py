"""Layouts: how a layer's output, whatever the kind of network, is activation maps (C, T', H', W').

3-D ConvNets give (N, C, T', H', W') and video Swin (N, T', H', W', C). A 2-D network that sees
frames as a batch gives (N·T', C, H', W'). Transformers give tokens (N, L, C), or (N·T', L, C) if
they see one frame at a time, perhaps after class tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from einops import rearrange

__all__ = ["Grid", "Layout", "fits", "pooled", "possible_layouts", "rearrangements", "without_lead"]

Grid: TypeAlias = tuple[int, int, int]  # T', H', W'

MAPS = "n c t h w"
# Orders of the axes that networks use. The first that fits is the likeliest.
VOLUMES = ("n c t h w", "n t h w c", "n t c h w", "n c h w t", "n h w t c")
PICTURES = ("(n t) c h w", "(n t) h w c")
TOKENS = ("n (t h w) c", "n (h w t) c")  # TimeSformer lists space before time
FRAME_TOKENS = ("(n t) (h w) c",)
LEADS = (0, 1, 2)  # tokens before those of the clip: none, a class token, class and distillation
FRAME_LEADS = range(10)  # before those of a frame there may also be registers (DINOv2)
SQUARE = 1.5  # by how much one side of a patch may be longer than the other
USUAL_CELL = 16  # pixels: most cells of a picture are 14 to 32 wide


@dataclass(frozen=True)
class Layout:
    """What the axes of a layer's output are.

    Attributes:
        axes: einops pattern of the output, for example "n t h w c".
        grid: (T', H', W') of the maps.
        lead: how many tokens come before those of the grid.
        tail: how many tokens come after them.
        calls: in how many calls the layer saw the clip, one stretch of time after the other.
        rectified: the network uses only the positive part of the output, by a ReLU that is not a
            layer.
    """

    axes: str
    grid: Grid
    lead: int = 0
    tail: int = 0
    calls: int = 1
    rectified: bool = False

    @property
    def of_tokens(self) -> bool:
        """Whether the output is a sequence of tokens, which does not say how they lie."""
        return self.axes.endswith(") c")

    def maps(self, output: torch.Tensor) -> torch.Tensor:
        """Return a layer's output as activation maps (N, C, T', H', W')."""
        return self.arranged(output).relu() if self.rectified else self.arranged(output)

    def arranged(self, output: torch.Tensor) -> torch.Tensor:
        """Return a layer's output, or the gradient with respect to it, as (N, C, T', H', W').

        The outputs of several calls lie next to the batch axis, see `class_weights.join_calls`.
        """
        time, height, width = self.grid
        # Maps have a size of their own, which may differ from that of the first clip.
        sizes: dict[str, int] = {}
        if self.of_tokens:
            output = output[:, self.lead : output.shape[1] - self.tail]
            sizes = {"t": time // self.calls, "h": height, "w": width}
        elif "(n t)" in self.axes:
            sizes = {"t": time}
        if self.calls == 1 or "(n t)" in self.axes:
            return rearrange(output, f"{self.axes} -> {MAPS}", **sizes)
        by_call = self.axes.replace("n", "(n k)", 1)
        return rearrange(output, f"{by_call} -> n c (k t) h w", k=self.calls, **sizes)


def possible_layouts(
    shape: tuple[int, ...], clip: Grid, grids: Iterable[Grid] = ()
) -> Iterator[Layout]:
    """Yield the layouts that an output of this shape can have for one clip of (T, H, W).

    `grids` are those met elsewhere in the network: tokens do not say how they lie. The likeliest
    layout of each token count comes first; `rearrangements` has the others.
    """
    if len(shape) == 5 and shape[0] == 1:
        yield from _readings(VOLUMES, shape, clip)
    elif len(shape) == 4:
        yield from _readings(PICTURES, shape, clip)
    elif len(shape) == 3:
        known = list(grids)
        by_frame = shape[0] > 1
        for lead in FRAME_LEADS if by_frame else LEADS:
            count = shape[1] - lead
            grid = (
                _frame_grid(shape[0], count, clip) if by_frame else _token_grid(count, clip, known)
            )
            if grid is not None:
                yield Layout((FRAME_TOKENS if by_frame else TOKENS)[0], grid, lead)


def rearrangements(layout: Layout, shape: tuple[int, ...], clip: Grid) -> list[Layout]:
    """Return the other layouts with the same channels and the same voxels as this one.

    Their means are equal, so the completeness test cannot tell them apart; the proof of place can.
    """
    if not layout.of_tokens:
        orders = VOLUMES if len(shape) == 5 else PICTURES
        channels = layout.axes.split().index("c")
        same = (each for each in _readings(orders, shape, clip) if each.axes != layout.axes)
        found = [each for each in same if each.axes.split().index("c") == channels]
        return [replace(each, rectified=layout.rectified) for each in found]
    if layout.axes in FRAME_TOKENS:
        frames, *sides = layout.grid
        grids = ((frames, *pair) for pair in _rectangles(sides[0] * sides[1]))
    else:
        count = layout.grid[0] * layout.grid[1] * layout.grid[2]
        times = (n for n in range(1, clip[0] + 1) if count % n == 0)
        grids = ((n, *pair) for n in times for pair in _rectangles(count // n))
    token_orders = FRAME_TOKENS if layout.axes in FRAME_TOKENS else TOKENS
    fitting = [grid for grid in grids if _of_patches(grid, clip)]
    every = (replace(layout, axes=axes, grid=grid) for axes in token_orders for grid in fitting)
    return [each for each in every if each != layout]


def without_lead(layout: Layout) -> Layout | None:
    """Return a token layout with its class tokens at the end in place of the beginning."""
    if not layout.of_tokens or not layout.lead:
        return None
    return replace(layout, lead=0, tail=layout.lead)


def _readings(orders: Iterable[str], shape: tuple[int, ...], clip: Grid) -> Iterator[Layout]:
    """Yield the orders of axes by which an output of this shape fits the clip."""
    for axes in orders:
        names = re.findall(r"\(.*?\)|\w", axes)
        sizes = dict(zip(names, shape))
        time = sizes["t"] if "t" in sizes else sizes["(n t)"]
        grid = (time, sizes["h"], sizes["w"])
        if fits(grid, clip):
            yield Layout(axes, grid)


def pooled(output: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return (N, C) float32: the mean of each map."""
    return layout.maps(output).float().mean((2, 3, 4))


def fits(grid: Grid, clip: Grid) -> bool:
    """Return whether a grid is a coarser clip: not longer or larger, and of the same aspect."""
    time, tall, wide = grid
    frames, height, width = clip
    if time > frames or tall > height or wide > width or tall * wide < 2:
        return False
    return abs(tall - height * wide / width) <= 1.5 or abs(wide - width * tall / height) <= 1.5


def _of_patches(grid: Grid, clip: Grid) -> bool:
    """Return whether a token's cell is about square: tokens are patches, cut without a rest."""
    tall, wide = clip[1] / grid[1], clip[2] / grid[2]
    return fits(grid, clip) and max(tall, wide) <= SQUARE * min(tall, wide)


def _frame_grid(frames: int, count: int, clip: Grid) -> Grid | None:
    """Return the likeliest grid of `count` tokens in each of several frames."""
    if count < 2 or frames > clip[0]:
        return None
    return _likeliest(((frames, *sides) for sides in _rectangles(count)), clip)


def _token_grid(count: int, clip: Grid, known: list[Grid]) -> Grid | None:
    """Return the likeliest grid of `count` tokens of a whole clip.

    A grid met elsewhere in the network is preferred. Otherwise time is divided evenly.
    """
    if count < 2:
        return None
    for grid in reversed(known):
        if grid[0] * grid[1] * grid[2] == count and fits(grid, clip):
            return grid
    frames = clip[0]
    times = (n for n in range(1, frames + 1) if frames % n == 0 and count % n == 0)
    return _likeliest(((n, *sides) for n in times for sides in _rectangles(count // n)), clip)


def _rectangles(count: int) -> Iterator[tuple[int, int]]:
    return ((tall, count // tall) for tall in range(1, count + 1) if count % tall == 0)


def _likeliest(grids: Iterable[Grid], clip: Grid) -> Grid | None:
    """Return the grid with the squarest cells, of those the one nearest to the usual size."""
    _, height, width = clip

    def unlikeliness(grid: Grid) -> tuple[float, float]:
        skew = abs(height / grid[1] - width / grid[2])
        return skew, abs(height / grid[1] - USUAL_CELL)

    return min((grid for grid in grids if _of_patches(grid, clip)), key=unlikeliness, default=None)
