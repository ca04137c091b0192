"""How a network takes its clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..clips.clip import Clip

__all__ = ["InputSpec"]


@dataclass(frozen=True)
class InputSpec:
    """How a network takes its clips.

    Attributes:
        frames: how many.
        resize: picture size before the crop: (height, width) squashes to just that; a number makes the short
            side that long and keeps the aspect; None leaves it.
        crop: centre cut-out, (height, width) or a number for a square; None for all of the picture.
        stride: every how many-th frame of a longer clip, centred; None spreads them evenly over it.
        mean, std: per channel, in units of [0, 1] and in the network's order of channels: it sees
            (x / 255 - mean) / std. A network fed with values up to 255 has a std of 1 / 255.
        bgr: the network takes blue, green, red.
        pathways: for a network that takes a list of inputs, each with every so many-th frame: (4, 1) for SlowFast.
        time_first: the network takes (1, T, 3, H, W).
    """

    frames: int = 16
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    stride: int | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bgr: bool = False
    pathways: tuple[int, ...] = ()
    time_first: bool = False

    def __post_init__(self) -> None:
        if self.frames < 1 or (self.stride is not None and self.stride < 1):
            raise ValueError(f"frames and stride count from 1, got {self.frames} and {self.stride}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"mean and std: expected three each, std positive; got {self.mean} and {self.std}"
            )
        if any(each < 1 or each > self.frames for each in self.pathways):
            raise ValueError(
                f"pathways: expected steps from 1 to {self.frames} frames, got {self.pathways}"
            )

    def view(self, clip: Clip) -> Clip:
        """Return the clip as the network sees it: sampled, resized and cropped, boxes moved along.

        Raises ValueError where the clip is shorter than the network's window, or smaller than its crop.
        """
        if len(clip) != self.frames:
            clip = clip.sample(self.frames, self.stride)
        height, width = clip.size
        if isinstance(self.resize, int):
            scale = self.resize / min(height, width)
            height, width = round(height * scale), round(width * scale)
        elif self.resize is not None:
            height, width = self.resize
        clip = clip.resize(height, width)
        if self.crop is None:
            return clip
        tall, wide = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        if tall > height or wide > width:
            raise ValueError(
                f"the network crops {wide}×{tall} pixels and the clip is {width}×{height}: give InputSpec a resize"
            )
        return clip.crop((height - tall) // 2, (width - wide) // 2, tall, wide)

    def tensor(self, clip: Clip, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return a clip that is already as the network sees it as (1, 3, T, H, W) float32."""
        return self.normalise(torch.from_numpy(np.ascontiguousarray(clip.frames)).to(device)[None])

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """Return clips (N, T, H, W, 3) uint8 as the network takes them, (N, 3, T, H, W) float32, on their device."""
        x = (frames.flip(-1) if self.bgr else frames).permute(0, 4, 1, 2, 3) / 255
        return x.sub_(self._column(self.mean, x.device)).div_(self._column(self.std, x.device))

    def arrange(self, x: torch.Tensor) -> Any:
        """Return an input (N, 3, T, H, W) as the network is called with it: the same, time first, or a list.

        Of T frames a pathway takes T // step, spread from the first to the last.
        """
        parts = [x[:, :, _spread(x.shape[2], step)] for step in self.pathways] or [x]
        parts = [part.transpose(1, 2) for part in parts] if self.time_first else parts
        return parts if self.pathways else parts[0]

    def picture(self, tensor: torch.Tensor) -> np.ndarray:
        """Return the frames (T, H, W, 3) uint8 that an input (1, 3, T, H, W) shows."""
        scale, shift = (
            255 * self._column(self.std),
            255 * self._column(self.mean) + 0.5,
        )  # half: byte() rounds down
        x = torch.addcmul(shift, tensor.detach()[0].float().cpu(), scale).clamp_(0, 255)
        frames = x.byte().permute(1, 2, 3, 0)
        return (frames.flip(-1) if self.bgr else frames).contiguous().numpy()

    @staticmethod
    def _column(values: Sequence[float], device: torch.device | str = "cpu") -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1, 1)


def _spread(count: int, step: int) -> torch.Tensor:
    """Return the indices of every `step`-th of `count` frames, first and last among them, as PackPathway takes them."""
    return torch.linspace(0, count - 1, count // step).long()
