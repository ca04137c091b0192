"""What an explanation costs: `explain` and one tube against a bare forward pass; a new τ or class in the kernel.

MFNet-3D, 16×224×224, on the CPU unless there is a GPU. The two are timed in turn, so that the ratio holds when
the machine's speed drifts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from clock import now, seconds

import workbench as wb

PAIRS = 20
TUBES = 200


def within(module: torch.nn.Module, call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a call, and of the network's forward pass inside it."""
    times: list[float] = []
    handles = [
        module.register_forward_pre_hook(lambda *_: times.append(now())),
        module.register_forward_hook(lambda *_: times.append(now())),
    ]
    try:
        total = seconds(call)
    finally:
        for handle in handles:
            handle.remove()
    return total, times[1] - times[0]


def main() -> None:
    torch.manual_seed(0)
    model = wb.load_model("mfnet3d")
    x = torch.randn(1, 3, 16, 224, 224, device=model.device)

    def bare() -> None:
        with torch.no_grad():
            model.module(x)

    def explained() -> None:
        wb.explain(model, x).tube()

    # Warm up: the first clip finds the layer.
    explained(), explained(), bare()
    ratios, shares, bares = [], [], []
    for number in range(PAIRS):
        first = (
            seconds(bare) if number % 2 else None
        )  # in turn, so that neither is always the second
        total, inner = within(model.module, explained)
        bares.append(seconds(bare) if first is None else first)
        ratios.append(total / bares[-1])
        shares.append(total / inner)
    ex = wb.explain(model, x)
    taus = torch.linspace(float(ex.weights.min()), float(ex.weights.max()), TUBES).tolist()
    times = [
        1000 * seconds(lambda i=i, tau=tau: ex.tube(i % 400, tau)) for i, tau in enumerate(taus)
    ]
    print(
        f"bare forward                              {1000 * statistics.median(bares):8.1f} ms, median of {PAIRS}"
    )
    for what, values in (
        ("explain + one tube / bare forward beside it", ratios),
        ("… / forward inside it", shares),
    ):
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{what:<43} {middle:6.3f}, median of {PAIRS} ({low:.3f} to {high:.3f})")
    print(
        f"a new τ and class, full size              {statistics.median(times):8.2f} ms, median of {TUBES}"
    )


if __name__ == "__main__":
    main()
