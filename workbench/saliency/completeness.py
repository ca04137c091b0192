"""The completeness test: whose pooled maps give the logits through a linear head.

If a network ends in average pooling and a linear layer, the mean over (T', H', W') of
Σ_j y_ij a_j plus the bias *is* logit i. A layer that passes this test is the right one, and its
channel axis is known. The order of voxels is not: see `place`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import nn

from ..models.video_model import VideoModel, find_module
from .candidates import JOIN, PooledSite, Site, Survey
from .linear_heads import Head, heads_of, held_norm, linear_head, norms_of, residual

__all__ = ["HeadProof", "added_streams", "check_head", "linear_head_of", "tolerance"]

TOLERANCE = 1e-4  # of the largest logit: what the completeness test may miss by
# Through a LayerNorm: tighter, because a mean of norms over frames is nearly a norm of the mean.
NORM_TOLERANCE = 2e-6
HALF_TOLERANCE = 0.01  # the same in half precision
HALVES = (torch.float16, torch.bfloat16)
STREAMS = (2, 3)  # so many logits may be added


@dataclass(frozen=True)
class HeadProof:
    """A layer that passes the completeness test, and the head by which it does.

    The attributes are those of `LayerChoice`.
    """

    sites: tuple[Site, ...]
    head: str
    norm: str | None = None
    share: float = 1.0


def tolerance(model: VideoModel, *, norm: bool = False) -> float:
    """Return what the completeness test may miss by, as a share of the largest logit.

    `norm`: a LayerNorm stands between pooling and head.
    """
    half = any(parameter.dtype in HALVES for parameter in model.network.parameters())
    if half or model.precision is not None:
        return HALF_TOLERANCE
    return NORM_TOLERANCE if norm else TOLERANCE


def check_head(model: VideoModel, counts: list[int]) -> None:
    """Raise ValueError if the head that the user named cannot be that of any output.

    `counts` are the numbers of logits of the outputs.
    """
    if model.head is None:
        return
    head = linear_head(find_module(model.network, model.head))
    if head is None:
        raise ValueError(f"head {model.head!r} is no linear layer or 1×1×1 convolution")
    if len(head.weight) not in counts:
        logits = " and ".join(map(str, counts))
        raise ValueError(
            f"head {model.head!r} has {len(head.weight)} outputs, and the logits are {logits}"
        )


def linear_head_of(
    model: VideoModel, survey: Survey, logits: torch.Tensor, only: str | None = None
) -> HeadProof | None:
    """Return the last layer whose pooled maps give the logits (N,) through a linear head.

    Args:
        model: the network.
        survey: what its layers gave.
        logits: of the output.
        only: the one head to try; None: all that have N outputs.
    """
    pooled = survey.pooled_sites()
    allowed = tolerance(model)
    for name, head in _heads(model, only or model.head, len(logits)).items():
        # A head of zeros would prove every layer.
        if (logits - head.bias).abs().max() <= 10 * TOLERANCE * logits.abs().max():
            continue
        sites = _fitting(pooled, head, logits, allowed)
        # Two pathways may be concatenated before the head (SlowFast).
        sites = sites or _fitting_pair(pooled, head, logits, allowed)
        if sites:
            return HeadProof(sites, name)
        # A LayerNorm may stand between pooling and head (VideoMAE).
        strict = tolerance(model, norm=True)
        for norm_name, norm in norms_of(model.network, head.weight.shape[1]).items():
            site = _fitting_norm(pooled, head, norm, logits, strict)
            if site is not None:
                return HeadProof((site,), name, norm_name)
    return None


def added_streams(model: VideoModel, survey: Survey, logits: torch.Tensor) -> HeadProof | None:
    """Return the layers of streams whose logits are added, or averaged, to the logits (N,).

    Two streams, RGB and frame differences for example, have a head each. What each head gave is
    tested on its own.
    """
    names = heads_of(model.network, None, len(logits))
    given = [
        (seen.call.layer, seen.small.flatten().float())
        for seen in survey.seen
        if seen.call.layer in names and seen.small is not None and seen.small.numel() == len(logits)
    ]
    allowed = tolerance(model) * float(logits.abs().max())
    for count in STREAMS:
        for streams in combinations(given, count):
            total = torch.stack([values for _, values in streams]).sum(0)
            for share in (1.0, 1 / count):
                if float((share * total - logits).abs().max()) > allowed:
                    continue
                proofs = [linear_head_of(model, survey, values, name) for name, values in streams]
                sites = tuple(site for proof in proofs if proof for site in proof.sites)
                plain = all(p is not None and len(p.sites) == 1 and p.norm is None for p in proofs)
                if plain and len(set(sites)) == count:
                    return HeadProof(sites, JOIN.join(name for name, _ in streams), share=share)
    return None


def _heads(model: VideoModel, name: str | None, classes: int) -> dict[str, Head]:
    """Return the heads to try, the last one first."""
    heads = heads_of(model.network, name, classes)
    # A head that was named may be another output's.
    heads = heads or heads_of(model.network, None, classes)
    return dict(reversed(heads.items()))


def _fitting(
    pooled: list[PooledSite], head: Head, logits: torch.Tensor, allowed: float
) -> tuple[Site, ...]:
    """Return the first layer whose pooled maps give the logits through a head."""
    width = head.weight.shape[1]
    for each in pooled:
        if len(each.mean) == width and residual(each.mean, head, logits) <= allowed:
            return (each.site,)
    return ()


def _fitting_pair(
    pooled: list[PooledSite], head: Head, logits: torch.Tensor, allowed: float
) -> tuple[Site, ...]:
    """Return the first two layers whose pooled maps, concatenated, give the logits.

    The two are of different lengths in time.
    """
    for first, second in _pairs(pooled, head.weight.shape[1]):
        if residual(torch.cat([first.mean, second.mean]), head, logits) <= allowed:
            return first.site, second.site
    return ()


def _pairs(pooled: list[PooledSite], width: int) -> Iterator[tuple[PooledSite, PooledSite]]:
    """Yield pairs of layers, in both orders, that have `width` channels together."""
    for one, two in combinations(pooled, 2):
        lengths_differ = one.site.layout.grid[0] != two.site.layout.grid[0]
        if len(one.mean) + len(two.mean) == width and lengths_differ:
            yield one, two
            yield two, one


def _fitting_norm(
    pooled: Iterable[PooledSite],
    head: Head,
    norm: nn.LayerNorm,
    logits: torch.Tensor,
    allowed: float,
) -> Site | None:
    """Return the first layer whose pooled maps give the logits through a LayerNorm and a head."""
    width = head.weight.shape[1]
    for each in pooled:
        mean = each.mean
        if len(mean) == width and residual(mean, held_norm(head, norm, mean), logits) <= allowed:
            return each.site
    return None
