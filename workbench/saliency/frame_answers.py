"""Answers over time: class weights of one answer, or of a stretch of answers.

A network that answers per frame gives K answers (K, N) for a clip. The weights of answer k have a
time axis of their own, (C, T', 1, 1): average pooling over height and width is taken for granted,
over time it is not. Their mean over time has the units of the class weights, so τ has too.

- `FrameHeadWeights`: a linear head, proved on this clip for every answer: mean over T', H', W' of
  the weighted maps, plus the bias, is the answer's logit.
- `FrameGradientWeights`: gradients of that answer, summed over height and width.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch

from ..models.hooks import Call
from ..models.outputs import are_probabilities
from .class_weights import KINDS, RecordedGraph
from .layer_outputs import LayerOutput
from .linear_heads import Head

__all__ = [
    "FrameAnswers",
    "FrameGradientWeights",
    "FrameHeadWeights",
    "Frames",
    "answer_numbers",
    "answers_before_activation",
    "as_answers",
    "frame_head_weights",
]

REMEMBERED = 16  # weights of so many answers are kept
ALIKE = 1e-4  # relative: what an activation of a layer's output may differ from the answers by

# One answer, or a stretch: (start, stop) is half-open like a range or a slice.
Frames: TypeAlias = int | slice | range | tuple[int, int]


@dataclass(frozen=True, eq=False)
class FrameHeadWeights:
    """The weights of a linear head that was proved for every answer.

    Attributes:
        matrix: (N, C) class weights.
        bias: (N,).
        pooling: (K, T') the share of each time step of the maps in each answer.
        residual: how far an answer at most is from its logits, as a share of the largest |logit|.
    """

    matrix: torch.Tensor
    bias: torch.Tensor
    pooling: torch.Tensor
    residual: float

    exact = True

    @property
    def how(self) -> str:
        """In words, how far the weights can be relied on."""
        return f"exact answer by answer, residual {self.residual:.1e}"

    def of(self, class_id: int, numbers: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Return the weights (C, T', 1, 1) of the sum of some answers."""
        shares = self.pooling[list(numbers)].sum(0) * self.pooling.shape[1]
        return ((self.matrix[class_id][:, None] * shares)[..., None, None],)


@dataclass(eq=False)
class FrameGradientWeights:
    """Weights from the gradients of single answers.

    Attributes:
        kind: as for `GradientWeights`.
        graph: what gradients are taken of; its logits are (batch, K, N).
        number: which clip of the graph's batch this is.
        maps: (C, T', H', W') of each pathway.
    """

    kind: str
    graph: RecordedGraph
    number: int
    maps: tuple[torch.Tensor, ...]
    _known: dict[tuple[int, ...], tuple[torch.Tensor, ...]] = field(
        default_factory=dict, init=False
    )

    exact = False
    residual = float("nan")

    @property
    def how(self) -> str:
        """In words, where the weights come from."""
        return f"{self.kind} weights of each answer"

    def of(self, class_id: int, numbers: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Return the weights of the sum of some answers for each pathway.

        (C, T', 1, 1), or (C, T', H', W') for "layer" and "relevance".
        """
        key = (class_id, *numbers)
        if key not in self._known:
            gradients = self.graph.gradients_of((slice(None), list(numbers), class_id))
            pairs = zip(gradients, self.maps)
            weights = tuple(self._weigh(each[self.number], maps) for each, maps in pairs)
            while len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[key] = weights
        return self._known[key]

    def _weigh(self, gradient: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Return the weights of one pathway, each time step of the maps by itself."""
        weigh = KINDS[self.kind]
        steps = [weigh(g, m) for g, m in zip(gradient.split(1, 1), maps.split(1, 1))]
        weights = torch.stack([s[:, None, None] if s.ndim == 1 else s[:, 0] for s in steps], 1)
        return weights * len(steps)


@dataclass(frozen=True, eq=False)
class FrameAnswers:
    """What a network answered over time.

    Attributes:
        logits: (K, N) float32, a row for each answer.
        times: (K,) seconds, when each answer is.
        weighting: where the class weights of single answers come from.
    """

    logits: torch.Tensor
    times: np.ndarray
    weighting: FrameHeadWeights | FrameGradientWeights

    @property
    def exact(self) -> bool:
        """Whether mean(tube of an answer, before upsampling) + bias is its logit, for all."""
        return self.weighting.exact

    @property
    def residual(self) -> float:
        """The largest violation of that identity, as a share of the largest |logit|, or NaN."""
        return self.weighting.residual

    @property
    def how(self) -> str:
        """In words, where the weights of single answers come from."""
        return self.weighting.how

    def __len__(self) -> int:
        return len(self.logits)


def answer_numbers(frame: Frames, count: int) -> list[int]:
    """Return the numbers of the answers that `frame=` means, of `count` answers.

    Raises:
        IndexError: an answer that is not there.
        ValueError: an empty stretch.
        TypeError: anything else than a whole number, a slice, a range or a pair.
    """
    if isinstance(frame, slice):
        numbers: Sequence[int] = range(count)[frame]
    elif isinstance(frame, tuple) and len(frame) == 2:
        numbers = range(_number(frame[0]), _number(frame[1]))
    else:
        numbers = frame if isinstance(frame, range) else [_number(frame)]
    if not len(numbers):
        raise ValueError(f"frame={frame}: the stretch is empty, expected stop after start")
    if min(numbers) < 0 or max(numbers) >= count:
        raise IndexError(f"frame={frame}: the network gives {count} answers, counted from 0")
    return list(numbers)


def answers_before_activation(
    seen: list[LayerOutput], answers: torch.Tensor
) -> tuple[torch.Tensor, Call | None, int, bool]:
    """Return the logits (K, N) behind answers over time, and where they come from.

    Returns:
        The logits; the layer that gave them, None if it is the network itself; the axis of its
        output that counts time steps; and whether the answers are sigmoids.
    """
    answers = answers.float()
    one = answers.shape[1] == 1
    rows = {"sigmoid": answers, "softmax": answers, "log": answers.exp()}
    fits = {
        "sigmoid": bool(answers.min() >= 0 and answers.max() <= 1),
        "softmax": not one and all(map(are_probabilities, answers)),
        "log": not one and all(map(are_probabilities, answers.exp())),
    }
    for each in reversed(seen):
        if each.small is None or each.small.numel() != answers.numel():
            continue
        for axis in (1, 2):
            values = as_answers(each.small, axis, 1, answers.shape[1])[0].float()
            if torch.equal(values, answers):
                continue
            for kind, expected in rows.items():
                got = values.sigmoid() if kind == "sigmoid" else values.softmax(1)
                if fits[kind] and torch.allclose(got, expected, rtol=ALIKE, atol=1e-6):
                    return values, each.call, axis, kind == "sigmoid"
    return answers.clamp(min=1e-30).log() if fits["softmax"] else answers, None, 1, one


def as_answers(output: torch.Tensor, axis: int, batch: int, classes: int) -> torch.Tensor:
    """Return a layer's output as answers (batch, K, N), by the axis that counts time steps."""
    if axis == 1:
        return output.reshape(batch, -1, classes)
    return output.reshape(batch, classes, -1).transpose(1, 2)


def frame_head_weights(
    answers: torch.Tensor, maps: tuple[torch.Tensor, ...], heads: Sequence[Head], allowed: float
) -> FrameHeadWeights | None:
    """Return the weights of the first head that gives every answer; None if none does.

    Args:
        answers: (K, N) logits.
        maps: (C, T', H', W') of each pathway; two are not tried.
        heads: candidates.
        allowed: largest residual.
    """
    if len(maps) != 1:
        return None
    steps = maps[0].mean((2, 3))  # (C, T')
    scale = float(answers.abs().max()) or 1.0
    for head in heads:
        if head.weight.shape != (answers.shape[1], len(steps)) or not bool(head.weight.any()):
            continue
        logits = head.weight @ steps  # (N, T'), before the bias
        for pooling in _poolings(len(answers), steps.shape[1]):
            pooling = pooling.to(logits)
            miss = float((pooling @ logits.T + head.bias - answers).abs().max()) / scale
            if miss <= allowed:
                return FrameHeadWeights(head.weight.clone(), head.bias.clone(), pooling, miss)
    return None


def _poolings(count: int, steps: int) -> Iterator[torch.Tensor]:
    """Yield the matrices (K, T') by which K answers usually read T' time steps.

    One step for each answer; the mean of a window that moves by one step (I3D); fewer steps than
    answers, stretched by repetition or by linear interpolation.
    """
    unit = torch.eye(steps)
    if count == steps:
        yield unit
    if count < steps:
        window = steps - count + 1
        yield torch.stack([unit[k : k + window].mean(0) for k in range(count)])
    if count != steps and math.gcd(count, steps) == min(count, steps):
        yield torch.nn.functional.adaptive_avg_pool1d(unit, count).T
    if count > steps:
        for aligned in (False, True):
            yield torch.nn.functional.interpolate(
                unit[None], count, mode="linear", align_corners=aligned
            )[0].T


def _number(value: object) -> int:
    """Return a whole number as an int; TypeError for True, 1.5 and the like."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"frame: expected the number of an answer, a slice, a range or (start, stop); "
            f"got {value!r}"
        ) from None
