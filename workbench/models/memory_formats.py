"""Memory formats: channels last, for networks that run faster in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .outputs import tensors_in

__all__ = ["channels_last", "faster_channels_last", "in_channels_last", "to_channels_last"]

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
GAIN = 0.95  # channels last has to take at most this share of the time


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """Return pictures (N, C, H, W) or volumes (N, C, T, H, W) channels last in memory.

    Any other tensor is returned as it is.
    """
    layout = FORMATS.get(tensor.ndim)
    return tensor if layout is None else tensor.contiguous(memory_format=layout)


def to_channels_last(module: nn.Module) -> nn.Module:
    """Put a network's 2-D and 3-D convolutions into channels-last memory, in place.

    `module.to(memory_format=…)` handles only one of the two and fails when it meets the other.
    """
    for parameter in module.parameters():
        if parameter.ndim in FORMATS:
            parameter.data = channels_last(parameter.data)
    return module


@contextmanager
def in_channels_last(module: nn.Module) -> Iterator[nn.Module]:
    """Give a network's convolutions channels-last copies of their weights for a while."""
    own = [(each, each.data) for each in module.parameters() if each.ndim in FORMATS]
    try:
        yield to_channels_last(module)
    finally:
        for parameter, data in own:
            parameter.data = data


def faster_channels_last(network: nn.Module, call: Callable[[], Any]) -> bool:
    """Measure whether a network runs faster in channels-last memory, with the same answer.

    `call` runs it once. Channels last has to win two rounds, so that a moment in which the machine
    is busy decides nothing. Answers that differ by more than 1e-3 decide against it.
    """
    if not any(parameter.ndim in FORMATS for parameter in network.parameters()):
        return False
    for _ in range(2):
        plain_seconds, plain = _timed(call)
        with in_channels_last(network):
            changed_seconds, changed = _timed(call)
        if changed_seconds >= GAIN * plain_seconds:
            return False
    return bool((plain - changed).abs().max() <= 1e-3 * plain.abs().max())


def _timed(call: Callable[[], Any]) -> tuple[float, torch.Tensor]:
    """Return the seconds that a call takes, and the first tensor in what it returns."""
    start = _now()
    with torch.inference_mode():
        output = call()
    return _now() - start, next(tensors_in(output))


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
