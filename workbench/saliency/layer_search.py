"""Layer search: which layer of a network is explained, through which head, proved by running it.

A layer whose pooled maps give the logits through a linear head is proved as a sum, see
`completeness`. If there is none, the network is explained by gradients, see `gradient_search`. How
time, height and width lie is proved for either, see `place`. What was found is remembered.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from tqdm.auto import tqdm

from ..models.hooks import EVERY, Call
from ..models.video_model import VideoModel
from .candidates import Choices, LayerChoice, Site, Survey
from .completeness import HeadProof, added_streams, check_head, linear_head_of, tolerance
from .frame_answers import answers_before_activation
from .gradient_search import RELEVANCE, GradientSearch
from .linear_heads import before_activation
from .probing import Probe

__all__ = [
    "Choices",
    "LayerChoice",
    "Site",
    "choose_layers",
    "layers_with_place",
    "proved_head",
    "tolerance",
]


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
    with _bar() as bar:
        choices = _Search(Probe(model, x, place, bar), first).choices()
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
    probe = Probe(model, x, place=True, bar=tqdm(disable=True))
    with torch.inference_mode(False), torch.autocast(model.device.type, enabled=False):
        return _Search(probe, first=False).earlier_layers(count)


def proved_head(model: VideoModel) -> str | None:
    """Return the dotted name of a head that was proved for a model's output, if any was."""
    for known in _REMEMBERED.get(model, {}).values():
        own = known.choices.get(model.output or "")
        for choice in known.choices.values() if own is None else (own,):
            if len(choice.heads) == 1:
                return choice.head
    return None


