"""Layer search: which layer of a network is explained, through which head, proved by running it.

If a network ends in average pooling and a linear layer, the mean over (T', H', W') of
Σ_j y_ij a_j plus the bias *is* logit i. A layer that passes this completeness test is the right
one, and its channel axis is known. If no layer passes, the search falls back to the last layer
with a spatio-temporal map that the logits depend on, and weights come from gradients. How time,
height and width lie is proved separately, see `place`.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations, islice
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import nn
from tqdm.auto import tqdm

from ..models.hooks import EVERY, Call
from ..models.video_model import Pass, VideoModel, find_module
from .class_weights import join_calls
from .layer_outputs import LayerOutput, Recorder
from .layouts import Layout, rearrangements, without_lead
from .linear_heads import (
    Head,
    before_activation,
    head_parts,
    heads_of,
    held_norm,
    linear_head,
    norms_of,
    residual,
)
from .place import PROVED, best_reading, respond

__all__ = [
    "Choices",
    "LayerChoice",
    "Site",
    "choose_layers",
    "layers_with_place",
    "proved_head",
    "tolerance",
]

TOLERANCE = 1e-4  # of the largest logit: what the completeness test may miss by
# Through a LayerNorm: tighter, because a mean of norms over frames is nearly a norm of the mean.
NORM_TOLERANCE = 2e-6
HALF_TOLERANCE = 0.01  # the same in half precision
HALVES = (torch.float16, torch.bfloat16)
COARSER = 8  # by this factor and more, a pooled map is no stand-in for the one before
AT_ONCE = 24  # layers whose gradients one pass tries
PLACES = 16  # layers whose place is tried at most
TOUCHED = 0.1  # share of a map's voxels on which the logits have to depend


@dataclass(frozen=True)
class Site:
    """A layer's output in one forward pass, and what its axes are."""

    call: Call
    layout: Layout


@dataclass(frozen=True)
class LayerChoice:
    """What is explained of one output of a network.

    Attributes:
        output: name of the output.
        sites: the layer, or two layers if two pathways meet in the head.
        head: dotted name of the linear head that was proved; None: weights come from gradients.
        logits: the layer whose output, flattened, is the logits; None: the network's own output.
        norm: dotted name of a LayerNorm between pooling and head.
        place: score of the proof of place; None: not proved.
        independent: the output is a sigmoid for each class.
    """

    output: str
    sites: tuple[Site, ...]
    head: str | None
    logits: Call | None = None
    norm: str | None = None
    place: float | None = None
    independent: bool = False

    @property
    def layer(self) -> str:
        """The name of the layer; of two pathways, both."""
        return " + ".join(site.call.layer for site in self.sites)


Choices: TypeAlias = dict[str, LayerChoice]  # by the name of the output


@dataclass(frozen=True)
class _Remembered:
    """A search's result, and the state of the weights when it was found."""

    choices: Choices
    state: int


# What a search has found, by layer and head asked for and the input size it holds for.
_REMEMBERED: WeakKeyDictionary[VideoModel, dict[Any, _Remembered]] = WeakKeyDictionary()


def choose_layers(
    model: VideoModel,
    x: torch.Tensor,
    *,
    again: bool = False,
    place: bool = True,
    first: bool = False,
) -> Choices:
    """Return what to explain of each output: what is remembered, or what a search finds.

    The search is repeated for another layer or head, for clips of another size if tokens lie
    differently in them, and for other weights unless a proof on the clip itself tells whether the
    choice still holds.

    Args:
        model: the network.
        x: an input (1, 3, T, H, W) to search with.
        again: search anew whatever is remembered.
        place: prove how time, height and width lie, too, by six more passes.
        first: choose the first layer of tokens in place of the last layer that fits. Networks
            without tokens are not affected.

    Raises:
        ValueError: no layer has a map to explain, or the given layer and head do not fit.
        KeyError: the given layer or head does not exist.
    """
    size = (x.shape[2], x.shape[3], x.shape[4])
    remembered = _REMEMBERED.setdefault(model, {})
    asked = (model.layer, model.head, place, first)
    for key in ((*asked, size), (*asked, None)):
        known = remembered.get(key)
        if known is None or again:
            continue
        proved = all(choice.head is not None for choice in known.choices.values())
        if proved or known.state == _weight_state(model):
            return known.choices
    choices = _Search(model, x, place, first).run()
    sites = [site for choice in choices.values() for site in choice.sites]
    sized = any(site.layout.of_tokens or site.call.number == EVERY for site in sites)
    remembered[(*asked, size if sized else None)] = _Remembered(choices, _weight_state(model))
    return choices


