"""Models around networks of other libraries: torchvision's video networks, and TSNs of any picture network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from .checkpoints import load_strictly, read_checkpoint
from .input_spec import InputSpec
from .libraries import Network, picture_network, video_network
from .networks.tsn import TSN, classifier_of, replaced
from .tsn_checkpoints import TSNCheckpoint, read_tsn_checkpoint
from .video_model import VideoModel, wrap_model

__all__ = ["TORCHVISION", "Known", "best_device", "torchvision_model", "tsn_model"]


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of a video network of torchvision without loading it, for 400 classes.

    Attributes:
        parameters: how many.
        frames, stride: of the clips that its published weights were measured with, for videos of 30 frames a second.
        head: name of the last layer's weights.
        fixed: it takes just so many frames.
    """

    parameters: int
    frames: int
    stride: int
    head: str
    fixed: bool = False


# Frames and strides: from the weights' documentation in torchvision (`clip_len` and `frame_rate`, of 30).
TORCHVISION = {
    "r3d_18": Known(33_371_472, 16, 2, "fc.weight"),
    "mc3_18": Known(11_695_440, 16, 2, "fc.weight"),
    "r2plus1d_18": Known(31_505_325, 16, 2, "fc.weight"),
    "s3d": Known(8_320_048, 128, 2, "classifier.1.weight"),
    "mvit_v1_b": Known(36_610_672, 16, 4, "head.1.weight", fixed=True),
    "mvit_v2_s": Known(34_537_744, 16, 4, "head.1.weight", fixed=True),
    "swin3d_t": Known(28_158_070, 32, 2, "head.weight"),
    "swin3d_s": Known(49_816_678, 32, 2, "head.weight"),
    "swin3d_b": Known(88_048_984, 32, 2, "head.weight"),
}


def torchvision_model(
    name: str,
    weights: Any = "DEFAULT",
    checkpoint: str | Path | None = None,
    classes: Sequence[str] | None = None,
    device: torch.device | str | None = None,
    frames: int | None = None,
    stride: int | None = None,
) -> VideoModel:
    """Load a video network of torchvision with its published Kinetics-400 weights, or with a checkpoint of yours.

    Pictures are prepared as the weights' metadata say; clips have the length and the rate at which the weights were
    measured, taken from videos of 30 frames a second.

    Args:
        name: as torchvision calls it, `r2plus1d_18`, or `torchvision/r2plus1d_18`.
        weights: "DEFAULT", the name of others, torchvision's enum, or None for random ones. They are downloaded once,
            to `torch.hub.get_dir()`.
        checkpoint: a file to take the weights from instead; nothing is downloaded.
        classes: names; None: Kinetics' where there are 400. With random weights they also say how many.
        device: where to put the network; None: a GPU if there is one.
        frames, stride: of the clips, where others are wanted than the weights were measured with.

    Raises:
        KeyError: no such network or weights; the message lists what there is.
        ModuleNotFoundError: torchvision is not installed.
        FileNotFoundError: no such checkpoint, or weights that cannot be downloaded; the message says from where, and
            where to put the file.
        ValueError: a broken checkpoint, one of another network, another number of classes than names, or of frames
            than the network can take.
    """
    name = name.removeprefix("torchvision/")
    known = TORCHVISION.get(name)
    if known is None:
        raise KeyError(
            f"torchvision has no video network {name!r} here; there are {', '.join(TORCHVISION)}"
        )
    if known.fixed and frames not in (None, known.frames):
        raise ValueError(
            f"{name} takes clips of {known.frames} frames and no others, got frames={frames}"
        )
    if checkpoint is None:
        network = video_network(
            name, weights, None if weights is not None or classes is None else len(classes)
        )
        count = len(network.classes or classes or ())
    else:
        state = read_checkpoint(checkpoint)
        head = state.get(known.head)
        count = 400 if head is None else len(head)
        network = video_network(name, None, count)
        load_strictly(network.module, state, str(checkpoint))
    _check_names(classes, count, str(checkpoint or name))
    spec = _spec(
        network,
        known.frames if frames is None else frames,
        known.stride if stride is None else stride,
    )
    names = network.classes if classes is None else classes
    return wrap_model(
        network.module, spec, names, device=device or best_device(), name=f"torchvision/{name}"
    )


