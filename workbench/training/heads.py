"""Heads: the last linear layer of a network, and a new one for other classes."""

from __future__ import annotations

import copy

from torch import nn

from ..datasets.table import Dataset
from ..models.video_model import VideoModel, find_module
from ..saliency.layer_search import proved_head

__all__ = ["copy_for"]


def copy_for(model: VideoModel, data: Dataset, head: str | None) -> tuple[VideoModel, str, bool]:
    """Return a copy of a model for the classes of a data set, its head's name, and whether that is a new one.

    Raises ValueError where the network has no linear layer that could be its head, KeyError where the one named is not
    there.
    """
    module = copy.deepcopy(model.network)
    known, count = model.classes, len(data.classes)
    numbered = known is None or known == [
        str(number) for number in range(len(known))
    ]  # as explain numbers them
    ends = {name: outputs for name, part in module.named_modules() if (outputs := _outputs(part))}
    name = head or model.head or proved_head(model)
    if name is None:
        name = next(
            (each for each in reversed(ends) if known is None or ends[each] == len(known)), None
        )
    if name is None or name not in ends:
        find_module(module, name or "")
        raise ValueError(
            f"{name or 'nothing'!r} is no linear head of {type(module).__name__}. Name with head= one of its linear "
            f"layers and 1×1×1 convolutions: {', '.join(f'{each} ({ends[each]} outputs)' for each in ends) or 'none'}"
        )
    fresh = not (ends[name] == count and (numbered or known == list(data.classes)))
    if fresh:
        parent, _, last = name.rpartition(".")
        setattr(find_module(module, parent), last, _fresh(find_module(module, name), count))
    title = f"{model.name or type(module).__name__}, fine-tuned" + (
        f" on {data.title}" if data.title else ""
    )
    return (
        VideoModel(module, model.input, list(data.classes), model.layer, model.head, title),
        name,
        fresh,
    )


def _outputs(part: nn.Module) -> int | None:
    """Return how many classes a module would tell apart as a head, None if it is no head."""
    if isinstance(part, nn.Linear):
        return part.out_features
    if isinstance(part, nn.Conv3d) and part.kernel_size == (1, 1, 1) and part.groups == 1:
        return part.out_channels
    return None


def _fresh(old: nn.Module, classes: int) -> nn.Module:
    """Return a head like the old one with small random weights for so many classes."""
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
