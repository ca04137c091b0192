"""Relevance that is conserved, for transformers: gradient × token with the network held linear.

The rules are those of AttnLRP (Achtibat et al., ICML 2024) and of Ali et al. (ICML 2022): the
standard deviation of every LayerNorm, the length of every vector that is normalised, the attention
weights of every softmax and the gate of every GELU or SiLU are held at the values of this clip.
What remains is linear in the tokens apart from biases, so the sum of gradient × token over all
tokens is the logit less what biases contribute. A product of two vectors that both depend on the
clip counts twice, as the cosine of X-CLIP does, whose texts are prompted by the clip.

Held fixed are the operations themselves while the graph is recorded: no network is patched. A gate
that is written out, such as 0.5·x·(1 + tanh(…)) in ViViT's MLPs, is held as a layer, by a hook.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = [
    "ATTENTIONS",
    "SOFTMAXES",
    "HeldLinear",
    "Intercepting",
    "attention_weights",
    "held_linear",
]

LAYER_NORMS = (torch.layer_norm, F.layer_norm)
SOFTMAXES = (torch.softmax, torch.Tensor.softmax, F.softmax)
ATTENTIONS = (F.scaled_dot_product_attention, torch._C._nn.scaled_dot_product_attention)
# A cosine of two vectors, as in X-CLIP's head, does not depend on their lengths: its gradient ×
# vector adds up to 0, unless the lengths are held.
LENGTHS = (torch.norm, torch.Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm)
GATES = (F.gelu, torch._C._nn.gelu, F.silu, torch._C._nn.silu, F.mish, F.hardswish)
OVERWRITING = (F.silu, F.mish, F.hardswish)  # their only argument says whether to overwrite x
GATE_LAYERS = re.compile("gelu|silu|swish|mish", re.IGNORECASE)  # in the names of their classes

# The function as it is, less its first step, which would hand it to the mode again.
_MULTI_HEAD = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda _: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)


class Intercepting(TorchFunctionMode):
    """While active and gradients are recorded, replaces operations by stand-ins of equal value."""

    def stand_in(self, func: Callable) -> Callable | None:
        """Return what runs in place of an operation; None: the operation itself."""
        raise NotImplementedError

    def __torch_function__(
        self, func: Callable, _types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, or its stand-in."""
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            # Within this call the mode is off: run the same code with it on.
            with self:
                return _MULTI_HEAD(*args, **kwargs)
        return (self.stand_in(func) or func)(*args, **kwargs)


class HeldLinear(Intercepting):
    """While active, norms, softmax, attention and gates are recorded as linear maps."""

    def stand_in(self, func: Callable) -> Callable | None:
        """Return the linear stand-in of an operation."""
        if func in LAYER_NORMS:
            return _layer_norm
        if func in (*SOFTMAXES, *LENGTHS):
            return lambda *args, **kwargs: func(*args, **kwargs).detach()
        if func in NORMALISED:
            return NORMALISED[func]
        if func in ATTENTIONS:
            return _attention
        if func in GATES:
            return partial(_gate, func)
        return None


@contextmanager
def held_linear(network: nn.Module) -> Iterator[None]:
    """Record what a network does inside the `with` block as linear maps; see `HeldLinear`."""

    def hold(_layer: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor | None:
        x = inputs[0] if len(inputs) == 1 else None
        if not torch.is_grad_enabled() or x is None or x.shape != output.shape:
            return None
        if x.data_ptr() == output.data_ptr():
            return None  # x is overwritten, so its share is gone
        passed = output.detach()
        return _HeldGate.apply(x, lambda _: passed)

    with HeldLinear(), ExitStack() as stack:
        for layer in network.modules():
            gate = GATE_LAYERS.search(type(layer).__name__)
            if gate and not any(True for _ in layer.parameters()):
                stack.callback(layer.register_forward_hook(hold).remove)
        yield


def attention_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Return the weights (…, queries, keys) of scaled dot-product attention, without dropout.

    The arguments are those of `torch.nn.functional.scaled_dot_product_attention`, less the values.

    Raises:
        NotImplementedError: queries share keys (grouped-query attention).
    """
    if enable_gqa:
        raise NotImplementedError(
            'grouped-query attention is not supported here; ask for weights="gradient"'
        )
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    if attn_mask is not None:
        hidden = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if hidden else scores + attn_mask
    return scores.softmax(-1)


class _HeldLayerNorm(torch.autograd.Function):
    """LayerNorm over the last axes, with the gradient of a standard deviation that is held."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        shape: list[int],
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
    ) -> torch.Tensor:
        """Run the network's own operation."""
        normal, _, inverse = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.axes = tuple(range(-len(shape), 0))
        ctx.save_for_backward(inverse, weight)
        return normal

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Return the gradient by x alone: nobody asks for that by weights."""
        inverse, weight = ctx.saved_tensors
        gradient = gradient if weight is None else gradient * weight
        centred = gradient - gradient.mean(ctx.axes, keepdim=True)
        return (centred * inverse).to(gradient.dtype), None, None, None, None


def _layer_norm(
    x: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> torch.Tensor:
    if weight is not None and weight.dtype != x.dtype:
        x = x.to(weight.dtype)  # mixed precision normalises in that of the weights
    return _HeldLayerNorm.apply(x, list(normalized_shape), weight, bias, eps)


def _rms_norm(
    x: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    axes = tuple(range(-len(tuple(normalized_shape)), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    normal = x / (x.pow(2).mean(axes, keepdim=True) + eps).sqrt().detach()
    return normal if weight is None else normal * weight


def _normalize(
    x: torch.Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, **_: Any
) -> torch.Tensor:
    return x / x.detach().norm(p, dim, keepdim=True).clamp_min(eps)


def _cosine_similarity(
    one: torch.Tensor, other: torch.Tensor, dim: int = 1, eps: float = 1e-8
) -> torch.Tensor:
    return (_normalize(one, dim=dim, eps=eps) * _normalize(other, dim=dim, eps=eps)).sum(dim)


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    with torch.no_grad():
        weights = attention_weights(query, key, *args, **kwargs)
    return weights @ value


class _HeldGate(torch.autograd.Function):
    """A gate, with the gradient of a share of x that is held."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gate: Callable) -> torch.Tensor:
        """Run the network's own operation."""
        passed = gate(x)
        ctx.save_for_backward((passed / x).nan_to_num_(0.5))  # at 0, half of x passes
        return passed

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Return the gradient by x."""
        (share,) = ctx.saved_tensors
        return gradient * share, None


def _gate(func: Callable, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Return x times the share of it that passes, which is held fixed."""
    if func in OVERWRITING:  # x is needed afterwards
        args, kwargs = (), {}
    return _HeldGate.apply(x, lambda x: func(x, *args, **kwargs))


NORMALISED: dict[Callable, Callable] = {
    F.normalize: _normalize,
    torch.rms_norm: _rms_norm,
    F.rms_norm: _rms_norm,
    torch.cosine_similarity: _cosine_similarity,
    F.cosine_similarity: _cosine_similarity,
}
