"""Targets: which layer of a network is explained, and through which head, found by running it.

Where a network ends in average pooling and a linear layer, mean over (T', H', W') of Σ_j y_ij a_j plus the bias *is*
logit i. A layer for which that holds is the right one, with the right axes. Where none does, it is the last
layer with a spatio-temporal map that the logits depend on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

import torch
from torch import nn

from ..models.outputs import are_probabilities, named_outputs
from ..models.video_model import find_module
from .hooks import Capture, Key, Seen, refuse_nan, watch
from .layouts import Grid, Layout

__all__ = ["TOLERANCE", "Site", "Target", "find_targets", "linear_head", "residual"]

TOLERANCE = 1e-4  # of the largest logit: what the completeness test may miss by
COARSER = 8  # by this factor and more a pooled map is no stand-in for the one before
AT_ONCE = 24  # layers that one pass tries for gradients

Head = tuple[torch.Tensor, torch.Tensor]  # weights (N, C), bias (N,)


@dataclass(frozen=True)
class Site:
    """A layer's output in one forward pass: its dotted name, which call of it, and how its axes lie."""

    layer: str
    call: int
    layout: Layout

    @property
    def key(self) -> Key:
        """The layer and its call."""
        return self.layer, self.call


@dataclass(frozen=True)
class Target:
    """What is explained of one output of a network.

    Attributes:
        output: its name.
        sites: the layer, or two where two pathways meet in the head.
        head: dotted name of the linear head; None: weights come from gradients.
        logits: name and call of the layer whose output, flattened, is the logits; None: the network's own output.
    """

    output: str
    sites: tuple[Site, ...]
    head: str | None
    logits: Key | None = None

    @property
    def layer(self) -> str:
        """The name of the layer; of two pathways both."""
        return " + ".join(site.layer for site in self.sites)


def find_targets(
    network: nn.Module,
    call: Callable[[], Any],
    clip: Grid,
    layer: str | None = None,
    head: str | None = None,
    pathways: int = 1,
    tolerance: float = TOLERANCE,
) -> dict[str, Target]:
    """Run a network with every layer watched, and find what is to be explained of each of its outputs.

    Args:
        network: in eval mode.
        call: runs it on one clip and returns what it says.
        clip: (T, H, W) of the input.
        layer, head: names that the user gave; None: looked for.
        pathways: how many inputs the network takes.
        tolerance: of the completeness test; half precision needs a larger one.

    Returns:
        Targets by the outputs' names; outputs that depend on no map are left out.

    Raises:
        ValueError: no layer with a map to explain, or the given layer and head do not fit.
    """
    with torch.no_grad():
        seen, said = watch(network, call, clip)
    _check_head(network, head, [row.shape[1] for row in named_outputs(said).values()])
    search = _Search(network, call, seen, layer, head, pathways, tolerance)
    found: dict[str, Target] = {}
    for name, row in named_outputs(said).items():
        logits, source = _before_softmax(seen, row[0].float())
        if not logits.isfinite().all():
            refuse_nan(network, call, clip)
        search.ends = _ends(network, len(logits))
        target = search.proved(name, logits, source) or search.felt(name, len(logits), source)
        if target is not None:
            found[name] = target
    if head is not None and not any(target.head == head for target in found.values()):
        where = "" if layer is None else f" {layer!r}"
        raise ValueError(
            f"no layer{where} whose pooled maps give the logits through {head!r}. "
            "Leave out head= for weights from gradients"
        )
    if not found:
        names = list(dict.fromkeys(each.layer for each in reversed(seen) if each.means))[:5]
        what = "no layer has" if layer is None else f"layer {layer!r} has not"
        there = f"; there are {', '.join(names)}" if names else ""
        raise ValueError(
            f"{what} a spatio-temporal map on which the logits depend: an output (1, C, T', H', W'), or one that "
            f"comes back to it. Give layer= one that has{there}"
        )
    return found


def _before_softmax(seen: list[Seen], row: torch.Tensor) -> tuple[torch.Tensor, Key | None]:
    """Return the logits (N,) behind an output, and the layer that gave them if it is not the output itself.

    Of probabilities whose logits no layer gave, the logarithms.
    """
    logarithms = not are_probabilities(row)
    if logarithms and not are_probabilities(row.exp()):
        return row, None
    chances = row.exp() if logarithms else row
    for each in reversed(seen):
        if each.small is not None and each.small.numel() == len(row):
            values = each.small.flatten().float()
            if not torch.equal(values, row) and torch.allclose(
                values.softmax(0), chances, atol=1e-6, rtol=1e-3
            ):
                return values, each.key
    return row if logarithms else row.clamp(min=1e-30).log(), None


