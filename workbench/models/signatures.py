"""Signatures: how a network wants to be called, read from its `forward` and its configuration."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from torch import nn

from .input_spec import InputSpec

__all__ = ["FRAMES", "recognised_input"]

# Names of the number of frames in the configurations of transformers.
FRAMES = ("num_frames", "frames_per_clip")


def recognised_input(module: nn.Module, spec: InputSpec | None) -> InputSpec:
    """Return how a network takes its clips, with what can be read from the network itself.

    The argument's name if `forward` takes it by keyword only. For a video network of transformers
    also that time comes first, and if no spec was given, number and size of its frames.
    """
    config = getattr(module, "config", None)
    main = getattr(module, "main_input_name", None)
    video = isinstance(main, str) and _frames(config) is not None
    if spec is None and video:
        side = getattr(config, "image_size", getattr(config, "crop_size", 224))
        side = side if isinstance(side, int) else side[0]
        spec = InputSpec(_frames(config) or 16, resize=side, crop=side)
    elif spec is None:
        spec = InputSpec(getattr(module, "segments", 16), resize=256, crop=224)
    if spec.keyword or spec.pathways:
        return spec
    if video:
        return replace(spec, keyword=str(main), time_first=True)
    return replace(spec, keyword=_only_keyword(module))


def _frames(config: Any) -> int | None:
    found = (getattr(config, name, None) for name in FRAMES)
    return next((number for number in found if isinstance(number, int)), None)


def _only_keyword(module: nn.Module) -> str:
    """Return the one argument that has to be given by keyword; "" if one is taken by position."""
    parameters = inspect.signature(module.forward).parameters.values()
    if any(p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters):
        return ""
    required = [p.name for p in parameters if p.default is p.empty and p.kind == p.KEYWORD_ONLY]
    return required[0] if len(required) == 1 else ""
