"""Models: a network with what it takes to feed it a clip and to name what it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ..clips import Clip

__all__ = ["InputSpec", "VideoModel", "list_models", "load_model", "wrap_model"]


@dataclass(frozen=True)
class InputSpec:
    """How a network takes its clips.

    Attributes:
        frames: how many.
        resize: picture size before the crop: (height, width) squashes to just that; a number makes the short
            side that long and keeps the aspect; None leaves it.
        crop: centre cut-out, (height, width) or a number for a square; None for all of the picture.
        stride: every how many-th frame of a longer clip, centred; None spreads them evenly over it.
        mean, std: per channel (red, green, blue), in units of [0, 1]: the network sees (x / 255 - mean) / std.
    """

    frames: int = 16
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    stride: int | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.frames < 1 or (self.stride is not None and self.stride < 1):
            raise ValueError(f"frames and stride count from 1, got {self.frames} and {self.stride}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std: expected three each, std positive; got {self.mean} and {self.std}")

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
        x = frames.permute(0, 4, 1, 2, 3) / 255
        return x.sub_(self._column(self.mean, x.device)).div_(self._column(self.std, x.device))

    def picture(self, tensor: torch.Tensor) -> np.ndarray:
        """Return the frames (T, H, W, 3) uint8 that an input (1, 3, T, H, W) shows."""
        scale, shift = 255 * self._column(self.std), 255 * self._column(self.mean) + 0.5  # half: byte() rounds down
        x = torch.addcmul(shift, tensor.detach()[0].float().cpu(), scale).clamp_(0, 255)
        return x.byte().permute(1, 2, 3, 0).contiguous().numpy()

    @staticmethod
    def _column(values: Sequence[float], device: torch.device | str = "cpu") -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1, 1)


@dataclass(eq=False, repr=False)
class VideoModel:
    """A network, how it takes clips, and its class names.

    Attributes:
        module: the network, (1, 3, T, H, W) to logits (1, N). It is the user's: nothing here changes it for good.
        input: how clips become its input.
        classes: N names; None numbers them once the first logits are seen.
        layer, head: dotted names of the layer to explain and of its linear head; None: found and proved.
        name: what to call the model.
    """

    module: nn.Module
    input: InputSpec
    classes: list[str] | None = None
    layer: str | None = None
    head: str | None = None
    name: str = ""
    found: Any = field(default=None, init=False)  # what explain learnt about the network

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        first = next(iter((*self.module.parameters(), *self.module.buffers())), None)
        return torch.device("cpu") if first is None else first.device

    def prepare(self, clip: Clip | torch.Tensor) -> tuple[Clip, torch.Tensor]:
        """Return the clip as the network sees it, and the input (1, 3, T, H, W) on the model's device.

        A ready tensor (1, 3, T, H, W) is taken as it is. Raises ValueError for another shape, TypeError for
        another type.
        """
        if isinstance(clip, torch.Tensor):
            if clip.ndim != 5 or clip.shape[0] != 1 or clip.shape[1] != 3:
                raise ValueError(f"expected a tensor (1, 3, T, H, W) of one clip, got {tuple(clip.shape)}")
            rate = 25.0  # a tensor knows no time; frames are then as good as numbered
            return Clip(self.input.picture(clip), rate), clip.to(self.device)
        if not isinstance(clip, Clip):
            raise TypeError(
                f"expected a wb.Clip or a tensor (1, 3, T, H, W), got {type(clip).__name__}. "
                "From a file: wb.read_clip(path); from an array: wb.Clip(frames=array, fps=25)."
            )
        seen = self.input.view(clip)
        return seen, self.input.tensor(seen, self.device)

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Run the network in eval mode; every training flag is as before on leaving."""
        flags = [(part, part.training) for part in self.module.modules()]
        self.module.eval()
        try:
            yield self.module
        finally:
            for part, flag in flags:
                part.training = flag

    def logits(self, clip: Clip | torch.Tensor) -> torch.Tensor:
        """Return the logits (N,) of a clip, in eval mode and without gradients."""
        _, x = self.prepare(clip)
        with self.evaluating() as module, torch.no_grad():
            return module(x)[0].detach()

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.module.parameters())
        classes = "?" if self.classes is None else len(self.classes)
        return (
            f"<VideoModel {self.name or type(self.module).__name__}: {count:,} parameters, {classes} classes, "
            f"{self.input.frames} frames, {self.device}>"
        )


def wrap_model(
    module: nn.Module,
    input: InputSpec | None = None,
    classes: Sequence[str] | None = None,
    layer: str | None = None,
    head: str | None = None,
    device: torch.device | str | None = None,
    name: str = "",
) -> VideoModel:
    """Make any 3-D ConvNet that is at hand as an `nn.Module` ready for `wb.explain`.

    Args:
        module: (1, 3, T, H, W) to logits (1, N); used as it is, not copied.
        input: how it takes clips; None: 16 frames of 224×224 in [0, 1].
        classes: N names, or None to number them.
        layer, head: dotted names of the layer to explain and of its head; None: found by the completeness test.
        device: moved there if given (this changes the module in place, as `module.to` does).

    Raises:
        TypeError: not an `nn.Module`.
        KeyError: no layer of that name; the message lists the near names.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(module).__name__}")
    for what in (layer, head):
        if what is not None:
            find_module(module, what)
    if device is not None:
        module = module.to(device)
    return VideoModel(
        module, input or InputSpec(resize=256, crop=224), _names(classes), layer=layer, head=head, name=name
    )


def find_module(module: nn.Module, name: str) -> nn.Module:
    """Return a submodule by its dotted name; raises KeyError with the nearest names where there is none."""
    import difflib

    names = dict(module.named_modules())
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or list(names)[-5:]
        raise KeyError(f"no layer {name!r} in {type(module).__name__}; near: {', '.join(near)}")
    return names[name]


def load_model(name: str, **options: Any) -> VideoModel:
    """Load a model by name: `mfnet3d` with a checkpoint, or `samples/mfnet`, which is shipped. See `list_models`.

    Raises KeyError for an unknown name; what else depends on the model, see its function in `models.zoo`.
    """
    from . import zoo

    return zoo.load(name, **options)


def list_models() -> Any:
    """Return a DataFrame of the models by name: input, parameters, and where the weights come from."""
    from . import zoo

    return zoo.table()


def _names(classes: Sequence[str] | None) -> list[str] | None:
    if classes is None:
        return None
    if isinstance(classes, str):
        raise ValueError(f"classes: expected a list of names, got the text {classes!r}")
    return [str(name) for name in classes]
