"""Models: a network with what it takes to feed it a clip and to name what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from ..clips import Clip
from .formats import faster_channels_last, in_channels_last
from .outputs import are_probabilities, named_outputs, pick_output

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
            raise ValueError(f"mean and std: expected three each, std positive; got {self.mean} and {self.std}")
        if any(each < 1 or each > self.frames for each in self.pathways):
            raise ValueError(f"pathways: expected steps from 1 to {self.frames} frames, got {self.pathways}")

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
        scale, shift = 255 * self._column(self.std), 255 * self._column(self.mean) + 0.5  # half: byte() rounds down
        x = torch.addcmul(shift, tensor.detach()[0].float().cpu(), scale).clamp_(0, 255)
        frames = x.byte().permute(1, 2, 3, 0)
        return (frames.flip(-1) if self.bgr else frames).contiguous().numpy()

    @staticmethod
    def _column(values: Sequence[float], device: torch.device | str = "cpu") -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1, 1)


@dataclass(eq=False, repr=False)
class VideoModel:
    """A network, how it takes clips, and its class names.

    Attributes:
        module: the network, (1, 3, T, H, W) to logits (1, N), or to several in a tuple or a dict. It is the user's:
            nothing here changes it for good.
        input: how clips become its input.
        classes: N names; None numbers them once the first logits are seen.
        layer, head: dotted names of the layer to explain and of its linear head; None: found and proved.
        output: which of several outputs is meant; None: the first.
        name: what to call the model.
        precision: on a GPU run in torch.float16 or torch.bfloat16 (autocast); None: as the weights are.
        compile: run it through torch.compile, which takes its time at the first clip. Not where gradients are needed.
        named: class names of further outputs.
    """

    module: nn.Module
    input: InputSpec
    classes: list[str] | None = None
    layer: str | None = None
    head: str | None = None
    name: str = ""
    output: str | None = None
    precision: torch.dtype | None = None
    compile: bool = False
    named: dict[str, list[str]] = field(default_factory=dict)
    found: Any = field(default=None, init=False)  # what explain learnt about the network
    formats: dict[Any, bool] = field(default_factory=dict, init=False)  # where channels last was measured faster
    _compiled: Any = field(default=None, init=False)

    @property
    def network(self) -> nn.Module:
        """The network itself, without what DataParallel or torch.compile put around it."""
        return bare(self.module)

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        first = next(chain(self.module.parameters(), self.module.buffers()), None)
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

    def class_names(self, output: str, count: int) -> list[str]:
        """Return the names of an output's `count` classes; numbers where none were given.

        Raises ValueError for another number of names.
        """
        numbers = [str(number) for number in range(count)]
        if output in self.named:
            names = self.named[output]
        elif self.output in (None, output):
            if self.classes is None or self.classes == [str(number) for number in range(len(self.classes))]:
                self.classes = numbers
            names = self.classes
        else:
            names = numbers
        if len(names) != count:
            raise ValueError(f"the network gives {count} logits and there are {len(names)} class names")
        return names

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Lend the network in eval mode; every training flag is as before on leaving."""
        network = self.network
        flags = [(part, part.training) for part in network.modules()]
        network.eval()
        try:
            yield network
        finally:
            for part, flag in flags:
                part.training = flag

    @contextmanager
    def running(self, x: torch.Tensor) -> Iterator[nn.Module]:
        """Lend the network in eval mode and in the memory format that is the faster one for inputs like `x`.

        Which one that is gets measured once for each size and device. Everything is as before on leaving.
        """
        with self.evaluating() as network, torch.autocast(x.device.type, self.precision, self.precision is not None):
            key = (tuple(x.shape[1:]), x.device.type)
            if key not in self.formats:
                self.formats[key] = faster_channels_last(network, lambda: self.call(network, x))
            with in_channels_last(network) if self.formats[key] else nullcontext():
                yield network

    def call(self, network: nn.Module, x: torch.Tensor, fast: bool = False) -> Any:
        """Return what the network says of an input (N, 3, T, H, W); `fast`: compiled, if this model is to be.

        Raises ValueError where it does not take one: of so many frames or pixels, of three channels, or as a tensor.
        """
        if fast and self.compile:
            if self._compiled is None:
                self._compiled = torch.compile(network)
            network = self._compiled
        # A network may write into its input; one that `module.compile()` was called on hides its layers from hooks.
        run = network._call_impl if getattr(network, "_compiled_call_impl", None) is not None else network
        dtype = next((each.dtype for each in network.parameters() if each.is_floating_point()), x.dtype)
        try:
            return run(self.input.arrange(x.to(dtype, copy=True)))
        except (RuntimeError, IndexError, TypeError, AttributeError, AssertionError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            wanted = next((part for part in network.modules() if isinstance(part, (nn.Conv2d, nn.Conv3d))), None)
            takes = "" if wanted is None else f" Its first convolution takes {wanted.in_channels} channels."
            raise ValueError(
                f"{type(network).__name__} does not take an input {tuple(x.shape)} (N, 3, T, H, W): {error}.{takes} "
                "Frames and pixels are those of InputSpec(frames=, resize=, crop=); a list of inputs needs pathways=; "
                "a 2-D network goes into wb.TSN"
            ) from error

    def logits(self, clip: Clip | torch.Tensor) -> torch.Tensor:
        """Return the logits (N,) of a clip, in eval mode and without gradients.

        Of a network that ends in a softmax, the logarithms of its probabilities: logits up to a constant.
        """
        _, x = self.prepare(clip)
        with self.running(x) as network, torch.no_grad():
            outputs = named_outputs(self.call(network, x, fast=True))
        row = outputs[pick_output(outputs, self.output)][0].float()
        return row.clamp(min=1e-30).log() if are_probabilities(row) else row

    def score(self, target: int | str, batch: int = 4) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function from clips (N, T, H, W, 3) uint8, as the network sees them, to a class's probability (N,).

        It is what deletion and insertion ask. `batch` clips pass through the network at a time.
        """

        def probability(frames: np.ndarray) -> np.ndarray:
            values = []
            for start in range(0, len(frames), batch):
                part = torch.from_numpy(np.ascontiguousarray(frames[start : start + batch])).to(self.device)
                x = self.input.normalise(part)
                with self.running(x[:1]) as network, torch.inference_mode():
                    output = self.call(network, x, fast=True)
                values.append(self._probability(output, target, len(x)))
            return np.concatenate(values)

        return probability

    def _probability(self, output: Any, target: int | str, batch: int) -> np.ndarray:
        outputs = named_outputs(output, batch)
        name = pick_output(outputs, self.output)
        output = outputs[name]
        names = self.class_names(name, output.shape[1])
        number = names.index(target) if isinstance(target, str) else target
        rows = output.float()
        return (rows if are_probabilities(rows[0]) else rows.softmax(1))[:, number].cpu().numpy()

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
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    layer: str | None = None,
    head: str | None = None,
    device: torch.device | str | None = None,
    name: str = "",
    output: str | None = None,
    precision: torch.dtype | None = None,
    compile: bool = False,
) -> VideoModel:
    """Make any video network that is at hand as an `nn.Module` ready for `wb.explain`.

    Args:
        module: (1, 3, T, H, W), or what `input` says, to logits (1, N) or several of them; used as it is, not copied.
        input: how it takes clips; None: 16 frames of 224×224 in [0, 1], of a TSN as many as its segments.
        classes: N names, or None to number them; for a network of several outputs a dict of names by output.
        layer, head: dotted names of the layer to explain and of its head; None: found by the completeness test.
        device: moved there if given (this changes the module in place, as `module.to` does).
        name: what to call it; "": as its class.
        output: of several outputs the one to explain first, by its key, or its position as a text.
        precision: torch.float16 or torch.bfloat16 to run a GPU in mixed precision.
        compile: run it through torch.compile, for many clips of one size.

    Raises:
        TypeError: not an `nn.Module`.
        KeyError: no layer of that name; the message lists the near names.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(module).__name__}")
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("a TorchScript module hides its layers: give the module that it was made from")
    for what in (layer, head):
        if what is not None:
            find_module(bare(module), what)
    if device is not None:
        module = module.to(device)
    name = name or type(bare(module)).__name__
    spec = input or InputSpec(getattr(module, "segments", 16), resize=256, crop=224)
    if isinstance(classes, Mapping):
        named = {key: _names(each) for key, each in classes.items()}
        output = pick_output(named, output)
        return VideoModel(module, spec, named[output], layer, head, name, output, precision, compile, named)
    names = None if classes is None else _names(classes)
    return VideoModel(module, spec, names, layer, head, name, output, precision, compile)