def tsn_model(
    name: str,
    weights: Any = "DEFAULT",
    checkpoint: str | Path | None = None,
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    heads: Mapping[str, int] | None = None,
    device: torch.device | str | None = None,
    segments: int | None = None,
    output: str | None = None,
) -> VideoModel:
    """Load a TSN of a picture network: with its ImageNet weights, or from a checkpoint, EPIC-Kitchens' for example.

    Args:
        name: `resnet50` or another of torchvision's, `timm/<name>`, `bninception`; `tsn/` before it is fine.
        weights: of the picture network: "DEFAULT" for its library's best, the name of others, None for random ones.
        checkpoint: a file to take all weights from instead: the published TSNs of EPIC-Kitchens-55 and -100 (heads
            verb and noun, their own preprocessing), a TSN saved from here, or a picture network's own weights.
        classes: names, or with heads a dict of names by head.
        heads: new linear heads in the place of the picture network's classifier: number of classes by name. A
            checkpoint knows its own.
        device: where to put the network; None: a GPU if there is one.
        segments: frames of a clip, spread over it; None: 8, or what the checkpoint says.
        output: of several heads the one to explain first.

    Raises:
        KeyError, ModuleNotFoundError, FileNotFoundError: as `torchvision_model`.
        ValueError: a broken checkpoint, one of another network or of optical flow, or names that do not fit.
    """
    name = name.removeprefix("tsn/")
    layout = TSNCheckpoint({}) if checkpoint is None else read_tsn_checkpoint(checkpoint)
    if checkpoint is not None and heads is not None:
        raise ValueError("heads= is for a network without a checkpoint: the checkpoint has its own")
    if layout.backbone not in (None, name):
        raise ValueError(
            f"{checkpoint} is of a TSN of {layout.backbone}: load_model('tsn/{layout.backbone}', …)"
        )
    random = (
        weights is None and checkpoint is None and heads is None and isinstance(classes, Sequence)
    )
    network = picture_network(
        name, weights if checkpoint is None else None, len(classes or ()) if random else None
    )
    spec = dataclasses.replace(_spec(network, 8, None), **layout.input)
    if segments is not None:
        spec = dataclasses.replace(spec, frames=segments)
    names: Any = classes
    if checkpoint is None:
        module = TSN(network.module, spec.frames, heads=heads)
        names = network.classes if classes is None and heads is None else classes
    else:
        module = _filled(network.module, layout, spec.frames, str(checkpoint))
    _check_outputs(module, names, str(checkpoint or name))
    return wrap_model(
        module.eval(),
        spec,
        names,
        device=device or best_device(),
        name=f"tsn/{name}",
        output=output,
    )


def best_device() -> str:
    """Return "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _spec(network: Network, frames: int, stride: int | None) -> InputSpec:
    return InputSpec(
        frames, network.resize, network.crop, stride, network.mean, network.std, network.bgr
    )


def _filled(backbone: nn.Module, layout: TSNCheckpoint, segments: int, source: str) -> TSN:
    """Return a TSN with the weights of a checkpoint; its classifier gets as many classes as the checkpoint has."""
    state, name = layout.state, None if layout.heads else classifier_of(backbone)
    if name is not None:
        own = f"backbone.{name}"
        state = {
            own + key[10:] if key.startswith("classifier.") else key: value
            for key, value in state.items()
        }
        weight, old = state.get(f"{own}.weight"), _linear(backbone, name)
        if weight is not None and len(weight) != old.out_features:
            new = nn.Linear(old.in_features, len(weight), bias=old.bias is not None)
            backbone = replaced(backbone, name, new)
    module = TSN(backbone, segments, heads=layout.heads)
    load_strictly(module, state, source)
    return module


def _linear(module: nn.Module, name: str) -> nn.Linear:
    return cast(nn.Linear, module.get_submodule(name))


def _check_outputs(module: TSN, classes: Any, source: str) -> None:
    """Raise ValueError where class names do not fit what the network gives."""
    if module.heads is None:
        if isinstance(classes, Mapping):
            raise ValueError(f"{source} has one head: give a list of class names, not a dict")
        name = classifier_of(module.backbone) if classes is not None else None
        if name is not None:
            _check_names(classes, _linear(module.backbone, name).out_features, source)
        return
    if classes is None:
        return
    if not isinstance(classes, Mapping) or not set(classes) <= set(module.heads):
        raise ValueError(
            f"{source} has the heads {', '.join(module.heads)}: give class names as a dict by head, "
            f"got {_some(classes)}"
        )
    for head, names in classes.items():
        _check_names(names, module.heads[head], f"{head} of {source}")


def _check_names(classes: Sequence[str] | None, count: int, source: str) -> None:
    if classes is not None and len(classes) != count:
        raise ValueError(f"{source} has {count} classes, and {len(classes)} names were given")


def _some(classes: Any) -> str:
    return (
        f"a dict of {', '.join(map(str, classes))}"
        if isinstance(classes, Mapping)
        else f"{len(classes)} names"
    )
