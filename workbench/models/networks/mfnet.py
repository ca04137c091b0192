"""MFNet-3D, the Multi-Fiber Network (Chen et al., ECCV 2018, arXiv 1807.11195).

The network of the Saliency Tubes paper. Parameter names and shapes are those of the published
checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["MFNet3d"]


class MFNet3d(nn.Module):
    """MFNet-3D: (N, 3, T, H, W) to logits (N, classes).

    The defaults give the published network: input 16×224×224, maps 768×8×7×7 at `tail`, and
    7,996,368 parameters for 400 classes. Other arguments give smaller networks of the same family.

    Args:
        classes: number of classes.
        widths: output channels of conv1 to conv5.
        units: multi-fiber units in conv2 to conv5.
        groups: fibers, the groups of the 3-D convolutions; must divide every width.
        last_stride: spatial stride of conv5; 1 keeps the maps twice as fine.

    Raises:
        ValueError: the widths cannot be split into the groups.

    Deviations:
        The pooling adapts to any map size, so clips need not be 16×224×224.
    """

    def __init__(
        self,
        classes: int,
        *,
        widths: Sequence[int] = (16, 96, 192, 384, 768),
        units: Sequence[int] = (3, 4, 6, 3),
        groups: int = 16,
        last_stride: int = 2,
    ) -> None:
        super().__init__()
        if len(widths) != 5 or len(units) != 4:
            raise ValueError(
                f"expected 5 widths and 4 unit counts, got {len(widths)} and {len(units)}"
            )
        if any(width % groups or width % 4 for width in widths):
            raise ValueError(
                f"widths {tuple(widths)} do not all split into {groups} groups and four quarters"
            )
        self.conv1 = nn.Sequential(
            OrderedDict(
                conv=nn.Conv3d(3, widths[0], (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False),
                bn=nn.BatchNorm3d(widths[0]),
                relu=nn.ReLU(inplace=True),
            )
        )
        self.maxpool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        strides = ((2, 1, 1), (1, 2, 2), (1, 2, 2), (1, last_stride, last_stride))
        self.conv2, self.conv3, self.conv4, self.conv5 = (
            _stage(widths[i], widths[i + 1], units=units[i], groups=groups, stride=strides[i])
            for i in range(4)
        )
        self.tail = nn.Sequential(
            OrderedDict(bn=nn.BatchNorm3d(widths[4]), relu=nn.ReLU(inplace=True))
        )
        self.globalpool = nn.AdaptiveAvgPool3d(1)
        self.classifier = nn.Linear(widths[4], classes)
        self._initialise()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map clips (N, 3, T, H, W) to logits (N, classes)."""
        x = self.maxpool(self.conv1(x))
        for stage in (self.conv2, self.conv3, self.conv4, self.conv5):
            x = stage(x)
        return self.classifier(self.globalpool(self.tail(x)).flatten(1))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)


class _PreConv(nn.Module):
    """BN, ReLU, convolution without bias."""

    def __init__(
        self,
        channels: int,
        out: int,
        *,
        kernel: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
        groups: int = 1,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.bn = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv3d(channels, out, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.relu(self.bn(x)))


class _Unit(nn.Module):
    """A multi-fiber unit: i1 and i2 (the multiplexer) mix the fibers, m1 and m2 run within them.

    A stage's first unit, the one with a stride, changes width and resolution and mixes the fibers
    in m2 as well.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        groups: int,
        stride: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.conv_i1 = _PreConv(channels, width // 4)
        self.conv_i2 = _PreConv(width // 4, channels)
        self.conv_m1 = _PreConv(
            channels, width, kernel=(3, 3, 3), stride=stride or (1, 1, 1), groups=groups
        )
        if stride is None:
            self.conv_m2 = _PreConv(width, width, kernel=(1, 3, 3), groups=groups)
        else:
            self.conv_m2 = _PreConv(width, width)
            self.conv_w1 = _PreConv(channels, width, stride=stride)
        self.first = stride is not None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = x + self.conv_i2(self.conv_i1(x))
        shortcut = self.conv_w1(x) if self.first else x
        return self.conv_m2(self.conv_m1(mixed)) + shortcut


def _stage(
    channels: int, width: int, *, units: int, groups: int, stride: tuple[int, int, int]
) -> nn.Sequential:
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    blocks["B01"] = _Unit(channels, width, groups=groups, stride=stride)
    for number in range(2, units + 1):
        blocks[f"B{number:02d}"] = _Unit(width, width, groups=groups)
    return nn.Sequential(blocks)
