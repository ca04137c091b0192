"""Models built from other libraries' networks: torchvision's video networks, and TSNs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from .checkpoints import class_count, load_strictly, read_checkpoint
from .input_spec import InputSpec
from .libraries import Network, picture_network, video_network
from .networks.tsn import TSN, classifier_of, replaced
from .tsn_checkpoints import TSNCheckpoint, read_tsn_checkpoint, renamed
from .video_model import VideoModel
from .wrapping import wrap_model

__all__ = ["TORCHVISION", "Known", "best_device", "check_names", "torchvision_model", "tsn_model"]


@dataclasses.dataclass(frozen=True)
class Known:
    """Facts about a torchvision video network with 400 classes, known without loading it.

    Attributes:
        parameters: number of parameters.
        frames, stride: clips the published weights were measured with, for videos of 30 frames a
            second.
        head: name of the last layer's weights.
        fixed: whether the network takes no other number of frames.
    """

    parameters: int
    frames: int
    stride: int
    head: str
    fixed: bool = False


# Frames and strides: `clip_len` and `frame_rate` (out of 30) in torchvision's documentation.
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
    """Load a torchvision video network with its Kinetics-400 weights, or with your checkpoint.

    Pictures are prepared as the weights' metadata say. Clips have the length and rate that the
    weights were measured with, for videos of 30 frames a second.

    Args:
        name: torchvision's name, `r2plus1d_18` or `torchvision/r2plus1d_18`.
        weights: "DEFAULT", the name of other weights, torchvision's enum, or None for random
            weights. Weights are downloaded once, to `torch.hub.get_dir()`.
        checkpoint: file to load the weights from instead; nothing is downloaded.
        classes: names; None: the names of Kinetics if there are 400 classes. For random weights
            they also set the number of classes.
        device: where to put the network; None: a GPU if there is one.
        frames, stride: of the clips, if they should differ from the published ones.

    Raises:
        KeyError: unknown network or weights; the message lists the known ones.
        ModuleNotFoundError: torchvision is not installed.
        FileNotFoundError: no such checkpoint, or weights that cannot be downloaded; the message
            gives the address and where to put the file.
        ValueError: a damaged checkpoint, one of another network, a number of names that is not the
            number of classes, or a number of frames that the network cannot take.
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
        random_classes = len(classes) if weights is None and classes is not None else None
        network = video_network(name, weights, random_classes)
        count = len(network.classes or classes or ())
    else:
        state = read_checkpoint(checkpoint)
        count = class_count(state, known.head, str(checkpoint)) or 400
        network = video_network(name, None, count)
        load_strictly(network.module, state, str(checkpoint))
    check_names(classes, count, str(checkpoint or name))
    spec = _input_of(
        network,
        frames=known.frames if frames is None else frames,
        stride=known.stride if stride is None else stride,
    )
    return wrap_model(
        network.module,
        spec,
        network.classes if classes is None else classes,
        device=device or best_device(),
        name=f"torchvision/{name}",
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
    """Load a TSN of a picture network, with ImageNet weights or from a checkpoint.

    Args:
        name: `resnet50` or another torchvision network, `timm/<name>`, or `bninception`; with or
            without `tsn/` before it.
        weights: of the picture network: "DEFAULT" for its library's best, the name of others, or
            None for random weights.
        checkpoint: file to load all weights from instead: the TSNs published for EPIC-Kitchens-55
            and -100 (heads verb and noun, their own preprocessing), a TSN saved from here, or a
            picture network's own weights.
        classes: names; for several heads a dict of names by head.
        heads: number of classes by name, for new linear heads in place of the picture network's
            classifier. A checkpoint brings its own.
        device: where to put the network; None: a GPU if there is one.
        segments: frames of a clip, spread over it; None: 8, or what the checkpoint says.
        output: the head to explain first.

    Raises:
        KeyError, ModuleNotFoundError, FileNotFoundError: as `torchvision_model`.
        ValueError: a damaged checkpoint, one of another network or of optical flow, or names that
            do not fit.
    """
    name = name.removeprefix("tsn/")
    if checkpoint is not None and heads is not None:
        raise ValueError("heads= is for a network without a checkpoint: the checkpoint has its own")
    layout = TSNCheckpoint({}) if checkpoint is None else read_tsn_checkpoint(checkpoint)
    if layout.backbone not in (None, name):
        raise ValueError(
            f"{checkpoint} holds a TSN of {layout.backbone}: load_model('tsn/{layout.backbone}', …)"
        )
    if checkpoint is None and weights is None and heads is None and isinstance(classes, Sequence):
        network = picture_network(name, None, len(classes))
    else:
        network = picture_network(name, weights if checkpoint is None else None)
    spec = dataclasses.replace(_input_of(network, frames=8, stride=None), **layout.input)
    if segments is not None:
        spec = dataclasses.replace(spec, frames=segments)
    names: Any = classes
    if checkpoint is not None:
        module = _filled(network.module, layout, spec.frames, str(checkpoint))
    else:
        module = TSN(network.module, spec.frames, heads=heads)
        if classes is None and heads is None:
            names = network.classes
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
    """Return "cuda" if there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_names(classes: Sequence[str] | None, count: int, source: str) -> None:
    """Raise ValueError unless there are as many names as classes."""
    if classes is not None and len(classes) != count:
        raise ValueError(f"{source} has {count} classes, and {len(classes)} names were given")


def _input_of(network: Network, *, frames: int, stride: int | None) -> InputSpec:
    return InputSpec(
        frames=frames,
        resize=network.resize,
        crop=network.crop,
        stride=stride,
        mean=network.mean,
        std=network.std,
        bgr=network.bgr,
    )


def _filled(backbone: nn.Module, layout: TSNCheckpoint, segments: int, source: str) -> TSN:
    """Return a TSN with a checkpoint's weights and as many classes as the checkpoint has."""
    state = layout.state
    classifier = None if layout.heads else classifier_of(backbone)
    if classifier is not None:
        own = f"backbone.{classifier}"
        state = renamed(state, "classifier.", f"{own}.")
        old = _linear(backbone, classifier)
        count = class_count(state, f"{own}.weight", source)
        if count not in (None, old.out_features):
            new = nn.Linear(old.in_features, count, bias=old.bias is not None)
            backbone = replaced(backbone, classifier, new)
    module = TSN(backbone, segments, heads=layout.heads)
    load_strictly(module, state, source)
    return module


def _linear(module: nn.Module, name: str) -> nn.Linear:
    return cast(nn.Linear, module.get_submodule(name))


def _check_outputs(module: TSN, classes: Any, source: str) -> None:
    """Raise ValueError if class names do not fit the network's outputs."""
    if classes is None:
        return
    if module.heads is None:
        if isinstance(classes, Mapping):
            raise ValueError(f"{source} has one head: give a list of class names, not a dict")
        classifier = classifier_of(module.backbone)
        if classifier is not None:
            check_names(classes, _linear(module.backbone, classifier).out_features, source)
        return
    by_head = isinstance(classes, Mapping)
    if not by_head or not set(classes) <= set(module.heads):
        got = f"a dict of {', '.join(map(str, classes))}" if by_head else f"{len(classes)} names"
        raise ValueError(
            f"{source} has the heads {', '.join(module.heads)}: "
            f"give class names as a dict by head, got {got}"
        )
    for head, names in classes.items():
        check_names(names, module.heads[head], f"{head} of {source}")
