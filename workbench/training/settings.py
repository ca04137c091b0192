"""What decides the course of a training: settings, optimiser, devices, and the random state."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ..models.video_model import VideoModel

__all__ = ["Settings", "accelerator_for", "optimizer_for", "own_randomness"]

HEAD = 10.0  # a new head learns at this multiple of the rate, because it starts from nothing


@dataclass(frozen=True)
class Settings:
    """What decides the course of a training; a checkpoint is resumed only with the same settings.

    `data` identifies the list of labelled clips.
    """

    epochs: int
    batch: int
    rate: float
    warmup: float
    decay: float
    flip: bool
    head_only: bool
    new_head: bool
    seed: int
    data: str

    def rate_at(self, step: int, total: int) -> float:
        """Return the learning rate of a step, counted from 0: linear warm-up, then cosine to 0."""
        warm = self.warmup * total
        if step < warm:
            return self.rate * (step + 1) / (warm + 1)
        done = (step - warm) / max(1.0, total - warm)
        return self.rate * 0.5 * (1 + math.cos(math.pi * done))

    def differences(self, saved: dict[str, Any]) -> list[str]:
        """Return how a checkpoint's settings differ from these: ["epochs 1, now 2"]."""
        return [
            f"{name} {saved.get(name)}, now {value}"
            for name, value in asdict(self).items()
            if saved.get(name) != value
        ]


def optimizer_for(
    module: nn.Module, new_heads: Collection[nn.Module], settings: Settings
) -> torch.optim.Optimizer:
    """Return AdamW: `HEAD` times the rate for new heads, no weight decay of biases and norms.

    Raises ValueError if no parameter takes gradients.
    """
    new = {parameter for head in new_heads for parameter in head.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            scale = HEAD if parameter in new else 1.0
            decay = settings.decay if parameter.ndim > 1 else 0.0
            groups.setdefault((scale, decay), []).append(parameter)
    if not groups:
        raise ValueError("no parameter of the network takes gradients: nothing to train")
    return torch.optim.AdamW(
        [
            {"params": parameters, "scale": scale, "weight_decay": decay}
            for (scale, decay), parameters in groups.items()
        ],
        lr=settings.rate,
    )


def accelerator_for(model: VideoModel, precision: str | None) -> Any:
    """Return an `accelerate.Accelerator` for the kind of device that a model is on.

    Raises ModuleNotFoundError if accelerate is not installed, ValueError for another precision, or
    for one in which PyTorch computes wrong gradients.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState
    except ModuleNotFoundError as error:
        if error.name != "accelerate":
            raise
        raise ModuleNotFoundError(
            'wb.fine_tune needs accelerate: pip install "saliency-workbench[train]"',
            name=error.name,
        ) from error
    if precision not in (None, "no", "bf16", "fp16"):
        raise ValueError(f"precision: expected 'no', 'bf16', 'fp16' or None, got {precision!r}")
    # PyTorch 2.14 leaves part of these gradients unwritten: NaN, infinite, or any other number.
    if precision == "bf16" and model.device.type == "cpu" and _has_wide_conv3d(model.network):
        raise ValueError(
            "precision: on a CPU, PyTorch's bf16 gradients of 3-D convolutions are wrong; "
            "got 'bf16'. Take precision='no', or move the model to a GPU"
        )
    if precision is None:
        precision = "no"
        if model.device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    # accelerate keeps the first precision of a process; a second training may have another.
    if not PartialState._shared_state or PartialState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=model.device.type == "cpu", mixed_precision=precision)


def _has_wide_conv3d(module: nn.Module) -> bool:
    return any(
        isinstance(part, nn.Conv3d) and max(part.kernel_size) > 1 for part in module.modules()
    )


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch, and restore its random state afterwards."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