def layers_with_place(model: VideoModel, x: torch.Tensor, count: int) -> list[str]:
    """Return up to `count` earlier layers that the logits depend on and whose place is proved.

    Evenly spaced over the network's depth, the last one first; the default layer is left out.
    """
    search = _Search(model, x, place=True, first=False)
    with torch.inference_mode(False), torch.autocast(model.device.type, enabled=False):
        return search.earlier_layers(count)


def proved_head(model: VideoModel) -> str | None:
    """Return the dotted name of a head that was proved for a model, if any was."""
    for known in _REMEMBERED.get(model, {}).values():
        for choice in known.choices.values():
            if choice.head is not None:
                return choice.head
    return None


def tolerance(model: VideoModel, *, norm: bool = False) -> float:
    """Return what the completeness test may miss by, as a share of the largest logit.

    `norm`: a LayerNorm stands between pooling and head.
    """
    half = any(parameter.dtype in HALVES for parameter in model.network.parameters())
    if half or model.precision is not None:
        return HALF_TOLERANCE
    return NORM_TOLERANCE if norm else TOLERANCE


@dataclass(frozen=True)
class _Candidate:
    """A layer's output with the mean (C,) of each of its maps."""

    site: Site
    mean: torch.Tensor


@dataclass
class _Search:
    """A search for the layer and the head of each output of a model: see `choose_layers`."""

    model: VideoModel
    x: torch.Tensor
    place: bool
    first: bool
    seen: list[LayerOutput] = field(default_factory=list)
    # Layers that are a possible head of the current output, or hold one.
    head_parts: frozenset[str] = frozenset()
    bar: Any = field(default=None, init=False)

    def run(self) -> Choices:
        """Search with a progress bar, which shows when the search takes over two seconds."""
        with tqdm(
            desc="First clip: finding the layer to explain",
            unit=" passes",
            delay=2,
            leave=False,
            # tqdm's own switch, which its bars for notebooks do not heed.
            disable=bool(os.environ.get("TQDM_DISABLE")),
        ) as self.bar:
            return self._run()

    def _run(self) -> Choices:
        # One pass shows what every layer gives: shape, and the means of its maps.
        recorder = Recorder(self.model.network, tuple(self.x.shape[2:]))  # type: ignore[arg-type]
        outputs = self._pass(observe=recorder).outputs
        self._check_repeatable(outputs)
        self.seen = recorder.outputs()
        self._check_head([row.shape[1] for row in outputs.values()])
        choices: Choices = {}
        for name, row in outputs.items():
            # The head gives logits; a softmax or sigmoid after it hides them in an earlier layer.
            logits, source, independent = before_activation(self.seen, row[0].float())
            self.head_parts = head_parts(self.model.network, len(logits))
            # A layer that passes the completeness test is proved as a sum.
            choice = None if self.first else self._by_identity(name, logits, source)
            if choice is None or (self._guessed(choice) and choice.place is None):
                # Otherwise, or if its voxels lie in no known order, the last layer with a map by
                # which the logits have a gradient.
                fallback = self._by_gradient(name, row[0], source)
                if fallback is not None and (choice is None or fallback.place is not None):
                    choice = fallback
            if choice is not None:
                choices[name] = replace(choice, independent=independent)
        self._check_found(choices)
        return choices

    def earlier_layers(self, count: int) -> list[str]:
        """Return up to `count` layers with a proved place; see `layers_with_place`."""
        self.bar = tqdm(disable=True)
        choices = self._run()
        name, choice = next(iter(choices.items()))
        default = choice.sites[-1].call
        sites = [site for site in self._candidate_sites() if site.call != default]
        steps = max(1, len(sites) // (3 * count)) if count else 1
        found: list[str] = []
        for site in sites[::steps]:
            if len(found) == count:
                break
            placed = self._placed(LayerChoice(name, (site,), None, choice.logits), free=True)
            if placed.place is not None and self._with_gradient([site], name, choice.logits, ()):
                found.append(site.call.layer)
        return found

    def _pass(self, *args: Any, **options: Any) -> Pass:
        self.bar.update()
        return self.model.run(self.x, *args, **options)

    def _by_identity(
        self, output: str, logits: torch.Tensor, source: Call | None
    ) -> LayerChoice | None:
        """Return the last layer whose pooled maps give the logits through a linear head."""
        layer = self.model.layer
        candidates = [
            _Candidate(Site(seen.call, layout), mean)
            for seen in reversed(self.seen)
            for layout, mean in seen.means.items()
            if seen.call.layer == layer or (layer is None and not self._collapsed(seen, layout))
        ]
        network, classes = self.model.network, len(logits)
        # A head that was named may be another output's.
        heads = heads_of(network, self.model.head, classes) or heads_of(network, None, classes)
        allowed = tolerance(self.model)
        for name, head in reversed(heads.items()):
            if (logits - head.bias).abs().max() <= 10 * TOLERANCE * logits.abs().max():
                continue  # a head of zeros would prove every layer
            sites = _fitting(candidates, head, logits, allowed)
            sites = sites or _fitting_pair(candidates, head, logits, allowed)
            if sites:
                return self._placed(LayerChoice(output, sites, name, source))
            # A LayerNorm may stand between pooling and head.
            strict = tolerance(self.model, norm=True)
            for norm_name, norm in norms_of(network, head.weight.shape[1]).items():
                site = _fitting_norm(candidates, head, norm, logits, strict)
                if site is not None:
                    return self._placed(LayerChoice(output, (site,), name, source, norm_name))
        return None

    def _by_gradient(
        self, output: str, row: torch.Tensor, source: Call | None
    ) -> LayerChoice | None:
        """Return the last layer with a map on which the logits depend.

        A sequence of tokens whose place cannot be proved is passed over for an earlier layer whose
        place can. For a network of two pathways, the second layer is the last one on which the
        logits depend when nothing passes through the first.
        """
        classes = len(row)
        sites = self._candidate_sites()
        if self.first and sites and sites[0].layout.of_tokens:
            return self._first_of_tokens(sites, output, source)
        if self.model.layer is None and not self.model.input.pathways:
            choice = self._last_in_place(sites, output, row, source)
            if choice is not None:
                return choice
        chosen: tuple[Site, ...] = ()
        one_layer = self.model.layer is not None
        for _ in range(1 if one_layer else len(self.model.input.pathways) or 1):
            lengths = {site.layout.grid[0] for site in chosen}
            rest = (site for site in sites if site.layout.grid[0] not in lengths)
            while some := list(islice(rest, AT_ONCE)):
                found = self._with_gradient(some, output, source, chosen)
                if found:
                    chosen = (*chosen, found[0])
                    break
        if not chosen and self._all_heads_are_zero(classes):
            # Some transformers begin with a head of zeros: nothing depends on anything.
            warnings.warn(
                "every head of the network is all zeros, and so will its tubes be", stacklevel=6
            )
            chosen = tuple(sites[:1])
        chosen = tuple(sorted(chosen, key=lambda site: site.layout.grid[0]))
        if not chosen:
            return None
        return self._placed(LayerChoice(output, chosen, None, source), free=True)

    def _first_of_tokens(
        self, sites: list[Site], output: str, source: Call | None
    ) -> LayerChoice | None:
        """Return the first layer of tokens with a proved place that everything passes through."""
        start = next(s for s in self.seen if s.has_parameters)
        before = Site(start.call, sites[0].layout)
        for site in reversed([each for each in sites if each.layout.of_tokens]):
            if site.call == start.call:
                continue
            # A normalisation within a block is bypassed by the block's residual connection. One
            # pass tells, and the proof of place takes seven.
            if self._with_gradient([before], output, source, (site,), anywhere=True):
                continue
            choice = self._placed(LayerChoice(output, (site,), None, source), free=True)
            if choice.place is not None or not self.place:
                return choice
        return None

    def _last_in_place(
        self, sites: list[Site], output: str, row: torch.Tensor, source: Call | None
    ) -> LayerChoice | None:
        """Return the last layer that the logits depend on and whose voxels lie in a known order."""
        rest = iter(sites)
        first: LayerChoice | None = None
        tried = 0
        while some := list(islice(rest, AT_ONCE)):
            for site in self._with_gradient(some, output, source, ()):
                choice = LayerChoice(output, (site,), None, source)
                choice = self._joined_calls(choice, source) or self._placed(choice, free=True)
                first = first or choice
                tried += 1
                if choice.place is not None or not self._guessed(choice):
                    return choice
                if not self.place or tried == PLACES:
                    return first
        return first

    def _joined_calls(self, choice: LayerChoice, source: Call | None) -> LayerChoice | None:
        """Return a choice of all calls of a layer, if they saw one stretch of time after the other.

        Warns if a layer is called several times on other grounds, crops or flips for example. Only
        one call is explained then: the first whose place is proved.
        """
        layer, number = choice.sites[0].call
        if number < 1:
            return None
        repeated = [s for s in self.seen if s.call == Call(layer, EVERY) and s.means]
        others = [Site(Call(layer, n), choice.sites[0].layout) for n in range(number)]
        same = {s.call for s in self.seen if s.call.layer == layer and s.means}
        others = [site for site in others if site.call in same]
        # Calls are parallel if the logits depend on an earlier one without passing the last one.
        parallel = others and self._with_gradient(others, choice.output, source, choice.sites)
        if not parallel:
            return None
        for seen in repeated:
            site = Site(seen.call, next(iter(seen.means)))
            joined = self._placed(replace(choice, sites=(site,)))
            if joined.place is not None:
                return joined
        warnings.warn(
            f"layer {layer!r} is called {number + 1} times in one pass, not on one stretch of time "
            "after the other (crops or flips?): only one call is explained. Wrap the network so "
            "that it sees the clip once",
            stacklevel=8,
        )
        for site in (*others, *choice.sites):
            single = self._placed(replace(choice, sites=(site,)))
            if single.place is not None:
                return single
        return None

    def _placed(self, choice: LayerChoice, *, free: bool = False) -> LayerChoice:
        """Return a choice with its layouts proved by disturbing the input.

        If another reading of the same voxels is the proved one, it takes the place of the guess.
        With `free` the tokens may also begin or end elsewhere, which changes their mean.
        """
        if not self.place:
            return choice
        sites, scores = [], []
        for site in choice.sites:
            response = respond(self._taken(site.call), self.x)
            layout, score = best_reading(response, site.layout, self._other_readings(site, free))
            sites.append(replace(site, layout=layout))
            scores.append(score)
        score = min(scores)
        return replace(choice, sites=tuple(sites), place=score if score >= PROVED else None)

    def _other_readings(self, site: Site, free: bool) -> list[Layout]:
        seen = next(s for s in self.seen if s.call == site.call)
        clip = (self.x.shape[2], self.x.shape[3], self.x.shape[4])
        layouts = [site.layout]
        if free:
            others = [each for each in seen.means if not each.rectified]
            ends = [end for each in [*others] if (end := without_lead(each)) is not None]
            layouts += [each for each in (*others, *ends) if each != site.layout]
        found = list(layouts[1:])
        for layout in layouts:
            if layout.calls == 1:
                found += rearrangements(layout, seen.shape, clip)
        return found

    def _taken(self, call: Call) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return a function from an input to what a layer gives for it."""

        def take(x: torch.Tensor) -> torch.Tensor:
            self.bar.update()
            return join_calls(self.model.run(x, [call]).taken[call])

        return take

    @staticmethod
    def _guessed(choice: LayerChoice) -> bool:
        """Return whether a layout is a guess: tokens do not say how they lie, nor do calls."""
        return any(s.layout.of_tokens or s.layout.calls > 1 for s in choice.sites)

    def _candidate_sites(self) -> list[Site]:
        """Return the layers whose maps may be explained by gradients, the last one first."""
        layer = self.model.layer
        repeated = [s for s in self.seen if s.means and next(iter(s.means)).calls > 1]
        seen = [
            s
            for s in reversed(self.seen)
            if s.means and layer in (None, s.call.layer) and s not in repeated
        ]
        if layer is None:
            # Leave out what a pool, and a head behind it, have left of the maps.
            finer = [
                s
                for s in seen
                if s.call.layer not in self.head_parts
                and not self._collapsed(s, next(iter(s.means)))
            ]
            seen = finer or seen
        sites = [Site(s.call, next(iter(s.means))) for s in seen]
        if layer is not None or not sites or not sites[0].layout.of_tokens:
            return sites
        # Of token layers keep only those as wide as the last one: not the queries, keys and values
        # in one tensor, nor the inside of an MLP.
        width = seen[0].shape[-1]
        return [
            site
            for site, s in zip(sites, seen)
            if not site.layout.of_tokens or s.shape[-1] == width
        ]

    def _with_gradient(
        self,
        sites: list[Site],
        output: str,
        source: Call | None,
        cut: tuple[Site, ...],
        *,
        anywhere: bool = False,
    ) -> list[Site]:
        """Return those of some layers, listed from the last one, by which the logits vary.

        The head of a class token leaves the other tokens of the last layers without a gradient. No
        gradient flows through the layers in `cut`. With `anywhere` any gradient counts, whatever
        the layout.
        """
        calls = [site.call for site in sites]
        ends = [site.call for site in cut]
        wanted = [*calls, *ends, *([] if source is None else [source])]
        passed = self._pass(wanted, gradients_from=(calls[-1], *ends))
        logits = passed.outputs[output] if source is None else passed.taken[source][-1]
        if not logits.requires_grad:
            return []
        # A random mixture of the logits has a gradient wherever any of them has.
        generator = torch.Generator().manual_seed(0)
        mix = torch.randn(logits.numel(), generator=generator).to(logits.device)
        reached = [(s, maps) for s in sites for maps in passed.taken[s.call] if maps.requires_grad]
        with torch.enable_grad():
            mixed = (logits.flatten().float() * mix).sum()
        inputs = [maps for _, maps in reached]
        gradients = torch.autograd.grad(mixed, inputs, allow_unused=True)
        by_site: dict[Site, list[torch.Tensor]] = {}
        for (site, maps), gradient in zip(reached, gradients):
            filled = torch.zeros_like(maps) if gradient is None else gradient
            by_site.setdefault(site, []).append(filled)
        if anywhere:
            return [s for s, parts in by_site.items() if any(bool(p.any()) for p in parts)]
        return [site for site, parts in by_site.items() if _varies(site, join_calls(parts))]

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

    def _all_heads_are_zero(self, classes: int) -> bool:
        heads = heads_of(self.model.network, None, classes).values()
        return not any(bool(head.weight.any()) for head in heads)

    def _check_repeatable(self, outputs: dict[str, torch.Tensor]) -> None:
        """Warn if a second pass on the same clip gives other outputs."""
        for name, again in self._pass().outputs.items():
            first = outputs[name]
            if not torch.allclose(first, again, rtol=1e-2, atol=1e-2 * float(first.abs().max())):
                warnings.warn(
                    "the network gives another answer for the same clip each time (dropout that "
                    "is active in eval mode?): its explanation is one of many",
                    stacklevel=6,
                )

    def _check_head(self, counts: list[int]) -> None:
        """Raise ValueError if the head that was named cannot be the head of any output."""
        name = self.model.head
        if name is None:
            return
        head = linear_head(find_module(self.model.network, name))
        if head is None:
            raise ValueError(f"head {name!r} is no linear layer or 1×1×1 convolution")
        if len(head.weight) not in counts:
            logits = " and ".join(map(str, counts))
            raise ValueError(
                f"head {name!r} has {len(head.weight)} outputs, and the logits are {logits}"
            )

    def _check_found(self, choices: Choices) -> None:
        """Raise ValueError if nothing was found, or nothing with the head that was named."""
        layer, head = self.model.layer, self.model.head
        if head is not None and not any(choice.head == head for choice in choices.values()):
            where = "" if layer is None else f" {layer!r}"
            raise ValueError(
                f"no layer{where} whose pooled maps give the logits through {head!r}. "
                "Leave out head= for weights from gradients"
            )
        if choices:
            return
        names = list(dict.fromkeys(s.call.layer for s in reversed(self.seen) if s.means))[:5]
        what = "no layer has" if layer is None else f"layer {layer!r} has not"
        there = f"; there are {', '.join(names)}" if names else ""
        raise ValueError(
            f"{what} a spatio-temporal map on which the logits depend: an output "
            "(1, C, T', H', W'), or one that can be rearranged to it. "
            f"Give layer= one that has{there}"
        )


def _weight_state(model: VideoModel) -> int:
    """Return a number that changes when weights are replaced or written to."""
    parameters = (each for each in model.network.parameters() if not each.is_inference())
    return hash(tuple((id(each), each._version) for each in parameters))


def _varies(site: Site, gradient: torch.Tensor) -> bool:
    """Return whether the logits depend on a map, and its class weights are more than rounding."""
    arranged = site.layout.arranged(gradient)[0].float()
    touched = arranged.abs().sum(0) > 0
    if not bool(touched.any()) or float(touched.float().mean()) < TOUCHED:
        return False
    # Attention scores before a softmax have gradients that add up to zero.
    sums = arranged.sum((1, 2, 3)).abs()
    sizes = arranged.abs().sum((1, 2, 3))
    return bool((sums > TOLERANCE * sizes).any())


def _fitting(
    candidates: list[_Candidate], head: Head, logits: torch.Tensor, allowed: float
) -> tuple[Site, ...]:
    """Return the first layer whose pooled maps give the logits through a head."""
    width = head.weight.shape[1]
    for candidate in candidates:
        if len(candidate.mean) == width and residual(candidate.mean, head, logits) <= allowed:
            return (candidate.site,)
    return ()


def _fitting_pair(
    candidates: list[_Candidate], head: Head, logits: torch.Tensor, allowed: float
) -> tuple[Site, ...]:
    """Return the first two layers whose pooled maps, concatenated, give the logits (SlowFast).

    The two are of different lengths in time.
    """
    for first, second in _pairs(candidates, head.weight.shape[1]):
        if residual(torch.cat([first.mean, second.mean]), head, logits) <= allowed:
            return first.site, second.site
    return ()


def _fitting_norm(
    candidates: Iterable[_Candidate],
    head: Head,
    norm: nn.LayerNorm,
    logits: torch.Tensor,
    allowed: float,
) -> Site | None:
    """Return the first layer whose pooled maps give the logits through a LayerNorm and a head."""
    width = head.weight.shape[1]
    for candidate in candidates:
        mean = candidate.mean
        if len(mean) == width and residual(mean, held_norm(head, norm, mean), logits) <= allowed:
            return candidate.site
    return None


def _pairs(candidates: list[_Candidate], width: int) -> Iterator[tuple[_Candidate, _Candidate]]:
    """Yield pairs of layers, in both orders, that have `width` channels together."""
    for one, two in combinations(candidates, 2):
        lengths_differ = one.site.layout.grid[0] != two.site.layout.grid[0]
        if len(one.mean) + len(two.mean) == width and lengths_differ:
            yield one, two
            yield two, one
