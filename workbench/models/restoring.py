"""Restoring: what a network is, and what of it is put back after each pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["bare", "eval_mode", "own_buffers"]


def bare(module: nn.Module) -> nn.Module:
    """Return the network inside DataParallel, DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode for a while, then give every part its own flag back."""
    flags = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, flag in flags:
            part.training = flag


@contextmanager
def own_buffers(network: nn.Module) -> Iterator[None]:
    """Give buffers that a network writes in its forward pass their values back."""
    own = [
        (part, name, buffer, buffer._version, buffer.clone())
        for part in network.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None and not buffer.is_inference()
    ]
    try:
        yield
    finally:
        for part, name, buffer, version, value in own:
            if buffer._version != version:
                buffer.copy_(value)
            part._buffers[name] = buffer
