"""What a method costs: the clips that it sends through networks, and its wall clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ...clips.clip import Clip
from ...models.outputs import tensors_in
from ...saliency.tubes import Tube
from ..evaluation import Method

__all__ = ["run_method"]


def run_method(method: Method, clip: Clip, label: str) -> tuple[Tube | np.ndarray, int, float]:
    """Return what a method made, how many clips went through a network, and seconds."""
    with _counted() as passes:
        started = time.perf_counter()
        made = method(clip, label)
        return made, passes[0], time.perf_counter() - started


@contextmanager
def _counted() -> Iterator[list[int]]:
    """Count the clips that go through any network inside: a list with one number."""
    passes, depth = [0], [0]

    def enter(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if depth[0] == 0:
            passes[0] += len(next(tensors_in(inputs), ()))
        depth[0] += 1

    def leave(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        depth[0] -= 1

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()
