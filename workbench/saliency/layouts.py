"""Layouts: how a layer's output, whatever the kind of network, is activation maps (C, T', H', W').

3-D ConvNets give (N, C, T', H', W') and video Swin (N, T', H', W', C). A 2-D network that sees
frames as a batch gives (N·T', C, H', W'). Transformers give tokens (N, L, C), or (N·T', L, C) if
they see one frame at a time, perhaps after class tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from einops import rearrange

__all__ = ["Grid", "Layout", "pooled", "possible_layouts"]

Grid: TypeAlias = tuple[int, int, int]  # T', H', W'

MAPS = "n c t h w"
TOKENS = "n (t h w) c"
FRAME_TOKENS = "(n t) (h w) c"
LEADS = (0, 1, 2)  # tokens before those of the clip: none, a class token, class and distillation
FRAME_LEADS = range(10)  # before those of a frame there may also be registers (DINOv2)
USUAL_CELL = 16  # pixels: most cells of a picture are 14 to 32 wide


@dataclass(frozen=True)
class Layout:
    """What the axes of a layer's output are.

    Attributes:
        axes: einops pattern of the output, for example "n t h w c".
        grid: (T', H', W') of the maps.
        lead: how many tokens come before those of the grid.
        rectified: the network uses only the positive part of the output, by a ReLU that is not a
            layer.
    """

    axes: str
    grid: Grid
    lead: int = 0
    rectified: bool = False

    @property
    def of_tokens(self) -> bool:
        """Whether the output is a sequence of tokens, which does not say how they lie."""
        return self.axes in (TOKENS, FRAME_TOKENS)

    def maps(self, output: torch.Tensor) -> torch.Tensor:
        """Return a layer's output as activation maps (N, C, T', H', W')."""
        return self.arranged(output).relu() if self.rectified else self.arranged(output)

    def arranged(self, output: torch.Tensor) -> torch.Tensor:
        """Return a layer's output, or the gradient with respect to it, as (N, C, T', H', W')."""
        lengths = dict(zip("thw", self.grid))
        if self.of_tokens:
            output = output[:, self.lead :]
        else:  # maps say their own size, which may be another than that of the first clip
            lengths = {"t": lengths["t"]} if "(n t)" in self.axes else {}
        return rearrange(output, f"{self.axes} -> {MAPS}", **lengths)


def possible_layouts(
    shape: tuple[int, ...], clip: Grid, grids: Iterable[Grid] = ()
) -> Iterator[Layout]:
    """Yield the layouts that an output of this shape can have for one clip of (T, H, W).

    `grids` are those met elsewhere in the network: tokens do not say how they lie.
    """
    choices: dict[str, Grid] = {}
    if len(shape) == 5 and shape[0] == 1:
        _, a, b, c, d = shape
        choices = {"n c t h w": (b, c, d), "n t h w c": (a, b, c), "n t c h w": (a, c, d)}
    elif len(shape) == 4:
        a, b, c, d = shape
        choices = {"(n t) c h w": (a, c, d), "(n t) h w c": (a, b, c)}
    yield from (Layout(axes, grid) for axes, grid in choices.items() if _fits(grid, clip))
    if len(shape) == 3:
        known = list(grids)
        by_frame = shape[0] > 1
        for lead in FRAME_LEADS if by_frame else LEADS:
            count = shape[1] - lead
            grid = (
                _frame_grid(shape[0], count, clip) if by_frame else _token_grid(count, clip, known)
            )
            if grid is not None:
                yield Layout(FRAME_TOKENS if by_frame else TOKENS, grid, lead)


def pooled(output: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return (N, C) float32: the mean of each map."""
    return layout.maps(output).float().mean((2, 3, 4))


def _fits(grid: Grid, clip: Grid) -> bool:
    """Return whether a grid is a coarser clip: not longer or larger, and of the same aspect."""
    time, tall, wide = grid
    frames, height, width = clip
    if time > frames or tall > height or wide > width or tall * wide < 2:
        return False
    return abs(tall - height * wide / width) <= 1.5 or abs(wide - width * tall / height) <= 1.5


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
        if grid[0] * grid[1] * grid[2] == count and _fits(grid, clip):
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

    return min((grid for grid in grids if _fits(grid, clip)), key=unlikeliness, default=None)
