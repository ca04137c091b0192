"""Watching: what the layers of a network give while it runs, seen and taken through hooks that are gone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from .layouts import Grid, Layout, layouts, pooled
from .models import find_module

__all__ = ["Capture", "Key", "Seen", "refuse_nan", "watch"]

SMALL = 1 << 15  # numbers in an output that is kept, to look for logits in it

Key = tuple[str, int]  # a layer's dotted name, and which of its calls in a forward pass


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
        taken: copies of the outputs; a later in-place ReLU does not show in them.
    """

    wanted: tuple[Key, ...]
    graph_from: tuple[Key, ...] = ()
    taken: dict[Key, torch.Tensor] = field(default_factory=dict)

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        """Take outputs while the network runs."""
        calls: dict[str, int] = {}

        def hook(layer: str, output: Any) -> torch.Tensor | None:
            key = (layer, calls.setdefault(layer, 0))
            calls[layer] += 1
            if key not in self.wanted or not isinstance(output, torch.Tensor):
                return None
            if key not in self.graph_from:
                self.taken[key] = copy = output.clone()
                return copy.clone() if torch.is_grad_enabled() else None
            self.taken[key] = leaf = output.detach().clone().requires_grad_()
            torch.set_grad_enabled(True)
            return leaf.clone()

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
            for each in layouts(shape, clip, grids):
                entry.means[each] = pooled(output, each)
                # torchvision's DenseNet, say, has its last ReLU in `forward`, where no hook sees it.
                positive = replace(each, rectified=True)
                entry.means[positive] = pooled(output, positive)
            seen.append(entry)

    with ExitStack() as stack:
        for name, part in network.named_modules():
            if name:
                handle = part.register_forward_hook(lambda _m, inputs, output, name=name: hook(name, inputs, output))
                stack.callback(handle.remove)
        output = call()
    return seen, output


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
            raise ValueError(f"the network's {name} holds NaN or infinite values: its training or file is broken")
    with torch.no_grad():
        seen, _ = watch(network, call, clip)
    for each in seen:
        if not each.finite:
            raise ValueError(f"layer {each.layer!r} is the first to give NaN or infinite values")
    raise ValueError("the logits hold NaN or infinite values")
