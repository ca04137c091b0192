"""TSN, the Temporal Segment Network (Wang et al., ECCV 2016, arXiv 1608.00859).

A 2-D network looks at one frame of each segment by itself, and what it says is averaged. So the time axis of its
maps is that of the frames: nothing in them depends on a neighbour.

"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..libraries import picture_network

__all__ = ["SIZES", "TSN", "classifier_of", "replaced"]


SIZES = (224, 112, 256, 299, 384, 448, 64)  # of pictures that a network may insist on


class TSN(nn.Module):
    """A 2-D network on every frame, and the mean of its outputs: (N, 3, T, H, W) to logits (N, classes).

    With `heads` the network gives features, and each head its own logits: a dict of name to (N, classes), as the
    EPIC-Kitchens networks have them for verb and noun.

    Args:
        backbone: (B, 3, H, W) to logits (B, classes): any picture network, or the name of one of torchvision's
            ("resnet50"), of timm's ("timm/convnext_tiny"), or "bninception". A network is used as it is, not copied.
        segments: how many frames to show it. Any number passes; this one is for whoever samples the clips.
        heads: number of classes by name: {"verb": 125, "noun": 352} makes the linear layers `fc_verb` and `fc_noun`.
            They take the place of the backbone's own classifier: the linear layer that makes its output. The
            network that was given keeps it, and shares all other layers. Where no linear layer makes the output
            of a given network, that is taken for features (B, C) already.
        weights: of a backbone given by name; None: random, "DEFAULT": its library's best.

    Raises:
        ValueError: segments or heads that are none, or a backbone that gives no features.
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
        if not self.heads or any(
            not str(name).isidentifier() or count < 1 for name, count in self.heads.items()
        ):
            raise ValueError(
                f"heads: expected names with their numbers of classes, got {self.heads}"
            )
        self.backbone, width = _features(backbone, name)
        for head, count in self.heads.items():
            self.add_module(f"fc_{head}", nn.Linear(width, count))

    def forward(self, x: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """Map clips (N, 3, T, H, W) to logits (N, classes), the mean over their frames; with heads to a dict of them.

        Raises ValueError for another shape.
        """
        if x.ndim != 5:
            raise ValueError(f"expected clips (N, 3, T, H, W), got {tuple(x.shape)}")
        frames = x.transpose(1, 2).flatten(0, 1)
        said = self.backbone(frames)
        if self.heads is None:
            return _consensus(said, x)
        return {name: _consensus(getattr(self, f"fc_{name}")(said), x) for name in self.heads}


def _consensus(said: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    return said.unflatten(0, (len(clips), clips.shape[2])).mean(1)


def classifier_of(module: nn.Module) -> str | None:
    """Return the dotted name of the linear layer whose output is a picture network's output; None: there is none.

    Found by watching a forward pass that computes shapes only (torch's meta device). Raises ValueError where the
    network takes no picture of any usual size, or returns no tensor (B, C).
    """
    return _probe(module)[0]


def replaced(module: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Return a network with the layer `name` replaced, all others shared; the one that was given stays as it is."""
    if not name:
        return new
    first, _, rest = name.partition(".")
    twin = copy.copy(module)
    # A shallow copy shares the tables of layers, parameters and hooks: give the twin its own.
    twin.__dict__ = {
        key: copy.copy(v) if isinstance(v, (dict, set)) else v for key, v in module.__dict__.items()
    }
    twin._modules[first] = replaced(module.get_submodule(first), rest, new)
    return twin


def _features(backbone: nn.Module, built: str | None) -> tuple[nn.Module, int]:
    """Return the backbone without its classifier, and how many features it gives.

    One that was built by name has a classifier for sure: raises ValueError where that is no linear layer.
    """
    name, width = _probe(backbone)
    if name is None and built is not None:
        raise ValueError(
            f"the classifier of {built} is not one linear layer: give a network without one, and heads="
        )
    return (backbone, width) if name is None else (replaced(backbone, name, nn.Identity()), width)


def _probe(module: nn.Module) -> tuple[str | None, int]:
    """Return the name of the classifier and the number of features it takes; or None and the network's own."""
    made: list[tuple[str, nn.Linear, torch.Tensor, int]] = []

    def watch(name: str, layer: nn.Linear) -> Any:
        return layer.register_forward_hook(
            lambda _, __, out: made.append((name, layer, out, out._version))
        )

    hooks = [
        watch(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)
    ]
    try:
        output = _shapes(module, made)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        what = (
            f"a tensor {tuple(output.shape)}"
            if isinstance(output, torch.Tensor)
            else type(output).__name__
        )
        raise ValueError(
            f"expected a backbone from pictures (B, 3, H, W) to (B, C), got one that returns {what}"
        )
    for name, layer, out, version in made:
        if (
            out is output and version == output._version
        ):  # and not changed in place by a later layer
            return name, layer.in_features
    return None, output.shape[1]


def _shapes(module: nn.Module, made: list[Any]) -> Any:
    """Return the network's output for a picture, on the meta device: shapes, and nothing is computed."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    empty = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    failed: Exception | None = None
    with _evaluating(module), torch.no_grad():
        for size in SIZES:
            made.clear()
            try:
                return torch.func.functional_call(
                    module, empty, (torch.empty(1, 3, size, size, device="meta"),)
                )
            except Exception as error:  # of another size, or truly wrong: the first one is told
                failed = failed or error
    raise ValueError(
        f"{type(module).__name__} takes no pictures (B, 3, H, W) of {SIZES} pixels: {failed}"
    ) from failed


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    flags = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, flag in flags:
            part.training = flag
