"""Heads: the last linear layer of a network, and a new one for other classes."""

from __future__ import annotations

import copy

from torch import nn

from ..datasets.table import Dataset
from ..models.video_model import VideoModel, find_module
from ..saliency.layer_search import proved_head

__all__ = ["copy_for"]


def copy_for(model: VideoModel, data: Dataset, head: str | None) -> tuple[VideoModel, str, bool]:
    """Return a copy of a model for a data set's classes, its head's name, and whether it is new.

    Raises ValueError if the network has no linear layer that could be its head, and KeyError if
    there is no layer of the given name.
    """
    module = copy.deepcopy(model.network)
    sizes = {name: outputs for name, part in module.named_modules() if (outputs := _outputs(part))}
    name = head or model.head or proved_head(model) or _last_head(sizes, model.classes)
    if name is None or name not in sizes:
        find_module(module, name or "")
        listed = ", ".join(f"{layer} ({outputs} outputs)" for layer, outputs in sizes.items())
        raise ValueError(
            f"{name or 'nothing'!r} is no linear head of {type(module).__name__}. Name with head= "
            f"one of its linear layers and 1×1×1 convolutions: {listed or 'none'}"
        )
    fresh = sizes[name] != len(data.classes) or not _same_classes(model.classes, data.classes)
    if fresh:
        parent, _, last = name.rpartition(".")
        setattr(find_module(module, parent), last, _new_head(find_module(module, name), data))
    title = f"{model.name or type(module).__name__}, fine-tuned"
    if data.title:
        title += f" on {data.title}"
    tuned = VideoModel(
        module,
        model.input,
        classes=list(data.classes),
        layer=model.layer,
        head=model.head,
        name=title,
    )
    return tuned, name, fresh


def _last_head(sizes: dict[str, int], classes: list[str] | None) -> str | None:
    """Return the last layer with as many outputs as there are classes."""
    for name in reversed(sizes):
        if classes is None or sizes[name] == len(classes):
            return name
    return None


def _same_classes(own: list[str] | None, wanted: list[str]) -> bool:
    """Whether names are the same. A model whose classes are only numbered may have any names."""
    numbered = own is None or own == [str(number) for number in range(len(own))]
    return numbered or own == list(wanted)


def _outputs(part: nn.Module) -> int | None:
    """Return the number of classes of a module as a head, None if it cannot be one."""
    if isinstance(part, nn.Linear):
        return part.out_features
    if isinstance(part, nn.Conv3d) and part.kernel_size == (1, 1, 1) and part.groups == 1:
        return part.out_channels
    return None


def _new_head(old: nn.Module, data: Dataset) -> nn.Module:
    """Return a head like the old one with small random weights, for a data set's classes."""
    classes = len(data.classes)
    bias = old.bias is not None
    new: nn.Linear | nn.Conv3d
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, bias=bias)
    else:
        new = nn.Conv3d(int(old.in_channels), classes, 1, bias=bias)  # type: ignore[arg-type]
    nn.init.normal_(new.weight, std=0.01)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new.to(next(old.parameters()))