@dataclass
class _Search:
    """What a search for targets goes by: see `find_targets`."""

    network: nn.Module
    call: Callable[[], Any]
    seen: list[Seen]
    layer: str | None
    head: str | None
    pathways: int
    tolerance: float
    ends: frozenset[str] = frozenset()  # layers that are, or hold, what may be a head

    def proved(self, output: str, logits: torch.Tensor, source: Key | None) -> Target | None:
        """Return the last layer whose pooled maps give the logits through a linear head; None where there is none."""
        pooled = [
            (Site(each.layer, each.call, layout), mean)
            for each in reversed(self.seen)
            for layout, mean in each.means.items()
            if each.layer == self.layer
            or (self.layer is None and not self._collapsed(each, layout))
        ]
        # A head that was named may be another output's.
        heads = _heads(self.network, self.head, len(logits)) or _heads(
            self.network, None, len(logits)
        )
        for name, head in reversed(heads.items()):
            if (logits - head[1]).abs().max() <= 10 * TOLERANCE * logits.abs().max():
                continue  # a head of zeros would prove every layer
            asked = (pooled, head, logits, self.tolerance)
            sites = _fitting(*asked) or _fitting_pair(*asked)
            if sites:
                return Target(output, sites, name, source)
        return None

    def _collapsed(self, each: Seen, layout: Layout) -> bool:
        """Tell whether only pooling lies between a layer and one with a map far finer, which shows more."""
        before = self.seen[: self.seen.index(each) + 1]
        last = next(
            (o for o in reversed(before) if o.learnt and o.means and o.layer not in self.ends), each
        )
        return COARSER * math.prod(layout.grid) <= max(
            math.prod(other.grid) for other in last.means
        )

    def felt(self, output: str, classes: int, source: Key | None) -> Target | None:
        """Return the last layer with a map on which the logits depend; None where there is none.

        Of a network of two pathways also the last on which they depend when nothing passes through the first.
        """
        sites = self._sites()
        chosen: tuple[Site, ...] = ()
        for _ in range(self.pathways if self.layer is None else 1):
            times = {site.layout.grid[0] for site in chosen}
            rest = (site for site in sites if site.layout.grid[0] not in times)
            while some := list(islice(rest, AT_ONCE)):
                site = self._first_felt(some, output, source, chosen)
                if site is not None:
                    chosen = (*chosen, site)
                    break
        if not chosen and not any(
            bool(head[0].any()) for head in _heads(self.network, None, classes).values()
        ):
            warnings.warn(
                "every head of the network is all zeros: so will its tubes be", stacklevel=4
            )
            chosen = tuple(
                sites[:1]
            )  # a head of zeros, as some transformers begin with: nothing depends on anything
        chosen = tuple(sorted(chosen, key=lambda site: site.layout.grid[0]))
        return Target(output, chosen, None, source) if chosen else None

    def _sites(self) -> list[Site]:
        """Return the layers whose maps may be explained, from the last on."""
        seen = [
            each for each in reversed(self.seen) if each.means and self.layer in (None, each.layer)
        ]
        if self.layer is None:  # not what a pool, and a head behind it, have left of the maps
            finer = [
                e
                for e in seen
                if e.layer not in self.ends and not self._collapsed(e, next(iter(e.means)))
            ]
            seen = finer or seen
        sites = [Site(each.layer, each.call, next(iter(each.means))) for each in seen]
        if self.layer is not None or not sites or sites[0].layout.order != "tokens":
            return sites
        # Of a transformer's layers those as wide as its last: not queries, keys and values in one, nor an MLP's inside.
        wide = seen[0].shape[-1]
        return [
            s
            for s, each in zip(sites, seen)
            if s.layout.order == "tokens" and each.shape[-1] == wide
        ]

    def _first_felt(
        self, sites: list[Site], output: str, source: Key | None, cut: tuple[Site, ...]
    ) -> Site | None:
        """Return the first of some layers, given from the last on, by whose maps the logits have a gradient.

        A class token's head leaves the other tokens of the last layers without one. No gradient flows through `cut`.
        """
        keys, ends = [site.key for site in sites], [site.key for site in cut]
        capture = Capture(
            (*keys, *ends, *([] if source is None else [source])), graph_from=(keys[-1], *ends)
        )
        with torch.no_grad(), capture.on(self.network):
            said = self.call()
        with torch.enable_grad():
            logits = (
                (named_outputs(said)[output] if source is None else capture.taken[source][-1])
                .flatten()
                .float()
            )
        reached = [
            (site, maps) for site in sites for maps in capture.taken[site.key] if maps.requires_grad
        ]
        if not logits.requires_grad:
            return None
        with torch.enable_grad():
            mix = torch.randn(len(logits), generator=torch.Generator().manual_seed(0)).to(
                logits.device
            )
            mixed = (logits * mix).sum()
        gradients = torch.autograd.grad(mixed, [maps for _, maps in reached], allow_unused=True)
        for (site, _), gradient in zip(reached, gradients):
            if gradient is not None and bool(_behind_lead(site, gradient).any()):
                return site
        return None


