"""Does an explanation depend on what the network learnt? The randomisation checks of Adebayo et al. (NeurIPS 2018)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import nn

from ..clips.clip import Clip
from ..metrics.agreement import rank_correlation, structural_similarity
from ..models.video_model import VideoModel, find_module
from ..saliency.explaining import explain

__all__ = ["cascading_randomisation", "randomised"]

OWN = "(own parameters)"  # a network may hold some outside its parts, a class token say


def randomised(model: VideoModel, seed: int = 0) -> VideoModel:
    """Return a copy of a model with random weights, and batch-norm statistics that go with them.

    Each parameter tensor is shuffled, which keeps its scale and its shape and destroys what was learnt (a
    form of the model randomisation check of Adebayo et al., NeurIPS 2018).
    """
    module: nn.Module = copy.deepcopy(model.network)
    _shuffle(_tensors(module), torch.Generator().manual_seed(seed))
    return replace(model, module=module, name=f"{model.name}, random weights")


def cascading_randomisation(
    model: VideoModel,
    clip: Clip,
    target: int | str | None = None,
    *,
    tau: float | None = None,
    stages: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Randomise a network from the top, part after part, and compare each stage's tube with the trained network's.

    After Adebayo et al., "Sanity Checks for Saliency Maps" (NeurIPS 2018). A faithful explanation loses its
    likeness as what was learnt is lost: low correlations and a low SSIM are good. One that stays alike shows the
    clip, not the network. Parameters are shuffled within each tensor, as `randomised` does, on a copy.

    Args:
        model: the network; it stays as it is.
        clip: what to explain.
        target: class name or id; None: the class that the trained network predicts. It is the same at every stage.
        tau: as in `ex.tube`.
        stages: dotted names of the parts to randomise, in this order, each on top of those before. None: the
            network's children that have parameters, the last one (the head) first.
        seed: of the shuffling.

    Returns:
        A DataFrame, a row a stage: `layer` that is randomised last, `share` of the network's parameters
        randomised by then, `rank correlation` (Spearman over voxels) and `|rank correlation|`, and `SSIM`. NaN
        where the randomised network's tube is constant: it is then like nothing, but shows nothing either.

    Raises:
        KeyError: no such class or part.
        ValueError: a part that is named twice or lies within another, or what `wb.explain` refuses.
    """
    trained = explain(model, clip)
    number = trained.class_id(target)
    original = trained.tube(number, tau)
    layer = trained.layer if len(trained.pathways) == 1 else model.layer
    losing = replace(
        model, module=copy.deepcopy(model.network), layer=layer
    )  # the same layer at every stage
    total = sum(parameter.numel() for parameter in losing.module.parameters())
    generator = torch.Generator().manual_seed(seed)
    rows, done = [], 0
    for name, tensors in _stages(losing.module, stages):
        _shuffle(tensors, generator)
        done += sum(tensor.numel() for tensor in tensors if isinstance(tensor, nn.Parameter))
        tube = explain(losing, trained.clip).tube(number, tau)
        likeness = rank_correlation(original, tube)
        row = {"layer": name, "share": done / total, "rank correlation": likeness}
        rows.append(
            row
            | {"|rank correlation|": abs(likeness), "SSIM": structural_similarity(original, tube)}
        )
    return pd.DataFrame(rows)


def _stages(module: nn.Module, names: Sequence[str] | None) -> list[tuple[str, list[torch.Tensor]]]:
    """Return the parts to randomise, the first first, each with its parameters and buffers."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if names is None:
        parts = [(name, _tensors(child)) for name, child in reversed(list(module.named_children()))]
        parts.append((OWN, own))
    else:
        parts = [(name, _tensors(find_module(module, name))) for name in names]
    parts = [
        (name, tensors)
        for name, tensors in parts
        if any(isinstance(each, nn.Parameter) for each in tensors)
    ]
    seen: set[int] = set()
    for name, tensors in parts:
        if seen & {id(each) for each in tensors}:
            raise ValueError(
                f"stages: {name!r} shares parameters with a part that is randomised before it"
            )
        seen |= {id(each) for each in tensors}
    if not parts:
        raise ValueError("stages: there is no part with parameters to randomise")
    return parts


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _shuffle(tensors: Iterable[torch.Tensor], generator: torch.Generator) -> None:
    """Permute the entries of each tensor, in place; a single number (a count of batches) stays."""
    with torch.no_grad():
        for tensor in tensors:
            if tensor.ndim:
                order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
                tensor.copy_(tensor.flatten()[order].view_as(tensor))
