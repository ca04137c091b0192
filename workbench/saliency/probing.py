"""Probing: the passes that a search runs on one clip, and what they prove of a choice of layers.

Gradients of a recorded pass say on which layers the logits depend, see `dependence`. The clip with
one half disturbed says how time, height and width lie in a layer's output, see `place`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..models.hooks import Call
from ..models.video_model import Pass, VideoModel
from .candidates import LayerChoice, Site, Survey
from .class_weights import join_calls
from .dependence import Dependence
from .layer_outputs import LayerOutput, Recorder
from .layouts import Grid, Layout
from .place import Response, best_reading, is_sequence, respond

__all__ = ["Probe"]


@dataclass
class Probe:
    """One clip, the passes that a search runs on it, and what they have shown so far.

    Attributes:
        model: the network.
        x: the clip, (1, C, T, H, W).
        place: prove how time, height and width lie; otherwise layouts stay as guessed.
        bar: counts the passes.
        seen: what every layer gave in the first pass.
        outputs: the outputs of the first pass.
        overwrites: the network overwrites values that gradients need.
        repeated: a second pass has shown whether the network repeats its answer.
    """

    model: VideoModel
    x: torch.Tensor
    place: bool
    bar: Any
    seen: list[LayerOutput] = field(default_factory=list, init=False)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict, init=False)
    overwrites: bool = field(default=False, init=False)
    repeated: bool = field(default=False, init=False)
    # What layers gave for the disturbed clip.
    _responses: dict[Call, Response] = field(default_factory=dict, init=False)

    @property
    def _size(self) -> Grid:
        """(T, H, W) of the clip."""
        _, _, time, height, width = self.x.shape
        return time, height, width

    def look(self) -> Pass:
        """Run the first pass, which shows what every layer gives."""
        recorder = Recorder(self.model.network, self._size, self.model.layer)
        passed = self.run(observe=recorder, within=recorder.watch)
        self.outputs = passed.outputs
        self.seen = recorder.outputs()
        return passed

    def survey(self, classes: int) -> Survey:
        """Return what the first pass showed, with a view to an output of so many classes."""
        return Survey(self.model.network, self.seen, self._size, classes, self.model.layer)

    def dependence(
        self, sites: Sequence[Site], choice: LayerChoice, cut: tuple[Site, ...] = ()
    ) -> Dependence:
        """Record a pass through some layers, the last one first; see `Dependence.record`."""
        dependence = Dependence.record(
            self.run, sites, choice.output, choice.logits, cut, self.overwrites
        )
        self.overwrites = dependence.overwrites
        return dependence

    # Place

    def placed(self, survey: Survey, choice: LayerChoice, *, free: bool = False) -> LayerChoice:
        """Return a choice with its layouts proved by disturbing the input.

        If another reading of the same voxels is the proved one, it takes the place of the guess.
        With `free` the tokens may also begin or end elsewhere, which changes their mean.
        """
        if not self.place:
            return choice
        self.disturb([site.call for site in choice.sites])
        readings = [survey.other_readings(site, free=free) for site in choice.sites]
        return self._read(choice, self._responses, readings)

    def gently_placed(self, choice: LayerChoice) -> LayerChoice:
        """Return a choice with its place proved by patches laid over the clip, if they prove it.

        A trained network that is shown noise, as in no clip it knows, may answer with all of its
        map. Only the layouts that were chosen are tried.
        """
        calls = [site.call for site in choice.sites]
        plain = {call: self._responses[call].plain for call in calls if call in self._responses}
        responses = respond(
            lambda x: self._taken(x, calls),
            self.x,
            gently=True,
            plain=plain if len(plain) == len(calls) else None,
        )
        return self._read(choice, responses, [()] * len(choice.sites))

    def disturb(self, calls: Sequence[Call], *, only: bool = False) -> None:
        """Find out what some layers give for the disturbed clip: seven passes for all of them.

        With `only`, what other layers gave is forgotten, which frees memory.
        """
        if only:
            self._responses.clear()
        missing = [call for call in calls if call not in self._responses]
        if missing:
            self._responses |= respond(lambda x: self._taken(x, missing), self.x)

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

    def _taken(self, x: torch.Tensor, calls: list[Call]) -> dict[Call, torch.Tensor]:
        """Return what layers give for an input."""
        passed = self.run(calls, x=x)
        return {call: join_calls(passed.taken[call]) for call in calls}

    # Passes

    def run(self, *args: Any, x: torch.Tensor | None = None, **options: Any) -> Pass:
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
                    stacklevel=8,
                )
