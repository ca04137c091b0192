"""Heads: the linear layer that gives the logits, and what may stand before and after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..models.hooks import Call, find_module
from ..models.outputs import are_probabilities
from .layer_outputs import LayerOutput

__all__ = [
    "Head",
    "NormedHead",
    "all_heads_are_zero",
    "before_activation",
    "head_parts",
    "heads_of",
    "held_norm",
    "joined_heads",
    "linear_head",
    "norms_of",
    "residual",
]


@dataclass(frozen=True)
class Head:
    """A linear head: logits = weight @ features + bias."""

    weight: torch.Tensor  # (N, C)
    bias: torch.Tensor  # (N,)


def linear_head(part: nn.Module) -> Head | None:
    """Return weights and bias of a linear layer or 1×1(×1) convolution; None for another module."""
    if isinstance(part, (nn.Conv2d, nn.Conv3d)):
        if math.prod(part.kernel_size) != 1 or part.groups != 1:
            return None
        weight = part.weight.flatten(1)
    elif isinstance(part, nn.Linear):
        weight = part.weight
    else:
        return None
    weight = weight.detach().float()
    bias = weight.new_zeros(len(weight)) if part.bias is None else part.bias.detach().float()
    return Head(weight, bias)


def joined_heads(heads: Sequence[Head], share: float = 1.0) -> Head:
    """Return one head that takes the features of several, concatenated, and adds their logits.

    `share` is the factor of each: 1/2 if the logits of two streams are averaged.
    """
    weight = torch.cat([head.weight for head in heads], 1)
    bias = torch.stack([head.bias for head in heads]).sum(0)
    return Head(share * weight, share * bias)


def held_norm(head: Head, norm: nn.LayerNorm, mean: torch.Tensor) -> Head:
    """Return a head that takes the pooled maps (C,) before a LayerNorm, whose σ is held fixed.

    y = W (γ (m − mean(m)) / σ + β) + b is linear in m once this clip's σ is a constant: the weights
    are (W diag γ)(I − 11ᵀ/C) / σ, the bias W β + b. This is the LayerNorm rule of AttnLRP
    (Achtibat et al., ICML 2024).
    """
    sigma = (mean.var(unbiased=False) + norm.eps).sqrt()
    gain = mean.new_ones(len(mean)) if norm.weight is None else norm.weight.detach().float()
    shift = mean.new_zeros(len(mean)) if norm.bias is None else norm.bias.detach().float()
    scaled = head.weight * gain
    weight = (scaled - scaled.mean(1, keepdim=True)) / sigma
    return Head(weight, head.weight @ shift + head.bias)


@dataclass(frozen=True)
class NormedHead:
    """A linear head, and the LayerNorm before it if there is one."""

    head: Head
    norm: nn.LayerNorm | None = None

    def held(self, means: torch.Tensor) -> Head:
        """Return the head that takes the pooled maps (C,) of one clip; see `held_norm`."""
        return self.head if self.norm is None else held_norm(self.head, self.norm, means)


def residual(means: torch.Tensor, head: Head, logits: torch.Tensor) -> float:
    """Return how far Σ_j y_ij mean(a_j) + bias_i is from the logits.

    `means` is (C,), `logits` (N,). The largest difference, as a share of the largest |logit|.
    """
    rebuilt = head.weight @ means + head.bias
    miss = (rebuilt - logits).abs().max()
    scale = logits.abs().max()
    return float(miss / scale) if scale > 0 else float(miss)


def before_activation(
    seen: list[LayerOutput], row: torch.Tensor
) -> tuple[torch.Tensor, Call | None, bool]:
    """Return the logits (N,) behind an output, the layer that gave them, and whether by sigmoids.

    The layer is None if it is the network's own output. If the output is probabilities, or their
    logarithms, and no layer gave their logits, the logarithms serve as logits. A single logit is
    always that of a sigmoid.
    """
    sigmoids = _before_sigmoid(seen, row)
    if sigmoids is not None:
        return *sigmoids, True
    logarithms = not are_probabilities(row)
    if len(row) == 1 or (logarithms and not are_probabilities(row.exp())):
        return row, None, len(row) == 1
    probabilities = row.exp() if logarithms else row
    for each in reversed(seen):
        if each.small is None or each.small.numel() != len(row):
            continue
        values = each.small.flatten().float()
        same = torch.allclose(values.softmax(0), probabilities, atol=1e-6, rtol=1e-3)
        if same and not torch.equal(values, row):
            return values, each.call, False
    return row if logarithms else row.clamp(min=1e-30).log(), None, False


def _before_sigmoid(seen: list[LayerOutput], row: torch.Tensor) -> tuple[torch.Tensor, Call] | None:
    """Return the logits (N,) whose sigmoid an output is, and the layer that gave them."""
    if row.min() < 0 or row.max() > 1:
        return None
    for each in reversed(seen):
        if each.small is not None and each.small.numel() == len(row):
            values = each.small.flatten().float()
            if torch.allclose(values.sigmoid(), row, atol=1e-6, rtol=1e-4):
                return values, each.call
    return None


def norms_of(network: nn.Module, width: int) -> dict[str, nn.LayerNorm]:
    """Return the LayerNorms over `width` features, the last one first."""
    found = {
        name: part
        for name, part in network.named_modules()
        if isinstance(part, nn.LayerNorm) and tuple(part.normalized_shape) == (width,)
    }
    return dict(reversed(found.items()))


def heads_of(network: nn.Module, name: str | None, classes: int) -> dict[str, Head]:
    """Return every linear layer with `classes` outputs by dotted name, or only the one named."""
    if name is not None:
        parts = {name: find_module(network, name)}
    else:
        parts = dict(network.named_modules())
    heads = {part_name: linear_head(part) for part_name, part in parts.items()}
    return {n: head for n, head in heads.items() if head and len(head.weight) == classes}


def all_heads_are_zero(network: nn.Module, classes: int) -> bool:
    """Return whether every linear layer with `classes` outputs has no weight but zeros."""
    return not any(bool(head.weight.any()) for head in heads_of(network, None, classes).values())


def head_parts(network: nn.Module, classes: int) -> frozenset[str]:
    """Return the names of the layers that are, or hold, a linear layer with `classes` outputs."""
    paths = [name.split(".") for name in heads_of(network, None, classes)]
    return frozenset(".".join(path[:n]) for path in paths for n in range(1, len(path) + 1))
