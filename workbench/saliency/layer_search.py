"""Layer search: which layer of a network is explained, through which head, proved by running it.

If a network ends in average pooling and a linear layer, the mean over (T', H', W') of
Σ_j y_ij a_j plus the bias *is* logit i. A layer that passes this completeness test is the right
one, and its channel axis is known. If no layer passes, the search falls back to the last layer with a
spatio-temporal map that the logits depend on, and weights come from gradients.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import nn
from tqdm.auto import tqdm

from ..models.hooks import EVERY, Call
from ..models.outputs import are_probabilities
from ..models.video_model import Pass, VideoModel, find_module
from .layer_outputs import LayerOutput, Recorder
from .layouts import Layout

__all__ = [
    "Head",
    "LayerChoice",
    "Site",
    "choose_layers",
    "linear_head",
    "proved_head",
    "residual",
    "tolerance",
]

TOLERANCE = 1e-4  # of the largest logit: what the completeness test may miss by
HALF_TOLERANCE = 0.03  # the same in half precision
HALVES = (torch.float16, torch.bfloat16)
COARSER = 8  # by this factor and more, a pooled map is no stand-in for the one before
AT_ONCE = 24  # layers whose gradients one pass tries


@dataclass(frozen=True)
class Head:
    """A linear head: logits = weight @ features + bias."""

    weight: torch.Tensor  # (N, C)
    bias: torch.Tensor  # (N,)


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
    """

    output: str
    sites: tuple[Site, ...]
    head: str | None
    logits: Call | None = None

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


def choose_layers(model: VideoModel, x: torch.Tensor, *, again: bool = False) -> Choices:
    """Return what to explain of each output: what is remembered, or what a search finds.

    The search is repeated for another layer or head, for clips of another size if tokens lie
    differently in them, and for other weights unless a proof on the clip itself tells whether the
    choice still holds.

    Args:
        model: the network.
        x: an input (1, 3, T, H, W) to search with.
        again: search anew whatever is remembered.

    Raises:
        ValueError: no layer has a map to explain, or the given layer and head do not fit.
        KeyError: the given layer or head does not exist.
    """
    size = (x.shape[2], x.shape[3], x.shape[4])
    remembered = _REMEMBERED.setdefault(model, {})
    for key in ((model.layer, model.head, size), (model.layer, model.head, None)):
        known = remembered.get(key)
        if known is None or again:
            continue
        proved = all(choice.head is not None for choice in known.choices.values())
        if proved or known.state == _weight_state(model):
            return known.choices
    choices = _Search(model, x).run()
    sites = [site for choice in choices.values() for site in choice.sites]
    sized = any(site.layout.of_tokens or site.call.number == EVERY for site in sites)
    remembered[model.layer, model.head, size if sized else None] = _Remembered(
        choices, _weight_state(model)
    )
    return choices


def proved_head(model: VideoModel) -> str | None:
    """Return the dotted name of a head that was proved for a model, if any was."""
    for known in _REMEMBERED.get(model, {}).values():
        for choice in known.choices.values():
            if choice.head is not None:
                return choice.head
    return None


def tolerance(model: VideoModel) -> float:
    """Return what the completeness test may miss by, as a share of the largest logit."""
    half = any(parameter.dtype in HALVES for parameter in model.network.parameters())
    return HALF_TOLERANCE if half or model.precision is not None else TOLERANCE


def linear_head(part: nn.Module) -> Head | None:
    """Return weights and bias of a linear layer or 1×1(×1) convolution; None for another module."""
    if isinstance(part, (nn.Conv2d, nn.Conv3d)):
        if math.prod(part.kernel_size) != 1 or part.groups != 1:
            return None
        weight = part.weight.flatten(1)
    elif isinstance(part, nn.Linear):
        weight = part.weight
    else:
        return None
    weight = weight.detach().float()
    bias = weight.new_zeros(len(weight)) if part.bias is None else part.bias.detach().float()
    return Head(weight, bias)