@dataclass(frozen=True)
class _Search:
    """A search for the layer and the head of each output of a model: see `choose_layers`.

    `first`: whether the first layer of tokens is wanted, or the last layer; None: what suits the
    network.
    """

    probe: Probe
    first: bool | None

    def choices(self) -> Choices:
        """Return what to explain of each output."""
        passed = self.probe.look()
        outputs = passed.outputs
        check_head(self.probe.model, [row.shape[1] for row in outputs.values()])
        choices: Choices = {}
        for name, row in outputs.items():
            # The head gives logits; a softmax or sigmoid after it hides them in an earlier layer.
            time_axis = None
            if name in passed.answers:
                answers, source, time_axis, independent = answers_before_activation(
                    self.probe.seen, passed.answers[name][0]
                )
                logits = answers.mean(0)
            else:
                logits, source, independent = before_activation(self.probe.seen, row[0].float())
            survey = self.probe.survey(len(logits))
            choice = self._choice(survey, name, logits, source)
            if choice is not None:
                choices[name] = replace(
                    choice,
                    independent=independent,
                    time_axis=time_axis,
                    mixed=choice.weights != RELEVANCE and survey.attended(choice.sites),
                    overwrites=self.probe.overwrites,
                )
        self._check_found(choices)
        if not self.probe.repeated:
            self.probe.run()  # only to see whether the answer is the same
        return choices

    def earlier_layers(self, count: int) -> list[str]:
        """Return up to `count` layers with a proved place; see `layers_with_place`."""
        name, choice = next(iter(self.choices().items()))
        survey = self.probe.survey(len(self.probe.outputs[name][0]))
        sites = [site for site in survey.sites() if site.call != choice.sites[-1].call]
        steps = max(1, len(sites) // (3 * count)) if count else 1
        found: list[str] = []
        for site in sites[::steps]:
            if len(found) == count:
                break
            if self._in_place(survey, LayerChoice(name, (site,), None, choice.logits)):
                found.append(site.call.layer)
        return found

    def _in_place(self, survey: Survey, choice: LayerChoice) -> bool:
        """Return whether a layer's place is proved, and the logits depend on it."""
        placed = self.probe.placed(survey, choice, free=True)
        return placed.place is not None and bool(
            self.probe.dependence(placed.sites, placed).reached()
        )

    def _choice(
        self, survey: Survey, output: str, logits: torch.Tensor, source: Call | None
    ) -> LayerChoice | None:
        """Return what to explain of one output; None if no layer has a map."""
        # A layer that passes the completeness test is proved as a sum.
        choice = None if self.first else self._by_identity(survey, output, logits, source)
        if choice is None or not self._settled(choice):
            # Otherwise, or if its voxels lie in no known order, gradients decide.
            fallback = GradientSearch(self.probe, survey, self.first).layer_of(output, source)
            if choice is None or (fallback is not None and fallback.place is not None):
                choice = fallback
        if choice is not None and choice.place is None and self.probe.place:
            choice = self.probe.gently_placed(choice)
        return choice

    def _by_identity(
        self, survey: Survey, output: str, logits: torch.Tensor, source: Call | None
    ) -> LayerChoice | None:
        """Return the last layer whose pooled maps give the logits through a linear head."""
        proof = linear_head_of(self.probe.model, survey, logits)
        single = None
        if proof is not None:
            single = self.probe.placed(survey, _choice_of(proof, output, source))
            if self._settled(single):
                return single
        # The mean over two views of the clip proves nothing about either view's place.
        streams = added_streams(self.probe.model, survey, logits)
        if streams is None:
            return single
        choice = self.probe.placed(survey, _choice_of(streams, output, source))
        # A mirrored or shuffled view of the clip is no stream of its own.
        return choice if choice.place is not None or not self.probe.place else single

    def _settled(self, choice: LayerChoice) -> bool:
        """Return whether the layouts of a choice are proved, no guess, or not asked for."""
        return choice.place is not None or not choice.guessed or not self.probe.place

    def _check_found(self, choices: Choices) -> None:
        """Raise ValueError if nothing was found, or nothing with the head that was named."""
        layer, head = self.probe.model.layer, self.probe.model.head
        if head is not None and not any(head in choice.heads for choice in choices.values()):
            where = "" if layer is None else f" {layer!r}"
            raise ValueError(
                f"no layer{where} whose pooled maps give the logits through {head!r}. "
                "Leave out head= for weights from gradients"
            )
        if choices:
            return
        names = list(dict.fromkeys(s.call.layer for s in reversed(self.probe.seen) if s.means))[:5]
        what = "no layer has" if layer is None else f"layer {layer!r} has not"
        raise ValueError(
            f"{what} a spatio-temporal map on which the logits depend: an output "
            "(1, C, T', H', W'), or one that can be rearranged to it. "
            f"{self._remedy(names)}"
        )

    def _remedy(self, names: list[str]) -> str:
        """Return what to do if no layer can be explained, of some that have a map."""
        without = self.probe.model.layers_without_gradients(self.probe.x) if names else []
        hidden = [name for name in names if name in without]
        if hidden:
            return (
                f"The network runs {', '.join(hidden)} under torch.no_grad() or inference mode, "
                "so there are no gradients, and no linear head proves a layer without them. "
                "Remove no_grad from its forward"
            )
        views = [s for s in self.probe.seen if len(s.shape) == 5 and s.shape[0] > 1]
        if views and not names:
            return (
                f"Layer {views[-1].call.layer!r} sees a batch of {views[-1].shape[0]} for one clip "
                "(crops or flips?): wrap what is called on one of them"
            )
        there = f"; there are {', '.join(names)}" if names else ""
        return f"Give layer= one that has{there}"


def _choice_of(proof: HeadProof, output: str, source: Call | None) -> LayerChoice:
    return LayerChoice(output, proof.sites, proof.head, source, proof.norm, proof.share)


def _bar() -> Any:
    """Return a progress bar, which shows if the search takes over two seconds."""
    return tqdm(
        desc="First clip: finding the layer to explain",
        unit=" passes",
        delay=2,
        leave=False,
        # tqdm's own switch, which its bars for notebooks do not heed.
        disable=bool(os.environ.get("TQDM_DISABLE")),
    )


def _weight_state(model: VideoModel) -> int:
    """Return a number that changes when weights are replaced or written to."""
    parameters = (each for each in model.network.parameters() if not each.is_inference())
    return hash(tuple((id(each), each._version) for each in parameters))
