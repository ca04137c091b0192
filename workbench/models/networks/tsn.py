"""TSN, the Temporal Segment Network (Wang et al., ECCV 2016, arXiv 1608.00859).

A 2-D network looks at one frame of each segment, and its outputs are averaged over the frames. So
the time axis of its maps is that of the frames: no frame's map depends on its neighbours.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..libraries import picture_network

__all__ = ["SIZES", "TSN", "classifier_of", "replaced"]

SIZES = (224, 112, 256, 299, 384, 448, 64)  # picture sizes that a network may insist on


class TSN(nn.Module):
    """A 2-D network on every frame, averaged: (N, 3, T, H, W) to logits (N, classes).

    With `heads`, the network computes features, and each head its own logits: a dict of name to
    (N, classes), as in the EPIC-Kitchens networks for verb and noun.

    Args:
        backbone: (B, 3, H, W) to logits (B, classes): any picture network, used as it is and not
            copied; or a name from torchvision ("resnet50"), from timm ("timm/convnext_tiny"), or
            "bninception".
        segments: number of frames to sample from a clip. `forward` takes any number.
        heads: number of classes by name: {"verb": 125, "noun": 352} makes the linear layers
            `fc_verb` and `fc_noun`. They replace the linear layer that makes the backbone's
            output; the given network keeps that layer and shares all others. If no linear layer
            makes the output of a given network, its output (B, C) is taken as features.
        weights: of a backbone given by name; None: random, "DEFAULT": its library's best.

    Raises:
        ValueError: invalid segments or heads, or a backbone without features.
        KeyError, ModuleNotFoundError, FileNotFoundError: no such backbone, library or weights.
    """

    def __init__(
        self,
        backbone: nn.Module | str,
        segments: int = 8,
        *,
        heads: Mapping[str, int] | None = None,
        weights: Any = None,
    ) -> None:
        super().__init__()
        if not isinstance(segments, int) or segments < 1:
            raise ValueError(
                f"segments count from 1, got {segments!r} (heads are given by name: heads=)"
            )
        name = backbone if isinstance(backbone, str) else None
        if isinstance(backbone, str):
            backbone = picture_network(backbone, weights).module
        elif weights is not None:
            raise ValueError("weights= is for a backbone given by name; this one has its own")
        self.segments = segments
        self.heads = None if heads is None else dict(heads)
        if self.heads is None:
            self.backbone = backbone
            return
        valid = [str(head).isidentifier() and count > 0 for head, count in self.heads.items()]
        if not valid or not all(valid):
            raise ValueError(
                f"heads: expected names with their numbers of classes, got {self.heads}"
            )
        self.backbone, width = _without_classifier(backbone, name)
        for head, count in self.heads.items():
            self.add_module(f"fc_{head}", nn.Linear(width, count))

    def forward(self, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Map clips (N, 3, T, H, W) to logits (N, classes), with heads to a dict of them.

        Raises ValueError for another shape.
        """
        if x.ndim != 5:
            raise ValueError(f"expected clips (N, 3, T, H, W), got {tuple(x.shape)}")
        frames = x.transpose(1, 2).flatten(0, 1)
        output = self.backbone(frames)
        if self.heads is None:
            return _consensus(output, x)
        return {name: _consensus(getattr(self, f"fc_{name}")(output), x) for name in self.heads}


def _consensus(output: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Average outputs (N * T, C) over the frames of each clip."""
    return output.unflatten(0, (len(clips), clips.shape[2])).mean(1)


def classifier_of(module: nn.Module) -> str | None:
    """Return the dotted name of the linear layer whose output is a picture network's output.

    Returns None if there is no such layer. The forward pass that finds it computes shapes only
    (torch's meta device). Raises ValueError if the network takes no picture of any usual size, or
    does not return a tensor (B, C).
    """
    return _ending(module).classifier


def replaced(module: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Return a copy of a network with one layer replaced and all others shared."""
    if not name:
        return new
    first, _, rest = name.partition(".")
    twin = copy.copy(module)
    # A shallow copy shares the tables of layers, parameters and hooks: give the twin its own.
    twin.__dict__ = {
        key: copy.copy(value) if isinstance(value, (dict, set)) else value
        for key, value in module.__dict__.items()
    }
    twin._modules[first] = replaced(module.get_submodule(first), rest, new)
    return twin


@dataclass(frozen=True)
class _Ending:
    """How a picture network ends: its classifier, if any, and the number of features before it."""

    classifier: str | None
    features: int


def _without_classifier(backbone: nn.Module, built: str | None) -> tuple[nn.Module, int]:
    """Return a backbone without its classifier, and its number of features.

    A network that was built by name has a classifier: raises ValueError if it is not one linear
    layer.
    """
    ending = _ending(backbone)
    if ending.classifier is None:
        if built is not None:
            raise ValueError(
                f"the classifier of {built} is not one linear layer: "
                "give a network without one, and heads="
            )
        return backbone, ending.features
    return replaced(backbone, ending.classifier, nn.Identity()), ending.features


def _ending(module: nn.Module) -> _Ending:
    # Record the output of every linear layer during one forward pass. A tensor's version tells
    # whether a later layer changed it in place.
    outputs: list[tuple[str, nn.Linear, torch.Tensor, int]] = []

    def record(name: str, layer: nn.Linear) -> Any:
        return layer.register_forward_hook(
            lambda _, __, out: outputs.append((name, layer, out, out._version))
        )

    hooks = [
        record(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)
    ]
    try:
        output = _output_on_meta(module, outputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, torch.Tensor):
        raise ValueError(_not_a_backbone(type(output).__name__))
    if output.ndim != 2:
        raise ValueError(_not_a_backbone(f"a tensor {tuple(output.shape)}"))
    for name, layer, out, version in outputs:
        if out is output and version == output._version:
            return _Ending(name, layer.in_features)
    return _Ending(None, output.shape[1])


def _not_a_backbone(returned: str) -> str:
    return (
        f"expected a backbone from pictures (B, 3, H, W) to (B, C), got one that returns {returned}"
    )


def _output_on_meta(module: nn.Module, outputs: list[Any]) -> Any:
    """Return a network's output for a picture on the meta device, which computes shapes only."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    empty = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    first_error: Exception | None = None
    with _evaluating(module), torch.no_grad():
        for size in SIZES:
            outputs.clear()
            picture = torch.empty(1, 3, size, size, device="meta")
            try:
                return torch.func.functional_call(module, empty, (picture,))
            except Exception as error:  # the wrong size, or a broken network: report the first
                first_error = first_error or error
    raise ValueError(
        f"{type(module).__name__} takes no pictures (B, 3, H, W) of {SIZES} pixels: {first_error}"
    ) from first_error


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and restore every training flag afterwards."""
    flags = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, flag in flags:
            part.training = flag
