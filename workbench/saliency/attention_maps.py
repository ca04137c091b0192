"""Attention maps: gradient attention rollout and LeGrad, for transformers.

The attention weights of every layer are recorded while the graph of one forward pass is built, and
one backward pass gives their gradients. No network is patched: the operations are intercepted, as
`relevance` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..models.outputs import as_logits
from ..models.video_model import VideoModel
from .layer_search import choose_layers
from .relevance import ATTENTIONS, SOFTMAXES, Intercepting, attention_weights

__all__ = ["LayerAttention", "RecordedAttention", "attention_map", "legrad", "rollout"]


class RecordedAttention(Intercepting):
    """While active, keeps the attention weights (…, queries, keys) of every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[torch.Tensor] = []

    def stand_in(self, func: Callable) -> Callable | None:
        """Return attention written out, which keeps its weights."""
        if func in ATTENTIONS:
            return self._attention
        if func in SOFTMAXES:
            return lambda *args, **kwargs: self._kept(func(*args, **kwargs))
        return None

    def _attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        weights = attention_weights(query, key, *args, **kwargs)
        return self._kept(weights) @ value

    def _kept(self, weights: torch.Tensor) -> torch.Tensor:
        if weights.ndim > 2 and weights.requires_grad:
            self.weights.append(weights)
        return weights


@dataclass(frozen=True, eq=False)
class LayerAttention:
    """The attention weights of one layer, and the gradient of a logit by them.

    Attributes:
        weights: (N, heads, queries, keys); N sequences, one for the clip or one for each frame.
        gradient: of the same shape.
    """

    weights: torch.Tensor
    gradient: torch.Tensor

    @property
    def pools(self) -> bool:
        """Whether it reads tokens into something else (attentive pooling)."""
        return self.weights.shape[-2] != self.weights.shape[-1]


def rollout(layers: list[LayerAttention]) -> torch.Tensor:
    """Return (N, tokens): gradient attention rollout, followed back from what the head reads.

    R ← R + E_h[(∇A ⊙ A)⁺] R from layer to layer, beginning with R = I (Chefer, Gur and Wolf, ICCV
    2021, Eq. 5 and 6). The rows of the class token are read; if the head reads the mean of all
    tokens, the mean of all rows.

    Deviations:
        The identity is left out of the rows that are read: a token that is read and is a patch of
        the clip too (VideoMAE without mean pooling) would say nothing but itself.
    """
    tokens = layers[0].weights.shape[-1]
    identity = torch.eye(tokens, device=layers[0].weights.device)
    identity = identity.expand(len(layers[0].weights), -1, -1)
    total = identity
    for layer in layers:
        mixed = (layer.gradient * layer.weights).clamp(min=0).mean(1)
        if layer.pools:
            return (mixed.mean(1, keepdim=True) @ total)[:, 0]
        total = total + mixed @ total
    # Queries that the head does not read have no gradient in the last layer.
    read = layers[-1].gradient.abs().amax((1, 3)) > 0
    share = read.float() / read.sum(1, keepdim=True).clamp(min=1)
    return (share[:, None] @ (total - identity))[:, 0]


def legrad(layers: list[LayerAttention]) -> torch.Tensor:
    """Return (N, tokens): LeGrad, the positive gradient by the attention that each token is paid.

    The mean over layers, heads and queries of (∇A)⁺ (Bousselham et al., ICCV 2025).

    Deviations:
        The gradients of every layer are those of the network's own logit. The paper applies the
        head to each layer's tokens, which takes a head that can be applied there.
    """
    return torch.stack([layer.gradient.clamp(min=0).mean((1, 2)) for layer in layers]).mean(0)


def attention_map(
    model: VideoModel,
    x: torch.Tensor,
    output: str,
    target: int,
    combine: Callable[[list[LayerAttention]], torch.Tensor],
) -> torch.Tensor:
    """Return (T', H', W') what the attention of a network says of a class.

    Args:
        model: the network.
        x: an input (1, 3, T, H, W).
        output: name of the output.
        target: 0-based class id.
        combine: `rollout` or `legrad`.

    Raises:
        ValueError: no sequence holds all tokens of the clip, or of a frame, in every layer.
    """
    layout = choose_layers(model, x, weights="gradient")[output].sites[0].layout
    first = choose_layers(model, x, weights="relevance")[output].sites[0].call
    mode = RecordedAttention()
    outputs = model.run(x, [first], gradients_from=[first], within=mode).outputs
    time, height, width = layout.grid
    by_frame = "(n t)" in layout.axes
    tokens = layout.lead + height * width * (1 if by_frame else time) + layout.tail
    sequences = time if by_frame else 1
    square = [each for each in mode.weights if each.shape[-2] == each.shape[-1]]
    fitting = [each for each in mode.weights if each.shape[-1] == tokens]
    if not layout.of_tokens or not fitting or any(each.shape[-1] != tokens for each in square):
        sizes = sorted({f"{each.shape[-2]}×{each.shape[-1]}" for each in mode.weights})
        raise ValueError(
            f"expected attention among all {tokens} tokens in every layer, got "
            f"{', '.join(sizes) or 'none'}: windows, pooled keys and divided attention cannot be "
            'multiplied from layer to layer. Use wb.explain(model, clip, weights="relevance")'
        )
    with torch.enable_grad():
        logit = as_logits(outputs[output])[0, target]
    gradients = torch.autograd.grad(logit, fitting, allow_unused=True)
    layers = [
        LayerAttention(*(_by_sequence(each.detach(), sequences) for each in (weights, gradient)))
        for weights, gradient in zip(fitting, gradients)
        if gradient is not None
    ]
    return layout.arranged(combine(layers)[..., None])[0, 0]


def _by_sequence(weights: torch.Tensor, sequences: int) -> torch.Tensor:
    """Return (N, heads, queries, keys); some modules fold heads into the batch."""
    heads = math.prod(weights.shape[:-2]) // sequences
    return weights.reshape(sequences, heads, *weights.shape[-2:]).float()
