"""Explanations: one forward pass, from which any Saliency Tube follows.

`explain` runs a network on a clip and keeps the activation maps of the target layer and the class weights.
The layer and its head are found by the completeness test: where a network ends in average pooling and a
linear layer, mean over (T', H', W') of Σ_j y_ij a_j plus the bias *is* logit i. A layer for which that
holds is the right one, with the right axes; where none does, weights come from gradients, and
the explanation says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from .clips import Clip
from .models import VideoModel, find_module
from .tubes import Tube, activation_map, upsample

__all__ = ["Explanation", "explain"]

TOLERANCE = 1e-4  # of the largest logit: what the completeness test may miss by


@dataclass(frozen=True)
class Target:
    """What is explained of a network: the dotted names of the layer and, if exact, of its linear head."""

    layer: str
    head: str | None
    channels_last: bool = False


@dataclass(eq=False, repr=False)
class Explanation:
    """What a network said of a clip, and all that is needed to say why.

    Attributes:
        logits: (N,) float32.
        activations: (C, T', H', W') float32 maps of the target layer.
        bias: (N,) of the linear head, zeros where weights come from gradients.
        exact: whether mean(tube before upsampling) + bias is the logit, for every class.
        residual: the largest violation of that identity, as a share of the largest |logit|; NaN where not exact.
        layer: dotted name of the target layer.
        clip: the clip as the network saw it; every tube has its size.
        classes: N class names.
        model: name of the model.
    """

    logits: torch.Tensor
    activations: torch.Tensor
    bias: torch.Tensor
    exact: bool
    residual: float
    layer: str
    clip: Clip
    classes: list[str]
    model: str = ""
    _weights: torch.Tensor | None = None
    _graph: tuple[torch.Tensor, torch.Tensor] | None = None  # logits and maps, still connected
    _rows: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def probabilities(self) -> torch.Tensor:
        """(N,) softmax of the logits."""
        return self.logits.softmax(0)

    @property
    def weights(self) -> torch.Tensor | None:
        """(N, C) class weights y; where they come from gradients, None until all classes have been asked for."""
        if self._weights is None and len(self._rows) == len(self.classes):
            self._weights = torch.stack([self._rows[i] for i in range(len(self.classes))])
        return self._weights

    def class_weights(self, target: int | str | None = None) -> torch.Tensor:
        """Return (C,) the class weights y_i of one class.

        Where the head is pooled and linear these are its weights. Elsewhere they are Grad-CAM's (Selvaraju et
        al., ICCV 2017), ∂logit_i/∂a_j summed over a map's voxels; on a pooled linear head that sum is the head's
        weight, so τ has the same units. Computed from the kept graph: no second forward pass.
        """
        number = self.class_id(target)
        if self._weights is not None:
            return self._weights[number]
        if number not in self._rows:
            if self._graph is None:
                raise RuntimeError("the gradients of this explanation are gone: explain the clip again")
            logits, maps = self._graph
            (gradient,) = torch.autograd.grad(logits[number], maps, retain_graph=True)
            self._rows[number] = _channels_first(gradient[0], self.activations.shape).float().sum((1, 2, 3))
        return self._rows[number]

    def class_id(self, target: int | str | None = None) -> int:
        """Return the 0-based class id of a name, an id, or (None) of the predicted class.

        Raises KeyError that lists near names, IndexError for an id beyond the classes.
        """
        if target is None:
            return int(self.logits.argmax())
        if isinstance(target, str):
            if target not in self.classes:
                raise KeyError(_no_class(target, self.classes))
            return self.classes.index(target)
        if not 0 <= int(target) < len(self.classes):
            raise IndexError(f"class id {target}: the network has {len(self.classes)} classes, counted from 0")
        return int(target)

    def top(self, count: int = 5) -> pd.DataFrame:
        """Return the `count` most probable classes as a DataFrame: class, probability, logit."""
        order = self.logits.argsort(descending=True)[:count].cpu()
        return pd.DataFrame(
            {
                "class": [self.classes[i] for i in order.tolist()],
                "probability": self.probabilities.cpu()[order].numpy(),
                "logit": self.logits.cpu()[order].numpy(),
            }
        )

    def tube(self, target: int | str | None = None, tau: float | None = None) -> Tube:
        """Return the Saliency Tube of a class (Eq. 1 and 2, then a cubic spline to the clip's size).

        Args:
            target: class name or 0-based id; None: the predicted class.
            tau: keep the features whose class weight is at least this; None keeps all.

        Raises:
            KeyError, IndexError: no such class.
            ValueError: τ is not a finite number.
        """
        number = self.class_id(target)
        low, kept = activation_map(self.activations, self.class_weights(number), tau)
        return self._upsampled(low, kept, number, self.classes[number], tau)

    def feature_tube(self, channel: int) -> Tube:
        """Return one activation map at the clip's size: what a single feature responds to (Fig. 1b).

        Raises IndexError where the layer has no such channel.
        """
        count = len(self.activations)
        if not 0 <= int(channel) < count:
            raise IndexError(f"channel {channel}: layer {self.layer!r} has {count} channels, counted from 0")
        kept = torch.tensor([int(channel)])
        return self._upsampled(self.activations[int(channel)], kept, None, f"feature {int(channel)}", None)

    def channels(self, target: int | str | None = None, top: int | None = 10) -> pd.DataFrame:
        """Return the features that speak loudest for a class, as a DataFrame.

        Columns: channel, weight y, mean activation over (T', H', W'), and their product, the contribution: with
        the bias, the contributions of all channels add up to the logit where the explanation is exact. The
        `top` largest contributions; None for all channels.
        """
        weights = self.class_weights(target).cpu()
        means = self.activations.mean((1, 2, 3)).cpu()
        table = pd.DataFrame(
            {
                "channel": np.arange(len(weights)),
                "weight": weights.numpy(),
                "mean activation": means.numpy(),
                "contribution": (weights * means).numpy(),
            }
        ).sort_values("contribution", ascending=False, ignore_index=True)
        return table if top is None else table.head(top)

    def _upsampled(
        self, low: torch.Tensor, kept: torch.Tensor, target: int | None, label: str, tau: float | None
    ) -> Tube:
        volume = upsample(low, (len(self.clip), *self.clip.size))
        return Tube(
            volume=volume.cpu().numpy(),
            target=target,
            label=label,
            tau=None if tau is None else float(tau),
            channels=kept.cpu().numpy(),
            features=len(self.activations),
            map=low.float().cpu().numpy(),
            times=self.clip.times,
        )

    def __repr__(self) -> str:
        best = self.class_id()
        how = f"exact, residual {self.residual:.1e}" if self.exact else "gradient weights"
        channels, *size = self.activations.shape
        return (
            f"<Explanation by {self.model}: {self.classes[best]!r} at {float(self.probabilities[best]):.1%}, "
            f"{channels} maps of {'×'.join(map(str, size))} at {self.layer!r}, {how}>"
        )


def explain(model: VideoModel, clip: Clip | torch.Tensor) -> Explanation:
    """Run a model on a clip once, and keep what every tube needs.

    Args:
        model: from `wb.load_model` or `wb.wrap_model`. On its first clip the target layer and its head are
            looked for (or `model.layer`, `model.head` taken) and remembered.
        clip: a `Clip`; one with more frames than the network takes is sampled as `model.input` says. A ready
            tensor (1, 3, T, H, W) is taken as it is.

    Returns:
        An `Explanation`. The network's training flags, hooks and gradients are as before.

    Raises:
        ValueError: a clip of the wrong length or size, NaN in the network, no layer with a spatio-temporal map,
            or a number of class names that is not that of the logits.
        KeyError: `model.layer` or `model.head` names no module.
    """
    seen, x = model.prepare(clip)
    known = model.found is not None
    with model.evaluating() as module:
        if not known:
            model.found = _find_target(module, x, model.layer, model.head)
        target: Target = model.found
        keep_graph = target.head is None
        logits, maps = _forward(module, x, target.layer, keep_graph)
        head = None if target.head is None else _linear(find_module(module, target.head))
        if head is None:
            return _by_gradient(model, seen, target, logits, maps)
        activations = (maps[0].movedim(-1, 0) if target.channels_last else maps[0]).float().contiguous()
        weights, bias = head
        residual = _residual(activations, weights, bias, logits)
        if not residual <= TOLERANCE:
            _refuse_nan(module, x, logits)
            if known:  # the network is no longer the one that was tested: look again
                model.found = None
                return explain(model, clip)
            raise ValueError(
                f"layer {target.layer!r} with head {target.head!r} misses the logits by {residual:.1e} of the "
                "largest: they are not a pooled linear end of this network. Leave out head= for gradient weights."
            )
    classes = _class_names(model, len(logits))
    return Explanation(
        logits, activations, bias, True, residual, target.layer, seen, classes, model.name, _weights=weights
    )


def _by_gradient(
    model: VideoModel, clip: Clip, target: Target, logits: torch.Tensor, maps: torch.Tensor
) -> Explanation:
    activations = (maps[0].movedim(-1, 0) if target.channels_last else maps[0]).detach().float().contiguous()
    plain = logits.detach()
    if not (plain.isfinite().all() and activations.isfinite().all()):
        raise ValueError(f"the network's logits or its maps at {target.layer!r} hold NaN or infinite values")
    bias = torch.zeros_like(plain)
    classes = _class_names(model, len(plain))
    return Explanation(
        plain, activations, bias, False, float("nan"), target.layer, clip, classes, model.name, _graph=(logits, maps)
    )


def _channels_first(gradient: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return gradient if gradient.shape == shape else gradient.movedim(-1, 0)


def _forward(module: nn.Module, x: torch.Tensor, layer: str, keep_graph: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (N,) and maps (1, …) of the layer; with a graph from the maps on if it is to be kept.

    Up to the layer nothing is recorded, so that gradients cost memory only for the head.
    """
    kept: list[torch.Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        maps = output.detach().clone()  # a following in-place ReLU would write into the output
        kept.append(maps)
        if not keep_graph:
            return None
        maps.requires_grad_()
        torch.set_grad_enabled(True)
        return maps.clone()

    handle = find_module(module, layer).register_forward_hook(hook)
    try:
        with torch.no_grad():
            output = module(x)
    finally:
        handle.remove()
    _check_logits(output)
    return output[0], kept[-1]


def _find_target(module: nn.Module, x: torch.Tensor, layer: str | None, head: str | None) -> Target:
    """Run the network once with every module watched, and find what is to be explained.

    Exact first: the last layer whose maps, pooled and put through a linear head, give the logits. Otherwise
    the last layer with a spatio-temporal map.
    """
    written: dict[str, int] = {}
    with _watching(module, written) as outputs, torch.no_grad():
        logits = module(x)
    _check_logits(logits)
    _refuse_nan(module, x, logits[0])
    layers = [layer] if layer is not None else [name for name, _ in reversed(outputs)]
    maps = {name: output for name, output in outputs if isinstance(output, torch.Tensor) and output.ndim == 5}
    # What an in-place ReLU has since written to is no longer what the layer gave.
    intact = {name: maps[name] for name in layers if name in maps and maps[name]._version == written[name]}
    for name, part in reversed(_heads(module, head, logits.shape[1]).items()):
        for candidate, values in intact.items():
            channels_last = _proves(values[0], part, logits[0])
            if channels_last is not None:
                return Target(candidate, name, channels_last)
    if head is not None:
        raise ValueError(
            f"no layer{'' if layer is None else f' {layer!r}'} whose pooled maps give the logits through {head!r}"
        )
    spatial = [name for name in layers if name in maps and min(maps[name].shape[3:]) > 1]
    if not spatial:
        what = "no layer" if layer is None else f"layer {layer!r} has no output"
        raise ValueError(f"{what} with a map (1, C, T', H', W') to explain; give layer= one that has")
    return Target(spatial[0], None)


def _heads(module: nn.Module, name: str | None, classes: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return weights and bias of every linear layer with so many outputs, or of the one named, by dotted name."""
    if name is not None:
        ends = _linear(find_module(module, name))
        if ends is None:
            raise ValueError(f"head {name!r} is no linear layer or 1×1×1 convolution")
        return {name: ends}
    found = {name: _linear(part) for name, part in module.named_modules()}
    return {name: ends for name, ends in found.items() if ends is not None and len(ends[0]) == classes}


def _proves(maps: torch.Tensor, head: tuple[torch.Tensor, torch.Tensor], logits: torch.Tensor) -> bool | None:
    """Tell whether maps, pooled and put through a head, give the logits: with channels last (True), first (False).

    None where they do not. Maps of one pixel, pooled already, pass the test too and show nothing: refused.
    """
    for channels_last in (False, True):
        activations = maps.movedim(-1, 0) if channels_last else maps
        fits = len(activations) == head[0].shape[1] and len(head[0]) == len(logits)
        if fits and activations[0, 0].numel() > 1 and _residual(activations.float(), *head, logits) <= TOLERANCE:
            return channels_last
    return None


@contextmanager
def _watching(module: nn.Module, written: dict[str, int] | None = None) -> Iterator[list[tuple[str, Any]]]:
    """Collect (name, output) of every submodule in the order in which they finish.

    Outputs are not copied, so a later in-place operation shows in them; `written` takes how often each tensor
    had been written to when its layer gave it.
    """
    outputs: list[tuple[str, Any]] = []

    def hook(name: str, output: Any) -> None:
        outputs.append((name, output))
        if written is not None and isinstance(output, torch.Tensor):
            written[name] = output._version

    handles = [
        part.register_forward_hook(lambda _m, _i, output, name=name: hook(name, output))
        for name, part in module.named_modules()
        if name
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _linear(part: nn.Module) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return weights (N, C) and bias (N,) of a linear layer or 1×1×1 convolution, None for another module."""
    if isinstance(part, nn.Linear):
        weight = part.weight
    elif isinstance(part, nn.Conv3d) and part.kernel_size == (1, 1, 1) and part.groups == 1:
        weight = part.weight.flatten(1)
    else:
        return None
    weight = weight.detach().float()
    bias = weight.new_zeros(len(weight)) if part.bias is None else part.bias.detach().float()
    return weight, bias


def _residual(activations: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor, logits: torch.Tensor) -> float:
    """Return how far mean(Σ_j y_ij a_j) + bias_i is from the logits, as a share of the largest |logit|."""
    told = weights @ activations.mean((1, 2, 3)) + bias
    miss, scale = (told - logits).abs().max(), logits.abs().max()
    return float(miss / scale) if scale > 0 else float(miss)


def _check_logits(output: Any) -> None:
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != 1:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(f"expected the network to return logits (1, N), got {got}")


def _refuse_nan(module: nn.Module, x: torch.Tensor, logits: torch.Tensor) -> None:
    """Raise ValueError naming the first layer with a value that is not finite, if the logits have one."""
    if logits.isfinite().all():
        return
    if not x.isfinite().all():
        raise ValueError("the input holds NaN or infinite values")
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"the network's {name} holds NaN or infinite values: its training or file is broken")
    with _watching(module) as outputs, torch.no_grad():
        module(x)
    for name, output in outputs:
        if isinstance(output, torch.Tensor) and not output.isfinite().all():
            raise ValueError(f"layer {name!r} is the first to give NaN or infinite values")
    raise ValueError("the logits hold NaN or infinite values")


def _class_names(model: VideoModel, count: int) -> list[str]:
    if model.classes is None:
        model.classes = [str(number) for number in range(count)]
    if len(model.classes) != count:
        raise ValueError(f"the network gives {count} logits and there are {len(model.classes)} class names")
    return model.classes


def _no_class(target: str, classes: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(target, classes, n=5, cutoff=0.4) or classes[:5]
    return f"no class {target!r} among {len(classes)}; near: {', '.join(near)}"
