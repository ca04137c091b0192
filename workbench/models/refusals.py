"""Networks and inputs that cannot be explained, each refused with what to do instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import nn

from .hooks import observing
from .input_spec import InputSpec

__all__ = ["check_explainable", "raise_on_nan", "unsuitable_input"]

INTEGERS = (torch.int8, torch.uint8)
WRAPPER = """wrap it in a module of one input:
    class OneInput(torch.nn.Module):
        def __init__(self, network): super().__init__(); self.network = network
        def forward(self, x): return self.network({arguments})"""


def check_explainable(module: Any) -> None:
    """Raise TypeError or ValueError if a network hides its layers or its numbers.

    Hooks have to see the layers, and weights have to be there in full and in floating point.
    """
    if isinstance(module, torch.export.ExportedProgram) or _is_exported(module):
        raise TypeError(
            "expected a torch.nn.Module, got a program by torch.export, in which layers have "
            "become operations that no hook sees: give the module that was exported"
        )
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"expected a torch.nn.Module, got {type(module).__name__}. A function becomes one by a "
            "class with `forward` that calls it, with its layers as attributes"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("a TorchScript module hides its layers: give the module it was made from")
    parts = dict(module.named_modules())
    scripted = [name for name, part in parts.items() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        raise TypeError(
            f"expected layers in Python, got TorchScript at {_listed(_outermost(scripted))}, which "
            "takes no hooks: build the network without torch.jit.script"
        )
    sharded = [n for n, part in parts.items() if type(part).__name__ == "FullyShardedDataParallel"]
    if sharded:
        raise TypeError(
            "expected whole layers, got FullyShardedDataParallel, which holds shards of their "
            "weights in one flat parameter. Save the full state dict "
            "(FSDP.state_dict_type(…, StateDictType.FULL_STATE_DICT)), load it into a network "
            "without FSDP and explain that, or shard with fully_shard (FSDP2)"
        )
    quantised = list(_quantised(parts))
    if quantised:
        raise TypeError(
            f"expected weights in floating point, got int8 at {_listed(quantised)}: rounding "
            "breaks the proof, and there are no gradients. Give the float network it was made from"
        )
    meta = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if meta:
        raise ValueError(
            f"expected weights, got the meta device, which has none, at {_listed(meta)}: call "
            'module.to_empty(device="cpu") and load a state dict, or build the network without '
            'torch.device("meta")'
        )


def unsuitable_input(
    network: nn.Module,
    spec: InputSpec,
    x: torch.Tensor,
    error: Exception,
    call: Callable[[torch.Tensor], Any],
) -> str:
    """Return why a network did not take an input (N, C, T, H, W), and what to do.

    `call` calls the network with a tensor as it is.
    """
    remedies = [
        _several_inputs(network, spec),
        _another_order(spec, x, call),
        _another_channel_count(network, x),
    ]
    general = (
        "Frames and pixels are those of InputSpec(frames=, resize=, crop=); a list of inputs needs "
        "pathways=; a 2-D network goes into wb.TSN; a network that takes a dict, "
        + WRAPPER.format(arguments='{"video": x}')
    )
    remedy = next(filter(None, remedies), general)
    axes = "(N, T, C, H, W)" if spec.time_first else "(N, C, T, H, W)"
    shape = tuple(x.transpose(1, 2).shape if spec.time_first else x.shape)
    return f"{type(network).__name__} does not take an input {shape} {axes}: {error}. {remedy}"


def raise_on_nan(network: nn.Module, x: torch.Tensor, call: Callable[[], Any]) -> None:
    """Raise ValueError naming what first held NaN or infinite values; `call` runs the network."""
    if not x.isfinite().all():
        raise ValueError("the input holds NaN or infinite values")
    for name, value in chain(network.named_parameters(), network.named_buffers()):
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"the network's {name} holds NaN or infinite values: "
                "its training or its file is broken"
            )
    layers: list[str] = []

    def observer(layer: str, _inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and not output.isfinite().all():
            layers.append(layer)

    with torch.no_grad(), observing(network, observer):
        call()
    if layers:
        raise ValueError(f"layer {layers[0]!r} is the first to give NaN or infinite values")
    raise ValueError("the logits hold NaN or infinite values")


def _several_inputs(network: nn.Module, spec: InputSpec) -> str:
    required = [
        parameter.name
        for parameter in inspect.signature(network.forward).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(required) < 2:
        return ""
    others = [name for name in required if name != spec.keyword]
    arguments = "x, " + ", ".join(f"{name}=…" for name in others[0 if spec.keyword else 1 :])
    if spec.keyword:
        arguments = arguments.replace("x", f"{spec.keyword}=x", 1)
    return f"It takes {len(required)} inputs, {', '.join(required)}: " + WRAPPER.format(
        arguments=arguments
    )


def _another_order(spec: InputSpec, x: torch.Tensor, call: Callable[[torch.Tensor], Any]) -> str:
    if spec.pathways:
        return ""
    try:
        with torch.no_grad():
            call(x if spec.time_first else x.transpose(1, 2))
    except Exception:  # whatever a network raises: it does not take this either
        return ""
    if spec.time_first:
        return "It takes channels before time: leave out InputSpec(time_first=True)"
    return "It takes time before channels: InputSpec(time_first=True)"


def _another_channel_count(network: nn.Module, x: torch.Tensor) -> str:
    convolutions = (m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)))
    first = next(convolutions, None)
    if first is None or first.in_channels == x.shape[1]:
        return ""
    count = first.in_channels
    takes = f"Its first convolution takes {count} channels"
    if count in (1, 3):
        return f"{takes}: InputSpec(channels={count})"
    return f"{takes}, and clips have 3 colours, or 1 by InputSpec(channels=1): " + WRAPPER.format(
        arguments=f"…x as {count} channels…"
    )


def _is_exported(module: Any) -> bool:
    return any(each.__module__ == "torch.export._unlift" for each in type(module).__mro__)


def _quantised(parts: dict[str, nn.Module]) -> Iterator[str]:
    for name, part in parts.items():
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        weight = getattr(part, "weight", None)
        of_integers = isinstance(weight, torch.Tensor) and weight.dtype in INTEGERS
        by_torch = (
            ".quantized" in type(part).__module__ and "PackedParams" not in type(part).__name__
        )
        if by_torch or (own and of_integers):
            yield name


def _outermost(names: list[str]) -> list[str]:
    """Return the names that no other one holds."""
    return [n for n in names if not any(n.startswith(f"{other}.") for other in names if other)]


def _listed(names: list[str]) -> str:
    more = "" if len(names) <= 3 else f" and {len(names) - 3} more"
    return ", ".join(repr(name) for name in names[:3]) + more
