"""Does an explanation depend on what the network learnt? Randomise its weights and compare.

After Adebayo et al., "Sanity Checks for Saliency Maps" (NeurIPS 2018). `randomised` shuffles
weights, `reinitialised` draws them anew, and `cascading_randomisation` shuffles from the head down.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..clips.clip import Clip
from ..metrics.agreement import rank_correlation, structural_similarity
from ..models.video_model import VideoModel, find_module
from ..saliency.explaining import explain

__all__ = ["calibrate", "cascading_randomisation", "randomised", "reinitialised"]

OWN = "(own parameters)"  # outside the network's parts, such as a class token


def randomised(model: VideoModel, seed: int = 0) -> VideoModel:
    """Return a copy of a model with every parameter and buffer shuffled within itself.

    Shuffling keeps the scale and the shape of each tensor and destroys what was learnt. Batch-norm
    statistics are shuffled too.
    """
    module: nn.Module = copy.deepcopy(model.network)
    _shuffle(_tensors(module), torch.Generator().manual_seed(seed))
    return replace(model, module=module, name=f"{model.name}, random weights")


def reinitialised(model: VideoModel, clips: Sequence[Clip], seed: int = 0) -> VideoModel:
    """Return a copy of a model before any training, its batch norms calibrated on clips.

    A fairer control than `randomised`: shuffled batch-norm statistics do not fit what passes
    through, and the tubes of shuffled networks then peak at the border. Here every layer is
    initialised as PyTorch does by default, and every batch norm takes the mean and variance that
    its channels have on the clips. Parameters outside such layers, a class token say, are shuffled.

    Args:
        model: the network; it stays as it is.
        clips: one or more, passed through the network as one batch.
        seed: of the weights.

    Raises:
        ValueError: no clips.
    """
    if not clips:
        raise ValueError("clips: expected at least one, to calibrate the batch norms on")
    module: nn.Module = copy.deepcopy(model.network)
    _initialise(module, seed)
    fresh = replace(model, module=module, name=f"{model.name}, fresh weights")
    calibrate(fresh, clips)
    return fresh


def calibrate(model: VideoModel, clips: Sequence[Clip]) -> None:
    """Give every batch norm of a model, in place, its input's mean and variance on the clips.

    The clips pass through the network as one batch.
    """
    frames = np.stack([model.input.view(clip).frames for clip in clips])
    with _calibrating(model.network):
        model.score(0, batch=len(frames))(frames)


def cascading_randomisation(
    model: VideoModel,
    clip: Clip,
    target: int | str | None = None,
    *,
    tau: float | None = None,
    stages: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Shuffle a network's weights part by part from the top, and compare each tube with the first.

    After Adebayo et al., "Sanity Checks for Saliency Maps" (NeurIPS 2018). A faithful explanation
    changes as what was learnt is lost: low correlations and a low SSIM are good. One that stays
    alike shows the clip, not the network. Parameters are shuffled as `randomised` does, on a copy.

    Args:
        model: the network; it stays as it is.
        clip: what to explain.
        target: class name or id, the same at every stage. None: the class that the trained network
            predicts.
        tau: as in `ex.tube`.
        stages: dotted names of the parts to shuffle, in this order, each on top of those before.
            None: the network's children that have parameters, the last one (the head) first.
        seed: of the shuffling.

    Returns:
        A DataFrame, a row per stage: `layer`, the part shuffled last; `share` of the network's
        parameters shuffled by then; `rank correlation` (Spearman over voxels), its absolute value
        `|rank correlation|`, and `SSIM`. These are NaN if the randomised network's tube is
        constant: it resembles nothing, which is no pass.

    Raises:
        KeyError: no such class or part.
        ValueError: a part that is named twice or lies within another, or what `wb.explain` refuses.
    """
    trained = explain(model, clip)
    class_id = trained.class_id(target)
    original = trained.tube(class_id, tau)
    # Explain the same layer at every stage, rather than search it again in a damaged network.
    layer = trained.layer if len(trained.pathways) == 1 else model.layer
    damaged = replace(model, module=copy.deepcopy(model.network), layer=layer)
    total = sum(parameter.numel() for parameter in damaged.module.parameters())
    generator = torch.Generator().manual_seed(seed)
    rows, shuffled = [], 0
    for name, tensors in _stages(damaged.module, stages):
        _shuffle(tensors, generator)
        shuffled += sum(tensor.numel() for tensor in tensors if isinstance(tensor, nn.Parameter))
        tube = explain(damaged, trained.clip).tube(class_id, tau)
        correlation = rank_correlation(original, tube)
        rows.append(
            {
                "layer": name,
                "share": shuffled / total,
                "rank correlation": correlation,
                "|rank correlation|": abs(correlation),
                "SSIM": structural_similarity(original, tube),
            }
        )
    return pd.DataFrame(rows)


def _stages(module: nn.Module, names: Sequence[str] | None) -> list[tuple[str, list[torch.Tensor]]]:
    """Return the parts to shuffle in their order, each with its parameters and buffers."""
    if names is None:
        children = reversed(list(module.named_children()))
        parts = [(name, _tensors(child)) for name, child in children]
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        parts.append((OWN, own))
    else:
        parts = [(name, _tensors(find_module(module, name))) for name in names]
    parts = [
        (name, tensors)
        for name, tensors in parts
        if any(isinstance(tensor, nn.Parameter) for tensor in tensors)
    ]
    if not parts:
        raise ValueError("stages: there is no part with parameters to randomise")
    seen: set[int] = set()
    for name, tensors in parts:
        ids = {id(tensor) for tensor in tensors}
        if seen & ids:
            raise ValueError(
                f"stages: {name!r} shares parameters with a part that is randomised before it"
            )
        seen |= ids
    return parts


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


@torch.no_grad()
def _shuffle(tensors: Iterable[torch.Tensor], generator: torch.Generator) -> None:
    """Permute the entries of each tensor in place; single numbers (a count of batches) stay."""
    for tensor in tensors:
        if tensor.ndim:
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))


def _initialise(module: nn.Module, seed: int) -> None:
    """Initialise every layer as PyTorch does, in place; the global random state is restored."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in module.modules():
            initialise = getattr(part, "reset_parameters", None)
            if callable(initialise):
                initialise()
            else:
                generator = torch.Generator().manual_seed(seed)
                _shuffle(part.parameters(recurse=False), generator)


@contextmanager
def _calibrating(module: nn.Module) -> Iterator[None]:
    """While it lasts, every batch norm in eval mode takes the statistics of its input, for good."""
    found: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def calibrate(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        (x,) = inputs
        variance, mean = torch.var_mean(x.float(), [0, *range(2, x.ndim)], correction=0)
        norm.running_mean.copy_(mean)  # type: ignore[operator]
        norm.running_var.copy_(variance)  # type: ignore[operator]
        found[norm] = mean, variance

    hooks = [
        part.register_forward_pre_hook(calibrate)
        for part in module.modules()
        if isinstance(part, _BatchNorm) and part.track_running_stats
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    # `VideoModel.run` gives buffers that a network writes their own values back.
    for norm, (mean, variance) in found.items():
        norm.running_mean.copy_(mean)  # type: ignore[operator]
        norm.running_var.copy_(variance)  # type: ignore[operator]
