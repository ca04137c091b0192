"""Layouts: how a layer's output, whatever the network's kind, is activation maps (C, T', H', W').

3-D ConvNets give (1, C, T', H', W'), video Swin (1, T', H', W', C), a 2-D network on the frames (T', C, H', W'), and
transformers tokens (1, L, C), or (T', L, C) where they look at frames, perhaps with class tokens before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

__all__ = ["Layout", "pooled", "possible_layouts"]

Grid = tuple[int, int, int]
ORDERS = {"CTHW": (0, 1, 2, 3), "THWC": (3, 0, 1, 2), "TCHW": (1, 0, 2, 3)}
LEADS = (0, 1, 2)  # tokens before those of the clip: none, a class token, class and distillation
FRAME_LEADS = range(10)  # before those of a frame also registers (DINOv2)


@dataclass(frozen=True)
class Layout:
    """What the axes of a layer's output are.

    Attributes:
        order: of the axes behind a batch axis of 1, or of all four axes; "tokens" for tokens.
        grid: (T', H', W') of the maps.
        lead: how many tokens come before those of the grid.
        rectified: the network takes only what is positive of the output, by a ReLU that is no layer.
    """

    order: str
    grid: Grid
    lead: int = 0
    rectified: bool = False

    def maps(self, output: torch.Tensor) -> torch.Tensor:
        """Return a layer's output as activation maps (C, T', H', W')."""
        return self.arranged(output).relu() if self.rectified else self.arranged(output)

    def arranged(self, output: torch.Tensor) -> torch.Tensor:
        """Return a layer's output as it is, or the gradient by it, as (C, T', H', W')."""
        if self.order == "tokens":
            return output[:, self.lead :].reshape(*self.grid, -1).movedim(-1, 0)
        return (output[0] if output.ndim == 5 else output).permute(ORDERS[self.order])


def possible_layouts(
    shape: tuple[int, ...], clip: Grid, grids: Iterable[Grid] = ()
) -> Iterator[Layout]:
    """Yield the layouts that an output of this shape can have in a network that sees (T, H, W) of a clip.

    `grids` are those met elsewhere in the network: tokens do not say how they lie.
    """
    if len(shape) == 5 and shape[0] == 1:
        _, a, b, c, d = shape
        choices: dict[str, Grid] = {"CTHW": (b, c, d), "THWC": (a, b, c), "TCHW": (a, c, d)}
    elif len(shape) == 4:
        a, b, c, d = shape
        choices = {"TCHW": (a, c, d), "THWC": (a, b, c)}
    else:
        choices = {}
    yield from (Layout(order, grid) for order, grid in choices.items() if _can_be(grid, clip))
    if len(shape) == 3:
        for lead in LEADS if shape[0] == 1 else FRAME_LEADS:
            grid = _token_grid(shape[0], shape[1] - lead, clip, list(grids))
            if grid is not None:
                yield Layout("tokens", grid, lead)


def pooled(output: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return (C,) float32: the mean of each map."""
    return layout.maps(output).float().mean((1, 2, 3))


def _can_be(grid: Grid, clip: Grid) -> bool:
    """Tell whether a grid is the clip's, made coarser: no longer, no larger, and of the same shape of picture."""
    (time, tall, wide), (frames, height, width) = grid, clip
    if time > frames or tall > height or wide > width or tall * wide < 2:
        return False
    return abs(tall - height * wide / width) <= 1.5 or abs(wide - width * tall / height) <= 1.5


def _token_grid(batch: int, count: int, clip: Grid, grids: list[Grid]) -> Grid | None:
    frames, height, _ = clip
    if count < 2 or batch > frames:
        return None
    if batch > 1:  # a 2-D transformer on each frame
        fitting = [
            (batch, tall, count // tall) for tall in range(1, count + 1) if count % tall == 0
        ]
    else:
        fitting = [
            grid
            for grid in reversed(grids)
            if grid[0] * grid[1] * grid[2] == count and _can_be(grid, clip)
        ]
        if fitting:
            return fitting[0]
        # Nothing in the network says it: the time axis divided evenly, and cells as square as can be.
        fitting = [
            (time, tall, count // time // tall)
            for time in range(1, frames + 1)
            if frames % time == 0 and count % time == 0
            for tall in range(1, count // time + 1)
            if count // time % tall == 0
        ]
    fitting = [grid for grid in fitting if _can_be(grid, clip)]
    # Cells of the picture are mostly 14 to 32 pixels wide; of those that fit, the nearest to 16.
    return min(fitting, key=lambda g: (_skew(g, clip), abs(height / g[1] - 16)), default=None)


def _skew(grid: Grid, clip: Grid) -> float:
    return abs(clip[1] / grid[1] - clip[2] / grid[2])
