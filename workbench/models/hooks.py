"""Hooks: what the layers of a network give while it runs. Every hook is removed on the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

__all__ = [
    "EVERY",
    "Call",
    "Observer",
    "Taken",
    "find_module",
    "first_tensor",
    "keeping_saved_values",
    "observing",
    "taking",
]

EVERY = -1  # all calls of a layer, for one that sees a frame at a time


class Call(NamedTuple):
    """A layer in one forward pass: its dotted name, and which of its calls (from 0), or EVERY."""

    layer: str
    number: int = 0


Taken: TypeAlias = dict[Call, list[torch.Tensor]]
# Called with a layer's dotted name, its inputs and its output, in the order in which layers finish.
Observer: TypeAlias = Callable[[str, Any, Any], None]


@contextmanager
def taking(
    network: nn.Module, calls: Iterable[Call], *, gradients_from: Iterable[Call] = ()
) -> Iterator[Taken]:
    """Take copies of layers' outputs while the network runs.

    Args:
        network: what runs inside the `with` block.
        calls: whose outputs to take; of a layer that returns several, the first tensor.
        gradients_from: those of them at which gradients begin. What comes before is not recorded,
            so gradients cost memory only for what follows.

    Yields:
        A dict that fills while the network runs: a list of one tensor for each call, of one per
        call for EVERY. They are copies: a later in-place ReLU does not show in them.
    """
    wanted, starts = set(calls), set(gradients_from)
    taken: Taken = {}
    counts: dict[str, int] = {}

    def hook(layer: str, output: Any) -> Any:
        number = counts.get(layer, 0)
        counts[layer] = number + 1
        this = Call(layer, number) if Call(layer, number) in wanted else Call(layer, EVERY)
        maps = first_tensor(output)
        if this not in wanted or maps is None:
            return None
        copies = taken.setdefault(this, [])
        if this not in starts:
            copies.append(maps.clone())
            # With gradients on, a later in-place operation would invalidate the original.
            return _with_first(output, copies[-1].clone()) if torch.is_grad_enabled() else None
        copies.append(maps.detach().clone().requires_grad_())
        torch.set_grad_enabled(True)
        return _with_first(output, copies[-1].clone())

    with ExitStack() as stack:
        for layer in {call.layer for call in wanted}:
            handle = find_module(network, layer).register_forward_hook(
                lambda _module, _inputs, output, layer=layer: hook(layer, output)
            )
            stack.callback(handle.remove)
        yield taken


@contextmanager
def observing(network: nn.Module, observer: Observer) -> Iterator[None]:
    """Show every layer's inputs and output to an observer while the network runs."""
    with ExitStack() as stack:
        for name, layer in network.named_modules():
            if name:
                handle = layer.register_forward_hook(
                    lambda _module, inputs, output, name=name: observer(name, inputs, output)
                )
                stack.callback(handle.remove)
        yield


def first_tensor(output: Any) -> torch.Tensor | None:
    """Return a layer's output, or the first tensor of a tuple or list; None if there is none."""
    if isinstance(output, (tuple, list)):
        output = next((part for part in output if isinstance(part, torch.Tensor)), None)
    return output if isinstance(output, torch.Tensor) else None


def _with_first(output: Any, tensor: torch.Tensor) -> Any:
    """Return an output with another tensor in place of its first one."""
    if isinstance(output, torch.Tensor):
        return tensor
    place = next(n for n, part in enumerate(output) if isinstance(part, torch.Tensor))
    parts = [*output[:place], tensor, *output[place + 1 :]]
    if isinstance(output, list):
        return parts
    # The fields of a named tuple are arguments one by one.
    return type(output)(*parts) if hasattr(output, "_fields") else tuple(parts)


def keeping_saved_values() -> AbstractContextManager[Any]:
    """Record graphs that stay valid if the network overwrites what a layer gave.

    `x = relu(x); x += shortcut` cannot be differentiated otherwise. Costs a copy of every tensor
    that the backward pass needs.
    """
    return torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t)


def find_module(module: nn.Module, name: str) -> nn.Module:
    """Return a submodule by its dotted name; KeyError lists the nearest names."""
    import difflib

    names = dict(module.named_modules())
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or list(names)[-5:]
        raise KeyError(f"no layer {name!r} in {type(module).__name__}; near: {', '.join(near)}")
    return names[name]
