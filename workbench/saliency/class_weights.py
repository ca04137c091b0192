"""Class weights: the y_ij by which activation maps are weighted, from the head or from gradients.

An explanation holds one of three kinds, each with `.of(class_id)`:

- `HeadWeights`: the weights of a linear head behind average pooling, proved on this clip.
- `GradientWeights`: Grad-CAM (Selvaraju et al., ICCV 2017), Grad-CAM++ (Chattopadhay et al., WACV
  2018), LayerCAM (Jiang et al., TIP 2021) or conserved relevance (see `saliency.relevance`), from
  the recorded graph of the same forward pass.
- `StoredWeights`: the weights of some classes, kept by a sweep without the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from ..models.locks import NetworkLock
from .layouts import Layout

__all__ = [
    "KINDS",
    "GradientWeights",
    "HeadWeights",
    "RecordedGraph",
    "StoredWeights",
    "in_words",
    "join_calls",
]

GONE = "the gradients of this explanation are gone: explain the clip again"


def in_words(
    kind: str,
    residual: float = float("nan"),
    *,
    norm: str | None = None,
    mixed: bool = False,
    bypassed: bool = False,
) -> str:
    """Return in words where class weights come from, and how far they can be relied on.

    Args:
        kind: of the gradients that weights are made of, if they are not a head's.
        residual: of a head's weights; NaN for weights from gradients.
        norm, mixed: see `HeadWeights`.
        bypassed: see `GradientWeights`.
    """
    held = "" if norm is None else " with this clip's LayerNorm held fixed"
    exact = residual == residual  # a head was proved
    said = [f"exact{held}", f"residual {residual:.1e}"] if exact else [f"{kind} weights"]
    if bypassed and not exact:
        said.append("part of the logit goes around this layer")
    if mixed:
        remedy = "an earlier layer" if kind == "relevance" else 'weights="relevance"'
        said.append(f"attention mixes its voxels: {remedy} points better")
    return ", ".join(said)


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """The weights of a linear head that was proved.

    Attributes:
        matrix: (N, C) class weights.
        bias: (N,).
        residual: how far mean(map) + bias is from the logits, as a share of the largest |logit|.
        widths: how many of the C channels each pathway has.
        norm: dotted name of a LayerNorm between pooling and head, whose standard deviation on this
            clip is held fixed; None if the head follows the pooling.
        mixed: attention has mixed the voxels of the maps before.
    """

    matrix: torch.Tensor
    bias: torch.Tensor
    residual: float
    widths: tuple[int, ...]
    norm: str | None = None
    mixed: bool = False

    exact = True

    @property
    def how(self) -> str:
        """In words, how far the weights can be relied on."""
        return in_words("", self.residual, norm=self.norm, mixed=self.mixed)

    def of(self, class_id: int) -> tuple[torch.Tensor, ...]:
        """Return the weights (C,) of a class for each pathway."""
        return self.matrix[class_id].split(list(self.widths))

    def table(self) -> torch.Tensor | None:
        """Return (N, C) the weights of all classes."""
        return self.matrix


@dataclass(eq=False)
class RecordedGraph:
    """The recorded graph of a forward pass, from layers' outputs to logits.

    Attributes:
        logits: (batch, N), with gradients.
        outputs: for each pathway what its layer gave, a tensor for each call.
        layouts: of each pathway.
        lock: of the network, whose weights the backward pass reads.
    """

    logits: torch.Tensor
    outputs: tuple[list[torch.Tensor], ...]
    layouts: tuple[Layout, ...]
    lock: NetworkLock = field(default_factory=NetworkLock)
    _gradients: dict[int, list[torch.Tensor]] = field(default_factory=dict, init=False)

    def gradients(self, class_id: int) -> list[torch.Tensor]:
        """Return ∂logit/∂map (batch, C, T', H', W') of a class for each pathway.

        Clips of a batch do not depend on one another, so one backward pass serves all of them.

        Raises:
            RuntimeError: the explanation was copied or loaded, or the network's weights changed.
        """
        if class_id not in self._gradients:
            self._gradients[class_id] = self.gradients_of((slice(None), class_id))
        return self._gradients[class_id]

    def gradients_of(self, index: tuple[Any, ...]) -> list[torch.Tensor]:
        """Return the gradients of the sum of some logits; see `gradients`. They are not kept."""
        every = [output for outputs in self.outputs for output in outputs]
        try:
            # Whatever mode the user's own code is in.
            with self.lock, torch.inference_mode(False), torch.enable_grad():
                total = self.logits[index].sum()
                found = iter(torch.autograd.grad(total, every, retain_graph=True))
        except RuntimeError as error:
            raise RuntimeError(f"{GONE} ({error})") from error
        return [
            layout.arranged(join_calls(list(islice(found, len(outputs))))).float()
            for layout, outputs in zip(self.layouts, self.outputs)
        ]


@dataclass(eq=False)
class GradientWeights:
    """Weights from gradients, for a head that is not average pooling and a linear layer.

    On a head that is, Grad-CAM's sum of gradients over a map's voxels is the head's own weight, so
    τ has the same units.

    Attributes:
        kind: "gradient", "gradient++", "layer" or "relevance".
        graph: what gradients are taken of.
        number: which clip of the graph's batch this is.
        maps: (C, T', H', W') of each pathway.
        mixed: attention has mixed the voxels of the maps before.
        bypassed: part of the logit goes around the layer, so that relevance adds up to less.
    """

    kind: str
    graph: RecordedGraph
    number: int
    maps: tuple[torch.Tensor, ...]
    mixed: bool = False
    bypassed: bool = False
    _known: dict[int, tuple[torch.Tensor, ...]] = field(default_factory=dict, init=False)
    _table: torch.Tensor | None = field(default=None, init=False)

    exact = False
    residual = float("nan")

    @property
    def how(self) -> str:
        """In words, where the weights come from."""
        return in_words(self.kind, mixed=self.mixed, bypassed=self.bypassed)

    @property
    def bias(self) -> torch.Tensor:
        """(N,) zeros: gradients know no bias."""
        return torch.zeros_like(self.graph.logits[self.number].detach())

    def of(self, class_id: int) -> tuple[torch.Tensor, ...]:
        """Return the weights of a class for each pathway: (C,), or (C, T', H', W') for "layer"."""
        if class_id not in self._known:
            gradients = (each[self.number] for each in self.graph.gradients(class_id))
            weigh = KINDS[self.kind]
            self._known[class_id] = tuple(map(weigh, gradients, self.maps))
        return self._known[class_id]

    def conserved(self, class_id: int) -> float:
        """Return the sum of weight × map over all voxels as a share of the logit.

        For "relevance" it is 1 less the share that biases and class tokens contribute.
        """
        pairs = zip(self.of(class_id), self.maps)
        total = sum(float((weights * maps).sum()) / maps[0].numel() for weights, maps in pairs)
        return total / float(self.graph.logits[self.number, class_id].detach())

    def table(self) -> torch.Tensor | None:
        """Return (N, C) the weights of all classes; None until each class has been asked for."""
        classes = self.graph.logits.shape[1]
        if self._table is None and len(self._known) == classes:
            rows = [torch.cat(list(map(_by_channel, self.of(i)))) for i in range(classes)]
            self._table = torch.stack(rows)
        return self._table


@dataclass(frozen=True, eq=False)
class StoredWeights:
    """The weights of some classes, for an explanation that was read back without its network.

    Attributes:
        rows: for each class id the weights of each pathway: (C,), or one for each voxel.
        bias: (N,).
        how: in words, where the weights came from.
        residual: see `HeadWeights`; NaN for weights from gradients.
    """

    rows: dict[int, tuple[torch.Tensor, ...]]
    bias: torch.Tensor
    how: str
    residual: float = float("nan")

    @property
    def exact(self) -> bool:
        """Whether the weights were those of a linear head."""
        return self.residual == self.residual

    def of(self, class_id: int) -> tuple[torch.Tensor, ...]:
        """Return the weights of a class for each pathway.

        Raises:
            KeyError: the weights of this class were not stored.
        """
        if class_id not in self.rows:
            kept = ", ".join(map(str, self.rows))
            raise KeyError(
                f"the weights of class {class_id} were not stored, only those of classes {kept}: "
                "explain the clip with its network, or sweep into a new store with a larger top="
            )
        return self.rows[class_id]

    def table(self) -> torch.Tensor | None:
        """Return None: not all classes are known."""
        return None


def join_calls(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return what a layer gave in all its calls as one tensor, calls next to the batch axis."""
    return outputs[0] if len(outputs) == 1 else torch.stack(list(outputs), 1).flatten(0, 1)


def _by_channel(weights: torch.Tensor) -> torch.Tensor:
    return weights if weights.ndim == 1 else weights.flatten(1).mean(1)


def _grad_cam(gradient: torch.Tensor, _maps: torch.Tensor) -> torch.Tensor:
    return gradient.sum((1, 2, 3))


def _grad_cam_plus_plus(gradient: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Weigh each voxel's positive gradient by α = g² / (2 g² + g³ Σ a), Eq. 19 of the paper."""
    square = gradient**2
    below = 2 * square + gradient**3 * maps.sum((1, 2, 3), keepdim=True)
    share = torch.where(below != 0, square / torch.where(below != 0, below, 1), 0)
    return (share * gradient.relu()).sum((1, 2, 3))


def _layer_cam(gradient: torch.Tensor, _maps: torch.Tensor) -> torch.Tensor:
    """Weigh each voxel by its own positive gradient.

    Times the number of voxels, so that τ keeps its units.
    """
    return gradient.relu() * gradient[0].numel()


def _relevance(gradient: torch.Tensor, _maps: torch.Tensor) -> torch.Tensor:
    """Weigh each voxel by its own gradient, signed; times the number of voxels, as `_layer_cam`."""
    return gradient * gradient[0].numel()


KINDS = {
    "gradient": _grad_cam,
    "gradient++": _grad_cam_plus_plus,
    "layer": _layer_cam,
    "relevance": _relevance,
}
