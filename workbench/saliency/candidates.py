"""Candidates: the layers of a network that might be explained, from one look at all of them.

Finding the layer to explain reads in this order:

1. `candidates`: which layers have a map, and in which layouts (this module).
2. `completeness`: whose pooled maps give the logits through a linear head.
3. `dependence`: otherwise, on which layers the logits depend.
4. `place`: how time, height and width lie in a layer's output.
5. `gradient_search`: which of those layers to take, if no head is proved.
6. `layer_search`: the order in which these are asked, and what is remembered.

`probing` runs the passes for 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import nn

from ..models.hooks import EVERY, Call
from .layer_outputs import LayerOutput
from .layouts import Grid, Layout, rearrangements, without_lead
from .linear_heads import head_parts

__all__ = ["Choices", "LayerChoice", "PooledSite", "Site", "Survey"]

COARSER = 8  # by this factor and more, a pooled map is no stand-in for the one before
JOIN = " + "  # between the names of two layers, or of two heads


@dataclass(frozen=True)
class Site:
    """A layer's output in one forward pass, and what its axes are."""

    call: Call
    layout: Layout


@dataclass(frozen=True)
class PooledSite:
    """A layer's output with the mean (C,) of each of its maps."""

    site: Site
    mean: torch.Tensor


@dataclass(frozen=True)
class LayerChoice:
    """What is explained of one output of a network.

    Attributes:
        output: name of the output.
        sites: the layer; several layers if pathways meet in the head, or streams in the logits.
        head: dotted name of the linear head that was proved; of streams whose logits are added all
            heads, joined by " + "; None: weights come from gradients.
        share: factor of each stream's logits: 1 if they are added, 1/2 if two are averaged.
        logits: the layer whose output, flattened, is the logits; None: the network's own output.
        norm: dotted name of a LayerNorm between pooling and head.
        weights: kind of weights from gradients that suits the layer, see `class_weights.KINDS`.
        mixed: attention has mixed the tokens of the layer, so that its voxels say less about place.
        bypassed: relevance was asked for at a layer that part of the logits goes around.
        place: score of the proof of place; None: not proved.
        independent: the output is a sigmoid for each class.
        time_axis: of answers over time, the axis that counts them in the output of `logits`; None:
            one answer for the clip.
        overwrites: the network overwrites values that its gradients need.
    """

    output: str
    sites: tuple[Site, ...]
    head: str | None
    logits: Call | None = None
    norm: str | None = None
    share: float = 1.0
    weights: str = "gradient"
    mixed: bool = False
    bypassed: bool = False
    place: float | None = None
    independent: bool = False
    time_axis: int | None = None
    overwrites: bool = False

    @property
    def layer(self) -> str:
        """The name of the layer; of several, all."""
        return JOIN.join(site.call.layer for site in self.sites)

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the heads that were proved; most networks have one."""
        return () if self.head is None else tuple(self.head.split(JOIN))

    @property
    def guessed(self) -> bool:
        """Whether a layout is a guess: tokens do not say how they lie, nor do repeated calls."""
        return any(s.layout.of_tokens or s.layout.calls > 1 for s in self.sites)


Choices: TypeAlias = dict[str, LayerChoice]  # by the name of the output


@dataclass(frozen=True, eq=False)
class Survey:
    """What one pass showed of every layer, with a view to one output.

    Attributes:
        network: the network.
        seen: the layers' outputs in the order in which layers finished.
        clip: (T, H, W) of the input.
        classes: how many logits the output has.
        layer: the layer that the user named; None: any.
    """

    network: nn.Module
    seen: list[LayerOutput]
    clip: Grid
    classes: int
    layer: str | None

    @cached_property
    def head_parts(self) -> frozenset[str]:
        """Layers that are a possible head of the output, or hold one."""
        return head_parts(self.network, self.classes)

    def output_of(self, call: Call) -> LayerOutput:
        """Return the record of a call that has maps."""
        return next(s for s in self.seen if s.call == call)

    def pooled_sites(self) -> list[PooledSite]:
        """Return the layers whose means may give the logits, the last one first."""
        named = self.layer is not None
        return [
            PooledSite(Site(seen.call, layout), mean)
            for seen in reversed(self.seen)
            if self._wanted(seen)
            for layout, mean in seen.means.items()
            if named or not self._collapsed(seen, layout)
        ]

    def sites(self) -> list[Site]:
        """Return the layers whose maps may be explained by gradients, the last one first."""
        with_map = [s for s in reversed(self.seen) if s.means and self._wanted(s)]
        # All calls of a layer together are tried once one of them has been chosen.
        seen = [s for s in with_map if _likeliest(s).calls == 1]
        if self.layer is not None:
            return [Site(s.call, _likeliest(s)) for s in seen]
        # Leave out what a pool, and a head behind it, have left of the maps.
        outside = [s for s in seen if s.call.layer not in self.head_parts]
        seen = [s for s in outside if not self._collapsed(s, _likeliest(s))] or seen
        if not seen or not _likeliest(seen[0]).of_tokens:
            return [Site(s.call, _likeliest(s)) for s in seen]
        # Of token layers keep only those as wide as the last one: not the queries, keys and values
        # in one tensor, nor the inside of an MLP.
        width = seen[0].shape[-1]
        fitting = [s for s in seen if not _likeliest(s).of_tokens or s.shape[-1] == width]
        return [Site(s.call, _likeliest(s)) for s in fitting]

    def mixes_frames(self) -> bool:
        """Return whether tokens of the whole clip pass as one sequence, so that frames may mix."""
        return any(
            site.layout.of_tokens and site.layout.axes[0:3] == "n (" for site in self.sites()
        )

    def attended(self, sites: Sequence[Site]) -> bool:
        """Return whether attention ran before one of the layers, so that voxels may be mixed."""
        return any(self.output_of(site.call).attended for site in sites)

    def start(self) -> list[Site]:
        """Return the first layer with parameters as a site, if it has a map."""
        call = self.first_with_parameters()
        return [Site(s.call, _likeliest(s)) for s in self.seen if s.call == call and s.means]

    def earlier_calls(self, site: Site) -> list[Site]:
        """Return the calls of a layer before this one, the first one first."""
        layer, number = site.call
        with_map = {s.call for s in self.seen if s.call.layer == layer and s.means}
        calls = (Call(layer, n) for n in range(number))
        return [Site(call, site.layout) for call in calls if call in with_map]

    def all_calls(self, layer: str) -> list[Site]:
        """Return a layer's calls as one site, if they may see one stretch of time each."""
        repeated = [s for s in self.seen if s.call == Call(layer, EVERY) and s.means]
        return [Site(s.call, _likeliest(s)) for s in repeated]

    def first_with_parameters(self) -> Call:
        """Return the first layer that has parameters: whatever the network knows passes it."""
        return next(s for s in self.seen if s.has_parameters).call

    def other_readings(self, site: Site, *, free: bool) -> list[Layout]:
        """Return the other layouts that a layer's output may have.

        They have the same mean. With `free` the tokens may also begin or end elsewhere, which
        changes their mean.
        """
        seen = self.output_of(site.call)
        starts: list[Layout] = []
        if free:
            starts = [each for each in seen.means if not each.rectified]
            starts += [end for each in starts if (end := without_lead(each)) is not None]
            starts = [each for each in starts if each != site.layout]
        found = list(starts)
        for layout in (site.layout, *starts):
            if layout.calls == 1:
                found += rearrangements(layout, seen.shape, self.clip)
        return found

    def _wanted(self, seen: LayerOutput) -> bool:
        return self.layer in (None, seen.call.layer)

    def _collapsed(self, seen: LayerOutput, layout: Layout) -> bool:
        """Return whether only pooling lies between a layer and one with a far finer map."""
        before = self.seen[: self.seen.index(seen) + 1]
        with_maps = (
            other
            for other in reversed(before)
            if other.has_parameters and other.means and other.call.layer not in self.head_parts
        )
        last = next(with_maps, seen)
        finest = max(math.prod(other.grid) for other in last.means)
        return COARSER * math.prod(layout.grid) <= finest


def _likeliest(seen: LayerOutput) -> Layout:
    return next(iter(seen.means))
