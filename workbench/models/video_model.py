"""A network with what it takes to feed it a clip and to name its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from ..clips.clip import Clip
from .input_spec import InputSpec
from .memory_formats import faster_channels_last, in_channels_last
from .outputs import are_probabilities, named_outputs, pick_output

__all__ = ["VideoModel", "bare", "find_module", "wrap_model"]


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
    formats: dict[Any, bool] = field(
        default_factory=dict, init=False
    )  # where channels last was measured faster
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
                raise ValueError(
                    f"expected a tensor (1, 3, T, H, W) of one clip, got {tuple(clip.shape)}"
                )
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
            if self.classes is None or self.classes == [
                str(number) for number in range(len(self.classes))
            ]:
                self.classes = numbers
            names = self.classes
        else:
            names = numbers
        if len(names) != count:
            raise ValueError(
                f"the network gives {count} logits and there are {len(names)} class names"
            )
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
        with (
            self.evaluating() as network,
            torch.autocast(x.device.type, self.precision, self.precision is not None),
        ):
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
        run = (
            network._call_impl
            if getattr(network, "_compiled_call_impl", None) is not None
            else network
        )
        dtype = next(
            (each.dtype for each in network.parameters() if each.is_floating_point()), x.dtype
        )
        try:
            return run(self.input.arrange(x.to(dtype, copy=True)))
        except (
            RuntimeError,
            IndexError,
            TypeError,
            AttributeError,
            AssertionError,
            ValueError,
        ) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            wanted = next(
                (part for part in network.modules() if isinstance(part, (nn.Conv2d, nn.Conv3d))),
                None,
            )
            takes = (
                ""
                if wanted is None
                else f" Its first convolution takes {wanted.in_channels} channels."
            )
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
                part = torch.from_numpy(np.ascontiguousarray(frames[start : start + batch])).to(
                    self.device
                )
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
        raise TypeError(
            "a TorchScript module hides its layers: give the module that it was made from"
        )
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
        return VideoModel(
            module, spec, named[output], layer, head, name, output, precision, compile, named
        )
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


def _names(classes: Sequence[str]) -> list[str]:
    if isinstance(classes, str):
        raise ValueError(f"classes: expected a list of names, got the text {classes!r}")
    return [str(name) for name in classes]
