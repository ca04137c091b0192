"""Wrapping: any video network that is an `nn.Module` becomes a `VideoModel`, or is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from .hooks import find_module
from .input_spec import InputSpec
from .outputs import pick_output
from .refusals import check_explainable
from .restoring import bare
from .signatures import recognised_input
from .video_model import VideoModel

__all__ = ["wrap_model"]


def wrap_model(
    module: nn.Module,
    input: InputSpec | None = None,
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    layer: str | None = None,
    head: str | None = None,
    device: torch.device | str | None = None,
    name: str = "",
    output: str | None = None,
    precision: torch.dtype | None = None,
    time_axis: int | None = None,
    answer_frames: Sequence[float] | None = None,
) -> VideoModel:
    """Make any video network that is an `nn.Module` ready for `wb.explain`.

    Args:
        module: (1, 3, T, H, W), or what `input` describes, to logits (1, N) or several of them. It
            is used as it is, not copied.
        input: how it takes clips; None: 16 frames of 224×224 in [0, 1] (a TSN: one frame for each
            of its segments). An argument that `forward` takes by keyword only is found, and so is
            the input of video networks of transformers.
        classes: N names; None numbers them. For a network with several outputs, a dict of names by
            output.
        layer, head: dotted names of the layer to explain and of its head; None: found by the
            completeness test.
        device: the module is moved there, in place, as `module.to` does; None: it stays.
        name: what to call it; "": the name of its class.
        output: which of several outputs to explain first, by key, or by position as a text.
        precision: torch.float16 or torch.bfloat16 to run in mixed precision, which halves the
            memory that a GPU needs.
        time_axis: for a network that answers over time, which axis of its output counts the time
            steps: 1 for (1, T, N) or (1, T), 2 for (1, N, T). None: the axis that is not as long as
            `classes`, or that changes with the length of the clip.
        answer_frames: the frame that each of its answers belongs to, from 0, fractions allowed;
            None: the answers share the clip evenly.

    Raises:
        TypeError: not an `nn.Module`, or one whose layers or weights are hidden: TorchScript, int8,
            a program by torch.export, FullyShardedDataParallel.
        ValueError: `time_axis` is neither 1 nor 2, or the weights are on the meta device.
        KeyError: no layer of that name; the message lists the nearest names.
    """
    check_explainable(module)
    if time_axis not in (None, 1, 2):
        raise ValueError(f"time_axis: expected 1, 2 or None, got {time_axis!r}")
    for wanted in (layer, head):
        if wanted is not None:
            find_module(bare(module), wanted)
    if device is not None:
        module = module.to(device)
    spec = recognised_input(bare(module), input)
    named: dict[str, list[str]] = {}
    names = None
    if isinstance(classes, Mapping):
        named = {key: _names(values) for key, values in classes.items()}
        output = pick_output(named, output)
        names = named[output]
    elif classes is not None:
        names = _names(classes)
    return VideoModel(
        module,
        spec,
        classes=names,
        layer=layer,
        head=head,
        name=name or type(bare(module)).__name__,
        output=output,
        precision=precision,
        named=named,
        time_axis=time_axis,
        answer_frames=None if answer_frames is None else list(answer_frames),
    )


def _names(classes: Sequence[str]) -> list[str]:
    if isinstance(classes, str):
        raise ValueError(f"classes: expected a list of names, got the text {classes!r}")
    return [str(name) for name in classes]
