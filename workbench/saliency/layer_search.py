"""Layer search: which layer of a network is explained, through which head, proved by running it.

A layer whose pooled maps give the logits through a linear head is proved as a sum, see
`completeness`. If there is none, the last layer with a map on which the logits depend is explained
by gradients, see `dependence`. How time, height and width lie is proved for either, see `place`.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from tqdm.auto import tqdm

from ..models.hooks import EVERY, Call
from ..models.video_model import Pass, VideoModel
from .candidates import Choices, LayerChoice, Site, Survey
from .class_weights import join_calls
from .completeness import HeadProof, added_streams, check_head, linear_head_of, tolerance
from .dependence import Dependence
from .frame_answers import answers_before_activation
from .layer_outputs import LayerOutput, Recorder
from .layouts import Layout
from .linear_heads import all_heads_are_zero, before_activation
from .place import Response, best_reading, is_sequence, respond

__all__ = [
    "Choices",
    "LayerChoice",
    "Site",
    "choose_layers",
    "layers_with_place",
    "proved_head",
    "tolerance",
]
BYPASSED = 3  # layers that the logits depend on otherwise, after which relevance is given up
AT_ONCE = 24  # layers whose gradients one pass tries
PLACES = 16  # layers whose place is tried at most
PLACES_AT_ONCE = 4  # of them by the same passes, after the first
RELEVANCE = "relevance"
STREAMS = 4  # layers beside one another that are explained together at most


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
    weights: str | None = None,
) -> Choices:
    """Return what to explain of each output: what is remembered, or what a search finds.

    The search is repeated for another layer or head, for clips of another size if tokens lie
    differently in them, and for other weights unless a proof on the clip itself tells whether the
    choice still holds.

    Args:
        model: the network.
        x: an input (1, 3, T, H, W) to search with.
        again: search anew whatever is remembered.
        place: prove how time, height and width lie, too, by seven more passes.
        weights: the kind of weights that is asked for. "relevance" begins at the first layer of
            tokens, others from gradients at the last layer. None: the head's weights if they are
            proved, otherwise what suits the network.

    Raises:
        ValueError: no layer has a map to explain, or the given layer and head do not fit.
        KeyError: the given layer or head does not exist.
    """
    size = (x.shape[2], x.shape[3], x.shape[4])
    remembered = _REMEMBERED.setdefault(model, {})
    first = _first_layer(weights)
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


def _first_layer(weights: str | None) -> bool | None:
    return None if weights is None else weights == RELEVANCE


def layers_with_place(model: VideoModel, x: torch.Tensor, count: int) -> list[str]:
    """Return up to `count` earlier layers that the logits depend on and whose place is proved.

    Evenly spaced over the network's depth, the last one first; the default layer is left out.
    """
    search = _Search(model, x, place=True, first=False)
    with torch.inference_mode(False), torch.autocast(model.device.type, enabled=False):
        return search.earlier_layers(count)


def proved_head(model: VideoModel) -> str | None:
    """Return the dotted name of a head that was proved for a model's output, if any was."""
    for known in _REMEMBERED.get(model, {}).values():
        own = known.choices.get(model.output or "")
        for choice in known.choices.values() if own is None else (own,):
            if len(choice.heads) == 1:
                return choice.head
    return None


