"""Relevance that is conserved, for transformers: gradient × token with the network held linear.

The rules are those of AttnLRP (Achtibat et al., ICML 2024) and of Ali et al. (ICML 2022): the
standard deviation of every LayerNorm, the attention weights of every softmax and the gate of every
GELU or SiLU are held at the values of this clip. What remains is linear in the tokens apart from
biases, so the sum of gradient × token over all tokens is the logit less what biases contribute.

Held fixed are the operations themselves while the graph is recorded: no network is patched.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["ATTENTIONS", "SOFTMAXES", "HeldLinear", "Intercepting", "attention_weights"]

LAYER_NORMS = (torch.layer_norm, F.layer_norm)
SOFTMAXES = (torch.softmax, torch.Tensor.softmax, F.softmax)
ATTENTIONS = (F.scaled_dot_product_attention, torch._C._nn.scaled_dot_product_attention)
GATES = (F.gelu, torch._C._nn.gelu, F.silu, torch._C._nn.silu)


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
    """While active, LayerNorm, softmax, attention and gates are recorded as linear maps."""

    def stand_in(self, func: Callable) -> Callable | None:
        """Return the linear stand-in of an operation."""
        if func in LAYER_NORMS:
            return _layer_norm
        if func in SOFTMAXES:
            return lambda *args, **kwargs: func(*args, **kwargs).detach()
        if func in ATTENTIONS:
            return _attention
        if func in GATES:
            return partial(_gate, func)
        return None


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
    scores = query @ key.transpose(-2, -1) * factor
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    if attn_mask is not None:
        hidden = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if hidden else scores + attn_mask
    return scores.softmax(-1)


def _layer_norm(
    x: torch.Tensor,
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> torch.Tensor:
    axes = tuple(range(-len(tuple(normalized_shape)), 0))
    sigma = (x.var(axes, unbiased=False, keepdim=True) + eps).sqrt().detach()
    normal = (x - x.mean(axes, keepdim=True)) / sigma
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    with torch.no_grad():
        weights = attention_weights(query, key, *args, **kwargs)
    return weights @ value


def _gate(func: Callable, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Return x times the share of it that passes, which is held fixed."""
    with torch.no_grad():
        share = torch.where(x == 0, 0.5, func(x, *args, **{**kwargs}) / x)
    return x * share
