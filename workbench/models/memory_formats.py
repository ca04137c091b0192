"""Memory formats: channels last, where a network runs faster so."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["channels_last", "faster_channels_last", "in_channels_last", "to_channels_last"]

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of pictures or volumes with its channels last in memory; any other as it is."""
    layout = FORMATS.get(tensor.ndim)
    return tensor if layout is None else tensor.contiguous(memory_format=layout)


def to_channels_last(module: nn.Module) -> nn.Module:
    """Put a network's 2-D and 3-D convolutions into channels-last memory, in place.

    `module.to(memory_format=…)` does one of both, and fails where it meets the other.
    """
    for parameter in module.parameters():
        if parameter.ndim in FORMATS:
            parameter.data = channels_last(parameter.data)
    return module


@contextmanager
def in_channels_last(module: nn.Module) -> Iterator[nn.Module]:
    """Lend a network's convolutions channels-last copies of their weights; the weights themselves come back."""
    own = [
        (parameter, parameter.data)
        for parameter in module.parameters()
        if parameter.ndim in FORMATS
    ]
    try:
        yield to_channels_last(module)
    finally:
        for parameter, data in own:
            parameter.data = data


def faster_channels_last(network: nn.Module, call: Callable[[], Any], gain: float = 0.95) -> bool:
    """Measure whether a network runs faster in channels-last memory, by at least the share 1 - `gain`.

    `call` runs it once. The formats take turns, and it has to be so both times: a moment in which the machine is busy
    decides nothing. Where the answers are not the same within 1e-3, it is not.
    """
    if not any(parameter.ndim in FORMATS for parameter in network.parameters()):
        return False
    plain, changed = [], []
    for _ in range(2):
        seconds, answer = _timed(call)
        plain.append(seconds)
        with in_channels_last(network):
            seconds, other_answer = _timed(call)
        changed.append(seconds)
        if seconds > 1.5 * plain[-1]:  # a first run takes longer, but not by so much
            return False
    faster = all(other < gain * first for other, first in zip(changed, plain))
    return faster and bool((answer - other_answer).abs().max() <= 1e-3 * answer.abs().max())


def _timed(call: Callable[[], Any]) -> tuple[float, torch.Tensor]:
    """Return the seconds that a call takes, and the first tensor in what it returns."""
    start = _now()
    with torch.inference_mode():
        output = call()
    seconds = _now() - start
    return seconds, next(_tensors(output))


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in what a network returns, whatever they are packed in."""
    if isinstance(output, torch.Tensor):
        yield output
        return
    if isinstance(output, Mapping):
        output = list(output.values())
    elif dataclasses.is_dataclass(output):
        output = list(vars(output).values())
    for part in output if isinstance(output, (tuple, list)) else ():
        yield from _tensors(part)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
