"""A small residual network for pictures: the backbone of the shipped TSN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["SmallResNet"]


class SmallResNet(nn.Module):
    """A small residual network for pictures: (B, 3, H, W) to logits (B, classes).

    Its last maps are (B, widths[-1], H / 16, W / 16).

    Args:
        classes: number of classes.
        widths: output channels of the stem and of the three stages.
        units: residual units in each stage.
    """

    def __init__(
        self,
        classes: int,
        *,
        widths: Sequence[int] = (24, 48, 96, 128),
        units: Sequence[int] = (1, 2, 1),
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 5, 2, 2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.Sequential()
        for before, width, count, stride in zip(widths, widths[1:], units, (1, 2, 2)):
            others = [_Residual(width, width) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(_Residual(before, width, stride), *others))
        self.globalpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map pictures (B, 3, H, W) to logits (B, classes)."""
        maps = self.stages(self.maxpool(self.stem(x)))
        return self.classifier(self.globalpool(maps).flatten(1))


class _Residual(nn.Module):
    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential()
        if before != width or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.body(x) + self.shortcut(x))