def residual(means: torch.Tensor, head: Head, logits: torch.Tensor) -> float:
    """Return how far Σ_j y_ij mean(a_j) + bias_i is from the logits.

    `means` is (C,), `logits` (N,). The largest difference, as a share of the largest |logit|.
    """
    rebuilt = head.weight @ means + head.bias
    miss = (rebuilt - logits).abs().max()
    scale = logits.abs().max()
    return float(miss / scale) if scale > 0 else float(miss)


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
    seen: list[LayerOutput] = field(default_factory=list)
    # Layers that are a possible head of the current output, or hold one.
    head_parts: frozenset[str] = frozenset()
    bar: Any = field(default=None, init=False)

    def run(self) -> Choices:
        """Search with a progress bar, which shows when the search takes over two seconds."""
        with tqdm(
            desc="First clip: finding the layer to explain", unit=" passes", delay=2, leave=False
        ) as self.bar:
            return self._run()

    def _run(self) -> Choices:
        # One pass shows what every layer gives: shape, and the means of its maps.
        recorder = Recorder(self.model.network, tuple(self.x.shape[2:]))  # type: ignore[arg-type]
        outputs = self._pass(observe=recorder).outputs
        self.seen = recorder.outputs()
        self._check_head([row.shape[1] for row in outputs.values()])
        choices: Choices = {}
        for name, row in outputs.items():
            # The head gives logits; a softmax after it hides them in an earlier layer.
            logits, source = _before_softmax(self.seen, row[0].float())
            self.head_parts = _head_parts(self.model.network, len(logits))
            # A layer that passes the completeness test is proved.
            choice = self._by_identity(name, logits, source)
            if choice is None:
                # Otherwise the last layer with a map by which the logits have a gradient.
                choice = self._by_gradient(name, len(logits), source)
            if choice is not None:
                choices[name] = choice
        self._check_found(choices)
        return choices

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
        heads = _heads(network, self.model.head, classes) or _heads(network, None, classes)
        allowed = tolerance(self.model)
        for name, head in reversed(heads.items()):
            if (logits - head.bias).abs().max() <= 10 * TOLERANCE * logits.abs().max():
                continue  # a head of zeros would prove every layer
            sites = _fitting(candidates, head, logits, allowed)
            sites = sites or _fitting_pair(candidates, head, logits, allowed)
            if sites:
                return LayerChoice(output, sites, name, source)
        return None

    def _by_gradient(self, output: str, classes: int, source: Call | None) -> LayerChoice | None:
        """Return the last layer with a map on which the logits depend.

        For a network of two pathways, also the last layer on which they depend when nothing passes
        through the first.
        """
        sites = self._candidate_sites()
        chosen: tuple[Site, ...] = ()
        one_layer = self.model.layer is not None
        for _ in range(1 if one_layer else len(self.model.input.pathways) or 1):
            lengths = {site.layout.grid[0] for site in chosen}
            rest = (site for site in sites if site.layout.grid[0] not in lengths)
            while some := list(islice(rest, AT_ONCE)):
                site = self._last_with_gradient(some, output, source, chosen)
                if site is not None:
                    chosen = (*chosen, site)
                    break
        if not chosen and self._all_heads_are_zero(classes):
            # Some transformers begin with a head of zeros: nothing depends on anything.
            warnings.warn(
                "every head of the network is all zeros, and so will its tubes be", stacklevel=6
            )
            chosen = tuple(sites[:1])
        chosen = tuple(sorted(chosen, key=lambda site: site.layout.grid[0]))
        return LayerChoice(output, chosen, None, source) if chosen else None

    def _candidate_sites(self) -> list[Site]:
        """Return the layers whose maps may be explained by gradients, the last one first."""
        layer = self.model.layer
        seen = [s for s in reversed(self.seen) if s.means and layer in (None, s.call.layer)]
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
        # Keep only layers as wide as the last one: not the queries, keys and values in one tensor,
        # nor the inside of an MLP.
        width = seen[0].shape[-1]
        wide = [site for site, s in zip(sites, seen) if s.shape[-1] == width]
        return [site for site in wide if site.layout.of_tokens]

    def _last_with_gradient(
        self, sites: list[Site], output: str, source: Call | None, cut: tuple[Site, ...]
    ) -> Site | None:
        """Return the first of some layers, listed from the last one, by which the logits vary.

        The head of a class token leaves the other tokens of the last layers without a gradient. No
        gradient flows through the layers in `cut`.
        """
        calls = [site.call for site in sites]
        ends = [site.call for site in cut]
        wanted = [*calls, *ends, *([] if source is None else [source])]
        passed = self._pass(wanted, gradients_from=(calls[-1], *ends))
        logits = passed.outputs[output] if source is None else passed.taken[source][-1]
        if not logits.requires_grad:
            return None
        # A random mixture of the logits has a gradient wherever any of them has.
        generator = torch.Generator().manual_seed(0)
        mix = torch.randn(logits.numel(), generator=generator).to(logits.device)
        reached = [(s, maps) for s in sites for maps in passed.taken[s.call] if maps.requires_grad]
        with torch.enable_grad():
            mixed = (logits.flatten().float() * mix).sum()
        inputs = [maps for _, maps in reached]
        gradients = torch.autograd.grad(mixed, inputs, allow_unused=True)
        for (site, _), gradient in zip(reached, gradients):
            if gradient is not None and bool(_without_lead(site, gradient).any()):
                return site
        return None

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
        heads = _heads(self.model.network, None, classes).values()
        return not any(bool(head.weight.any()) for head in heads)

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


