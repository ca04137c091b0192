"""Heads: the last linear layers of a network, new ones for other classes, and what each learns."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from ..datasets.table import Dataset
from ..models.networks.tsn import TSN
from ..models.video_model import VideoModel, find_module
from ..saliency.layer_search import choose_layers, proved_head

__all__ = ["Task", "copy_for", "targets_of"]


@dataclass(frozen=True)
class Task:
    """An output that learns: its name (None: the main one), its head, and its classes.

    `labels` has the class of every clip; None: the class of the data set that is learnt from.
    `fresh` tells whether the head is a new one.
    """

    output: str | None
    head: str
    fresh: bool
    classes: list[str]
    labels: Dataset | None = None


def copy_for(
    model: VideoModel,
    data: Dataset,
    head: str | None,
    also: Mapping[str, Dataset] | None = None,
) -> tuple[VideoModel, list[Task]]:
    """Return a copy of a model for a data set's classes, and what its heads learn.

    `also` are the labels of further outputs by name. Raises ValueError if the network has no linear
    layer that could be a head, and KeyError if there is no layer or output of the given name.
    """
    module = copy.deepcopy(model.network)
    sizes = {name: outputs for name, part in module.named_modules() if (outputs := _outputs(part))}
    if also:
        heads = _heads_by_output(model, data, also)
    else:
        only = head or model.head or proved_head(model) or _last_head(sizes, model.classes)
        heads = {model.output: only}
    tasks = []
    for output, name in heads.items():
        labels = (also or {}).get(output or "")
        classes = list((labels or data).classes)
        own = model.classes if labels is None else model.named.get(str(output))
        if name is None or name not in sizes:
            raise ValueError(_no_head(module, name, sizes))
        fresh = sizes[name] != len(classes) or not _same_classes(own, classes)
        if fresh:
            parent, _, last = name.rpartition(".")
            new = _new_head(find_module(module, name), len(classes))
            setattr(find_module(module, parent), last, new)
            if isinstance(module, TSN) and module.heads and output in module.heads:
                module.heads[output] = len(classes)
        tasks.append(Task(output, name, fresh, classes, labels))
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
        output=tasks[0].output,
        named={**model.named, **{task.output: task.classes for task in tasks if task.output}},
    )
    return tuned, tasks


def targets_of(data: Dataset, tasks: list[Task]) -> np.ndarray:
    """Return the class ids (clips, tasks) int64 of a data set's clips.

    Raises ValueError for a clip that lacks a label of one of the tasks.
    """
    names = data.index.index
    columns = []
    for task in tasks:
        labels = data if task.labels is None else task.labels
        lacking = names[~names.isin(labels.index.index)]
        if len(lacking):
            raise ValueError(
                f"{len(lacking)} clips have no label for {task.output!r}, the first "
                f"{lacking[0]!r}: give also={{{task.output!r}: …}} labels of every clip"
            )
        columns.append(labels.index.loc[names, "class_id"].to_numpy(dtype=np.int64))
    return np.stack(columns, axis=1)


def _heads_by_output(
    model: VideoModel, data: Dataset, also: Mapping[str, Dataset]
) -> dict[str | None, str | None]:
    """Return the head of the main output, then those of `also`, found on the first clip.

    The number of classes does not identify an output, because several may have the same. The proof
    that a head makes an output does.
    """
    clip = data.read(0, frames=model.input.frames, stride=model.input.stride)
    _, x = model.prepare(clip)
    choices = choose_layers(model, x, place=False)
    unknown = [name for name in also if name not in choices]
    others = [name for name in choices if name not in also]
    main = model.output or (others[0] if len(others) == 1 else None)
    if unknown or main is None or main in also:
        raise KeyError(
            f"also: expected the labels of all outputs but one, or a model with output= set; the "
            f"network has {', '.join(choices)}, got {', '.join(also)}"
        )
    return {name: choices[name].head for name in (main, *also)}


def _no_head(module: nn.Module, name: str | None, sizes: dict[str, int]) -> str:
    find_module(module, name or "")
    listed = ", ".join(f"{layer} ({outputs} outputs)" for layer, outputs in sizes.items())
    return (
        f"{name or 'nothing'!r} is no linear head of {type(module).__name__}. Name with head= "
        f"one of its linear layers and 1×1×1 convolutions: {listed or 'none'}"
    )


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


def _new_head(old: nn.Module, classes: int) -> nn.Module:
    """Return a head like the old one with small random weights, for so many classes."""
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