@dataclass
class _Search:
    """A search for the layer and the head of each output of a model: see `choose_layers`."""

    model: VideoModel
    x: torch.Tensor
    place: bool
    # Whether the first layer of tokens is wanted, or the last layer; None: what suits the network.
    first: bool | None
    bar: Any = field(default_factory=lambda: tqdm(disable=True), init=False)
    # What every layer gave in the first pass, and the outputs of that pass.
    seen: list[LayerOutput] = field(default_factory=list, init=False)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict, init=False)
    # Whether the network overwrites values that gradients need.
    overwrites: bool = field(default=False, init=False)
    # What layers gave for the disturbed clip.
    responses: dict[Call, Response] = field(default_factory=dict, init=False)
    # Whether a second pass has shown that the network repeats its answer, or does not.
    repeated: bool = field(default=False, init=False)

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
            return self._choices()

    def earlier_layers(self, count: int) -> list[str]:
        """Return up to `count` layers with a proved place; see `layers_with_place`."""
        name, choice = next(iter(self._choices().items()))
        survey = self._survey(len(self.outputs[name][0]))
        sites = [site for site in survey.sites() if site.call != choice.sites[-1].call]
        steps = max(1, len(sites) // (3 * count)) if count else 1
        found: list[str] = []
        for site in sites[::steps]:
            if len(found) == count:
                break
            placed = self._placed(
                survey, LayerChoice(name, (site,), None, choice.logits), free=True
            )
            if placed.place is not None and self._dependence([site], placed).reached():
                found.append(site.call.layer)
        return found

    def _choices(self) -> Choices:
        # One pass shows what every layer gives: its shape, and the means of its maps.
        clip = (self.x.shape[2], self.x.shape[3], self.x.shape[4])
        recorder = Recorder(self.model.network, clip, self.model.layer)
        passed = self._pass(observe=recorder)
        self.outputs = passed.outputs
        self.seen = recorder.outputs()
        check_head(self.model, [row.shape[1] for row in self.outputs.values()])
        choices: Choices = {}
        for name, row in self.outputs.items():
            # The head gives logits; a softmax or sigmoid after it hides them in an earlier layer.
            time_axis = None
            if name in passed.answers:
                answers, source, time_axis, independent = answers_before_activation(
                    self.seen, passed.answers[name][0]
                )
                logits = answers.mean(0)
            else:
                logits, source, independent = before_activation(self.seen, row[0].float())
            survey = self._survey(len(logits))
            choice = self._choice(survey, name, logits, source)
            if choice is not None:
                if self.place and choice.place is None:
                    choice = self._gently_placed(choice)
                mixed = choice.weights != RELEVANCE and choice.guessed and survey.mixes_frames()
                choices[name] = replace(
                    choice,
                    independent=independent,
                    time_axis=time_axis,
                    mixed=mixed,
                    overwrites=self.overwrites,
                )
        self._check_found(choices)
        if not self.repeated:
            self._pass()  # only to see whether the answer is the same
        return choices

    def _choice(
        self, survey: Survey, output: str, logits: torch.Tensor, source: Call | None
    ) -> LayerChoice | None:
        """Return what to explain of one output; None if no layer has a map."""
        # A layer that passes the completeness test is proved as a sum.
        exact = None if self.first else self._by_identity(survey, output, logits, source)
        if exact is not None and self._settled(exact):
            return exact
        # Otherwise, or if its voxels lie in no known order, the last layer with a map by which the
        # logits have a gradient.
        fallback = self._by_gradient(survey, output, source)
        if exact is None or (fallback is not None and fallback.place is not None):
            return fallback
        return exact

    def _survey(self, classes: int) -> Survey:
        clip = (self.x.shape[2], self.x.shape[3], self.x.shape[4])
        return Survey(self.model.network, self.seen, clip, classes, self.model.layer)

    # By identity

    def _by_identity(
        self, survey: Survey, output: str, logits: torch.Tensor, source: Call | None
    ) -> LayerChoice | None:
        """Return the last layer whose pooled maps give the logits through a linear head."""
        proof = linear_head_of(self.model, survey, logits)
        single = None
        if proof is not None:
            single = self._placed(survey, _choice_of(proof, output, source))
            if self._settled(single):
                return single
        # The mean over two views of the clip proves nothing about either view's place.
        streams = added_streams(self.model, survey, logits)
        if streams is None:
            return single
        choice = self._placed(survey, _choice_of(streams, output, source))
        # A mirrored or shuffled view of the clip is no stream of its own.
        return choice if choice.place is not None or not self.place else single

    def _settled(self, choice: LayerChoice) -> bool:
        """Return whether the layouts of a choice are proved, no guess, or not asked for."""
        return choice.place is not None or not choice.guessed or not self.place

    # By gradient

    def _by_gradient(self, survey: Survey, output: str, source: Call | None) -> LayerChoice | None:
        """Return the last layer with a map on which the logits depend."""
        sites = survey.sites()
        of_tokens = bool(sites) and sites[0].layout.of_tokens
        # Attention may carry evidence from anywhere to anywhere: the last layer's voxels then say
        # little about place, and relevance is followed back to where tokens enter.
        suits = self.first is None and self.model.layer is None and survey.mixes_frames()
        if of_tokens and (self.first or suits):
            choice = self._first_of_tokens(survey, sites, output, source)
            if choice is not None:
                return choice
        if self.model.layer is None and not self.model.input.pathways:
            choice = self._last_in_place(survey, sites, output, source)
        else:
            choice = self._last_of_pathways(survey, sites, output, source)
        if choice is None and sites and all_heads_are_zero(self.model.network, survey.classes):
            # Some transformers begin with a head of zeros: nothing depends on anything.
            warnings.warn(
                "every head of the network is all zeros, and so will its tubes be", stacklevel=7
            )
            choice = self._placed(survey, LayerChoice(output, (sites[0],), None, source), free=True)
        return choice

    def _first_of_tokens(
        self, survey: Survey, sites: list[Site], output: str, source: Call | None
    ) -> LayerChoice | None:
        """Return the first layer of tokens with a proved place that everything passes through.

        If blocks begin before there is one, it is the layer that makes tokens of the clip, the
        first one with parameters. If relevance was asked for, that may have other cells.
        """
        start = Site(survey.first_with_parameters(), sites[0].layout)
        tokens = [s for s in reversed(sites) if s.layout.of_tokens and s.call != start.call]
        tokens = tokens[:AT_ONCE]
        choice = LayerChoice(output, (), None, source, weights=RELEVANCE)
        # One pass tells of all of them what passes through, and what does not.
        dependence = self._dependence([*reversed(tokens), start], choice)
        tried: set[Site] = set()
        for site in self._passed_through(survey, sites, tokens, dependence):
            if site in tried:
                continue
            tried.add(site)
            placed = self._placed(survey, replace(choice, sites=(site,)), free=True)
            if placed.place is not None or not self.place:
                return placed
        return None

    def _passed_through(
        self, survey: Survey, sites: list[Site], tokens: list[Site], dependence: Dependence
    ) -> Iterator[Site]:
        """Yield the layers that everything passes through, the first one first.

        Each costs a backward pass, so a layer is looked at only if no earlier one will do.
        """
        reached = dependence.reached(tokens) if tokens else []
        start = [s for s in survey.start() if _cells(s) == _cells(sites[0])]
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
            yield from survey.start()

    def _last_in_place(
        self, survey: Survey, sites: list[Site], output: str, source: Call | None
    ) -> LayerChoice | None:
        """Return the last layer that the logits depend on and whose voxels lie in a known order.

        A sequence of tokens whose place cannot be proved is passed over for an earlier layer whose
        place can.
        """
        first: LayerChoice | None = None
        tried = 0
        for some in _parts(sites, AT_ONCE):
            dependence = self._dependence(some, LayerChoice(output, (), None, source))
            reached = dependence.reached()
            for number, site in enumerate(reached):
                if self.place and tried % PLACES_AT_ONCE == 1:
                    # The last layer fails: the same passes serve several earlier ones.
                    self.responses.clear()
                    self._disturb([s.call for s in reached[number : number + PLACES_AT_ONCE]])
                choice = LayerChoice(output, (site,), None, source)
                choice = self._all_streams(survey, choice, dependence, reached)
                first = first or choice
                tried += 1
                if choice.place is not None or not choice.guessed:
                    return choice
                if not self.place or tried == PLACES:
                    return first
        return first

    def _last_of_pathways(
        self, survey: Survey, sites: list[Site], output: str, source: Call | None
    ) -> LayerChoice | None:
        """Return the last layer of each pathway that the input names, or the layer that was named.

        The second layer is the last one on which the logits depend when nothing passes through the
        first.
        """
        chosen: tuple[Site, ...] = ()
        named = self.model.layer is not None
        for _ in range(1 if named else len(self.model.input.pathways)):
            lengths = {site.layout.grid[0] for site in chosen}
            rest = [site for site in sites if site.layout.grid[0] not in lengths]
            choice = LayerChoice(output, chosen, None, source)
            for some in _parts(rest, AT_ONCE):
                reached = self._dependence(some, choice, cut=chosen).reached()
                if reached:
                    chosen = (*chosen, reached[0])
                    break
        if not chosen:
            return None
        chosen = tuple(sorted(chosen, key=lambda site: site.layout.grid[0]))
        return self._placed(survey, LayerChoice(output, chosen, None, source), free=True)

    def _all_streams(
        self, survey: Survey, choice: LayerChoice, dependence: Dependence, reached: list[Site]
    ) -> LayerChoice:
        """Return a choice, its place proved, with the layers of the streams beside it."""
        joined = self._joined_calls(survey, choice)
        if joined is not None:
            return joined
        alone = self._placed(survey, choice, free=True)
        streams = dependence.streams(choice.sites[0], reached, STREAMS)
        if len(streams) == 1 or (self.place and alone.place is None):
            return alone
        # An embedding of positions lies beside the clip, too. The clip does not change it.
        others = [
            self._placed(survey, replace(choice, sites=(site,)), free=True) for site in streams[1:]
        ]
        proved = [other for other in others if other.place is not None]
        scores = [each.place for each in (alone, *proved) if each.place is not None]
        sites = [site for each in reversed((alone, *proved)) for site in each.sites]
        return replace(alone, sites=tuple(sites), place=min(scores, default=None))

    def _joined_calls(self, survey: Survey, choice: LayerChoice) -> LayerChoice | None:
        """Return a choice of all calls of a layer, if the layer is called on parts of the clip.

        Its calls may see one stretch of time after the other, or the whole clip each (two streams
        through one network). Warns if it is called several times on other grounds, crops or flips
        for example. Only one call is explained then: the first whose place is proved.
        """
        layer, number = choice.sites[0].call
        others = survey.earlier_calls(choice.sites[0])
        if number < 1 or not others:
            return None
        # Calls are parallel if the logits depend on an earlier one without passing the last one.
        if not self._dependence(others, choice, cut=choice.sites).reached():
            return None
        for site in survey.all_calls(layer):
            joined = self._placed(survey, replace(choice, sites=(site,)))
            if joined.place is not None:
                return joined
        singles = [
            self._placed(survey, replace(choice, sites=(site,)))
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
            stacklevel=9,
        )
        return next((single for single in singles if single.place is not None), None)

    def _dependence(
        self, sites: Sequence[Site], choice: LayerChoice, cut: tuple[Site, ...] = ()
    ) -> Dependence:
        dependence = Dependence.record(
            self._pass, sites, choice.output, choice.logits, cut, self.overwrites
        )
        self.overwrites = dependence.overwrites
        return dependence

    # Place

    def _placed(self, survey: Survey, choice: LayerChoice, *, free: bool = False) -> LayerChoice:
        """Return a choice with its layouts proved by disturbing the input.

        If another reading of the same voxels is the proved one, it takes the place of the guess.
        With `free` the tokens may also begin or end elsewhere, which changes their mean.
        """
        if not self.place:
            return choice
        self._disturb([site.call for site in choice.sites])
        readings = [survey.other_readings(site, free=free) for site in choice.sites]
        return self._read(choice, self.responses, readings)

    def _gently_placed(self, choice: LayerChoice) -> LayerChoice:
        """Return a choice with its place proved by patches laid over the clip, if they prove it.

        A trained network that is shown noise, as in no clip it knows, may answer with all of its
        map. Only the layouts that were chosen are tried.
        """
        calls = [site.call for site in choice.sites]
        responses = respond(lambda x: self._taken(x, calls), self.x, gently=True)
        return self._read(choice, responses, [()] * len(choice.sites))

    def _read(
        self,
        choice: LayerChoice,
        responses: Mapping[Call, Response],
        readings: Sequence[Sequence[Layout]],
    ) -> LayerChoice:
        """Return a choice with the best readings of its layers, and their place if all prove it."""
        sites, proved = [], []
        for site, others in zip(choice.sites, readings):
            response = responses[site.call]
            layout, score = best_reading(response, site.layout, others)
            sites.append(replace(site, layout=layout))
            if score is not None and not is_sequence(response, layout, self.x.shape[2]):
                proved.append(score)
        place = min(proved) if len(proved) == len(sites) else None
        return replace(choice, sites=tuple(sites), place=place)

    def _disturb(self, calls: Sequence[Call]) -> None:
        """Find out what some layers give for the disturbed clip: seven passes for all of them."""
        missing = [call for call in calls if call not in self.responses]
        if missing:
            self.responses |= respond(lambda x: self._taken(x, missing), self.x)

    def _taken(self, x: torch.Tensor, calls: list[Call]) -> dict[Call, torch.Tensor]:
        """Return what layers give for an input."""
        passed = self._pass(calls, x=x)
        return {call: join_calls(passed.taken[call]) for call in calls}

    # Passes and checks

    def _pass(self, *args: Any, x: torch.Tensor | None = None, **options: Any) -> Pass:
        """Run the network on the clip, or on another input."""
        self.bar.update()
        options = {"measure": False, **options}
        passed = self.model.run(self.x if x is None else x, *args, **options)
        if self.outputs and not self.repeated and (x is None or x is self.x):
            self.repeated = True
            self._check_repeatable(passed.outputs)
        return passed

    def _check_repeatable(self, outputs: dict[str, torch.Tensor]) -> None:
        """Warn if a second pass on the same clip gives other outputs."""
        for name, again in outputs.items():
            first = self.outputs[name]
            again = again.detach()
            if not torch.allclose(first, again, rtol=1e-2, atol=1e-2 * float(first.abs().max())):
                warnings.warn(
                    "the network gives another answer for the same clip each time (dropout that "
                    "is active in eval mode?): its explanation is one of many",
                    stacklevel=7,
                )

    def _check_found(self, choices: Choices) -> None:
        """Raise ValueError if nothing was found, or nothing with the head that was named."""
        layer, head = self.model.layer, self.model.head
        if head is not None and not any(head in choice.heads for choice in choices.values()):
            where = "" if layer is None else f" {layer!r}"
            raise ValueError(
                f"no layer{where} whose pooled maps give the logits through {head!r}. "
                "Leave out head= for weights from gradients"
            )
        if choices:
            return
        names = list(dict.fromkeys(s.call.layer for s in reversed(self.seen) if s.means))[:5]
        what = "no layer has" if layer is None else f"layer {layer!r} has not"
        raise ValueError(
            f"{what} a spatio-temporal map on which the logits depend: an output "
            "(1, C, T', H', W'), or one that can be rearranged to it. "
            f"{self._remedy(names)}"
        )

    def _remedy(self, names: list[str]) -> str:
        """Return what to do if no layer can be explained, of some that have a map."""
        hidden = [n for n in names if n in self.model.layers_without_gradients(self.x)]
        if hidden:
            return (
                f"The network runs {', '.join(hidden)} under torch.no_grad() or inference mode, "
                "so there are no gradients, and no linear head proves a layer without them. "
                "Remove no_grad from its forward"
            )
        views = [s for s in self.seen if len(s.shape) == 5 and s.shape[0] > 1]
        if views and not names:
            return (
                f"Layer {views[-1].call.layer!r} sees a batch of {views[-1].shape[0]} for one clip "
                "(crops or flips?): wrap what is called on one of them"
            )
        there = f"; there are {', '.join(names)}" if names else ""
        return f"Give layer= one that has{there}"


def _cells(site: Site) -> int:
    return math.prod(site.layout.grid)


def _choice_of(proof: HeadProof, output: str, source: Call | None) -> LayerChoice:
    return LayerChoice(output, proof.sites, proof.head, source, proof.norm, proof.share)


def _parts(sites: Sequence[Site], count: int) -> Iterator[list[Site]]:
    """Yield `count` sites at a time."""
    for start in range(0, len(sites), count):
        yield list(sites[start : start + count])


def _weight_state(model: VideoModel) -> int:
    """Return a number that changes when weights are replaced or written to."""
    parameters = (each for each in model.network.parameters() if not each.is_inference())
    return hash(tuple((id(each), each._version) for each in parameters))