def _before_softmax(seen: list[LayerOutput], row: torch.Tensor) -> tuple[torch.Tensor, Call | None]:
    """Return the logits (N,) behind an output, and the layer that gave them if it is another.

    If the output is probabilities, or their logarithms, and no layer gave their logits, the
    logarithms serve as logits.
    """
    logarithms = not are_probabilities(row)
    if logarithms and not are_probabilities(row.exp()):
        return row, None
    probabilities = row.exp() if logarithms else row
    for each in reversed(seen):
        if each.small is None or each.small.numel() != len(row):
            continue
        values = each.small.flatten().float()
        same = torch.allclose(values.softmax(0), probabilities, atol=1e-6, rtol=1e-3)
        if same and not torch.equal(values, row):
            return values, each.call
    return row if logarithms else row.clamp(min=1e-30).log(), None


def _without_lead(site: Site, gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient without that by class tokens."""
    return gradient[:, site.layout.lead :] if site.layout.of_tokens else gradient


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


def _pairs(candidates: list[_Candidate], width: int) -> Iterator[tuple[_Candidate, _Candidate]]:
    """Yield pairs of layers, in both orders, that have `width` channels together."""
    for one, two in combinations(candidates, 2):
        lengths_differ = one.site.layout.grid[0] != two.site.layout.grid[0]
        if len(one.mean) + len(two.mean) == width and lengths_differ:
            yield one, two
            yield two, one


def _heads(network: nn.Module, name: str | None, classes: int) -> dict[str, Head]:
    """Return every linear layer with `classes` outputs by dotted name, or only the one named."""
    if name is not None:
        parts = {name: find_module(network, name)}
    else:
        parts = dict(network.named_modules())
    heads = {part_name: linear_head(part) for part_name, part in parts.items()}
    return {n: head for n, head in heads.items() if head and len(head.weight) == classes}


def _head_parts(network: nn.Module, classes: int) -> frozenset[str]:
    """Return the names of the layers that are, or hold, a linear layer with `classes` outputs."""
    paths = [name.split(".") for name in _heads(network, None, classes)]
    return frozenset(".".join(path[:n]) for path in paths for n in range(1, len(path) + 1))