def bare(module: nn.Module) -> nn.Module:
    """Return the network inside DataParallel, DistributedDataParallel and torch.compile's wrappers."""
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


def find_module(module: nn.Module, name: str) -> nn.Module:
    """Return a submodule by its dotted name; raises KeyError with the nearest names where there is none."""
    import difflib

    names = dict(module.named_modules())
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or list(names)[-5:]
        raise KeyError(f"no layer {name!r} in {type(module).__name__}; near: {', '.join(near)}")
    return names[name]


def load_model(name: str, **options: Any) -> VideoModel:
    """Load a model by name; `list_models()` has them all.

    `samples/mfnet` and `samples/tsn` are shipped; `mfnet3d` takes a published checkpoint; `torchvision/r3d_18` and its
    like come with Kinetics-400 weights, `tsn/resnet50` and any other picture network of torchvision, or of timm as
    `tsn/timm/<name>`, as a TSN on ImageNet weights or on a published EPIC-Kitchens checkpoint.

    Raises KeyError for an unknown name; what else depends on the model, see its function in `models.zoo` and
    `models.pretrained`.
    """
    from . import zoo

    return zoo.load(name, **options)


def list_models() -> Any:
    """Return a DataFrame of the models by name: input, parameters, and where the weights come from."""
    from . import zoo

    return zoo.table()


def _spread(count: int, step: int) -> torch.Tensor:
    """Return the indices of every `step`-th of `count` frames, first and last among them, as PackPathway takes them."""
    return torch.linspace(0, count - 1, count // step).long()


def _names(classes: Sequence[str]) -> list[str]:
    if isinstance(classes, str):
        raise ValueError(f"classes: expected a list of names, got the text {classes!r}")
    return [str(name) for name in classes]
