"""Gradient search: the layer to explain if no linear head is proved, from gradients.

It is the last layer with a map on which the logits depend; of a network whose attention mixes all
tokens, the first layer of tokens that everything passes through.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..models.hooks import Call
from .candidates import LayerChoice, Site, Survey
from .dependence import Dependence
from .linear_heads import all_heads_are_zero
from .probing import Probe

__all__ = ["RELEVANCE", "GradientSearch"]

RELEVANCE = "relevance"
BYPASSED = 3  # layers that the logits depend on otherwise, after which relevance is given up
AT_ONCE = 24  # layers whose gradients one pass tries
PLACES = 16  # layers whose place is tried at most
PLACES_AT_ONCE = 4  # of them by the same passes, after the first
STREAMS = 4  # layers beside one another that are explained together at most


@dataclass(frozen=True)
class GradientSearch:
    """A search for the layer of one output whose gradients explain it.

    Attributes:
        probe: runs the passes.
        survey: what the first pass showed of every layer.
        first: whether the first layer of tokens is wanted, or the last layer; None: what suits the
            network.
    """

    probe: Probe
    survey: Survey
    first: bool | None

    def layer_of(self, output: str, source: Call | None) -> LayerChoice | None:
        """Return what to explain of an output, whose logits `source` gives; None: no layer."""
        choice = LayerChoice(output, (), None, source)
        sites = self.survey.sites()
        model = self.probe.model
        if model.layer is not None:
            found = self._named(sites, choice)
        else:
            of_tokens = bool(sites) and sites[0].layout.of_tokens
            # Attention may carry evidence from anywhere to anywhere: the last layer's voxels then
            # say little about place, and relevance is followed back to where tokens enter.
            suits = of_tokens and self.first is None and self.survey.mixes_frames()
            # Without attention or tokens, relevance is gradient × map: best at the last layer.
            asked = self.first and bool(sites) and (of_tokens or self.survey.attended(sites[:1]))
            found = None
            if suits or asked:
                found = self._first_of_tokens(sites, replace(choice, weights=RELEVANCE))
            if found is None and model.input.pathways:
                found = self._last_of_pathways(sites, choice)
            elif found is None:
                found = self._last_in_place(sites, choice)
        if found is None and sites and all_heads_are_zero(model.network, self.survey.classes):
            # Some transformers begin with a head of zeros: nothing depends on anything.
            warnings.warn(
                "every head of the network is all zeros, and so will its tubes be", stacklevel=8
            )
            found = self._placed(replace(choice, sites=(sites[0],)))
        return found

    def _placed(self, choice: LayerChoice) -> LayerChoice:
        """Return a choice with its place proved, if it can be; tokens may begin anywhere."""
        return self.probe.placed(self.survey, choice, free=True)

    def _named(self, sites: list[Site], choice: LayerChoice) -> LayerChoice | None:
        """Return the layer that the user named, if the logits depend on it.

        It is that layer even if part of the logits goes around it, in a residual connection. Then
        relevance adds up to less than the logit, and the choice says so.
        """
        start = self._start(sites) if sites and self.first else None
        for some in _parts(sites, AT_ONCE):
            tried = some if start is None or start in some else [*some, start]
            dependence = self.probe.dependence(tried, choice)
            for site in dependence.reached(some):
                around = start is not None and site != start and dependence.bypassed(site)
                return self._placed(replace(choice, sites=(site,), bypassed=around))
        return None

    def _start(self, sites: list[Site]) -> Site:
        """Return the first layer with parameters, as a site that gradients can be taken at."""
        call = self.survey.first_with_parameters()
        return next((s for s in sites if s.call == call), Site(call, sites[0].layout))

    def _first_of_tokens(self, sites: list[Site], choice: LayerChoice) -> LayerChoice | None:
        """Return the first layer of tokens with a proved place that everything passes through.

        If blocks begin before there is one, it is the layer that makes tokens of the clip, the
        first one with parameters. If relevance was asked for, that may have other cells.
        """
        start = self._start(sites)
        tokens = [s for s in reversed(sites) if s.layout.of_tokens and s.call != start.call]
        tokens = tokens[:AT_ONCE]
        # One pass tells of all of them what passes through, and what does not.
        dependence = self.probe.dependence([*reversed(tokens), start], choice)
        tried: set[Site] = set()
        for site in self._passed_through(sites, tokens, dependence):
            if site in tried:
                continue
            tried.add(site)
            placed = self._placed(replace(choice, sites=(site,)))
            if placed.place is not None or not self.probe.place:
                return placed
        return None

    def _passed_through(
        self, sites: list[Site], tokens: list[Site], dependence: Dependence
    ) -> Iterator[Site]:
        """Yield the layers that everything passes through, the first one first.

        Each costs a backward pass, so a layer is looked at only if no earlier one will do.
        """
        reached = dependence.reached(tokens) if tokens else []
        start = [s for s in self.survey.start() if _cells(s) == _cells(sites[0])]
        bypassed = 0
        for site in tokens:
            # A normalisation within a block is bypassed by the block's residual connection: from
            # here on tokens are mixed.
            if dependence.bypassed(site):
                bypassed += 1
                # Blocks with other cells than the first ones: none of them will do. An embedding
                # of positions is bypassed, too.
                if not start and bypassed == BYPASSED:
                    break
                yield from start
            # Everything passes through the last normalisation, too, in the class token.
            elif site in reached:
                yield site
        if self.first:
            yield from self.survey.start()

    def _last_in_place(self, sites: list[Site], choice: LayerChoice) -> LayerChoice | None:
        """Return the last layer that the logits depend on and whose voxels lie in a known order.

        A sequence of tokens whose place cannot be proved is passed over for an earlier layer whose
        place can.
        """
        first: LayerChoice | None = None
        tried = 0
        for some in _parts(sites, AT_ONCE):
            dependence = self.probe.dependence(some, choice)
            reached = dependence.reached()
            for number, site in enumerate(reached):
                if self.probe.place and tried % PLACES_AT_ONCE == 1:
                    # The last layer fails: the same passes serve several earlier ones.
                    calls = [s.call for s in reached[number : number + PLACES_AT_ONCE]]
                    self.probe.disturb(calls, only=True)
                found = self._all_streams(replace(choice, sites=(site,)), dependence, reached)
                first = first or found
                tried += 1
                if found.place is not None or not found.guessed:
                    return found
                if not self.probe.place or tried == PLACES:
                    return first
        return first

    def _last_of_pathways(self, sites: list[Site], choice: LayerChoice) -> LayerChoice | None:
        """Return the last layer of each pathway that the input names.

        The second layer is the last one on which the logits depend when nothing passes through the
        first.
        """
        chosen: tuple[Site, ...] = ()
        for _ in self.probe.model.input.pathways:
            lengths = {site.layout.grid[0] for site in chosen}
            rest = [site for site in sites if site.layout.grid[0] not in lengths]
            for some in _parts(rest, AT_ONCE):
                reached = self.probe.dependence(some, choice, cut=chosen).reached()
                if reached:
                    chosen = (*chosen, reached[0])
                    break
        if not chosen:
            return None
        chosen = tuple(sorted(chosen, key=lambda site: site.layout.grid[0]))
        return self._placed(replace(choice, sites=chosen))

    def _all_streams(
        self, choice: LayerChoice, dependence: Dependence, reached: list[Site]
    ) -> LayerChoice:
        """Return a choice, its place proved, with the layers of the streams beside it."""
        joined = self._joined_calls(choice)
        if joined is not None:
            return joined
        alone = self._placed(choice)
        streams = dependence.streams(choice.sites[0], reached, STREAMS)
        if len(streams) == 1 or (self.probe.place and alone.place is None):
            return alone
        # An embedding of positions lies beside the clip, too. The clip does not change it.
        others = [self._placed(replace(choice, sites=(site,))) for site in streams[1:]]
        proved = [other for other in others if other.place is not None]
        scores = [each.place for each in (alone, *proved) if each.place is not None]
        sites = [site for each in reversed((alone, *proved)) for site in each.sites]
        return replace(alone, sites=tuple(sites), place=min(scores, default=None))

    def _joined_calls(self, choice: LayerChoice) -> LayerChoice | None:
        """Return a choice of all calls of a layer, if the layer is called on parts of the clip.

        Its calls may see one stretch of time after the other, or the whole clip each (two streams
        through one network). Warns if it is called several times on other grounds, crops or flips
        for example. Only one call is explained then: the first whose place is proved.
        """
        layer, number = choice.sites[0].call
        others = self.survey.earlier_calls(choice.sites[0])
        if number < 1 or not others:
            return None
        # Calls are parallel if the logits depend on an earlier one without passing the last one.
        if not self.probe.dependence(others, choice, cut=choice.sites).reached():
            return None
        for site in self.survey.all_calls(layer):
            joined = self.probe.placed(self.survey, replace(choice, sites=(site,)))
            if joined.place is not None:
                return joined
        singles = [
            self.probe.placed(self.survey, replace(choice, sites=(site,)))
            for site in (*others, *choice.sites)
        ]
        scores = [single.place for single in singles if single.place is not None]
        if len(scores) == len(singles) <= STREAMS:
            sites = tuple(single.sites[0] for single in singles)
            return replace(choice, sites=sites, place=min(scores))
        warnings.warn(
            f"layer {layer!r} is called {number + 1} times in one pass, not on one stretch of time "
            "after the other (crops or flips?): only one call is explained. Wrap the network so "
            "that it sees the clip once",
            stacklevel=11,
        )
        return next((single for single in singles if single.place is not None), None)


def _cells(site: Site) -> int:
    return math.prod(site.layout.grid)


def _parts(sites: Sequence[Site], count: int) -> Iterator[list[Site]]:
    """Yield `count` sites at a time."""
    for start in range(0, len(sites), count):
        yield list(sites[start : start + count])
