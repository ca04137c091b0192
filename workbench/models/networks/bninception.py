"""BN-Inception (Ioffe and Szegedy, ICML 2015, arXiv 1502.03167), the backbone of the first TSNs.

Parameter names and shapes are those of published TSN checkpoints: the PyTorch ports of the Caffe
network.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["BNInception"]

# Channels of each block's branches: 1×1; 3×3 (reduced, output); double 3×3 (reduced, output);
# projection after the pool. A block without the first and the last halves the size.
BLOCKS: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 64, 64, 64, 96, 32),
    "3b": (64, 64, 96, 64, 96, 64),
    "3c": (0, 128, 160, 64, 96, 0),
    "4a": (224, 64, 96, 96, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128),
    "4c": (160, 128, 160, 128, 160, 128),
    "4d": (96, 128, 192, 160, 192, 128),
    "4e": (0, 128, 192, 192, 256, 0),
    "5a": (352, 192, 320, 160, 224, 128),
    "5b": (352, 192, 320, 192, 224, 128),
}


class BNInception(nn.Module):
    """BN-Inception: (B, 3, H, W) to logits (B, classes).

    The last maps are the output of `inception_5b_output`, (B, 1024, H / 32, W / 32). Published
    weights take blue, green, red in [0, 255] minus (104, 117, 128).

    Args:
        classes: number of classes.

    Deviations:
        The pooling adapts to any map size, so pictures need not be 224×224.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._convolution("conv1_7x7_s2", 3, 64, 7, 2)
        self._convolution("conv2_3x3_reduce", 64, 64)
        self._convolution("conv2_3x3", 64, 192, 3)
        self.pool1_3x3_s2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.pool2_3x3_s2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        channels = 192
        for name in BLOCKS:
            channels = self._block(name, channels)
        self.inception_5b_output = nn.Identity()  # names the last maps
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.last_linear = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map pictures (B, 3, H, W) to logits (B, classes)."""
        x = self.pool1_3x3_s2(self._run("conv1_7x7_s2", x))
        x = self.pool2_3x3_s2(self._run("conv2_3x3", self._run("conv2_3x3_reduce", x)))
        for name in BLOCKS:
            x = self._run_block(name, x)
        return self.last_linear(self.global_pool(self.inception_5b_output(x)).flatten(1))

    def _convolution(
        self, name: str, channels: int, width: int, kernel: int = 1, stride: int = 1
    ) -> None:
        self.add_module(name, nn.Conv2d(channels, width, kernel, stride, kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(width))

    def _run(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self._modules[f"{name}_bn"](self._modules[name](x)).relu()  # type: ignore[misc]

    def _block(self, block: str, channels: int) -> int:
        """Add a block's layers; returns its number of output channels."""
        one, reduced, three, narrow, double, project = BLOCKS[block]
        name = f"inception_{block}"
        stride = 1 if one else 2
        if one:
            self._convolution(f"{name}_1x1", channels, one)
            self._convolution(f"{name}_pool_proj", channels, project)
        self._convolution(f"{name}_3x3_reduce", channels, reduced)
        self._convolution(f"{name}_3x3", reduced, three, 3, stride)
        self._convolution(f"{name}_double_3x3_reduce", channels, narrow)
        self._convolution(f"{name}_double_3x3_1", narrow, double, 3)
        self._convolution(f"{name}_double_3x3_2", double, double, 3, stride)
        pool = nn.MaxPool2d(3, 1, 1) if block == "5b" else nn.AvgPool2d(3, 1, 1)
        self.add_module(f"{name}_pool", pool if one else nn.MaxPool2d(3, 2, ceil_mode=True))
        return one + three + double + (project or channels)

    def _run_block(self, block: str, x: torch.Tensor) -> torch.Tensor:
        name = f"inception_{block}"
        three = self._run(f"{name}_3x3", self._run(f"{name}_3x3_reduce", x))
        double = self._run(f"{name}_double_3x3_1", self._run(f"{name}_double_3x3_reduce", x))
        double = self._run(f"{name}_double_3x3_2", double)
        pooled = self._modules[f"{name}_pool"](x)  # type: ignore[misc]
        if not BLOCKS[block][0]:
            return torch.cat([three, double, pooled], 1)
        one = self._run(f"{name}_1x1", x)
        projected = self._run(f"{name}_pool_proj", pooled)
        return torch.cat([one, three, double, projected], 1)
