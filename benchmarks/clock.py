"""The clock of the benchmarks: it waits for a GPU to finish."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds(call: Callable[[], object]) -> float:
    start = now()
    call()
    return now() - start


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
