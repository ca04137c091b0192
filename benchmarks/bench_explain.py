"""What an explanation costs: `explain` and one tube against a bare forward pass; a new τ or class in the kernel.

MFNet-3D, 16×224×224, on the CPU unless there is a GPU. The two are timed in turn, so that the ratio holds when
the machine's speed drifts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

import workbench as wb

PAIRS = 15
TUBES = 200


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    torch.manual_seed(0)
    model = wb.load_model("mfnet3d")
    x = torch.randn(1, 3, 16, 224, 224, device=model.device)

    def bare() -> None:
        with torch.no_grad():
            model.module(x)

    def explained() -> None:
        wb.explain(model, x).tube()

    explained(), bare()  # warm up; the first also finds the layer
    bares, ratios = [], []
    for _ in range(PAIRS):
        forward = seconds(bare)
        bares.append(forward)
        ratios.append(seconds(explained) / forward)
    ex = wb.explain(model, x)
    taus = torch.linspace(float(ex.weights.min()), float(ex.weights.max()), TUBES).tolist()
    times = [1000 * seconds(lambda i=i, tau=tau: ex.tube(i % 400, tau)) for i, tau in enumerate(taus)]
    print(f"bare forward                   {1000 * statistics.median(bares):8.1f} ms, median of {PAIRS}")
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"explain + one tube / forward   {middle:8.3f}, median of {PAIRS} pairs ({low:.3f} to {high:.3f})")
    print(f"a new τ and class, full size   {statistics.median(times):8.2f} ms, median of {TUBES}")


if __name__ == "__main__":
    main()
