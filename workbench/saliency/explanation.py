"""Explanations: what is kept of one forward pass, and any Saliency Tube that follows from it."""

from __future__ import annotations

import difflib
import operator
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch

from ..clips.clip import Clip
from ..models.outputs import pick_output
from .class_weights import GradientWeights, HeadWeights, StoredWeights
from .frame_answers import FrameAnswers, Frames, answer_numbers
from .tubes import Tube, activation_map, upsample

__all__ = ["Explanation"]

Part: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # a map (T', H', W') and its channels (K,)


@dataclass(eq=False, repr=False)
class Explanation:
    """What a network answered for a clip, and all that is needed to say why.

    Attributes:
        logits: (N,) float32.
        maps: (C, T', H', W') float32 activation maps of the target layer, for each pathway.
        weighting: where the class weights come from, see `saliency.class_weights`.
        layer: dotted name of the target layer; of two pathways both, joined by " + ".
        clip: the clip as the network saw it; every tube has its size.
        classes: N class names.
        model: name of the model.
        output: which of the network's outputs this explains; `outputs` lists all of them.
        place: score of the proof that time, height and width lie as the maps say, 1 at best; None:
            not proved. See `saliency.place`.
        independent: the outputs are sigmoids, one for each class, in place of a softmax.
        per_frame: the answers over time, if the network gives several for a clip; then `logits` is
            their mean. None: one answer for the clip, or answers that were not stored.
    """

    logits: torch.Tensor
    maps: tuple[torch.Tensor, ...]
    weighting: HeadWeights | GradientWeights | StoredWeights
    layer: str
    clip: Clip
    classes: list[str]
    model: str = ""
    output: str = "logits"
    place: float | None = None
    independent: bool = False
    per_frame: FrameAnswers | None = None
    # All outputs of the same pass, this one among them.
    _siblings: dict[str, Explanation] = field(default_factory=dict)

    @property
    def activations(self) -> torch.Tensor:
        """(C, T', H', W') float32: the maps of the target layer.

        The maps of two pathways are concatenated, each repeated to the finer grid, which leaves
        their means as they are.
        """
        if len(self.maps) == 1:
            return self.maps[0]
        grid = [max(maps.shape[axis] for maps in self.maps) for axis in (1, 2, 3)]
        return torch.cat([_repeated(maps, grid) for maps in self.maps])

    @property
    def pathways(self) -> tuple[str, ...]:
        """The layer of each pathway; most networks have one."""
        return tuple(self.layer.split(" + "))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the network's outputs, `output` among them."""
        return tuple(self._siblings) or (self.output,)

    def select(self, output: str) -> Explanation:
        """Return the explanation of another output (nouns beside verbs), from the same pass.

        Raises:
            KeyError: no such output; the message lists them.
        """
        siblings = self._siblings or {self.output: self}
        # Siblings know no siblings of their own: no cycle keeps the tensors alive.
        return replace(siblings[pick_output(siblings, output)], _siblings=self._siblings)

    @property
    def probabilities(self) -> torch.Tensor:
        """(N,) softmax of the logits, or their sigmoid if the classes are independent."""
        return self._as_probabilities(self.logits)

    @property
    def answers(self) -> torch.Tensor | None:
        """(K, N) logits of each answer over time; None if there is one answer for the clip."""
        return None if self.per_frame is None else self.per_frame.logits

    @property
    def answer_times(self) -> np.ndarray | None:
        """(K,) seconds, when each answer over time is; None if there is one for the clip."""
        return None if self.per_frame is None else self.per_frame.times

    @property
    def answer_probabilities(self) -> torch.Tensor | None:
        """(K, N) probabilities of each answer over time, see `probabilities`."""
        return None if self.answers is None else self._as_probabilities(self.answers)

    @property
    def exact(self) -> bool:
        """Whether mean(tube before upsampling) + bias is the logit, for every class."""
        return self.weighting.exact

    @property
    def residual(self) -> float:
        """The largest violation of that identity, as a share of the largest |logit|.

        NaN if the weights come from gradients.
        """
        return self.weighting.residual

    @property
    def bias(self) -> torch.Tensor:
        """(N,) of the linear head; zeros if the weights come from gradients."""
        return self.weighting.bias

    @property
    def how(self) -> str:
        """In words: exact and how exact, or by which weights; and whether the place is proved."""
        return f"{self.weighting.how}, place {'unknown' if self.place is None else 'proved'}"

    @property
    def weights(self) -> torch.Tensor | None:
        """(N, C) class weights y; of gradient weights None until every class has been asked for."""
        return self.weighting.table()

    def class_weights(
        self, target: int | str | None = None, frame: Frames | None = None
    ) -> torch.Tensor:
        """Return (C,) the class weights y_i of one class; see `saliency.class_weights`.

        For an explanation made with weights="layer" there is one for each voxel: (C, T', H', W').
        So there is for single answers over time, see `tube`.
        """
        weights = self._weights(self.class_id(target, frame), frame)
        if weights[0].ndim > 1:
            grid = list(self.activations.shape[1:])
            weights = tuple(_repeated(each, grid) for each in weights)
        return torch.cat(list(weights))

    def channel_weights(
        self, target: int | str | None = None, frame: Frames | None = None
    ) -> torch.Tensor:
        """Return (C,) the weights that τ is compared with.

        They are the class weights; of weights for each voxel, the mean over a channel's voxels.
        """
        weights = self.class_weights(target, frame)
        return weights if weights.ndim == 1 else weights.flatten(1).mean(1)

    def class_id(self, target: int | str | None = None, frame: Frames | None = None) -> int:
        """Return the 0-based class id of a name, an id, or (None) of the predicted class.

        `frame`: the class that is predicted there, see `tube`.

        Raises:
            KeyError: no such name; the message lists the nearest.
            IndexError: an id beyond the classes.
            TypeError: neither a name nor a whole number.
        """
        if target is None:
            return int(self.logits_at(frame).argmax())
        if isinstance(target, str):
            if target not in self.classes:
                near = difflib.get_close_matches(target, self.classes, n=5, cutoff=0.4)
                listed = ", ".join(near or self.classes[:5])
                raise KeyError(f"no class {target!r} among {len(self.classes)}; near: {listed}")
            return self.classes.index(target)
        number = _whole_number(target, "class id")
        if not 0 <= number < len(self.classes):
            raise IndexError(
                f"class id {number}: the network has {len(self.classes)} classes, counted from 0"
            )
        return number

    def logits_at(self, frame: Frames | None = None) -> torch.Tensor:
        """Return (N,) the logits of one answer over time, or the sum over a stretch; see `tube`.

        None: the logits of the clip.

        Raises:
            IndexError, TypeError: no such answer.
            ValueError: the network gives one answer for the clip, or an empty stretch.
        """
        if frame is None:
            return self.logits
        answers = self._answers()
        return answers.logits[answer_numbers(frame, len(answers))].sum(0)

    def top(self, count: int = 5) -> pd.DataFrame:
        """Return the `count` most probable classes as a DataFrame: class, probability, logit."""
        order = self.logits.argsort(descending=True)[:count].cpu()
        return pd.DataFrame(
            {
                "class": [self.classes[i] for i in order.tolist()],
                "probability": self.probabilities.cpu()[order].numpy(),
                "logit": self.logits.cpu()[order].numpy(),
            }
        )

    def tube(
        self,
        target: int | str | None = None,
        tau: float | None = None,
        pathway: int | str | None = None,
        centred: bool = False,
        frame: Frames | None = None,
    ) -> Tube:
        """Return the Saliency Tube of a class: Eq. 1 and 2, then a cubic spline to the clip's size.

        Args:
            target: class name or 0-based id; None: the predicted class.
            tau: keep the features whose class weight is at least this; None keeps all.
            pathway: of a network with two pathways the one to show, by name or number; None: the
                sum of both.
            centred: put every cell of the map at the middle of its share of the clip. In the paper,
                the first and last cells lie on the clip's first and last frame and pixel, which
                moves evidence towards the edges by up to half a cell. On clips with a known answer
                centred tubes point more exactly (notebooks/faithfulness.ipynb).
            frame: of a network that answers over time, the number of the answer to explain, from 0,
                which is the frame's if there is an answer for each frame; `answer_times` says when
                each is. A slice, a range or (start, stop) explains the sum of these answers. None:
                the mean of all answers.

        Raises:
            KeyError, IndexError, TypeError: no such class, pathway or answer.
            ValueError: τ is not a finite number, or `frame` of a network with one answer for the
                clip.
        """
        number = self.class_id(target, frame)
        chosen = self._pathway_number(pathway)
        parts: list[Part] = []
        first_channel = 0
        for place, (maps, weights) in enumerate(zip(self.maps, self._weights(number, frame))):
            if chosen in (None, place):
                low, kept = activation_map(maps, weights, tau)
                parts.append((low, kept + first_channel))
            first_channel += len(maps)
        label = self.classes[number]
        return self._upsampled(parts, target=number, label=label, tau=tau, centred=centred)

    def feature_tube(self, channel: int) -> Tube:
        """Return one activation map at the clip's size: what one feature responds to (Fig. 1b).

        Raises:
            IndexError: the layer has no such channel.
            TypeError: not a whole number.
        """
        number = _whole_number(channel, "channel")
        count = sum(map(len, self.maps))
        if not 0 <= number < count:
            raise IndexError(
                f"channel {number}: layer {self.layer!r} has {count} channels, counted from 0"
            )
        place = number
        for maps in self.maps:
            if place < len(maps):
                break
            place -= len(maps)
        part = (maps[place], torch.tensor([number]))
        return self._upsampled([part], target=None, label=f"feature {number}", tau=None)

    def channels(
        self,
        target: int | str | None = None,
        top: int | None = 10,
        frame: Frames | None = None,
    ) -> pd.DataFrame:
        """Return the features that contribute most to a class, as a DataFrame.

        Columns: channel, weight y, mean activation over (T', H', W'), and their product, the
        contribution. If the explanation is exact, the contributions of all channels and the bias
        add up to the logit. The `top` largest contributions; None for all channels. `frame`: see
        `tube`.
        """
        weights = self.class_weights(target, frame)
        activations = self.activations
        spread = weights.view(len(weights), -1, 1, 1) if weights.ndim == 1 else weights
        table = pd.DataFrame(
            {
                "channel": np.arange(len(weights)),
                "weight": self.channel_weights(target, frame).cpu().numpy(),
                "mean activation": activations.mean((1, 2, 3)).cpu().numpy(),
                "contribution": (spread * activations).mean((1, 2, 3)).cpu().numpy(),
            }
        ).sort_values("contribution", ascending=False, ignore_index=True)
        return table if top is None else table.head(top)

    def _as_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.sigmoid() if self.independent else logits.softmax(-1)

    def _answers(self) -> FrameAnswers:
        if self.per_frame is None:
            raise ValueError(
                f"frame=: {self.model} gives one answer for the clip, or this explanation was "
                "stored without those over time. Leave out frame=, or explain the clip with its "
                "network; if an axis of its output counts time, say so by wrap_model(time_axis=)"
            )
        return self.per_frame

    def _weights(self, class_id: int, frame: Frames | None) -> tuple[torch.Tensor, ...]:
        """Return the class weights of each pathway, of the clip or of some answers over time."""
        if frame is None:
            return self.weighting.of(class_id)
        answers = self._answers()
        return answers.weighting.of(class_id, answer_numbers(frame, len(answers)))

    def _pathway_number(self, wanted: int | str | None) -> int | None:
        if wanted is None:
            return None
        if isinstance(wanted, str):
            if wanted not in self.pathways:
                raise KeyError(f"no pathway {wanted!r}; there are {', '.join(self.pathways)}")
            return self.pathways.index(wanted)
        number = _whole_number(wanted, "pathway")
        if not 0 <= number < len(self.maps):
            raise IndexError(f"pathway {number}: the network has {len(self.maps)}, counted from 0")
        return number

    def _upsampled(
        self,
        parts: list[Part],
        *,
        target: int | None,
        label: str,
        tau: float | None,
        centred: bool = False,
    ) -> Tube:
        """Return the tube of one part, or the sum of several."""
        size = (len(self.clip), *self.clip.size)
        volume = reduce(torch.add, (upsample(low, size, centred) for low, _ in parts))
        grid = [max(low.shape[axis] for low, _ in parts) for axis in range(3)]
        low = torch.cat([_repeated(low[None], grid) for low, _ in parts]).sum(0)
        return Tube(
            volume=volume.cpu().numpy(),
            target=target,
            label=label,
            tau=None if tau is None else float(tau),
            channels=torch.cat([kept for _, kept in parts]).cpu().numpy(),
            features=sum(map(len, self.maps)),
            map=low.float().cpu().numpy(),
            times=self.clip.times,
        )

    def __repr__(self) -> str:
        best = self.class_id()
        sizes = " + ".join(
            f"{len(maps)} maps of {'×'.join(map(str, maps.shape[1:]))}" for maps in self.maps
        )
        over_time = "" if self.per_frame is None else f"{len(self.per_frame)} answers over time, "
        return (
            f"<Explanation by {self.model}: {self.classes[best]!r} at "
            f"{float(self.probabilities[best]):.1%}, {over_time}{sizes} at {self.layer!r}, "
            f"{self.how}>"
        )


def _repeated(maps: torch.Tensor, grid: list[int]) -> torch.Tensor:
    """Return maps (C, T', H', W') on a finer grid, with the same means.

    Each voxel is repeated. If an axis does not divide the finer one, a voxel there is the mean of
    those that it overlaps, by how much it does.
    """
    for axis, size in enumerate(grid, start=1):
        count = maps.shape[axis]
        if size > count and size % count == 0:
            maps = maps.repeat_interleave(size // count, axis)
        elif size > count:
            edges = torch.arange(size + 1, device=maps.device) / size
            cells = torch.arange(count + 1, device=maps.device) / count
            last = torch.minimum(edges[1:, None], cells[None, 1:])
            first = torch.maximum(edges[:-1, None], cells[None, :-1])
            share = (last - first).clamp(min=0) * size  # (size, count), each row adds up to 1
            maps = torch.tensordot(maps, share.to(maps), ([axis], [1])).movedim(-1, axis)
    return maps


def _whole_number(value: object, what: str) -> int:
    """Return a whole number as an int; TypeError for True, 1.5 and the like."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what}: expected a whole number from 0 up, got {value!r}") from None
