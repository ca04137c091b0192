"""How a network takes its clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..clips.clip import Clip

__all__ = ["InputSpec"]

BRIGHTNESS = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


@dataclass(frozen=True)
class InputSpec:
    """How a network takes its clips.

    Attributes:
        frames: number of frames.
        resize: size before the crop. (height, width) squashes to that size; a number resizes the
            short side and keeps the aspect ratio; None keeps the size.
        crop: centre crop, (height, width) or a number for a square; None keeps the whole picture.
        stride: take every `stride`-th frame from the middle of a longer clip; None spreads the
            frames evenly over it.
        mean, std: per channel, in units of [0, 1] and in the network's channel order: the network
            sees (x / 255 - mean) / std. For input up to 255, std is 1 / 255.
        bgr: the network takes blue, green, red.
        pathways: for a network that takes a list of inputs, the frame step of each: (4, 1) for
            SlowFast.
        time_first: the network takes (1, T, 3, H, W).
        keyword: name of the argument that takes the input; "": it is the only one.
        channels: 3 for colours; 1 for the brightness, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601),
            with one number each in mean and std, or the first of three equal ones.
    """

    frames: int = 16
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    stride: int | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    bgr: bool = False
    pathways: tuple[int, ...] = ()
    time_first: bool = False
    keyword: str = ""
    channels: int = 3

    def __post_init__(self) -> None:
        if self.frames < 1 or (self.stride is not None and self.stride < 1):
            raise ValueError(f"frames and stride count from 1, got {self.frames} and {self.stride}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels: expected 3, or 1 for the brightness; got {self.channels}")
        if self.channels == 1:
            for name in ("mean", "std"):
                values = getattr(self, name)
                object.__setattr__(self, name, values[:1] if len(set(values)) == 1 else values)
        counts = (len(self.mean), len(self.std))
        if counts != (self.channels, self.channels) or not min(self.std) > 0:
            numbers = "three numbers" if self.channels == 3 else "one number"
            raise ValueError(
                f"mean and std: expected {numbers} each, std positive; "
                f"got {self.mean} and {self.std}"
            )
        if any(step < 1 or step > self.frames for step in self.pathways):
            raise ValueError(
                f"pathways: expected steps from 1 to {self.frames} frames, got {self.pathways}"
            )

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the size (height, width) to which a frame is resized before the crop."""
        if self.resize is None:
            return height, width
        if isinstance(self.resize, int):
            scale = self.resize / min(height, width)
            return round(height * scale), round(width * scale)
        return self.resize

    def cropped(self, height: int, width: int) -> tuple[int, int]:
        """Return the size (height, width) of the crop out of a resized frame.

        Raises ValueError if the frame is smaller than the crop.
        """
        if self.crop is None:
            return height, width
        tall, wide = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
        if tall > height or wide > width:
            raise ValueError(
                f"the network crops {wide}×{tall} pixels and the clip is {width}×{height}: "
                "give InputSpec a resize"
            )
        return tall, wide

    def view(self, clip: Clip) -> Clip:
        """Return the clip as the network sees it: sampled, resized and cropped, boxes included.

        Raises ValueError if the clip is shorter than the network's window or smaller than its crop.
        """
        if len(clip) != self.frames:
            clip = clip.sample(self.frames, self.stride)
        height, width = self.resized(*clip.size)
        tall, wide = self.cropped(height, width)
        clip = clip.resize(height, width)
        if self.crop is None:
            return clip
        return clip.crop((height - tall) // 2, (width - wide) // 2, tall, wide)

    def tensor(self, clip: Clip, device: torch.device | str = "cpu") -> torch.Tensor:
        """Return a clip that `view` returned as an input (1, 3, T, H, W) float32."""
        frames = torch.from_numpy(np.ascontiguousarray(clip.frames))
        return self.normalise(frames.to(device)[None])

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """Return clips (N, T, H, W, 3) uint8 as input (N, C, T, H, W) float32, on their device."""
        channels = frames.flip(-1) if self.bgr else frames
        if self.channels == 1:
            channels = frames.float() @ frames.new_tensor(BRIGHTNESS, dtype=torch.float32)[:, None]
        width = channels.shape[3]
        # Whole rows of pixels at a time: three channels at a time take ten times as long.
        rows = channels.flatten(3).float().div_(255)
        mean, std = (
            _per_channel(each).flatten().repeat(width).to(rows.device)
            for each in (self.mean, self.std)
        )
        rows = rows.sub_(mean).div_(std)
        return rows.unflatten(3, (width, self.channels)).permute(0, 4, 1, 2, 3)

    def arrange(self, x: torch.Tensor) -> Any:
        """Return an input (N, 3, T, H, W) as the network is called with it.

        That is the same tensor, one with time first, or a list with one tensor per pathway. A
        pathway takes T // step frames, spread from the first to the last.
        """
        steps = self.pathways or (None,)
        parts = [x if step is None else x[:, :, _spread(x.shape[2], step)] for step in steps]
        if self.time_first:
            parts = [part.transpose(1, 2) for part in parts]
        return parts if self.pathways else parts[0]

    def picture(self, tensor: torch.Tensor) -> np.ndarray:
        """Return the frames (T, H, W, 3) uint8 that an input (1, 3, T, H, W) shows."""
        scale = 255 * _per_channel(self.std)
        shift = 255 * _per_channel(self.mean) + 0.5  # byte() rounds down
        x = torch.addcmul(shift, tensor.detach()[0].float().cpu(), scale).clamp_(0, 255)
        frames = x.byte().permute(1, 2, 3, 0)
        if self.channels == 1:
            frames = frames.expand(-1, -1, -1, 3)
        return (frames.flip(-1) if self.bgr else frames).contiguous().numpy()


def _per_channel(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


def _spread(count: int, step: int) -> torch.Tensor:
    """Return `count // step` frame indices from first to last, as PyTorchVideo's PackPathway."""
    return torch.linspace(0, count - 1, count // step).long()