def _behind_lead(site: Site, gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient without that by class tokens."""
    return gradient[:, site.layout.lead :] if site.layout.order == "tokens" else gradient


Pooled = list[tuple[Site, torch.Tensor]]  # with the mean (C,) of each map


def _fitting(
    pooled: Pooled, head: Head, logits: torch.Tensor, tolerance: float
) -> tuple[Site, ...]:
    """Return the first layer whose pooled maps give the logits through a head."""
    width = head[0].shape[1]
    fits = (
        site
        for site, mean in pooled
        if len(mean) == width and residual(mean, head, logits) <= tolerance
    )
    return tuple(islice(fits, 1))


def _fitting_pair(
    pooled: Pooled, head: Head, logits: torch.Tensor, tolerance: float
) -> tuple[Site, ...]:
    """Return the first two layers, of different lengths in time, whose pooled maps do so side by side (SlowFast)."""
    width = head[0].shape[1]
    for pair in combinations(pooled, 2):
        (one, first), (two, second) = pair
        if len(first) + len(second) == width and one.layout.grid[0] != two.layout.grid[0]:
            for a, b in (pair, pair[::-1]):
                if residual(torch.cat([a[1], b[1]]), head, logits) <= tolerance:
                    return a[0], b[0]
    return ()


def _heads(network: nn.Module, name: str | None, classes: int) -> dict[str, Head]:
    """Return weights and bias of every linear layer with so many outputs, or of the one named, by dotted name."""
    if name is not None:
        head = linear_head(find_module(network, name))
        return {name: head} if head is not None and len(head[0]) == classes else {}
    found = {name: linear_head(part) for name, part in network.named_modules()}
    return {
        name: head for name, head in found.items() if head is not None and len(head[0]) == classes
    }


def _check_head(network: nn.Module, name: str | None, counts: list[int]) -> None:
    """Raise ValueError where the layer that was named cannot be the head of an output."""
    if name is None:
        return
    head = linear_head(find_module(network, name))
    if head is None:
        raise ValueError(f"head {name!r} is no linear layer or 1×1×1 convolution")
    if len(head[0]) not in counts:
        logits = " and ".join(map(str, counts))
        raise ValueError(f"head {name!r} has {len(head[0])} outputs, and the logits are {logits}")


def _ends(network: nn.Module, classes: int) -> frozenset[str]:
    """Return the names of the layers that are, or hold, a linear layer with so many outputs."""
    names = [name.split(".") for name in _heads(network, None, classes)]
    return frozenset(
        ".".join(parts[:count]) for parts in names for count in range(1, len(parts) + 1)
    )


def linear_head(part: nn.Module) -> Head | None:
    """Return weights (N, C) and bias (N,) of a linear layer or 1×1(×1) convolution, None for another module."""
    if (
        isinstance(part, (nn.Conv2d, nn.Conv3d))
        and math.prod(part.kernel_size) == 1
        and part.groups == 1
    ):
        weight = part.weight.flatten(1)
    elif isinstance(part, nn.Linear):
        weight = part.weight
    else:
        return None
    weight = weight.detach().float()
    bias = weight.new_zeros(len(weight)) if part.bias is None else part.bias.detach().float()
    return weight, bias


def residual(means: torch.Tensor, head: Head, logits: torch.Tensor) -> float:
    """Return how far Σ_j y_ij mean(a_j) + bias_i is from the logits, as a share of the largest |logit|."""
    told = head[0] @ means + head[1]
    miss, scale = (told - logits).abs().max(), logits.abs().max()
    return float(miss / scale) if scale > 0 else float(miss)
