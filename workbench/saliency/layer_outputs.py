"""What every layer of a network gave in one forward pass: shapes and pooled maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..models.hooks import EVERY, Call, first_tensor
from .layouts import Grid, Layout, pooled, possible_layouts
from .relevance import ATTENTIONS, SOFTMAXES

__all__ = ["AttentionWatch", "LayerOutput", "Recorder"]

SMALL = 1 << 15  # numbers in an output that is kept, to look for logits in it


@dataclass(eq=False)
class LayerOutput:
    """What is remembered of a layer's output.

    Attributes:
        call: the layer, and which of its calls.
        shape: of the output.
        small: the output itself if it is small, as logits are; else None.
        means: (C,) the means of its maps, by each layout that it may have.
        has_parameters: whether the layer has any.
        attended: whether attention ran before the layer finished, so that its voxels may be mixed.
    """

    call: Call
    shape: tuple[int, ...]
    small: torch.Tensor | None
    means: dict[Layout, torch.Tensor] = field(default_factory=dict)
    has_parameters: bool = True
    attended: bool = False


class AttentionWatch(TorchFunctionMode):
    """While active, `ran` tells whether attention has run."""

    ran = False

    def __torch_function__(
        self, func: Callable, _types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and look whether it is attention."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in ATTENTIONS or func is F.multi_head_attention_forward:
            self.ran = True
        elif func in SOFTMAXES:
            # Attention is (…, queries, keys), probabilities of classes are (N, classes), and
            # the shares of branches (selective kernels) lie along another axis than the last.
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            last = dim in (-1, result.ndim - 1)
            self.ran |= last and result.ndim > 2 and result.shape[-1] > 1
        return result


class Recorder:
    """Records the layers of a network while it runs on one clip.

    `model.run(x, observe=recorder, within=recorder.watch)`; without `within`, whether attention ran
    stays unknown.

    Args:
        network: the network that is observed.
        clip: (T, H, W) of its input.
        named: a layer whose first output counts if it returns several; others are left out.
    """

    def __init__(self, network: nn.Module, clip: Grid, named: str | None = None) -> None:
        self.clip = clip
        self.named = named
        self.watch = AttentionWatch()
        self._recorded: list[LayerOutput] = []
        self._grids: list[Grid] = []
        self._counts: dict[str, int] = {}
        self._with_parameters = {
            name for name, part in network.named_modules() if any(True for _ in part.parameters())
        }

    def __call__(self, layer: str, inputs: Any, output: Any) -> None:
        """Record one call of a layer."""
        self._grids.extend(_grids_in((inputs, output)))
        if layer == self.named:
            output = first_tensor(output)
        if not isinstance(output, torch.Tensor):
            return
        number = self._counts.get(layer, 0)
        self._counts[layer] = number + 1
        entry = LayerOutput(
            Call(layer, number),
            tuple(output.shape),
            small=output.detach().clone() if output.numel() <= SMALL else None,
            has_parameters=layer in self._with_parameters,
            attended=self.watch.ran,
        )
        layouts = possible_layouts(entry.shape, self.clip, self._grids)
        for layout in () if _are_shares(output) else layouts:
            # torchvision's DenseNet, say, has its last ReLU in `forward`, where no hook sees it.
            for variant in (layout, replace(layout, rectified=True)):
                entry.means[variant] = pooled(output, variant)[0]
        self._recorded.append(entry)

    def outputs(self) -> list[LayerOutput]:
        """Return the records in the order in which layers finished.

        The calls of a layer that is called once a frame, with pictures (1, C, H', W'), become one
        record, in the place of the last call. For a layer that is called several times with
        outputs of one shape, a record of all calls follows that of each.
        """
        by_layer: dict[str, list[LayerOutput]] = {}
        for entry in self._recorded:
            by_layer.setdefault(entry.call.layer, []).append(entry)
        joined = {
            layer: _joined(entries)
            for layer, entries in by_layer.items()
            if self._called_by_frame(entries)
        }
        kept = []
        for entry in self._recorded:
            layer = entry.call.layer
            if layer not in joined:
                kept.append(entry)
            elif entry is by_layer[layer][-1]:
                kept.append(joined[layer])
        return self._with_repeated(kept, by_layer)

    def _with_repeated(
        self, kept: list[LayerOutput], by_layer: dict[str, list[LayerOutput]]
    ) -> list[LayerOutput]:
        """Insert a record of all calls before that of the last call of a layer."""
        found = []
        for entry in kept:
            entries = by_layer[entry.call.layer]
            alike = all(each.shape == entry.shape for each in entries)
            if len(entries) > 1 and entry is entries[-1] and alike:
                repeated = _over_calls(entries, self.clip)
                found += [repeated] if repeated.means else []
            found.append(entry)
        return found

    def _called_by_frame(self, entries: list[LayerOutput]) -> bool:
        first = entries[0].shape
        pictures = len(first) == 4 and first[0] == 1
        alike = all(entry.shape == first for entry in entries)
        return 1 < len(entries) == self.clip[0] and pictures and alike


def _joined(entries: list[LayerOutput]) -> LayerOutput:
    """Return one record for the calls of a layer that sees a frame at a time."""
    last, count = entries[-1], len(entries)
    means = {}
    for layout in last.means:
        over_time = replace(layout, grid=(count, *layout.grid[1:]))
        means[over_time] = torch.stack([entry.means[layout] for entry in entries]).mean(0)
    call = Call(last.call.layer, EVERY)
    return replace(last, call=call, shape=(count, *last.shape[1:]), means=means)


def _over_calls(entries: list[LayerOutput], clip: Grid) -> LayerOutput:
    """Return one record for a layer that sees one stretch of time after the other."""
    last, count = entries[-1], len(entries)
    means = {}
    for layout in last.means:
        time, height, width = layout.grid
        if time * count <= clip[0] and not layout.axes.startswith("(n t)"):
            over_time = replace(layout, grid=(time * count, height, width), calls=count)
            means[over_time] = torch.stack([entry.means[layout] for entry in entries]).mean(0)
    return replace(last, call=Call(last.call.layer, EVERY), small=None, means=means)


def _are_shares(output: torch.Tensor) -> bool:
    """Return whether every row adds up to 1: attention, which has the shape of a picture."""
    if output.ndim != 4 or output.shape[-1] < 2:
        return False
    if not bool((output[0, 0, 0] >= 0).all()):
        return False  # decides nearly always, and at once
    return bool((output >= 0).all()) and bool((output.sum(-1) - 1).abs().max() < 1e-2)


def _grids_in(values: Any) -> Iterator[Grid]:
    """Yield the grids that 5-D tensors and triples of whole numbers among the values reveal."""
    if isinstance(values, torch.Tensor):
        if values.ndim == 5:
            _, _, time, height, width = values.shape
            yield (time, height, width)
    elif isinstance(values, (tuple, list)):
        if len(values) == 3 and all(isinstance(value, int) for value in values):
            yield (values[0], values[1], values[2])
        for value in values:
            yield from _grids_in(value)
