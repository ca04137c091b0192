"""Watching: what the layers of a network give while it runs, seen and taken through hooks that are gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ..models.video_model import find_module
from .layouts import Grid, Layout, pooled, possible_layouts

__all__ = ["EVERY", "Capture", "Key", "Seen", "joined", "refuse_nan", "watch"]

SMALL = 1 << 15  # numbers in an output that is kept, to look for logits in it

Key = tuple[str, int]  # a layer's dotted name, and which of its calls in a forward pass, or EVERY
EVERY = -1  # all calls of a layer that sees one frame at a time, one after the other


@dataclass(eq=False)
class Seen:
    """What is remembered of a layer's output while a network is watched: not the output, unless it is small."""

    layer: str
    call: int
    shape: tuple[int, ...]
    small: torch.Tensor | None
    means: dict[Layout, torch.Tensor] = field(default_factory=dict)  # (C,) by layout
    finite: bool = True
    learnt: bool = True  # whether the layer has parameters

    @property
    def key(self) -> Key:
        """The layer and its call."""
        return self.layer, self.call


@dataclass
class Capture:
    """Takes outputs of layers during a forward pass, and lets a graph begin at one of them.

    Attributes:
        wanted: (layer, call) of each output to take.
        graph_from: those at which gradients begin. What comes before is not recorded, so that they cost
            memory only for what follows.
        taken: copies of the outputs, of a key for every call a list of many; a later in-place ReLU does not show
            in them.
    """

    wanted: tuple[Key, ...]
    graph_from: tuple[Key, ...] = ()
    taken: dict[Key, list[torch.Tensor]] = field(default_factory=dict)

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        """Take outputs while the network runs."""
        calls: dict[str, int] = {}

        def hook(layer: str, output: Any) -> torch.Tensor | None:
            number = calls.setdefault(layer, 0)
            calls[layer] += 1
            key = next(
                (each for each in ((layer, number), (layer, EVERY)) if each in self.wanted), None
            )
            if key is None or not isinstance(output, torch.Tensor):
                return None
            taken = self.taken.setdefault(key, [])
            if key not in self.graph_from:
                taken.append(output.clone())
                return taken[-1].clone() if torch.is_grad_enabled() else None
            taken.append(output.detach().clone().requires_grad_())
            torch.set_grad_enabled(True)
            return taken[-1].clone()

        with ExitStack() as stack:
            for layer in {layer for layer, _ in self.wanted}:
                handle = find_module(network, layer).register_forward_hook(
                    lambda _module, _inputs, output, layer=layer: hook(layer, output)
                )
                stack.callback(handle.remove)
            yield


def watch(network: nn.Module, call: Callable[[], Any], clip: Grid) -> tuple[list[Seen], Any]:
    """Run a network once and return what every layer gave, in the order in which they finished, and its output."""
    seen: list[Seen] = []
    grids: list[Grid] = []
    parts = {name for name, part in network.named_modules() if any(True for _ in part.parameters())}
    calls: dict[str, int] = {}

    def hook(name: str, inputs: Any, output: Any) -> None:
        grids.extend(_grids((inputs, output), clip))
        if isinstance(output, torch.Tensor):
            number = calls.get(name, 0)
            calls[name] = number + 1
            shape = tuple(output.shape)
            small = output.detach().clone() if output.numel() <= SMALL else None
            finite, learnt = bool(output.isfinite().all()), name in parts
            entry = Seen(name, number, shape, small, finite=finite, learnt=learnt)
            for each in possible_layouts(shape, clip, grids):
                entry.means[each] = pooled(output, each)
                # torchvision's DenseNet, say, has its last ReLU in `forward`, where no hook sees it.
                positive = replace(each, rectified=True)
                entry.means[positive] = pooled(output, positive)
            seen.append(entry)

    with ExitStack() as stack:
        for name, part in network.named_modules():
            if name:
                handle = part.register_forward_hook(
                    lambda _m, inputs, output, name=name: hook(name, inputs, output)
                )
                stack.callback(handle.remove)
        output = call()
    return _by_frame(seen, clip), output


def _by_frame(seen: list[Seen], clip: Grid) -> list[Seen]:
    """Join the calls of layers that are called once a frame, with pictures (1, C, H', W'), where the last one was."""
    calls: dict[str, list[Seen]] = {}
    for each in seen:
        calls.setdefault(each.layer, []).append(each)
    kept = list(seen)
    for name, several in calls.items():
        shapes = {each.shape for each in several}
        if (
            1 < len(several) == clip[0]
            and len(shapes) == 1
            and len(several[0].shape) == 4
            and several[0].shape[0] == 1
        ):
            entry = replace(
                several[-1], call=EVERY, shape=(len(several), *several[0].shape[1:]), means={}
            )
            for layout in several[0].means:
                means = torch.stack([each.means[layout] for each in several]).mean(0)
                entry.means[replace(layout, grid=(len(several), *layout.grid[1:]))] = means
            kept[kept.index(several[-1])] = entry
            kept = [each for each in kept if each.layer != name or each is entry]
    return kept


def joined(taken: list[torch.Tensor]) -> torch.Tensor:
    """Return what was taken of a layer as one tensor."""
    return taken[0] if len(taken) == 1 else torch.cat(taken)


def _grids(values: Any, clip: Grid) -> Iterator[Grid]:
    """Yield the grids that tensors (1, C, T', H', W') and triples (T', H', W') among inputs and outputs tell of."""
    if isinstance(values, torch.Tensor):
        if values.ndim == 5:
            grid = tuple(values.shape[2:])
            yield (grid[0], grid[1], grid[2])
    elif isinstance(values, (tuple, list)):
        if len(values) == 3 and all(isinstance(each, int) for each in values):
            yield (values[0], values[1], values[2])
        for each in values:
            yield from _grids(each, clip)


def refuse_nan(network: nn.Module, call: Callable[[], Any], clip: Grid) -> None:
    """Raise ValueError naming the first weights, or the first layer, that hold NaN or infinite values."""
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"the network's {name} holds NaN or infinite values: its training or file is broken"
            )
    with torch.no_grad():
        seen, _ = watch(network, call, clip)
    for each in seen:
        if not each.finite:
            raise ValueError(f"layer {each.layer!r} is the first to give NaN or infinite values")
    raise ValueError("the logits hold NaN or infinite values")
